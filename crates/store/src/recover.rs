//! Opening a directory: which peers live here, and in what state the last stop left them.
//!
//! The raft tier holds everything that was synced. The apply tier may have fallen back to an earlier moment, all regions to
//! the same one; what is missing is applied again from the logs (REGIONS, words).

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use engine::{Direction, Engine, Family, View};
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::region_state::State;
use proto::pontoon::v1::snapshot_answer::Kind;
use proto::{RegionId, StoreId, metapb};
use raft::{CampaignReason, Entry, Event as RaftEvent, Index, LogPosition, PeerId, Raft, Restored};

use crate::context::{Context, Followup};
use crate::damage::Damage;
use crate::digest::Digest;
use crate::event::{ApplyTask, Estimate, Task};
use crate::merge::MergeState;
use crate::peer::{Installing, Peer, Stage};
use crate::planted::Bug;
use crate::store::{Store, step_quietly};
use crate::{Error, advance, codec, identity, keys, ranges};

/// Why a peer is being removed whose removal an earlier process began.
const INTERRUPTED: &str = "its removal was interrupted";

/// What the two tiers hold of one region.
#[derive(Default)]
struct Found {
    raft: Option<wire::RaftState>,
    mark: Option<wire::PeerMark>,
    state: Option<wire::RegionState>,
    applied: Option<wire::AppliedState>,
}

/// Peers that snapshots past their point of no return replace, with whose these are. (Or whose these were: one that lost its
/// files and was removed takes them along.)
type Replaced = BTreeMap<(RegionId, u64), RegionId>;

fn replaced(found: &BTreeMap<RegionId, Found>) -> Replaced {
    let mut replaced = Replaced::new();
    for (into, found) in found {
        for peer in found.mark.iter().flat_map(|mark| &mark.replaces) {
            replaced.insert((RegionId(peer.region_id), peer.peer_id), *into);
        }
    }
    replaced
}

impl Found {
    /// Whose snapshot replaces the peer here, while that is not done.
    fn merged_peer(&self, region: RegionId, replaced: &Replaced) -> Option<RegionId> {
        let state = self
            .state
            .as_ref()
            .filter(|state| state.state() == State::Normal)?;
        replaced.get(&(region, state.peer_id)).copied()
    }
}

/// A peer that says nothing any more: its range is its replacement's, and its tombstone comes with that.
fn merged<E: Engine>(found: Found, into: RegionId, cx: &mut Context<E>) -> Option<Box<Peer>> {
    let state = found.state?;
    let raft = found.raft.unwrap_or(wire::RaftState {
        peer_id: state.peer_id,
        ..Default::default()
    });
    let stage = Stage::Absorbed { into };
    let mut peer = Box::new(Peer::new(
        PeerId(state.peer_id),
        state.region?,
        stage,
        raft,
        cx.tick,
    ));
    peer.publish(cx);
    Some(peer)
}

/// Puts every peer into the state the disk speaks of.
pub(crate) fn recover<E: Engine>(store: &mut Store<E>) -> Result<(), Error> {
    let found = scan(&store.cx.engine.view())?;
    let replaced = replaced(&found);
    for (region, found) in found {
        if let Some(into) = found.merged_peer(region, &replaced) {
            let peer = merged(found, into, &mut store.cx);
            store.peers.extend(peer.map(|peer| (region, peer)));
            continue;
        }
        if let Some(peer) = restore(region, found, &mut store.cx)? {
            store.peers.insert(region, peer);
        }
    }
    reserve_for_the_dead(store);
    remove_leftover_files(store)
}

/// Reserves what the dead leave to clear, after everybody alive has taken what is his: if somebody owns a part of it by now, there
/// is nothing to clear that this store knows to be nobody's. The tombstone keeps the whole descriptor all the same: it answers
/// messages of those who do not know.
fn reserve_for_the_dead<E: Engine>(store: &mut Store<E>) {
    for (region, peer) in &mut store.peers {
        if let Stage::Stopping { reason, held, .. } = &mut peer.stage
            && *reason == INTERRUPTED
            && store.cx.ranges.set(*region, &[], held).is_err()
        {
            held.clear();
        }
    }
}

