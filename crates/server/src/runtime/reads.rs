//! What reads returned, per region: whoever serves a read adds, the worker hands the sums to the store.

use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use proto::RegionId;
use store::event::ReadVolume;

/// Sums since they were last taken. A region costs memory only while it is read.
#[derive(Default)]
pub(super) struct Reads {
    regions: DashMap<RegionId, Volume>,
}

#[derive(Default)]
struct Volume {
    keys: AtomicU64,
    bytes: AtomicU64,
}

impl Reads {
    /// Counts a read.
    pub fn add(&self, region: RegionId, keys: u64, bytes: u64) {
        let add = |volume: &Volume| {
            volume.keys.fetch_add(keys, Ordering::Relaxed);
            volume.bytes.fetch_add(bytes, Ordering::Relaxed);
        };
        match self.regions.get(&region) {
            Some(volume) => add(&volume),
            None => add(&self.regions.entry(region).or_default()),
        }
    }

    /// Takes the sums, and forgets regions that were not read since they were last taken.
    pub fn take(&self) -> Vec<ReadVolume> {
        let mut taken = Vec::new();
        self.regions.retain(|region, volume| {
            let (keys, bytes) = (
                std::mem::take(volume.keys.get_mut()),
                std::mem::take(volume.bytes.get_mut()),
            );
            if keys > 0 {
                taken.push(ReadVolume {
                    region: *region,
                    keys,
                    bytes,
                });
            }
            keys > 0
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_taken_once_and_idle_regions_forgotten() {
        let reads = Reads::default();
        reads.add(RegionId(1), 1, 10);
        reads.add(RegionId(1), 2, 20);
        reads.add(RegionId(2), 1, 0);
        let mut taken = reads.take();
        taken.sort_by_key(|volume| volume.region);
        let volume = |region, keys, bytes| ReadVolume {
            region: RegionId(region),
            keys,
            bytes,
        };
        assert_eq!(taken, [volume(1, 3, 30), volume(2, 1, 0)]);
        assert_eq!(reads.take(), []);
        assert!(reads.regions.is_empty());
    }
}
