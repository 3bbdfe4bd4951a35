//! Splitting a region at given keys (REGIONS §4).
//!
//! The command names everything: keys, ids of the children and of their peers, and who leads each child first. Every peer
//! applies it at the same index with the same result. The named peer then leads the child's term 1 without an election, once:
//! its first log write makes its vote for itself durable, and whoever finds a term on disk never leads by name again.

use std::collections::BTreeSet;

use bytes::Bytes;
use engine::Engine;
use proto::RegionId;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::command::Structural;
use proto::pontoon::v1::region_state::State;
use raft::{CampaignReason, Event as RaftEvent, LogPosition, Payload, PeerId};

use crate::context::Context;
use crate::event::{AppliedChild, ApplyTask, OrderRefusal};
use crate::inbound::past;
use crate::peer::{Peer, Stage};
use crate::planted::Bug;
use crate::store::{Store, step_quietly};
use crate::{Error, advance, codec, identity, keys};

impl<E: Engine> Store<E> {
    /// Proposes a split, with ids from the pool. `first` is the peer on whose store each child is led first: the one here
    /// when nobody is named.
    pub(crate) fn propose_split(
        &mut self,
        region: RegionId,
        split_keys: &[Bytes],
        first: Option<PeerId>,
        operator_id: u64,
    ) -> Result<(), OrderRefusal> {
        let peer = self.peers.get_mut(&region).ok_or(OrderRefusal::NotLeader)?;
        let cx = &mut self.cx;
        if split_keys.is_empty() || split_keys.len() > cx.options.split_keys_max {
            return Err(OrderRefusal::Invalid("a split takes one key or a few"));
        }
        let (start, end) = (&peer.region.start_key, &peer.region.end_key);
        let mut previous = start;
        for key in split_keys {
            if key <= previous || !keys::contains(start, end, key) {
                return Err(OrderRefusal::Invalid(
                    "split keys must grow strictly inside the region",
                ));
            }
            previous = key;
        }
        let members = peer.region.peers.len();
        let needed = split_keys.len() * (1 + members);
        if cx.ids.len() < needed {
            return Err(OrderRefusal::NoIds);
        }
        let own = peer
            .region
            .peers
            .iter()
            .position(|member| member.id == first.unwrap_or(peer.id).0);
        let own = own.ok_or(OrderRefusal::NotLeader)?;
        let mut ids = cx.ids.drain(..needed);
        let children = split_keys.iter().map(|_| {
            let region_id = ids.next().expect("the pool was checked");
            let peer_ids: Vec<u64> = ids.by_ref().take(members).collect();
            wire::SplitChild {
                region_id,
                first_leader: peer_ids[own],
                peer_ids,
            }
        });
        let children = children.collect();
        drop(ids);
        let split = wire::Split {
            keys: split_keys.to_vec(),
            children,
            operator_id,
        };
        let command = peer.structural_command(Some(Structural::Split(split)));
        peer.propose_structural(Payload::Structural(codec::seal(&command)), cx)
    }

    pub(crate) fn on_ids(&mut self, ids: Vec<u64>) {
        self.cx.ids_asked_tick = None;
        let known: BTreeSet<u64> = self.cx.ids.iter().copied().collect();
        self.cx
            .ids
            .extend(ids.into_iter().filter(|id| *id != 0 && !known.contains(id)));
    }

    /// Asks for ids when the pool runs low, and again after a while.
    pub(crate) fn ask_for_ids(&mut self) {
        let cx = &mut self.cx;
        let waits = cx
            .ids_asked_tick
            .is_some_and(|asked| cx.tick < asked + cx.options.ids_ticks);
        if waits || cx.ids.len() >= cx.options.ids_low as usize {
            return;
        }
        cx.ids_asked_tick = Some(cx.tick);
        cx.out.ids_wanted = cx.options.ids_batch;
    }

    /// Brings up the peer of a child that a split wrote.
    pub(crate) fn create_child(&mut self, child: AppliedChild) {
        let region = RegionId(child.region.id);
        if !child.created {
            // A later peer lives or lived here. Nobody owns the range; a snapshot clears what it takes.
            return;
        }
        match self.peers.get(&region) {
            Some(peer) if peer.id == child.peer => match peer.stage {
                Stage::Uninitialized { .. } | Stage::Dormant => {}
                // It died without data at the very moment the split gave it some. Its mark says so for ever; after a restart
                // the state that the split wrote is removed (`recover`). Nobody owns the range.
                Stage::Stopping { .. } => return,
                Stage::Normal | Stage::Installing(_) | Stage::Absorbed { .. } => return,
            },
            // A later peer was born meanwhile, which proves this one dead.
            Some(_) => return,
            // It may have died without data, and be gone, after the split was applied and before this store heard of that.
            None => match past(&self.cx.engine, region) {
                Ok((mark, state)) => {
                    let dead = mark.map_or(0, |mark| mark.dead_peer_id);
                    let buried = state.filter(|state| state.state() == State::Tombstone);
                    let buried = buried.map_or(0, |state| state.peer_id);
                    if child.peer.0 <= dead.max(buried) {
                        return;
                    }
                }
                Err(error) => {
                    self.cx.fail(error);
                    return;
                }
            },
        }
        let earlier = self.peers.remove(&region);
        let range = (child.region.start_key.clone(), child.region.end_key.clone());
        if let Err(other) = self.cx.ranges.set(region, &[], &[range]) {
            self.cx.fail(Error::Overlap { region, other });
            return;
        }
        let buckets = child.buckets.clone();
        match start_child(child, earlier, &mut self.cx) {
            Ok(peer) => {
                self.peers.insert(region, peer);
                let apply = &mut self.cx.out.apply;
                apply.push(ApplyTask::Open(region));
                apply.push(ApplyTask::Inherit(region, buckets));
            }
            Err(error) => self.cx.fail(error),
        }
    }
}

