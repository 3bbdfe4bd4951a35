//! STORAGE §7, sizes: what a replica believes to hold is right once it took a count over, but for what it applied since the view
//! that was counted.

use std::collections::BTreeMap;

use engine::{Direction, Engine, Family, MemoryEngine, View};
use proto::pontoon::v1::{RegionState, region_state};
use proto::{RegionId, StoreId, metapb};
use raft::Index;
use store::event::{Applied, Count};
use store::{codec, keys};

use crate::rule::{Violation, ensure};

/// Bytes that a key of the clients takes with its value, at the most.
const KEY_BYTES_MAX: u64 = 24;

/// How many keys were written by what was applied, up to which index.
#[derive(Debug, Default)]
pub struct Sizes {
    written: BTreeMap<(StoreId, RegionId), Vec<(Index, u64)>>,
}

impl Sizes {
    /// A store starts: what it applied and lost is applied again.
    pub fn reopen(&mut self, store: StoreId) {
        self.written.retain(|(of, _), _| *of != store);
    }

    /// Takes note of what a store applied.
    pub fn learn(&mut self, store: StoreId, applied: &Applied) {
        if applied.written_keys > 0 {
            let written = self.written.entry((store, applied.region)).or_default();
            written.push((applied.index, applied.written_keys));
        }
    }

    /// Compares what is believed, after a count was taken over, with what the engine holds. Returns whether anything was
    /// written since the view that was counted.
    ///
    /// # Errors
    /// The estimate is off by more than that.
    pub fn check(
        &mut self,
        store: StoreId,
        region: &metapb::Region,
        count: &Count,
        applied: &Applied,
        engine: &MemoryEngine,
    ) -> Result<bool, Violation> {
        let written = self.written.entry((store, applied.region)).or_default();
        written.retain(|(index, _)| *index > count.index);
        let since: u64 = written.iter().map(|(_, keys)| keys).sum();
        let Some((bytes, keys)) = held(region, engine) else {
            return Ok(since > 0);
        };
        let believed = applied.estimate;
        // Uncertain is what was deleted since, and a put may have been of a key that was there. Parts of a key are carried over.
        ensure!(
            Sizes,
            believed.bytes.abs_diff(bytes) <= believed.uncertain_bytes + since * KEY_BYTES_MAX
                && believed.keys.abs_diff(keys) <= since + u64::from(since > 0),
            "region {} on store {store} holds {bytes} bytes of {keys} keys at {}, and believes {believed:?} after {count:?} and \
             {since} writes",
            applied.region,
            applied.index
        );
        Ok(since > 0)
    }
}

/// The descriptor of a region as an engine has it; none of one that is frozen or gone, whose keys are its absorber's to write, nor
/// of one whose data is damaged.
pub fn region_of(engine: &MemoryEngine, region: RegionId) -> Option<metapb::Region> {
    let state = engine.get(Family::State, &keys::region_state(region));
    let state: RegionState = codec::decode_record(&state.expect("memory reads")?)?;
    let alone =
        state.state() == region_state::State::Normal && state.freeze.is_none() && !state.damaged;
    state.region.filter(|_| alone)
}

/// Bytes and keys of a region in an engine, if all of it can be read.
fn held(region: &metapb::Region, engine: &MemoryEngine) -> Option<(u64, u64)> {
    let (start, end) = (
        keys::data(&region.start_key),
        keys::data_end(&region.end_key),
    );
    let (mut bytes, mut count) = (0, 0);
    engine
        .view()
        .scan(
            Family::State,
            std::ops::Bound::Included(&start),
            std::ops::Bound::Excluded(&end),
            Direction::Forward,
            &mut |key, value| {
                bytes += (key.len() + value.len()) as u64;
                count += 1;
                true
            },
        )
        .ok()?;
    Some((bytes, count))
}
