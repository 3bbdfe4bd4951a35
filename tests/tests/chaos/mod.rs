//! A short run of what `chaos` does for hours, and the check that users have.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::chaos::{Outcome, Wanted, run};
use tests::{Cluster, Wanted as Started};

use crate::ONE_AT_A_TIME;

/// R23, R26, R37, F8: network and processes are harmed while regions split, merge and move. How much happens in so short a time
/// depends on the machine, so a void run says nothing; what is wrong is wrong on any machine.
#[tokio::test(flavor = "multi_thread")]
async fn what_clients_see_is_linearizable_under_fire() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let report = run(Wanted {
        length: Duration::from_secs(30),
        seed: 1,
        ..Wanted::default()
    })
    .await?;
    println!("{report}");
    ensure!(report.outcome() != Outcome::Failed, "{report}");
    ensure!(
        report.verdict.keys > 0 && !report.happened.is_empty(),
        "{report}"
    );
    Ok(())
}

/// `pontoon verify linearizable` on a cluster of `pontoon dev`, whose stores it kills.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_can_verify_a_cluster() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Started::default())?;
    let dir = cluster
        .dir()
        .to_str()
        .context("a printable path")?
        .to_owned();
    let command = ["verify", "linearizable", "--dir", &dir, "--output", "json"];
    let options = ["--duration", "12s", "--kill-every", "5s"];
    let output = cluster.try_pontoon(&[&command[..], &options].concat())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // 12: too little happened on this machine.
    ensure!(
        matches!(output.status.code(), Some(0 | 12)),
        "{} {said} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(report["violations_total"] == 0, "{said}");
    ensure!(report["stores_killed"] == 2, "{said}");
    ensure!(report["keys_read_back"].as_u64() > Some(0), "{said}");
    let left = cluster.ask(&["kv", "scan", "--prefix", "pontoon-verify-"])?;
    ensure!(left.as_array().is_some_and(Vec::is_empty), "{left}");
    cluster.passed();
    Ok(())
}