/// The peer of a child, with what an earlier stage of it has in the raft tier (REGIONS §4, first term).
fn start_child<E: Engine>(
    child: AppliedChild,
    earlier: Option<Box<Peer>>,
    cx: &mut Context<E>,
) -> Result<Box<Peer>, Error> {
    let region = RegionId(child.region.id);
    let base = identity::BASE;
    let mut entries = Vec::new();
    let mut pledge = None;
    let (mut state, contacts) = match earlier {
        Some(mut earlier) => {
            pledge = earlier.leave(cx);
            if matches!(earlier.stage, Stage::Dormant) {
                let first = earlier.state.compacted_index + 1;
                entries =
                    advance::read_entries(&cx.engine, region, first..raft::Index::MAX, usize::MAX)?;
            }
            (earlier.state, earlier.contacts)
        }
        None => (
            wire::RaftState {
                peer_id: child.peer.0,
                ..Default::default()
            },
            Vec::new(),
        ),
    };
    // Only a peer that never knew a term follows the command; a vote that was given is kept.
    let bug = cx.options.bug;
    let has_no_log = entries.is_empty() && state.compacted_index == 0;
    let named = child.first_leader == child.peer;
    let blind = bug == Some(Bug::LaterTermIgnored) && named && has_no_log;
    let first_term = state.term == 0 || blind;
    if first_term {
        state.term = base.term;
        state.vote = child.first_leader.0;
    } else if bug == Some(Bug::VoteForgotten) {
        state.vote = 0;
    }
    if state.compacted_index == 0 {
        state.compacted_term = base.term;
        state.compacted_index = base.index;
        state.commit = base.index;
    }
    let mut peer = Box::new(Peer::new(
        child.peer,
        child.region,
        Stage::Normal,
        state,
        cx.tick,
    ));
    peer.contacts = contacts;
    peer.applied = LogPosition {
        term: base.term,
        index: base.index,
    };
    peer.handed_out = base.index;
    peer.estimate = child.estimate;
    peer.split_tick = Some(cx.tick);
    peer.merge.records = child.records;
    peer.log_bytes = entries
        .iter()
        .map(|entry| entry.payload.size_bytes() as u64)
        .sum();
    peer.start_raft(entries, first_term, cx)?;
    peer.keep_pledge(pledge, cx);
    peer.put_mark(cx);
    cx.log.put(&keys::raft_state(region), &peer.state);
    // Nothing leaves before the first term and vote are durable, nor before what an earlier instance wrote is.
    if bug != Some(Bug::SpeaksUnsynced) {
        peer.hold(cx);
    }
    peer.publish(cx);
    if first_term
        && named
        && let Some(raft) = peer.raft.as_mut()
    {
        step_quietly(raft, RaftEvent::Campaign(CampaignReason::Named));
    }
    cx.touch(&mut peer);
    Ok(peer)
}

impl Peer {
    /// A structural command for exactly the applied epoch.
    pub(crate) fn structural_command(&self, structural: Option<Structural>) -> wire::Command {
        wire::Command {
            region_id: self.region.id,
            epoch: Some(self.epoch()),
            operations: Vec::new(),
            structural,
            request_operations: Vec::new(),
            verify: None,
        }
    }

    /// Proposes what occupies the lane until it is applied. What clients proposed before goes first.
    pub(crate) fn propose_structural<E: Engine>(
        &mut self,
        payload: Payload,
        cx: &mut Context<E>,
    ) -> Result<(), OrderRefusal> {
        self.flush_writes(cx);
        let raft = self.raft.as_mut().ok_or(OrderRefusal::NotLeader)?;
        let position = match raft.step(RaftEvent::Propose(payload)) {
            Ok(position) => position,
            Err(error) => return Err(refusal_of(&error)),
        };
        cx.touch(self);
        self.lane = position.map(|position| position.index);
        Ok(())
    }

    /// The peer's store of a member.
    pub(crate) fn is_named(&self, peer: PeerId) -> bool {
        self.member(peer).is_some()
    }
}

/// What Raft's refusal of a structural command means to placement.
pub(crate) fn refusal_of(error: &raft::Error) -> OrderRefusal {
    match error {
        raft::Error::NotLeader { .. } => OrderRefusal::NotLeader,
        raft::Error::Transferring { .. } => OrderRefusal::Transferring,
        raft::Error::ChangeInProgress { .. }
        | raft::Error::TermNotApplied { .. }
        | raft::Error::Busy { .. } => OrderRefusal::LaneBusy,
        raft::Error::Behind { .. } | raft::Error::Installing { .. } => OrderRefusal::Behind,
        raft::Error::InvalidChange(_) => {
            OrderRefusal::Invalid("the change does not fit the configuration")
        }
        raft::Error::TransferTarget { peer, reason } => match (peer, reason) {
            (Some(peer), raft::TransferRefusal::InSnapshot | raft::TransferRefusal::Silent) => {
                OrderRefusal::NotCaughtUp {
                    peer: *peer,
                    lag: 0,
                }
            }
            _ => OrderRefusal::Invalid("the target cannot lead"),
        },
        raft::Error::MayNotCampaign(_)
        | raft::Error::SnapshotNotNeeded { .. }
        | raft::Error::StaleTerm { .. }
        | raft::Error::Misaddressed { .. }
        | raft::Error::Malformed { .. }
        | raft::Error::TwoLeaders { .. }
        | raft::Error::Restored(_)
        | raft::Error::Options => OrderRefusal::Invalid("the command is not possible now"),
    }
}
