//! Stores and regions: what heartbeats and registrations change, and lookups.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use proto::{RegionId, StoreId, metapb};

use super::{Leader, found};
use crate::event::{Answer, Lookup, Note, Now, Refusal, RequestId};
use crate::operator::Epoch;
use crate::regions::{RegionInfo, Stale};
use crate::score::Burden;
use crate::state;
use crate::stores::StoreInfo;

/// Damaged regions that one heartbeat may name. What is beyond them is told when these are repaired.
const DAMAGED_MAX: usize = 1 << 16;

impl Leader {
    pub(super) fn bootstrap(
        &mut self,
        store: metapb::Store,
        boot: Option<u64>,
        region: metapb::Region,
        now: Now,
    ) -> Result<Answer, Refusal> {
        if self.cluster.bootstrapped_at_ms != 0 {
            return Err(Refusal::AlreadyBootstrapped);
        }
        let invalid = |problem: &str| Err(Refusal::Invalid(format!("the first region {problem}")));
        let [peer] = &region.peers[..] else {
            return invalid("has not one peer");
        };
        if !region.start_key.is_empty() || !region.end_key.is_empty() {
            return invalid("is not the whole key space");
        }
        if peer.store_id != store.id || peer.role() != metapb::PeerRole::Voter {
            return invalid("has no voter on the first store");
        }
        if !self.ids.known(region.id) || !self.ids.known(peer.id) || region.id == peer.id {
            return invalid("has identities that were not allocated here");
        }
        self.register(store, boot, now)?;
        self.cluster.bootstrapped_at_ms = now.wall_ms.max(1);
        let _ = self.outbox.stage(state::put_cluster(&self.cluster));
        self.note(format!(
            "cluster {} is bootstrapped with region {}",
            self.cluster.cluster_id, region.id
        ));
        Ok(Answer::Done)
    }

