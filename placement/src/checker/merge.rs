//! Small regions that should be part of a neighbour (REGIONS §5, §9).
//!
//! Lowest of all findings: whatever else is wrong with either region goes first. A region must have been small for a while,
//! at one version and under one leader. A split gives a new version to the regions on either side of a boundary, so every
//! boundary stays for that while at least: what was just split, or is about to be filled, is left alone. A leader that
//! began just now has not told its load yet, and is waited for on either side. And the two together must stay so far below
//! the limits of a split that one does not follow.

use std::time::Duration;

use proto::{StoreId, metapb};

use super::align::Alignment;
use super::{Checked, Checker, Finding, found, refuse};
use crate::decision::{Candidate, Decision, Who};
use crate::regions::RegionInfo;
use crate::settings::MergeSettings;

/// A merge that is worth while.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MergeFinding {
    /// Who takes the region in.
    pub target: metapb::Region,
    /// What is to change first, so that it is where the target is.
    pub alignment: Alignment,
}

/// Whether a region is small enough to look for a neighbour.
pub(crate) fn is_small(region: &RegionInfo, settings: &MergeSettings) -> bool {
    settings.enabled
        && region.term > 0
        && region.bytes <= settings.small_bytes
        && region.keys <= settings.small_keys
        && tells_load(region)
}

/// Whether the leader was heard since it began to count what clients do.
fn tells_load(region: &RegionInfo) -> bool {
    region.interval > Duration::ZERO
}

/// The store where a region is led.
fn led_on(region: &RegionInfo) -> Option<StoreId> {
    let leader = region.leader.as_ref()?;
    Some(StoreId(leader.store_id))
}

