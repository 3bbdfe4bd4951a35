//! R7: term, vote and commit of a peer, as they are on disk, never go back, restarts included.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::{Change, Engine, Family, MemoryEngine};
use proto::pontoon::v1::{PeerMark, RaftState, RegionState, region_state};
use proto::{RegionId, StoreId};
use store::{codec, keys};

use crate::rule::{Violation, ensure};

/// What a peer has on its disk.
#[derive(Clone, Copy, Debug)]
struct Kept {
    written: RaftState,
    synced: Option<RaftState>,
}

/// Hard states of all peers, by store, region and peer.
#[derive(Debug, Default)]
pub struct HardStates {
    kept: BTreeMap<(StoreId, RegionId, u64), Kept>,
}

impl HardStates {
    /// A batch of the raft tier is written.
    ///
    /// # Errors
    /// R7.
    pub fn write(&mut self, store: StoreId, changes: &[Change]) -> Result<(), Violation> {
        for change in changes {
            let Change::Put(key, value) = change else {
                continue;
            };
            let Some(keys::LogKey::RaftState(region)) = keys::LogKey::parse(key) else {
                continue;
            };
            let Some(new) = codec::decode_record::<RaftState>(value) else {
                continue;
            };
            let kept = self
                .kept
                .entry((store, region, new.peer_id))
                .or_insert(Kept {
                    written: new,
                    synced: None,
                });
            check(store, region, &kept.written, &new)?;
            kept.written = new;
        }
        Ok(())
    }

    /// What a store wrote is synced.
    pub fn sync(&mut self, store: StoreId) {
        for kept in self.of(store).map(|(_, kept)| kept) {
            kept.synced = Some(kept.written);
        }
    }

    /// A store is about to start from its disk.
    ///
    /// # Errors
    /// R7.
    pub fn reopen(&mut self, store: StoreId, engine: &MemoryEngine) -> Result<(), Violation> {
        let mut gone = Vec::new();
        for ((_, region, peer), kept) in self.of(store) {
            let (region, peer) = (*region, *peer);
            let found = raft_state(engine, region);
            match found.filter(|found| found.peer_id == peer) {
                Some(found) => {
                    if let Some(synced) = &kept.synced {
                        check(store, region, synced, &found)?;
                    }
                    *kept = Kept {
                        written: found,
                        synced: Some(found),
                    };
                }
                None => {
                    ensure!(
                        Durable,
                        kept.synced.is_none() || is_dead(engine, region, peer),
                        "store {store} forgot the hard state of peer {peer} of region {region}: {:?}",
                        kept.synced
                    );
                    gone.push((store, region, peer));
                }
            }
        }
        self.kept.retain(|peer, _| !gone.contains(peer));
        Ok(())
    }

    fn of(
        &mut self,
        store: StoreId,
    ) -> impl Iterator<Item = (&(StoreId, RegionId, u64), &mut Kept)> {
        let first = (store, RegionId(0), 0);
        let last = (store, RegionId(u64::MAX), u64::MAX);
        self.kept.range_mut(first..=last)
    }
}

fn check(
    store: StoreId,
    region: RegionId,
    old: &RaftState,
    new: &RaftState,
) -> Result<(), Violation> {
    let same_vote = new.term > old.term || old.vote == 0 || new.vote == old.vote;
    ensure!(
        Durable,
        new.term >= old.term && new.commit >= old.commit && same_vote,
        "store {store}: the hard state of region {region} goes back from {old:?} to {new:?}"
    );
    Ok(())
}

/// Whether the disk says that a peer is dead, or that a later one lives.
fn is_dead(engine: &MemoryEngine, region: RegionId, peer: u64) -> bool {
    let state = read(engine, Family::State, &keys::region_state(region));
    let state: Option<RegionState> = state.as_ref().and_then(codec::decode_record);
    let buried = state.filter(|state| state.state() == region_state::State::Tombstone);
    let mark = read(engine, Family::Log, &keys::peer_mark(region));
    let mark: Option<PeerMark> = mark.as_ref().and_then(codec::decode_record);
    let later = raft_state(engine, region);
    buried.is_some_and(|state| state.peer_id >= peer)
        || mark.is_some_and(|mark| mark.dead_peer_id >= peer || mark.peer_id > peer)
        || later.is_some_and(|later| later.peer_id > peer)
}

fn raft_state(engine: &MemoryEngine, region: RegionId) -> Option<RaftState> {
    let state = read(engine, Family::Log, &keys::raft_state(region));
    state.as_ref().and_then(codec::decode_record)
}

fn read(engine: &MemoryEngine, family: Family, key: &[u8]) -> Option<Bytes> {
    engine.get(family, key).ok()?
}
