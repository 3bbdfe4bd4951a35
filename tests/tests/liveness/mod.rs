//! Stores that beat and support each other, and followers that pledge (LIVENESS §3, §4).

use anyhow::Result;
use tests::{Cluster, Wanted, wait_for};

use crate::writers::Writers;
use crate::{ONE_AT_A_TIME, setting, split_in_four};

async fn all_support_each_other(cluster: &Cluster, names: &[String]) -> Result<()> {
    wait_for("every store supports every other", async || {
        for name in names {
            for gauge in ["server_stores_supporting", "server_stores_supported"] {
                if cluster.counter(name, gauge)? != names.len() as u64 - 1 {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    })
    .await
}

/// A store dies, and is paused: support for it ends, others lead its regions under writers, and support begins again when it is
/// back.
#[tokio::test(flavor = "multi_thread")]
async fn stores_support_each_other_while_they_live() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted {
        environment: vec![setting("STORE_LIVENESS__PLEDGES", "true")],
        ..Wanted::of(3, 1)
    })?;
    let writers = Writers::start(&cluster, 4).await?;
    split_in_four(&cluster).await?;
    let names = cluster.names("stores")?;
    all_support_each_other(&cluster, &names).await?;
    let (name, others) = names.split_first().expect("there are three");
    let store = cluster.store_id(name)?;
    let ended = |others: &[String]| {
        let ended = others.iter();
        let ended = ended.map(|other| cluster.counter(other, "server_supports_ended_total"));
        ended.sum::<Result<u64>>()
    };

    cluster.dev(&["kill", name])?;
    cluster.wait_led(|leader| leader != store).await?;
    wait_for("nobody supports the dead store", async || {
        Ok(ended(others)? >= 2)
    })
    .await?;
    writers.make_progress(100).await?;
    cluster.dev(&["restart", name])?;
    all_support_each_other(&cluster, &names).await?;

    let before = ended(others)?;
    let paused = cluster.pause(name)?;
    cluster.wait_led(|leader| leader != store).await?;
    wait_for("nobody supports the paused store", async || {
        Ok(ended(others)? >= before + 2)
    })
    .await?;
    writers.make_progress(100).await?;
    drop(paused);
    all_support_each_other(&cluster, &names).await?;
    writers.stop_and_verify().await?;
    cluster.passed();
    Ok(())
}
