//! `SplitRegions`: what a caller wants is regions that begin at its keys, so it waits for them.
//!
//! Each round looks which keys are no edges yet and orders their regions to be split. A region may be busy, or be split or
//! led by another meanwhile; the next round then finds it as it is by then.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use placement::{Answer, Refusal, Request as Ask};
use proto::RegionId;
use tokio::time::Instant;

use crate::placement_process::Placement;

/// Time that each try which the caller allows is worth.
const TRY: Duration = Duration::from_secs(5);
/// Tries when the caller names no limit.
const TRIES: u64 = 3;
/// The most tries a caller gets.
const TRIES_MAX: u64 = 10;
/// Between orders for what is not split yet.
const ORDER: Duration = Duration::from_secs(1);
/// Between two looks at the regions.
const LOOK: Duration = Duration::from_millis(50);
/// Keys of one request.
const KEYS_MAX: usize = 1024;

/// Which keys are edges.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The regions that begin at keys, in the order of keys.
    pub done: Vec<RegionId>,
    /// Keys inside of regions.
    missing: BTreeMap<RegionId, Vec<Bytes>>,
    /// Keys that no region is known for now.
    unknown: usize,
}

impl Found {
    /// Of 100 keys, how many are edges.
    pub fn percentage(&self) -> u64 {
        let missing: usize = self.missing.values().map(Vec::len).sum();
        let all = self.done.len() + missing + self.unknown;
        (self.done.len() * 100).checked_div(all).unwrap_or(100) as u64
    }

    fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.unknown == 0
    }
}

/// Splits regions so that one begins at each of the keys, as far as that succeeds in time.
///
/// # Errors
/// A refusal that asking again does not change.
pub(super) async fn split_at(
    placement: &Placement,
    mut keys: Vec<Bytes>,
    retry_limit: u64,
) -> Result<Found, Refusal> {
    keys.sort_unstable();
    keys.dedup();
    if keys.is_empty() || keys.len() > KEYS_MAX {
        return Err(Refusal::Invalid(format!(
            "a request splits at 1 to {KEYS_MAX} keys"
        )));
    }
    let tries = match retry_limit {
        0 => TRIES,
        tries => tries.min(TRIES_MAX),
    };
    let mut order_at = Instant::now();
    let deadline = order_at + TRY * tries as u32;
    loop {
        let found = look(placement, &keys).await?;
        let now = Instant::now();
        if found.is_whole() || now >= deadline {
            return Ok(found);
        }
        if now >= order_at {
            order_at = now + ORDER;
            for (region, keys) in found.missing {
                let ask = Ask::Split { region, keys };
                match placement.ask(ask).await {
                    // Whoever is at work on the region changes what a later look finds.
                    Ok(_) | Err(Refusal::Busy(_) | Refusal::RegionNotFound(_)) => {}
                    // The region as it was looked up does not hold the key any more.
                    Err(Refusal::Invalid(_)) if now + TRY < deadline => {}
                    Err(refusal) => return Err(refusal),
                }
            }
        }
        // Nothing tells of edges as they appear; a look is one lookup per key in memory.
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(placement: &Placement, keys: &[Bytes]) -> Result<Found, Refusal> {
    let mut found = Found::default();
    for key in keys {
        match placement.ask(Ask::RegionByKey(key.clone())).await {
            Ok(Answer::Region(region)) if region.region.start_key == *key => {
                found.done.push(region.id());
            }
            Ok(Answer::Region(region)) => {
                let missing = found.missing.entry(region.id()).or_default();
                missing.push(key.clone());
            }
            Ok(_) | Err(Refusal::RegionNotFound(_)) => found.unknown += 1,
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(found)
}