    pub(super) fn put_store(
        &mut self,
        store: metapb::Store,
        boot: Option<u64>,
        now: Now,
    ) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        self.register(store, boot, now)?;
        Ok(Answer::Done)
    }

    pub(super) fn register(
        &mut self,
        store: metapb::Store,
        boot: Option<u64>,
        now: Now,
    ) -> Result<(), Refusal> {
        if !self.ids.known(store.id) {
            return Err(Refusal::Invalid(format!(
                "store id {} was not allocated here",
                store.id
            )));
        }
        let text = format!("store {} registered at {}", store.id, store.address);
        let changed = self
            .stores
            .put(store, boot, now, self.settings.store_down_after)?;
        if !changed.is_empty() {
            self.note(text);
            self.place();
        }
        for (id, record) in changed {
            let _ = self.outbox.stage(state::put_store(id, &record));
        }
        Ok(())
    }

    pub(super) fn store_info(&self, store: StoreId, now: Now) -> Option<StoreInfo> {
        self.stores.info(store, now, self.regions.counts(store))
    }

    pub(super) fn on_lookup(&mut self, id: RequestId, key: Bytes, now: Now) {
        let region = self.regions.by_key(&key);
        let wait = region.is_none() && self.lookups.len() < self.settings.lookups_waiting_max;
        if wait {
            self.lookups
                .insert((key, id), now.monotonic + self.settings.lookup_wait);
        } else {
            let answer = found(region, Lookup::Key);
            self.outbox.answer_now(id, answer);
        }
    }

    pub(super) fn on_report(&mut self, report: RegionInfo, now: Now) {
        let id = report.id();
        let leader = report.leader.map(|leader| StoreId(leader.store_id));
        if self.take_report(report, now) {
            // Whoever leads a region is there, also before its next heartbeat reaches a new placement leader.
            if let Some(store) = leader {
                self.stores.seen(store, now);
            }
            self.look_after(id, now);
        }
    }

    /// Takes over whether a store says that it stops.
    pub(super) fn on_stopping(&mut self, store: StoreId, stopping: bool) {
        if self.stores.tell_stopping(store, stopping) && stopping {
            self.note(format!("store {store} is stopping"));
        }
    }

    /// Takes over which regions a store says are damaged there: all of them, with every heartbeat.
    pub(super) fn on_damaged(&mut self, store: StoreId, damaged: Vec<RegionId>, now: Now) {
        let told: BTreeSet<RegionId> = damaged.into_iter().take(DAMAGED_MAX).collect();
        let before = self.stores.tell_damaged(store, told.clone());
        let mut news = Vec::new();
        for id in before.union(&told) {
            if self.regions.set_damaged(*id, store, told.contains(id)) {
                news.push(*id);
            }
        }
        for id in news {
            self.view_version += 1;
            self.look_after(id, now);
        }
    }

    /// Takes a report into the view and answers lookups that waited for it.
    pub(super) fn take_report(&mut self, report: RegionInfo, now: Now) -> bool {
        let id = report.id();
        let evicted = match self.regions.report(report) {
            Ok(evicted) => evicted,
            Err(Stale::Older | Stale::Overlapped(_)) => return false,
            Err(Stale::Malformed) => {
                self.outbox.note(Note {
                    region: Some(id),
                    operator: None,
                    text: "a malformed report is refused".into(),
                });
                return false;
            }
        };
        self.view_version += 1;
        for hidden in evicted {
            self.operators.region_hidden(hidden, now);
            self.unsettled.forget(hidden);
        }
        let region = self.regions.get(id).expect("it was just reported");
        if !region.interval.is_zero() {
            self.balancer.rests.tell(id, &Burden::of(region));
        }
        let from = (region.region.start_key.clone(), RequestId(0));
        let covered = |(key, _): &(Bytes, RequestId)| region.contains(key);
        let waiting = self
            .lookups
            .range(from..)
            .map(|(lookup, _)| lookup.clone())
            .take_while(covered);
        for lookup in waiting.collect::<Vec<_>>() {
            self.outbox
                .answer_now(lookup.1, found(Some(region), Lookup::Key));
            self.lookups.remove(&lookup);
        }
        true
    }

    /// The pieces replace their parent at once, so that no lookup falls between. Until their leaders report, each is
    /// taken to be led where the parent was: that is the rule, and clients that find it otherwise are told.
    pub(super) fn report_split(
        &mut self,
        pieces: Vec<metapb::Region>,
        now: Now,
    ) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        let contiguous = pieces
            .windows(2)
            .all(|pair| pair[0].end_key == pair[1].start_key && !pair[0].end_key.is_empty());
        let Some(parent) = pieces.first().filter(|_| contiguous) else {
            return Err(Refusal::Invalid("the pieces of a split do not join".into()));
        };
        let known = self
            .regions
            .get(RegionId(parent.id))
            .cloned()
            .unwrap_or_default();
        let store = known.leader.as_ref().map(|leader| leader.store_id);
        // A parent that told of the split itself has counted already what is left of it.
        let share = if known
            .epoch()
            .is_older(Epoch::from_wire(parent.region_epoch.as_ref()))
        {
            pieces.len() as u64
        } else {
            1
        };
        for piece in pieces {
            let epoch = Epoch::from_wire(piece.region_epoch.as_ref());
            let newest = self.regions.get(RegionId(piece.id));
            if newest.is_some_and(|newest| !newest.epoch().is_older(epoch)) {
                // Its leader was quicker, and told more than its range.
                continue;
            }
            let leader = piece
                .peers
                .iter()
                .find(|peer| Some(peer.store_id) == store)
                .cloned();
            // A split changes no peers, so who lagged before it still does.
            let rest = if piece.id == known.region.id {
                known.clone()
            } else {
                RegionInfo::default()
            };
            let report = RegionInfo {
                region: piece,
                leader,
                bytes: known.bytes / share,
                keys: known.keys / share,
                written_bytes: known.written_bytes / share,
                written_keys: known.written_keys / share,
                read_bytes: known.read_bytes / share,
                read_keys: known.read_keys / share,
                write_requests: known.write_requests / share,
                read_requests: known.read_requests / share,
                interval: Duration::ZERO,
                ..rest
            };
            // What does not fit the view is older than it.
            let _ = self.take_report(report, now);
        }
        Ok(Answer::Done)
    }
}
