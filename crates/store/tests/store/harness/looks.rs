//! What stores hold, seen from the outside.

use bytes::Bytes;
use engine::Engine;
use proto::RegionId;
use proto::pontoon::v1 as wire;
use store::read;

use super::{Cluster, s};

impl Cluster {
    /// What a region remembers of merges, on the disk of a store.
    pub fn merge_state(&self, store: u64, region: RegionId) -> wire::RegionState {
        let key = store::keys::region_state(region);
        let bytes = self.nodes[&s(store)]
            .engine
            .get(engine::Family::State, &key);
        let bytes = bytes.expect("the engine reads").expect("a state");
        store::codec::decode_record(&bytes).expect("a good state")
    }

    /// Merges that a region remembers on a store.
    pub fn records(&self, store: u64, region: RegionId) -> usize {
        self.merge_state(store, region).records.len()
    }

    /// These stores hold the same data of a region.
    pub fn assert_same_child(&mut self, region: RegionId, stores: &[u64]) {
        self.ticks(10);
        let leader = self.elect(region);
        let descriptor = self.view(leader.0, region).region.clone();
        let first = self.dump(stores[0], &descriptor.start_key, &descriptor.end_key);
        for store in &stores[1..] {
            let other = self.dump(*store, &descriptor.start_key, &descriptor.end_key);
            assert_eq!(other, first, "data of stores {} and {store}", stores[0]);
        }
    }

    pub fn dump(&self, store: u64, start: &[u8], end: &[u8]) -> Vec<(Bytes, Bytes)> {
        let view = self.nodes[&s(store)].engine.view();
        let scan = read::Scan {
            start,
            end,
            direction: engine::Direction::Forward,
            limit: usize::MAX,
            bytes_max: usize::MAX,
            key_only: false,
            now: 0,
        };
        read::scan(&view, &scan).expect("a good scan").pairs
    }

    /// Every store holds the same data: R12, seen from the outside.
    pub fn assert_same_data(&mut self, stores: &[u64]) {
        self.ticks(10);
        let first = self.dump(stores[0], b"", b"");
        for store in &stores[1..] {
            assert_eq!(
                self.dump(*store, b"", b""),
                first,
                "data of stores {} and {store}",
                stores[0]
            );
        }
    }
}
