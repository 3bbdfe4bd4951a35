//! The registered stores: durable metadata and soft state from heartbeats.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};

use crate::drains;
use crate::event::{Now, Refusal, Space};

/// Bytes of the encoded metadata of a store at the most: records of many stores leave in one write.
const STORE_BYTES_MAX: usize = 16 << 10;

/// A store as others may know it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreInfo {
    /// Durable metadata.
    pub store: metapb::Store,
    /// Highest boot counter with which it registered; 0 when it told none.
    pub boot: u64,
    /// Space, from the last heartbeat of this leadership.
    pub space: Option<Space>,
    /// Time since the last heartbeat of this leadership.
    pub silent: Option<Duration>,
    /// Peers on it in the region view.
    pub peers: u32,
    /// Leaders on it in the region view.
    pub leaders: u32,
    /// Whether its process was told to stop, as it last told.
    pub stopping: bool,
    /// How far it is emptied, if an administrator drains it.
    pub drain: Option<DrainInfo>,
}

/// Why a store that is told to stop is left alone.
pub(crate) const STOPPING: &str = "it is stopping";

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainInfo {
    /// Peers on the store when it began.
    pub peers_at_start: u32,
    /// Time since then.
    pub elapsed: Duration,
    /// Time left at the pace so far; `None` while nothing is done.
    pub left: Option<Duration>,
}

#[derive(Debug)]
struct Entry {
    record: wire::PlacementStore,
    space: Option<Space>,
    heard: Option<Duration>,
    /// Regions that it told to be damaged there.
    damaged: BTreeSet<RegionId>,
    /// Whether its process told that it stops. Holds until another process is the store.
    stopping: bool,
}

/// All stores of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    entries: BTreeMap<StoreId, Entry>,
    /// When this leadership began to listen.
    since: Duration,
}

/// What a registration changed: records to save.
pub(crate) type Changed = Vec<(StoreId, wire::PlacementStore)>;

impl Stores {
    pub fn load(records: BTreeMap<StoreId, wire::PlacementStore>, now: Now) -> Self {
        let entry = |record| Entry {
            record,
            space: None,
            heard: None,
            damaged: BTreeSet::new(),
            stopping: false,
        };
        Self {
            entries: records
                .into_iter()
                .map(|(id, record)| (id, entry(record)))
                .collect(),
            since: now.monotonic,
        }
    }

    /// Registers a store, or takes over what it says of itself (R30).
    ///
    /// A store raises its boot counter at every start, durably, before it speaks. So of two processes with the same
    /// store id the one with the higher counter is the store; a counter that is not higher is a repeat only if it comes
    /// from the same process (address and start time), and otherwise a copy or an old backup of the directory.
    pub fn put(
        &mut self,
        store: metapb::Store,
        boot: Option<u64>,
        now: Now,
        down_after: Duration,
    ) -> Result<Changed, Refusal> {
        let id = StoreId::from_wire(store.id)
            .ok_or_else(|| Refusal::Invalid("the store has no id".into()))?;
        if store.address.is_empty() {
            return Err(Refusal::Invalid(format!("store {id} has no address")));
        }
        let bytes = store.encoded_len();
        if bytes > STORE_BYTES_MAX {
            return Err(Refusal::Invalid(format!(
                "store {id} tells {bytes} bytes of itself, {STORE_BYTES_MAX} are allowed"
            )));
        }
        if let Some(known) = self.entries.get(&id) {
            known.check_boot(id, &store, boot)?;
        }
        let mut changed = Changed::new();
        for (other, entry) in &mut self.entries {
            let theirs = entry.store();
            if *other == id
                || theirs.address != store.address
                || theirs.state() == metapb::StoreState::Tombstone
            {
                continue;
            }
            if entry
                .heard
                .is_some_and(|heard| now.monotonic.saturating_sub(heard) < down_after)
            {
                return Err(Refusal::AddressInUse {
                    address: store.address,
                    owner: *other,
                });
            }
            // An address is one process, so the store that had it is gone: its directory was lost or replaced. Its
            // peers are moved away like those of a store that an administrator takes out.
            if theirs.state() == metapb::StoreState::Up || entry.record.drain.is_some() {
                changed.push((*other, entry.take_out(None)));
            }
        }
        let mut store = store;
        store.set_state(metapb::StoreState::Up);
        store.set_node_state(metapb::NodeState::Serving);
        // Soft, and filled in when it is shown.
        store.last_heartbeat = 0;
        let known = self.entries.get(&id);
        if known.is_some_and(|known| known.store().state() == metapb::StoreState::Offline) {
            store.set_state(metapb::StoreState::Offline);
            store.set_node_state(metapb::NodeState::Removing);
        }
        let before = known.map(|known| known.record.clone()).unwrap_or_default();
        let mut record = wire::PlacementStore {
            boot: boot.unwrap_or(0).max(before.boot),
            drain: before.drain,
            labels: before.labels,
            told_labels: std::mem::take(&mut store.labels),
            store: Some(store),
        };
        labels::hold(&mut record);
        if known.is_none_or(|known| known.record != record) {
            changed.push((id, record.clone()));
        }
        let restarts = |known: &Entry| {
            let start = |record: &wire::PlacementStore| {
                let store = record.store.as_ref();
                store.map(|store| store.start_timestamp)
            };
            known.record.boot < record.boot || start(&known.record) != start(&record)
        };
        let stopping = known.is_some_and(|known| known.stopping && !restarts(known));
        let entry = self.entries.entry(id).or_insert(Entry {
            record: record.clone(),
            space: None,
            heard: None,
            damaged: BTreeSet::new(),
            stopping,
        });
        entry.stopping = stopping;
        entry.record = record;
        entry.heard = Some(now.monotonic);
        Ok(changed)
    }