impl Checker<'_> {
    /// The better neighbour of a region that has been small for long enough: whose stores are nearest, then the smaller. Or why
    /// neither takes it in.
    pub(super) fn check_merge(&self, region: &RegionInfo) -> Checked {
        let settings = &self.settings.merge;
        if !is_small(region, settings) || self.unsettled < settings.after {
            return Ok(None);
        }
        let (start, end) = (&region.region.start_key, &region.region.end_key);
        let left = self.regions.previous(start);
        // An empty end is that of all keys.
        let right = self.regions.by_key(end).filter(|_| !end.is_empty());
        let looked: Vec<_> = [left, right]
            .into_iter()
            .flatten()
            .filter(|other| other.region.end_key == *start || other.region.start_key == *end)
            .map(|target| (target, self.may_merge(region, target)))
            .collect();
        let best = looked
            .iter()
            .filter_map(|(target, verdict)| Some((*target, verdict.as_ref().ok()?)))
            .min_by_key(|(target, alignment)| {
                let copies = alignment.stores().count();
                (copies, alignment.len(), target.bytes, target.id())
            });
        let chosen = best.map(|(target, _)| target.id());
        let candidate = |(target, verdict): &(&RegionInfo, Result<Alignment, &'static str>)| {
            let copies = |alignment: &Alignment| alignment.stores().count() as f64;
            Candidate {
                store: led_on(target).unwrap_or(StoreId(0)),
                region: Some(target.id()),
                score: verdict.as_ref().map_or(f64::INFINITY, copies),
                verdict: match verdict {
                    Ok(_) if chosen == Some(target.id()) => "chosen",
                    Ok(_) => "another is better",
                    Err(reason) => *reason,
                }
                .into(),
            }
        };
        let (bytes_max, _) = settings.together(region.bytes, region.keys);
        let decision = self
            .decision(Who::Merge, region)
            .input("seconds small", self.unsettled.as_secs_f64().floor())
            .input("bytes allowed", bytes_max as f64)
            .candidates(looked.iter().map(candidate).collect());
        let Some((target, alignment)) = best else {
            let mut reasons = looked
                .iter()
                .filter_map(|(_, verdict)| verdict.as_ref().err().copied());
            // The only region has no neighbours.
            let Some(first) = reasons.next() else {
                return Ok(None);
            };
            let alike = reasons.all(|reason| reason == first);
            let neither = "neither of its neighbours can take it in now";
            return Err(refuse(decision, if alike { first } else { neither }));
        };
        if self.operators.merges() >= settings.operators_max {
            // Of whichever regions it is: they all wait for the same.
            let reason = "enough regions are being merged";
            return Err(Box::new(Decision::refused(Who::Merge, None, reason)));
        }
        let decision = decision
            .between(led_on(region), led_on(target))
            .input("into region", target.id().0 as f64)
            .input("bytes of both", (region.bytes + target.bytes) as f64)
            .input("keys of both", (region.keys + target.keys) as f64)
            .input("peers to move", alignment.len() as f64)
            .expect("regions", self.regions.len().saturating_sub(1) as f64);
        let finding = Finding::Merge(MergeFinding {
            target: target.region.clone(),
            alignment: alignment.clone(),
        });
        found(finding, decision)
    }

    /// What must change first for a region to be taken in by a neighbour now, unasked, or why it cannot.
    fn may_merge(
        &self,
        region: &RegionInfo,
        target: &RegionInfo,
    ) -> Result<Alignment, &'static str> {
        let alignment = self.could_merge(region, target)?;
        if !tells_load(target) {
            return Err("its leader has not told its load yet");
        }
        for to in alignment.stores() {
            self.could_take(region, to)
                .map_err(|_| "a store of it cannot take the region")?;
            if self.operators.busy(to) >= self.settings.store_operators_max {
                return Err("a store of it has operators enough");
            }
        }
        Ok(alignment)
    }

    /// What must change first for a region to be taken in by a neighbour, or why it cannot.
    pub fn could_merge(
        &self,
        region: &RegionInfo,
        target: &RegionInfo,
    ) -> Result<Alignment, &'static str> {
        let settings = &self.settings.merge;
        if self.operators.of_region(target.id()).is_some() {
            return Err("its neighbour has an operator");
        }
        if self.operators.backs_off(target.id(), self.now) {
            return Err("an operator of its neighbour ended just now");
        }
        for side in [region, target] {
            self.rests_whole(side)?;
        }
        if self.is_edge(region, target) {
            return Err("an edge of a keyspace or of rules lies between");
        }
        let sum = |of: &dyn Fn(&RegionInfo) -> u64| of(region).saturating_add(of(target));
        let (bytes_max, keys_max) =
            settings.together(region.bytes.min(target.bytes), region.keys.min(target.keys));
        if sum(&|side| side.bytes) > bytes_max || sum(&|side| side.keys) > keys_max {
            return Err("they are too large together");
        }
        if sum(&|side| side.read_requests + side.write_requests) > settings.requests_max
            || sum(&|side| side.read_bytes + side.written_bytes) > settings.load_bytes_max
        {
            return Err("they have too much load together");
        }
        let alignment = Alignment::new(region, target);
        alignment.ok_or("they have different numbers of voters or of learners")
    }

    /// Whether the boundary between two neighbours must stay one.
    fn is_edge(&self, region: &RegionInfo, target: &RegionInfo) -> bool {
        let (region, target) = (&region.region, &target.region);
        let starts_first = region.start_key < target.start_key;
        let (left, right) = if starts_first {
            (region, target)
        } else {
            (target, region)
        };
        let both = metapb::Region {
            start_key: left.start_key.clone(),
            end_key: right.end_key.clone(),
            ..Default::default()
        };
        self.edges(&both).contains(&right.start_key)
    }

    /// Whether nothing is under way or amiss with a region.
    fn rests_whole(&self, region: &RegionInfo) -> Result<(), &'static str> {
        let leader = region.leader.as_ref().filter(|_| region.term > 0);
        if leader.is_none() {
            return Err("one of them has no known leader");
        }
        // A learner that rules want is one of its members.
        let changes = || {
            let look = self.look(region);
            look.stray.is_some() || look.demoted.is_some()
        };
        if region.is_joint() || changes() {
            return Err("one of them is changing its members");
        }
        if !region.pending.is_empty() || !region.down.is_empty() {
            return Err("a peer of one of them is not caught up");
        }
        // The whole would be damaged there.
        if !region.damaged.is_empty() {
            return Err("a peer of one of them is damaged");
        }
        let stays = |peer: &metapb::Peer| {
            let store = StoreId(peer.store_id);
            !self.down(store) && !self.stores.leaving(store) && !self.stores.gone(store)
        };
        if !region.region.peers.iter().all(stays) {
            return Err("a store of one of them is down or leaving");
        }
        // Its leaders are about to go elsewhere, and a freeze waits for every peer.
        let stops = |peer: &metapb::Peer| self.stores.stopping(StoreId(peer.store_id));
        if region.region.peers.iter().any(stops) {
            return Err("a store of one of them is stopping");
        }
        Ok(())
    }
}