/// Collects the records of all regions, without reading logs: a cursor that meets an entry skips to the end of that log.
fn scan(view: &impl View) -> Result<BTreeMap<RegionId, Found>, Error> {
    let mut found: BTreeMap<RegionId, Found> = BTreeMap::new();
    let mut lower = Bytes::new();
    loop {
        let mut skip = None;
        let mut failed = None;
        let bounds = (Bound::Included(&lower[..]), Bound::Excluded(keys::IDENTITY));
        view.scan(
            Family::Log,
            bounds.0,
            bounds.1,
            Direction::Forward,
            &mut |key, value| {
                let value = Bytes::copy_from_slice(value);
                match keys::LogKey::parse(key) {
                    Some(keys::LogKey::Entry(region, _)) => {
                        skip = Some(Bytes::copy_from_slice(&keys::raft_state(region)));
                        return false;
                    }
                    Some(keys::LogKey::RaftState(region)) => match codec::decode_record(&value) {
                        Some(state) => found.entry(region).or_default().raft = Some(state),
                        None => {
                            failed = Some(Error::Corrupt {
                                region,
                                what: "the raft state",
                            })
                        }
                    },
                    Some(keys::LogKey::PeerMark(region)) => {
                        let mark = codec::decode_record(&value);
                        let mark = mark.filter(|mark: &wire::PeerMark| {
                            let head = mark.installing.as_ref();
                            head.is_none_or(|head| is_of(head.region.as_ref(), region))
                        });
                        match mark {
                            Some(mark) => found.entry(region).or_default().mark = Some(mark),
                            None => {
                                failed = Some(Error::Corrupt {
                                    region,
                                    what: "the peer mark",
                                })
                            }
                        }
                    }
                    None => failed = Some(Error::CorruptIdentity),
                }
                failed.is_none()
            },
        )?;
        if let Some(failed) = failed {
            return Err(failed);
        }
        match skip {
            Some(next) => lower = next,
            None => break,
        }
    }
    let (start, end) = keys::region_states();
    let mut failed = None;
    let bounds = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
    view.scan(
        Family::State,
        bounds.0,
        bounds.1,
        Direction::Forward,
        &mut |key, value| {
            let region = keys::parse_region_state(key);
            let state: Option<wire::RegionState> =
                codec::decode_record(&Bytes::copy_from_slice(value));
            match (region, state) {
                (Some(region), Some(state)) if is_of(state.region.as_ref(), region) => {
                    found.entry(region).or_default().state = Some(state);
                }
                (region, _) => {
                    let region = region.unwrap_or(RegionId(0));
                    failed = Some(Error::Corrupt {
                        region,
                        what: "the region state",
                    });
                }
            }
            failed.is_none()
        },
    )?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    for (region, found) in &mut found {
        if let Some(bytes) = view.get(Family::State, &keys::applied_state(*region))? {
            let what = "the applied state";
            found.applied = Some(codec::decode_record(&bytes).ok_or(Error::Corrupt {
                region: *region,
                what,
            })?);
        }
    }
    Ok(found)
}

/// Whether a descriptor, if there is one, is of the region at whose key it is, and of a range that holds something. What it
/// names is written and cleared.
fn is_of(descriptor: Option<&metapb::Region>, region: RegionId) -> bool {
    descriptor.is_none_or(|descriptor| {
        let (start, end) = (&descriptor.start_key, &descriptor.end_key);
        descriptor.id == region.0 && (end.is_empty() || start < end)
    })
}

