//! Commands that take stores out and bring them back.

use std::time::Duration;

use proto::pontoon::v1 as wire;
use proto::{StoreId, metapb};

use super::Leader;
use crate::event::{Answer, Now, Refusal};
use crate::state;

/// Stores named in a refusal at the most.
const NAMED_MAX: usize = 8;

impl Leader {
    pub(super) fn drain_store(&mut self, id: StoreId, now: Now) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        if !self.stores.leaving(id) {
            self.check_places(id, now)?;
        }
        let drain = wire::PlacementDrain {
            since_ms: now.wall_ms,
            peers: self.regions.counts(id).0,
        };
        if let Some(record) = self.stores.begin_drain(id, drain)? {
            self.told(
                format!("store {id} is drained: {} peers", drain.peers),
                id,
                now,
            );
            let _ = self.outbox.stage(state::put_store(id, &record));
        }
        Ok(Answer::Done)
    }

    pub(super) fn undrain_store(&mut self, id: StoreId, now: Now) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        if let Some(record) = self.stores.end_drain(id)? {
            self.told(format!("store {id} is drained no more"), id, now);
            let _ = self.outbox.stage(state::put_store(id, &record));
            self.operators
                .end_drain(id, now, &self.settings, &mut self.outbox);
        }
        Ok(Answer::Done)
    }

    /// A drained store becomes a tombstone at once, a dead one when its peers are replaced.
    pub(super) fn remove_store(&mut self, id: StoreId, now: Now) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        let (peers, _) = self.regions.counts(id);
        let down = self.stores.down(id, now, self.settings.store_down_after);
        let drained = self.stores.drain(id).is_some();
        let whole = self.regions.is_whole();
        if self.stores.contains(id) && !self.stores.gone(id) && !down {
            if !drained {
                return Err(Refusal::Invalid(format!(
                    "store {id} is up and holds {peers} peers: drain it first"
                )));
            }
            if peers > 0 || !whole {
                return Err(Refusal::Busy(format!(
                    "store {id} is being drained: {peers} peers are left"
                )));
            }
        }
        if let Some(mut record) = self.stores.give_up(id)? {
            let mut text = format!("store {id} is removed: {peers} peers are to be replaced");
            if peers == 0
                && whole
                && let Some(buried) = self.stores.bury(id)
            {
                text = format!("store {id} holds nothing any more and is removed");
                record = buried;
            }
            self.told(text, id, now);
            let _ = self.outbox.stage(state::put_store(id, &record));
        }
        Ok(Answer::Done)
    }

    pub(super) fn label_store(
        &mut self,
        id: StoreId,
        labels: Vec<metapb::StoreLabel>,
        now: Now,
    ) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        let record = self.stores.label(id, labels)?;
        self.place();
        let _ = self.outbox.stage(state::put_store(id, &record));
        self.told(format!("store {id} has other labels"), id, now);
        Ok(Answer::Done)
    }

    /// Looks at the drains under way.
    pub(super) fn watch_drains(&mut self, now: Now) {
        let drained = self
            .stores
            .ids()
            .filter(|id| self.stores.drain(*id).is_some());
        let led = |id: StoreId| (id, self.regions.counts(id).1);
        let drained: Vec<_> = drained.map(led).collect();
        self.drains.watch(drained.into_iter(), now);
    }

    /// Refuses when peers of a store would have no other place, or would take that of others. Regions are looked at as they will be when what is under way
    /// with them has ended: a peer that is on the move takes one place, and not two.
    fn check_places(&mut self, id: StoreId, now: Now) -> Result<(), Refusal> {
        if !self.stores.contains(id) || self.stores.is_tombstone(id) {
            // The store itself says what is wrong.
            return Ok(());
        }
        if !self.balancer.knows_all(&self.regions) {
            return Err(Refusal::Busy(
                "not every region has reported to this placement leader yet".into(),
            ));
        }
        let checker = self.checker(Duration::ZERO, now);
        let others: Vec<_> = self.stores.ids().filter(|store| *store != id).collect();
        let all: Vec<_> = self.stores.ids().collect();
        let waits = |store: StoreId| self.stores.leaving(store);
        // Those that wait for a place already are before this one.
        let goes = |store: StoreId| store == id || waits(store);
        let (mut homeless, mut example, mut bytes) = (0u64, None, 0u64);
        let mut outdone = None;
        for region in self.regions.after(proto::RegionId(0)) {
            let mut peers = region.region.peers.iter();
            if !peers.any(|peer| goes(StoreId(peer.store_id))) {
                continue;
            }
            let region = checker.settled(region, id);
            if region.peer_on(id).is_none() {
                // It may be the store that others are to go to.
                if outdone.is_none()
                    && !checker.has_places(&region, waits, &others)
                    && checker.has_places(&region, waits, &all)
                {
                    outdone = Some(region.id());
                }
                continue;
            }
            bytes = bytes.saturating_add(region.bytes);
            if !checker.has_places(&region, goes, &others) {
                homeless += 1;
                example.get_or_insert(region);
            }
        }
        if let Some(region) = outdone {
            return Err(Refusal::Invalid(format!(
                "peers of other stores that leave would have no place without it, for example that of region {region}"
            )));
        }
        if let Some(region) = example {
            let why = self
                .stores
                .ids()
                .filter(|store| *store != id && !self.stores.is_tombstone(*store))
                .filter_map(|store| {
                    let why = checker.could_follow(&region, id, store).err()?;
                    Some(format!("store {store}: {why}"))
                })
                .take(NAMED_MAX)
                .collect::<Vec<_>>();
            let why = if why.is_empty() {
                "there is no other store".to_owned()
            } else {
                why.join(", ")
            };
            return Err(Refusal::Invalid(format!(
                "{homeless} of its peers would have no place, for example that of region {}: {why}",
                region.id()
            )));
        }
        let others = self.stores.ids().filter(|store| *store != id);
        let up = others.filter(|store| {
            self.stores
                .takes_peers(*store, now, self.settings.store_down_after)
        });
        let free: Option<u64> = up
            .map(|store| self.stores.available_bytes(store))
            .try_fold(0u64, |sum, free| Some(sum.saturating_add(free?)));
        if let Some(free) = free.filter(|free| *free < bytes) {
            return Err(Refusal::Invalid(format!(
                "its peers have {bytes} bytes, the other stores have {free} bytes free"
            )));
        }
        Ok(())
    }
}