    /// A heartbeat arrived.
    pub fn heard(
        &mut self,
        id: StoreId,
        boot: Option<u64>,
        space: Space,
        now: Now,
    ) -> Result<(), Refusal> {
        let entry = self
            .entries
            .get_mut(&id)
            .ok_or(Refusal::StoreNotFound(id))?;
        if entry.store().state() == metapb::StoreState::Tombstone {
            return Err(Refusal::StoreTombstone(id));
        }
        let known = entry.record.boot;
        if let Some(asked) = boot
            && asked < known
        {
            return Err(Refusal::StaleBoot {
                store: id,
                asked,
                known,
            });
        }
        entry.space = Some(space);
        entry.heard = Some(now.monotonic);
        Ok(())
    }

    /// Remembers which regions a store tells to be damaged there; returns those that it told before.
    pub fn tell_damaged(&mut self, id: StoreId, damaged: BTreeSet<RegionId>) -> BTreeSet<RegionId> {
        let entry = self.entries.get_mut(&id);
        entry.map_or_else(BTreeSet::new, |entry| {
            std::mem::replace(&mut entry.damaged, damaged)
        })
    }

    /// Remembers whether the process of a store stops; returns whether that is news.
    pub fn tell_stopping(&mut self, id: StoreId, stopping: bool) -> bool {
        let entry = self.entries.get_mut(&id);
        entry.is_some_and(|entry| std::mem::replace(&mut entry.stopping, stopping) != stopping)
    }

