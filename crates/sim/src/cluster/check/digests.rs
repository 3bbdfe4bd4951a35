//! R12 Determinism: peers of a region that applied as much have the same digest, if it began at the same index; and what has one
//! digest has one range.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::{RegionId, StoreId, metapb};
use raft::Index;
use store::event::Applied;

use crate::rule::{Violation, ensure};

/// Digests as stores told them.
#[derive(Debug, Default)]
pub struct Digests {
    /// Nothing is compared.
    blind: bool,
    /// By region, where it began, and what is applied: the first who told it.
    seen: BTreeMap<(RegionId, Index, Index), (StoreId, u64)>,
    /// The range of each.
    ranges: BTreeMap<(RegionId, Index), (Bytes, Bytes)>,
}

impl Digests {
    /// Of a world in which the simulator compares, or leaves that to the stores.
    pub fn new(blind: bool) -> Digests {
        Digests {
            blind,
            ..Digests::default()
        }
    }

    /// Takes in what a store applied, with the descriptor that its disk has after that, if the region lives on alone.
    ///
    /// # Errors
    /// R12.
    pub fn learn(
        &mut self,
        store: StoreId,
        applied: &Applied,
        descriptor: Option<metapb::Region>,
    ) -> Result<(), Violation> {
        let Some(digest) = applied.digest.filter(|_| !self.blind) else {
            return Ok(());
        };
        let (region, index) = (applied.region, applied.index);
        let key = (region, digest.since, index);
        let (first, value) = *self.seen.entry(key).or_insert((store, digest.value));
        ensure!(
            Determinism,
            value == digest.value,
            "the digest of region {region} since {} at applied index {index} differs on stores {first} and {store}",
            digest.since
        );
        if let Some(descriptor) = descriptor {
            let range = (descriptor.start_key, descriptor.end_key);
            let key = (region, digest.since);
            let first = self.ranges.entry(key).or_insert_with(|| range.clone());
            ensure!(
                Determinism,
                *first == range,
                "the digest of region {region} since {} was of {first:?} and is of {range:?}",
                digest.since
            );
        }
        Ok(())
    }
}
