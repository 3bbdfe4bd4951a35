//! Moving regions about until the cluster looks as wanted.
//!
//! Placement may refuse an order because a region is busy, or cancel it because its view was old. So each step names a
//! goal, and orders are given until the goal is there.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::join_all;
use indicatif::ProgressBar;

use crate::{
    exit::{Failure, Kind, Result},
    remote::{Region, Remote},
};

/// How long one step may take. A replica of a large region has to be copied in that time.
const STEP_LIMIT: Duration = Duration::from_secs(180);
/// Replicas on the move at a time.
const MOVES_AT_ONCE: usize = 3;
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Splits the cluster's regions at `keys`.
pub async fn split(remote: &Remote, keys: &[Bytes], bar: &ProgressBar) -> Result<()> {
    let deadline = Instant::now() + STEP_LIMIT;
    loop {
        let regions = look(remote).await?;
        let mut missing: BTreeMap<u64, Vec<Bytes>> = BTreeMap::new();
        for key in keys {
            let holder = regions
                .iter()
                .find(|region| region.holds(key) && region.start_key != key);
            if let Some(region) = holder {
                missing.entry(region.id).or_default().push(key.clone());
            }
        }
        bar.set_position((keys.len() - missing.values().map(Vec::len).sum::<usize>()) as u64);
        // The regions of a fresh split are known when their leaders have reported.
        let cut = keys
            .iter()
            .all(|key| regions.iter().any(|region| region.start_key == key));
        if cut {
            return Ok(());
        }
        let mut why = None;
        for (region, keys) in missing {
            why = order(remote, remote.split(region, keys).await, bar)
                .await?
                .or(why);
        }
        pause(deadline, "the regions are not split", why).await?;
    }
}

/// Has each region led by the store that `wanted` names, in the order of keys. Returns how many transfers were done.
pub async fn lead(
    remote: &Remote,
    wanted: impl Fn(usize, &Region) -> Option<u64>,
    bar: &ProgressBar,
) -> Result<u64> {
    let deadline = Instant::now() + STEP_LIMIT;
    let mut done = 0;
    loop {
        let regions = look(remote).await?;
        let away: Vec<(u64, u64)> = regions
            .iter()
            .enumerate()
            .filter_map(|(place, region)| {
                let store = wanted(place, region)?;
                (region.leader_store != Some(store)).then_some((region.id, store))
            })
            .collect();
        if away.is_empty() {
            return Ok(done);
        }
        let orders = away.into_iter().map(|(region, store)| async move {
            order(remote, remote.transfer_leader(region, store).await, bar).await
        });
        let (carried_out, why) = outcomes(join_all(orders).await)?;
        done += carried_out;
        pause(deadline, "the leaders are not where they should be", why).await?;
    }
}

/// Moves replicas to `to` until it has its share. Returns how many were moved.
pub async fn fill(remote: &Remote, to: u64, share: usize, bar: &ProgressBar) -> Result<u64> {
    let deadline = Instant::now() + STEP_LIMIT;
    let mut moved = 0;
    loop {
        let regions = look(remote).await?;
        let there = regions.iter().filter(|region| region.is_on(to)).count();
        bar.set_position(there as u64);
        if there >= share && !regions.iter().any(Region::is_changing) {
            return Ok(moved);
        }
        let wanted = share.saturating_sub(there).min(MOVES_AT_ONCE);
        let orders =
            best_moves(&regions, to, wanted)
                .into_iter()
                .map(|(region, from)| async move {
                    order(remote, remote.move_replica(region, from, to).await, bar).await
                });
        let (carried_out, why) = outcomes(join_all(orders).await)?;
        moved += carried_out;
        pause(deadline, "the new store does not have its share", why).await?;
    }
}

/// The replicas to move next: each from the store that then has most, of a region that it does not lead if there is one.
fn best_moves(regions: &[Region], to: u64, count: usize) -> Vec<(u64, u64)> {
    let mut hosted: BTreeMap<u64, usize> = BTreeMap::new();
    for peer in regions.iter().flat_map(|region| &region.peers) {
        *hosted.entry(peer.store).or_default() += 1;
    }
    let mut candidates: Vec<&Region> = regions
        .iter()
        .filter(|region| !region.is_on(to) && !region.is_changing())
        .collect();
    let mut moves = Vec::new();
    while moves.len() < count {
        let best = candidates
            .iter()
            .flat_map(|region| region.peers.iter().map(move |peer| (*region, peer.store)))
            .max_by_key(|(region, store)| (hosted[store], region.leader_store != Some(*store)));
        let Some((region, from)) = best else {
            break;
        };
        moves.push((region.id, from));
        if let Some(hosted) = hosted.get_mut(&from) {
            *hosted -= 1;
        }
        candidates.retain(|candidate| candidate.id != region.id);
    }
    moves
}

/// How many orders were carried out, and why one of the others was not.
fn outcomes(orders: Vec<Result<Option<Failure>>>) -> Result<(u64, Option<Failure>)> {
    let mut done = 0;
    let mut why = None;
    for order in orders {
        match order? {
            None => done += 1,
            refused => why = refused,
        }
    }
    Ok((done, why))
}

/// The store that leads most regions, and hosts most among those.
pub fn busiest(regions: &[Region]) -> Option<u64> {
    let mut busy: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    for region in regions {
        if let Some(leader) = region.leader_store {
            busy.entry(leader).or_default().0 += 1;
        }
        for peer in &region.peers {
            busy.entry(peer.store).or_default().1 += 1;
        }
    }
    busy.into_iter()
        .max_by_key(|(_, counts)| *counts)
        .map(|(store, _)| store)
}

/// Waits for an order that placement may have refused. `None` means that it was carried out, else why not.
async fn order(
    remote: &Remote,
    ordered: Result<u64>,
    bar: &ProgressBar,
) -> Result<Option<Failure>> {
    let waited = match ordered {
        Ok(operator) => {
            remote
                .wait_operator(operator, STEP_LIMIT, |status| {
                    if let Some(step) = status.steps.get(status.step as usize) {
                        bar.set_message(format!("region {}: {step}", status.region_id));
                    }
                })
                .await
        }
        Err(failure) => Err(failure),
    };
    match waited {
        Ok(()) => Ok(None),
        Err(failure) => match failure.kind() {
            // Another look at the cluster may make it possible.
            Kind::Refused | Kind::NotFound | Kind::Unreachable => Ok(Some(failure)),
            _ => Err(failure),
        },
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

async fn pause(deadline: Instant, what: &str, why: Option<Failure>) -> Result<()> {
    if Instant::now() >= deadline {
        let failure = Failure::new(
            Kind::Timeout,
            format!("{what} after {} s", STEP_LIMIT.as_secs()),
        );
        return Err(match why {
            Some(why) => failure.because(why),
            None => failure,
        });
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
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
    }

    #[test]
    fn replicas_leave_the_fullest_store_and_not_its_leaders_first() {
        let regions = [
            region(1, &[1, 2, 3], 1),
            region(2, &[1, 2, 5], 2),
            region(3, &[1, 3, 4], 1),
        ];
        assert_eq!(best_moves(&regions, 4, 1), [(2, 1)]);
        assert_eq!(
            best_moves(&regions, 4, 3).len(),
            2,
            "the third is there already"
        );
        assert!(best_moves(&regions[2..], 4, 3).is_empty());
    }
}