    /// Whether its process told that it stops. It hands its leaders over and is gone in a moment, most likely to come back:
    /// nothing is brought there meanwhile, and nothing taken away.
    pub fn stopping(&self, id: StoreId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.stopping)
    }

    /// A sign of life that carries nothing else.
    pub fn seen(&mut self, id: StoreId, now: Now) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.heard = Some(now.monotonic);
        }
    }

    pub fn contains(&self, id: StoreId) -> bool {
        self.entries.contains_key(&id)
    }

    /// Whether it is unknown, or silent for too long. A new leader gives every store the whole time to be heard.
    pub fn down(&self, id: StoreId, now: Now, down_after: Duration) -> bool {
        self.entries.get(&id).is_none_or(|entry| {
            let heard = entry.heard.unwrap_or(self.since);
            now.monotonic.saturating_sub(heard) >= down_after
        })
    }

    /// Whether it may take a peer: Up and heard lately.
    pub fn takes_peers(&self, id: StoreId, now: Now, down_after: Duration) -> bool {
        self.entries.get(&id).is_some_and(|entry| {
            entry.store().state() == metapb::StoreState::Up && entry.alive(now, down_after)
        })
    }

    /// Free bytes as last told; `None` when nothing is known.
    pub fn available_bytes(&self, id: StoreId) -> Option<u64> {
        let space = self.entries.get(&id)?.space?;
        (space.capacity_bytes > 0).then_some(space.available_bytes)
    }

    /// Space as last told.
    pub fn space(&self, id: StoreId) -> Option<Space> {
        self.entries.get(&id)?.space
    }

    /// Labels of all stores.
    pub fn labels(&self) -> impl Iterator<Item = (StoreId, &[metapb::StoreLabel])> + Clone {
        self.entries
            .iter()
            .map(|(id, entry)| (*id, &entry.store().labels[..]))
    }

    pub fn ids(&self) -> impl Iterator<Item = StoreId> {
        self.entries.keys().copied()
    }

    /// A store for an answer; counts of peers and leaders come from the region view.
    pub fn info(&self, id: StoreId, now: Now, counts: (u32, u32)) -> Option<StoreInfo> {
        let entry = self.entries.get(&id)?;
        let silent = entry.heard.map(|heard| now.monotonic.saturating_sub(heard));
        let mut store = entry.store().clone();
        if let Some(silent) = silent {
            let heard_ms = now.wall_ms.saturating_sub(silent.as_millis() as u64);
            store.last_heartbeat =
                i64::try_from(heard_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        }
        Some(StoreInfo {
            store,
            boot: entry.record.boot,
            space: entry.space,
            silent,
            peers: counts.0,
            leaders: counts.1,
            stopping: entry.stopping,
            drain: entry
                .record
                .drain
                .map(|drain| drains::progress(drain, counts.0, now.wall_ms)),
        })
    }

    /// Stores that are not tombstones, and those of them heard lately.
    pub fn counts(&self, now: Now, down_after: Duration) -> (u32, u32) {
        let present = |entry: &&Entry| entry.store().state() != metapb::StoreState::Tombstone;
        let all = self.entries.values().filter(present);
        let alive = all
            .clone()
            .filter(|entry| entry.alive(now, down_after))
            .count();
        (all.count() as u32, alive as u32)
    }
}

impl Entry {
    fn store(&self) -> &metapb::Store {
        self.record
            .store
            .as_ref()
            .expect("checked when it was loaded or put")
    }

    fn alive(&self, now: Now, down_after: Duration) -> bool {
        self.heard
            .is_some_and(|heard| now.monotonic.saturating_sub(heard) < down_after)
    }

    fn check_boot(
        &self,
        id: StoreId,
        store: &metapb::Store,
        boot: Option<u64>,
    ) -> Result<(), Refusal> {
        let mine = self.store();
        if mine.state() == metapb::StoreState::Tombstone {
            return Err(Refusal::StoreTombstone(id));
        }
        let known = self.record.boot;
        let Some(asked) = boot else {
            return Ok(());
        };
        let repeat = asked == known
            && mine.address == store.address
            && mine.start_timestamp == store.start_timestamp;
        if asked > known || repeat {
            Ok(())
        } else {
            Err(Refusal::StaleBoot {
                store: id,
                asked,
                known,
            })
        }
    }
}

