//! `pontoon status`.

use clap::Args;
use serde::Serialize;

use super::{Shown, Target, store};
use crate::{
    exit::Result,
    output,
    remote::{Remote, Store},
};

/// Show how the cluster is.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    shown: Shown,
}

/// The cluster in one document.
#[derive(Debug, Serialize)]
pub struct Overview {
    cluster_id: u64,
    bootstrapped: bool,
    api_version: u32,
    replicas: u32,
    placement_term: u64,
    regions: u64,
    /// Regions without a leader, or with fewer healthy replicas than they should have.
    regions_unhealthy: u64,
    /// Regions with a replica whose data is damaged.
    regions_damaged: u64,
    stores_up: u32,
    operators_running: u32,
    stores: Vec<Store>,
}

/// Runs the command.
///
/// # Errors
/// The cluster is not there.
pub async fn run(args: StatusArgs) -> Result<()> {
    let overview = look(&args.target.remote()).await?;
    output::print(args.shown.output, &overview, table)?;
    Ok(())
}

/// Asks for everything that [`Overview`] holds.
///
/// # Errors
/// The cluster is not there.
pub async fn look(remote: &Remote) -> Result<Overview> {
    let status = remote.status().await?;
    let stores = if status.bootstrapped {
        remote.stores().await?
    } else {
        Vec::new()
    };
    let regions = if status.bootstrapped {
        remote.regions(&[], &[]).await?
    } else {
        Vec::new()
    };
    let replicas = status.replicas as usize;
    let unhealthy = regions
        .iter()
        .filter(|region| region.leader_store.is_none() || region.healthy_voters() < replicas)
        .count();
    let damaged = regions
        .iter()
        .filter(|region| region.peers.iter().any(|peer| peer.damaged))
        .count();
    Ok(Overview {
        cluster_id: status.cluster_id,
        bootstrapped: status.bootstrapped,
        api_version: status.api_version,
        replicas: status.replicas,
        placement_term: status.term,
        regions: status.regions,
        regions_unhealthy: unhealthy as u64,
        regions_damaged: damaged as u64,
        stores_up: status.stores_up,
        operators_running: status.operators_running,
        stores,
    })
}

/// The overview for people.
pub fn table(overview: &Overview) -> String {
    let facts = output::facts([
        ("cluster", overview.cluster_id.to_string()),
        (
            "placement",
            format!("leader in term {}", overview.placement_term),
        ),
        ("api version", overview.api_version.to_string()),
        ("replicas", overview.replicas.to_string()),
        (
            "regions",
            format!(
                "{}, {}",
                overview.regions,
                match overview.regions_unhealthy {
                    0 => "all healthy".to_owned(),
                    count => format!("{count} without a leader or a replica"),
                }
            ) + &match overview.regions_damaged {
                0 => String::new(),
                count => format!(", {count} with damaged data"),
            },
        ),
        (
            "operators",
            format!("{} running", overview.operators_running),
        ),
    ]);
    if !overview.bootstrapped {
        return format!("{facts}\nno store has joined yet\n");
    }
    format!("{facts}\n{}", store::table(&overview.stores))
}
