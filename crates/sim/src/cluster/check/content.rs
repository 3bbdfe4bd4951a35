//! R12 Determinism: two peers of a region with the same applied index hold the same descriptor and the same data.

use std::collections::BTreeMap;
use std::ops::Bound;

use engine::{Direction, Engine, Family, MemoryEngine, View};
use proto::RegionId;
use proto::pontoon::v1::{AppliedState, RegionState, region_state};
use store::{codec, keys};

use crate::rule::{Violation, ensure};

/// A hash of what some store held of a region at an applied index.
#[derive(Debug, Default)]
pub struct Contents {
    /// Nothing is compared.
    blind: bool,
    seen: BTreeMap<(u64, u64), (u64, u64)>,
}

impl Contents {
    /// Of a world in which the simulator compares, or leaves that to the stores.
    pub fn new(blind: bool) -> Contents {
        Contents {
            blind,
            ..Contents::default()
        }
    }

    /// Hashes a region as it is on `store` now, and compares it with what others held at the same index.
    ///
    /// # Errors
    /// R12.
    pub fn check(
        &mut self,
        store: u64,
        region: RegionId,
        engine: &MemoryEngine,
    ) -> Result<(), Violation> {
        self.check_view(store, region, &engine.view())
    }

    /// The same, as it is in a view of the store's engine.
    ///
    /// # Errors
    /// R12.
    pub fn check_view(
        &mut self,
        store: u64,
        region: RegionId,
        view: &dyn View,
    ) -> Result<(), Violation> {
        if self.blind {
            return Ok(());
        }
        let Some((index, hash)) = digest(region, view) else {
            return Ok(());
        };
        let (first_store, first) = *self.seen.entry((region.0, index)).or_insert((store, hash));
        ensure!(
            Determinism,
            first == hash,
            "region {region} at applied index {index} differs on stores {first_store} and {store}"
        );
        Ok(())
    }
}

fn digest(region: RegionId, view: &dyn View) -> Option<(u64, u64)> {
    let state = view
        .get(Family::State, &keys::region_state(region))
        .ok()??;
    let applied = view
        .get(Family::State, &keys::applied_state(region))
        .ok()??;
    let state: RegionState = codec::decode_record(&state)?;
    let applied: AppliedState = codec::decode_record(&applied)?;
    if state.state() != region_state::State::Normal || state.damaged {
        return None;
    }
    let descriptor = state.region?;
    let mut hash = crate::group::hash_bytes(applied.term, &descriptor.start_key);
    hash = crate::group::hash_bytes(hash, &descriptor.end_key);
    let epoch = descriptor.region_epoch.unwrap_or_default();
    hash = hash.rotate_left(9) ^ epoch.version ^ epoch.conf_ver << 32;
    let (start, end) = (
        keys::data(&descriptor.start_key),
        keys::data_end(&descriptor.end_key),
    );
    view.scan(
        Family::State,
        Bound::Included(&start),
        Bound::Excluded(&end),
        Direction::Forward,
        &mut |key, value| {
            hash = crate::group::hash_bytes(crate::group::hash_bytes(hash, key), value);
            true
        },
    )
    .ok()?;
    Some((applied.index, hash))
}