mod labels;
mod leaving;

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Now {
        Now {
            wall_ms: 1_000_000 + seconds * 1000,
            monotonic: Duration::from_secs(seconds),
        }
    }

    fn store(id: u64, address: &str, start: i64) -> metapb::Store {
        metapb::Store {
            id,
            address: address.into(),
            start_timestamp: start,
            ..Default::default()
        }
    }

    /// R30, F24: a directory used twice, cloned or restored.
    #[test]
    fn a_boot_counter_is_one_process() {
        let mut stores = Stores::default();
        assert_eq!(
            stores
                .put(store(1, "a", 100), Some(3), at(0), DOWN)
                .unwrap()
                .len(),
            1
        );
        // The answer was lost, and the store asks again.
        assert!(
            stores
                .put(store(1, "a", 100), Some(3), at(1), DOWN)
                .unwrap()
                .is_empty()
        );
        let stale = Refusal::StaleBoot {
            store: StoreId(1),
            asked: 3,
            known: 3,
        };
        // A copy of the directory started elsewhere.
        assert_eq!(
            stores.put(store(1, "b", 100), Some(3), at(1), DOWN),
            Err(stale.clone())
        );
        // A backup restored in place.
        assert_eq!(
            stores.put(store(1, "a", 101), Some(3), at(1), DOWN),
            Err(stale)
        );
        // A restart, at a new address.
        assert_eq!(
            stores
                .put(store(1, "b", 102), Some(4), at(1), DOWN)
                .unwrap()
                .len(),
            1
        );
        // The process before it hears within a heartbeat that it is not the store any more.
        assert!(matches!(
            stores.heard(StoreId(1), Some(3), Space::default(), at(2)),
            Err(Refusal::StaleBoot { known: 4, .. })
        ));
        assert_eq!(
            stores.heard(StoreId(1), Some(4), Space::default(), at(2)),
            Ok(())
        );
    }

    /// A process does not come back from a stop; the store does, with another one.
    #[test]
    fn a_stop_ends_with_its_process() {
        let mut stores = Stores::default();
        let put = |stores: &mut Stores, boot: Option<u64>, start| {
            let put = stores.put(store(1, "a", start), boot, at(0), DOWN);
            let _ = put.expect("it may register");
            stores.stopping(StoreId(1))
        };
        assert!(!put(&mut stores, Some(3), 100));
        assert!(stores.tell_stopping(StoreId(1), true));
        assert!(!stores.tell_stopping(StoreId(1), true), "it is known");
        assert!(stores.stopping(StoreId(1)));
        // It registers again because an answer was lost.
        assert!(put(&mut stores, Some(3), 100));
        assert!(!put(&mut stores, Some(4), 101));
        // One that tells no boot counter.
        assert!(stores.tell_stopping(StoreId(1), true));
        assert!(put(&mut stores, None, 101));
        assert!(!put(&mut stores, None, 102));
        assert!(!stores.tell_stopping(StoreId(2), true), "it is unknown");
    }

    /// F25: a disk was replaced, and an empty store joins at the old address.
    #[test]
    fn an_address_is_one_store() {
        let mut stores = Stores::default();
        let _ = stores.put(store(1, "a", 0), Some(1), at(0), DOWN).unwrap();
        assert_eq!(
            stores.put(store(2, "a", 0), Some(1), at(5), DOWN),
            Err(Refusal::AddressInUse {
                address: "a".into(),
                owner: StoreId(1)
            })
        );
        let changed = stores.put(store(2, "a", 0), Some(1), at(11), DOWN).unwrap();
        assert_eq!(
            changed.iter().map(|(id, _)| id.0).collect::<Vec<_>>(),
            [1, 2]
        );
        assert!(stores.leaving(StoreId(1)));
        assert!(stores.takes_peers(StoreId(2), at(12), DOWN));
        assert!(!stores.takes_peers(StoreId(2), at(30), DOWN));
    }

    /// Its record could not be written, and the leader would give up.
    #[test]
    fn what_a_store_tells_of_itself_is_limited() {
        let mut stores = Stores::default();
        let mut large = store(1, "a", 0);
        large.labels.push(metapb::StoreLabel {
            key: "zone".into(),
            value: "z".repeat(STORE_BYTES_MAX),
        });
        let Err(Refusal::Invalid(reason)) = stores.put(large.clone(), Some(1), at(0), DOWN) else {
            panic!("more than {STORE_BYTES_MAX} bytes are refused");
        };
        assert!(reason.contains("16384"), "{reason}");
        assert!(!stores.contains(StoreId(1)));
        large.labels[0].value.truncate(STORE_BYTES_MAX - 100);
        assert!(stores.put(large, Some(1), at(0), DOWN).is_ok());
    }
}
