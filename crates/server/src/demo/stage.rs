//! Waiting until the cluster has come to look as wanted, by itself.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;

use crate::{
    exit::{Failure, Kind, Result},
    remote::{Region, Remote},
};

/// How long one step may take. Replicas of large regions have to be copied in that time.
const STEP_LIMIT: Duration = Duration::from_secs(300);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// How far a step is.
pub enum Reached {
    /// The cluster looks as wanted.
    All,
    /// What is missing, for people.
    Not(String),
}

/// Looks until the cluster is as wanted, and returns its regions.
///
/// # Errors
/// It is not after five minutes, or placement refuses to tell.
pub async fn until(
    remote: &Remote,
    bar: &ProgressBar,
    mut reached: impl FnMut(&[Region]) -> Reached,
) -> Result<Vec<Region>> {
    let deadline = Instant::now() + STEP_LIMIT;
    loop {
        let regions = look(remote).await?;
        let missing = match reached(&regions) {
            Reached::All => return Ok(regions),
            Reached::Not(missing) => missing,
        };
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Kind::Timeout,
                format!("after {} s: {missing}", STEP_LIMIT.as_secs()),
            )
            .hint("`pontoon operator history` on the cluster tells what placement did and why"));
        }
        bar.set_message(missing);
        tokio::time::sleep(LOOK).await;
    }
}

/// The regions as placement knows them. That it does not answer for a while, as during an election or when the disk is
/// busy, is no reason to give up.
pub async fn look(remote: &Remote) -> Result<Vec<Region>> {
    let deadline = Instant::now() + STEP_LIMIT;
    loop {
        match remote.regions(&[], &[]).await {
            Err(failure) if failure.kind() == Kind::Unreachable && Instant::now() < deadline => {
                tokio::time::sleep(LOOK).await;
            }
            looked => return looked,
        }
    }
}

/// Replicas and led regions of each store that has any.
pub fn counts(regions: &[Region]) -> BTreeMap<u64, (usize, usize)> {
    let mut counts: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    for region in regions {
        if let Some(leader) = region.leader_store {
            counts.entry(leader).or_default().1 += 1;
        }
        for peer in &region.peers {
            counts.entry(peer.store).or_default().0 += 1;
        }
    }
    counts
}

/// The store that leads most regions, and hosts most among those.
pub fn busiest(regions: &[Region]) -> Option<u64> {
    counts(regions)
        .into_iter()
        .max_by_key(|(_, (hosts, leads))| (*leads, *hosts))
        .map(|(store, _)| store)
}

#[cfg(test)]
mod tests {
    use proto::{metapb, pontoon::v1::RegionStatus};

    use super::*;

    fn region(id: u64, stores: &[u64], leader: u64) -> Region {
        let peers = stores
            .iter()
            .map(|store| metapb::Peer {
                id: id * 100 + store,
                store_id: *store,
                ..metapb::Peer::default()
            })
            .collect();
        Region::from(RegionStatus {
            region: Some(metapb::Region {
                id,
                peers,
                ..metapb::Region::default()
            }),
            leader: Some(metapb::Peer {
                store_id: leader,
                ..metapb::Peer::default()
            }),
            ..RegionStatus::default()
        })
    }

    #[test]
    fn the_busiest_store_leads_most() {
        let regions = [
            region(1, &[1, 2, 3], 2),
            region(2, &[1, 2, 4], 2),
            region(3, &[1, 3, 4], 1),
        ];
        assert_eq!(busiest(&regions), Some(2));
        assert_eq!(busiest(&[]), None);
        assert_eq!(
            counts(&regions).into_values().collect::<Vec<_>>(),
            [(3, 1), (2, 2), (2, 0), (2, 0)]
        );
    }
}