/// One region's peer, if one lives here.
fn restore<E: Engine>(
    region: RegionId,
    found: Found,
    cx: &mut Context<E>,
) -> Result<Option<Box<Peer>>, Error> {
    let corrupt = |what| Error::Corrupt { region, what };
    let Found {
        raft,
        mark,
        state,
        applied,
    } = found;
    let mark = mark.unwrap_or_default();
    let newest = raft
        .as_ref()
        .map_or(0, |raft| raft.peer_id)
        .max(mark.peer_id);

    let installing = mark.installing.as_ref();
    let installing = installing.filter(|_| mark.peer_id > mark.dead_peer_id);
    if let Some(head) =
        installing.filter(|head| !is_in_place(head, state.as_ref(), applied.as_ref()))
    {
        let raft = raft.ok_or(corrupt("the raft state beside an install mark"))?;
        return resume_install(region, raft, head.clone(), mark.replaces, state, cx).map(Some);
    }
    let Some(state) = state else {
        if newest == 0 {
            return Ok(None);
        }
        if newest <= mark.dead_peer_id {
            if raft.is_none() {
                return Ok(None);
            }
            let remains = wire::RegionState {
                region: Some(metapb::Region {
                    id: region.0,
                    ..Default::default()
                }),
                peer_id: newest,
                ..Default::default()
            };
            return Ok(Some(resume_destroy(region, remains, newest, mark, cx)));
        }
        return reborn(region, newest, raft, mark, cx).map(Some);
    };
    let tombstone = state.state() == State::Tombstone;
    // A later peer, or one that died without data, may still find what a split wrote for it in the same moment.
    if tombstone || state.peer_id <= mark.dead_peer_id || state.peer_id < newest {
        // If a later peer was born since, the remains are that peer's.
        if newest > state.peer_id.max(mark.dead_peer_id) {
            return reborn(region, newest, raft, mark, cx).map(Some);
        }
        if raft.is_some() || !tombstone {
            return Ok(Some(resume_destroy(region, state, newest, mark, cx)));
        }
        return Ok(None);
    }
    let merge = MergeState {
        freeze: state.freeze,
        records: state.records,
    };
    let descriptor = state.region.ok_or(corrupt("the region state"))?;
    let applied = applied.ok_or(corrupt("the applied state"))?;
    if descriptor.id != region.0 || descriptor.region_epoch.is_none() {
        return Err(corrupt("the descriptor"));
    }
    let found = Normal {
        descriptor,
        peer: PeerId(state.peer_id),
        merge,
        damaged: state.damaged,
        applied,
    };
    normal(region, found, raft, mark, cx).map(Some)
}

/// Descriptor and applied position of a region that has data here.
struct Normal {
    descriptor: metapb::Region,
    peer: PeerId,
    merge: MergeState,
    damaged: bool,
    applied: wire::AppliedState,
}

fn normal<E: Engine>(
    region: RegionId,
    found: Normal,
    raft: Option<wire::RaftState>,
    mark: wire::PeerMark,
    cx: &mut Context<E>,
) -> Result<Box<Peer>, Error> {
    let corrupt = |what| Error::Corrupt { region, what };
    let Normal {
        descriptor,
        peer: id,
        merge,
        damaged,
        applied,
    } = found;
    let position = LogPosition {
        term: applied.term,
        index: applied.index,
    };
    let (state, is_new) = match raft {
        Some(state) if state.peer_id == id.0 && state.compacted_index > 0 => (state, false),
        // A split created it and the process ended before its first log write was there, or what is there is from when it
        // had no data. It starts without a named leader: nobody campaigns in term 1, so the vote there is free.
        other if position == identity::BASE => {
            let kept = other
                .filter(|state| state.peer_id == id.0)
                .unwrap_or_default();
            let state = wire::RaftState {
                term: kept.term.max(identity::BASE.term),
                vote: kept.vote,
                commit: identity::BASE.index,
                compacted_term: identity::BASE.term,
                compacted_index: identity::BASE.index,
                peer_id: id.0,
            };
            (state, true)
        }
        _ => return Err(corrupt("the raft state")),
    };
    let mut peer = Box::new(Peer::new(id, descriptor, Stage::Normal, state, cx.tick));
    peer.merge = merge;
    peer.damage = damaged.then(Damage::default);
    peer.applied = position;
    peer.handed_out = position.index;
    peer.estimate = Estimate::of(&applied);
    peer.digest = applied.digest.and_then(Digest::of_wire);
    let first = peer.state.compacted_index + 1;
    let entries = advance::read_entries(&cx.engine, region, first..Index::MAX, usize::MAX)?;
    peer.log_bytes = entries
        .iter()
        .map(|entry| entry.payload.size_bytes() as u64)
        .sum();
    if let Err(other) = cx.ranges.set(region, &[], &[peer.range()]) {
        return Err(Error::Overlap { region, other });
    }
    if peer.member(id).is_none() {
        // Its log removed it and the process ended before its remains were gone.
        peer.begin_stopping("removed by its own log", cx);
        return Ok(peer);
    }
    let first_term = cx.options.bug == Some(Bug::FirstTermTwice)
        && (peer.state.term, peer.state.vote) == (identity::BASE.term, id.0)
        && (peer.state.commit, peer.state.compacted_index)
            == (identity::BASE.index, identity::BASE.index)
        && position == identity::BASE
        && entries.is_empty();
    peer.start_raft(entries, first_term, cx)?;
    if first_term && let Some(raft) = peer.raft.as_mut() {
        step_quietly(raft, RaftEvent::Campaign(CampaignReason::Named));
    }
    if is_new {
        cx.log.put(&keys::raft_state(region), &peer.state);
        peer.hold(cx);
    }
    if let Some(head) = &mark.installing {
        // Its sender may wait to hear of it.
        let answer = wire::SnapshotAnswer {
            region_id: region.0,
            from_peer: id.0,
            to_peer: head.from_peer,
            kind: Some(Kind::Installed(head.index)),
        };
        let to_store = StoreId(head.from_store);
        cx.frame(to_store, false).answers.push(answer);
    }
    if mark.peer_id < id.0 || mark.installing.is_some() {
        peer.put_mark(cx);
    }
    peer.publish(cx);
    cx.touch(&mut peer);
    cx.out.apply.push(ApplyTask::Open(region));
    Ok(peer)
}

