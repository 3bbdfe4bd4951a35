//! R17 Tiling, R18 Epoch and R19 Peer identity (REGIONS §1): descriptors as they are applied, anywhere.

use std::collections::{BTreeMap, BTreeSet};

use proto::metapb;

use crate::rule::{Violation, ensure};

type Version = (u64, u64, u64);

/// Descriptors that were applied somewhere.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// By region and epoch: every store that gets there has the same.
    seen: BTreeMap<Version, metapb::Region>,
    /// The newest of each region.
    newest: BTreeMap<u64, metapb::Region>,
    /// Peers that were removed, by region.
    removed: BTreeSet<(u64, u64)>,
    /// Merged regions, with who took them in.
    merged: BTreeMap<u64, u64>,
}

fn epoch(region: &metapb::Region) -> (u64, u64) {
    let epoch = region.region_epoch.unwrap_or_default();
    (epoch.version, epoch.conf_ver)
}

impl Descriptors {
    /// The newest descriptor of each region.
    pub fn newest(&self) -> impl Iterator<Item = &metapb::Region> {
        self.newest.values()
    }

    /// Whether some store was at this epoch of a region before.
    pub fn has_seen(&self, region: &metapb::Region) -> bool {
        let (version, conf_ver) = epoch(region);
        self.seen.contains_key(&(region.id, version, conf_ver))
    }

    /// Takes in that a source, as it froze, became a part of a target. Whether it is the first store to say so.
    ///
    /// # Errors
    /// R21: one outcome for each merge.
    pub fn learn_merge(&mut self, source: &metapb::Region, target: u64) -> Result<bool, Violation> {
        if let Some(first) = self.merged.get(&source.id) {
            ensure!(
                Merge,
                *first == target,
                "region {} was taken in by {first} and by {target}",
                source.id
            );
            return Ok(false);
        }
        let newest = self.newest.remove(&source.id);
        ensure!(
            Merge,
            newest.as_ref() == Some(source),
            "region {target} takes in {source:?}, which is {newest:?} by now"
        );
        self.merged.insert(source.id, target);
        Ok(true)
    }

    /// Takes in the descriptors that one applied batch made, all pieces of a split together.
    ///
    /// # Errors
    /// R17, R18, R19.
    pub fn learn(&mut self, regions: &[metapb::Region]) -> Result<(), Violation> {
        let mut moved = false;
        for region in regions {
            let (version, conf_ver) = epoch(region);
            match self.seen.get(&(region.id, version, conf_ver)) {
                Some(first) => {
                    ensure!(
                        Membership,
                        first == region,
                        "region {} at epoch ({conf_ver}, {version}) is {first:?} here and {region:?} there",
                        region.id
                    );
                    continue;
                }
                None => {
                    ensure!(
                        Merge,
                        !self.merged.contains_key(&region.id),
                        "region {} was merged and goes on to epoch ({conf_ver}, {version})",
                        region.id
                    );
                    self.seen
                        .insert((region.id, version, conf_ver), region.clone());
                }
            }
            let before = self.newest.get(&region.id);
            if before.is_some_and(|before| epoch(before) > (version, conf_ver)) {
                continue;
            }
            for peer in &region.peers {
                ensure!(
                    Membership,
                    !self.removed.contains(&(region.id, peer.id)),
                    "peer {} of region {} was removed and is back",
                    peer.id,
                    region.id
                );
            }
            if let Some(before) = before {
                let gone = before
                    .peers
                    .iter()
                    .filter(|old| region.peers.iter().all(|peer| peer.id != old.id));
                self.removed.extend(gone.map(|peer| (region.id, peer.id)));
            }
            self.newest.insert(region.id, region.clone());
            moved = true;
        }
        if moved { self.check_tiling() } else { Ok(()) }
    }

    fn check_tiling(&self) -> Result<(), Violation> {
        let mut ranges: Vec<(&[u8], &[u8], u64)> = self
            .newest
            .values()
            .map(|region| (&region.start_key[..], &region.end_key[..], region.id))
            .collect();
        ranges.sort_unstable();
        let mut reached: &[u8] = b"";
        for (place, (start, end, id)) in ranges.iter().enumerate() {
            ensure!(
                Tiling,
                *start == reached && (place == 0 || !reached.is_empty()),
                "region {id} begins at {start:?}, the regions before it end at {reached:?}"
            );
            reached = end;
        }
        ensure!(
            Tiling,
            reached.is_empty(),
            "the last region ends at {reached:?}"
        );
        Ok(())
    }
}