/// A peer with a raft tier and no apply tier. Without a log it never had data; with one, it was split off and power was lost.
fn reborn<E: Engine>(
    region: RegionId,
    id: u64,
    raft: Option<wire::RaftState>,
    mark: wire::PeerMark,
    cx: &mut Context<E>,
) -> Result<Box<Peer>, Error> {
    let state = raft
        .filter(|state| state.peer_id == id)
        .unwrap_or(wire::RaftState {
            peer_id: id,
            ..Default::default()
        });
    let has_log = state.compacted_index > 0;
    let descriptor = metapb::Region {
        id: region.0,
        ..Default::default()
    };
    let mark = if mark.peer_id == id {
        mark
    } else {
        wire::PeerMark::default()
    };
    let stage = if has_log {
        Stage::Dormant
    } else {
        Stage::Uninitialized {
            conf_ver: mark.conf_ver,
        }
    };
    let mut peer = Box::new(Peer::new(PeerId(id), descriptor, stage, state, cx.tick));
    for contact in mark.contacts {
        peer.remember_contact(PeerId(contact.id), StoreId(contact.store_id));
    }
    if !has_log {
        peer.start_raft(Vec::new(), false, cx)?;
        cx.touch(&mut peer);
    }
    peer.publish(cx);
    Ok(peer)
}

/// Whether the snapshot of an install mark was put in place, and only the mark is left. The region's state was written last. The
/// leader may know of it already, so that nothing of it may be lost any more, whatever became of the files.
fn is_in_place(
    head: &wire::SnapshotHead,
    state: Option<&wire::RegionState>,
    applied: Option<&wire::AppliedState>,
) -> bool {
    state.is_some_and(|state| state.state() == State::Normal && state.peer_id == head.to_peer)
        && applied.is_some_and(|applied| applied.index >= head.index)
}

/// A snapshot was past its point of no return: it is put in place again from its files, if they are there.
fn resume_install<E: Engine>(
    region: RegionId,
    raft: wire::RaftState,
    head: wire::SnapshotHead,
    replaces: Vec<wire::ReplacedPeer>,
    state: Option<wire::RegionState>,
    cx: &mut Context<E>,
) -> Result<Box<Peer>, Error> {
    let corrupt = |what| Error::Corrupt { region, what };
    let id = PeerId(raft.peer_id);
    let new = head.region.clone().ok_or(corrupt("the install mark"))?;
    // Both were written in one batch, and only a snapshot that names its receiver was let in.
    let named = new.peers.iter().any(|member| member.id == head.to_peer)
        || cx.options.bug == Some(Bug::SnapshotNamesNobody);
    let position = LogPosition {
        term: head.term,
        index: head.index,
    };
    if head.to_peer != id.0 || position != codec::compacted(&raft) || !named {
        return Err(corrupt("the install mark"));
    }
    let new = (new.start_key, new.end_key);
    let old = state.filter(|state| state.state() == State::Normal && state.peer_id == id.0);
    let descriptor = old.and_then(|state| state.region);
    let clear = match &descriptor {
        Some(old) => ranges::union((old.start_key.clone(), old.end_key.clone()), new),
        None => vec![new],
    };
    let descriptor = descriptor.unwrap_or(metapb::Region {
        id: region.0,
        ..Default::default()
    });
    if let Err(other) = cx.ranges.set(region, &[], &clear) {
        return Err(Error::Overlap { region, other });
    }
    let installing = Installing {
        head,
        clear,
        replaces,
        has_files: true,
    };
    let mut peer = Box::new(Peer::new(
        id,
        descriptor,
        Stage::Installing(Box::new(installing)),
        raft,
        cx.tick,
    ));
    // Its log is what the snapshot left of it, so it votes as before.
    peer.start_raft_installing(cx)?;
    peer.publish(cx);
    cx.touch(&mut peer);
    cx.after_sync(Followup::PutInPlace { region, peer: id });
    Ok(peer)
}

/// A dead peer whose remains are still there: the removal is carried through, with that of the peers which die with it.
fn resume_destroy<E: Engine>(
    region: RegionId,
    state: wire::RegionState,
    newest: u64,
    mark: wire::PeerMark,
    cx: &mut Context<E>,
) -> Box<Peer> {
    let id = PeerId(state.peer_id.max(newest));
    let descriptor = state.region.clone().unwrap_or(metapb::Region {
        id: region.0,
        ..Default::default()
    });
    let raft = wire::RaftState {
        peer_id: id.0,
        ..Default::default()
    };
    // The tombstone of an earlier peer says what it had; that is gone.
    let earlier = state.state() == State::Tombstone && state.peer_id < id.0;
    let mut held = Vec::new();
    if descriptor.region_epoch.is_some() && !earlier && state.absorber_id == 0 {
        held.push((descriptor.start_key.clone(), descriptor.end_key.clone()));
    }
    if let Some(new) = mark.installing.and_then(|head| head.region) {
        held = ranges::with(&held, (new.start_key, new.end_key));
    }
    let stage = Stage::Stopping {
        reason: INTERRUPTED,
        settled: true,
        // The range of a merged one lives on in another region.
        merged: (state.absorber_id != 0).then(|| Box::new(state)),
        held,
        replaces: mark.replaces,
    };
    cx.after_sync(Followup::Destroy { region, peer: id });
    Box::new(Peer::new(id, descriptor, stage, raft, cx.tick))
}

/// Files of snapshots that no install mark names are left over from an earlier life.
fn remove_leftover_files<E: Engine>(store: &mut Store<E>) -> Result<(), Error> {
    let mut files = store.cx.engine.stage_list()?;
    let wanted = store.peers.values().filter_map(|peer| match &peer.stage {
        Stage::Installing(installing) => Some(&installing.head.files),
        _ => None,
    });
    for wanted in wanted.flatten() {
        files.retain(|name| *name != wanted.name);
    }
    if !files.is_empty() {
        store.cx.out.tasks.push(Task::RemoveFiles(files));
    }
    Ok(())
}

/// The seed of a peer's own randomness: its elections must not coincide with those of others.
fn seed<E: Engine>(peer: PeerId, cx: &Context<E>) -> u64 {
    cx.options.seed ^ peer.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Peer {
    /// Starts a Raft instance from what this peer has: its raft state, descriptor, applied position and these entries.
    pub(crate) fn start_raft<E: Engine>(
        &mut self,
        entries: Vec<Entry>,
        first_term: bool,
        cx: &mut Context<E>,
    ) -> Result<(), Error> {
        let region = self.region_id();
        let restored = Restored {
            id: self.id,
            seed: seed(self.id, cx),
            hard_state: codec::hard_state(&self.state),
            compacted: codec::compacted(&self.state),
            membership: codec::membership(&self.region),
            applied: self.applied.index,
            entries,
            first_term,
        };
        let raft = Raft::new(cx.raft_options.clone(), restored)
            .map_err(|source| Error::Raft { region, source })?;
        self.raft = Some(raft);
        self.generation = cx.generation();
        Ok(())
    }

    /// Starts a Raft instance that goes on installing the snapshot of this peer's stage.
    fn start_raft_installing<E: Engine>(&mut self, cx: &mut Context<E>) -> Result<(), Error> {
        let region = self.region_id();
        let Stage::Installing(installing) = &self.stage else {
            unreachable!("region {region}: no snapshot is being installed");
        };
        let descriptor = installing.head.region.as_ref();
        let compacted = codec::compacted(&self.state);
        let restored = Restored {
            hard_state: codec::hard_state(&self.state),
            compacted,
            membership: descriptor.map(codec::membership).unwrap_or_default(),
            applied: compacted.index,
            ..Restored::blank(self.id, seed(self.id, cx))
        };
        let raft = Raft::installing_again(cx.raft_options.clone(), restored)
            .map_err(|source| Error::Raft { region, source })?;
        self.raft = Some(raft);
        self.generation = cx.generation();
        Ok(())
    }
}
