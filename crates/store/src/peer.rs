//! The state of one replica on this store. What is done with it stands in the modules of the operations.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use engine::Engine;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};
use raft::{Index, LogPosition, PeerId, Raft, ReadId, Role, Term};

use crate::context::Context;
use crate::damage::Damage;
use crate::digest::{Checkpoints, Digest};
use crate::event::{Estimate, Proposal, RegionView, RequestId, ViewChange, Waiting};
use crate::load::LoadWindow;
use crate::merge::{MergeState, Merging};
use crate::order::StepId;
use crate::park::Parked;
use crate::planted::Bug;
use crate::pledge::Pledging;
use crate::snapshot::Sending;
use crate::triggers::Triggers;

/// Stores of peers that the descriptor does not name, remembered per peer.
const CONTACTS_MAX: usize = 8;

/// Where a peer is in its life (REGIONS §2).
#[derive(Debug)]
pub(crate) enum Stage {
    /// Known by its mark only: votes, has no range and no log.
    Uninitialized {
        /// Newest configuration version of a message to it, which all name it; an older descriptor proves nothing. Only the
        /// marks of earlier versions do not tell one.
        conf_ver: Option<u64>,
    },
    /// Owns its range.
    Normal,
    /// A snapshot replaces it, past the point of no return.
    Installing(Box<Installing>),
    /// Its raft tier is here and its apply tier is not: power was lost, and the parent of which it was split will be applied
    /// again and bring it back. Sleeps until then.
    Dormant,
    /// Merged: the local target is taking it in, or a snapshot that names it replaces it. Says and takes nothing.
    Absorbed {
        /// Whose peer that is.
        into: RegionId,
    },
    /// Dead; its remains are being removed.
    Stopping {
        /// Why.
        reason: &'static str,
        /// Whether the last entry handed out was applied and the removal is on its way.
        settled: bool,
        /// The tombstone that was written when another region took the range over.
        merged: Option<Box<wire::RegionState>>,
        /// Ranges that are cleared, and reserved until they are.
        held: Vec<(Bytes, Bytes)>,
        /// Peers of merged regions that a snapshot was about to replace together with this one, and that die with it.
        replaces: Vec<wire::ReplacedPeer>,
    },
}

impl Stage {
    /// A message came from a peer whose descriptor of this `conf_ver` names the receiver.
    pub fn hear(&mut self, told: Option<u64>) {
        if let Stage::Uninitialized { conf_ver } = self {
            *conf_ver = (*conf_ver).max(told);
        }
    }
}

/// A snapshot on its way in.
#[derive(Debug)]
pub(crate) struct Installing {
    pub head: wire::SnapshotHead,
    /// What to clear before.
    pub clear: Vec<(Bytes, Bytes)>,
    /// Peers of merged regions that it replaces together with this one.
    pub replaces: Vec<wire::ReplacedPeer>,
    /// False when the staged files were lost: another snapshot is needed.
    pub has_files: bool,
}

/// A proposal that is in the log and not handed out for applying.
#[derive(Debug)]
pub(crate) struct Pending {
    pub position: LogPosition,
    pub since_tick: u64,
    pub bytes: usize,
    pub requests: Vec<(RequestId, usize)>,
}

/// A command ready to be proposed, while Raft has no room for it.
#[derive(Debug)]
pub(crate) struct Ready {
    pub payload: Bytes,
    pub bytes: usize,
    pub requests: Vec<(RequestId, usize)>,
}

/// Writes of clients on their way into the log.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    /// Checked, not yet grouped, with their sizes.
    pub queue: VecDeque<(Proposal, usize)>,
    /// Grouped into an entry that Raft had no room for.
    pub ready: Option<Ready>,
    /// In the log, ascending.
    pub pending: VecDeque<Pending>,
    /// Sizes of entries handed out and not applied.
    pub handed: VecDeque<(Index, usize)>,
    /// Sum of all of the above.
    pub bytes: usize,
}

/// Reads of clients on their way to be confirmed.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Arrived this turn: they share a round.
    pub queue: Vec<RequestId>,
    /// Asked of Raft, ascending.
    pub asked: VecDeque<(ReadId, Vec<RequestId>)>,
    /// Confirmed at an index that is not applied yet.
    pub confirmed: Vec<(Index, Vec<RequestId>)>,
    pub count: usize,
    pub next_id: u64,
}

/// What was last told to placement.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    pub tick: u64,
    pub due_tick: u64,
    pub down: Vec<PeerId>,
    pub pending: Vec<PeerId>,
}

/// One replica.
///
/// # Invariants
/// 1. `raft` is there in [`Stage::Uninitialized`], [`Stage::Normal`] and [`Stage::Installing`], absent in
///    [`Stage::Dormant`], [`Stage::Absorbed`] and [`Stage::Stopping`].
/// 2. `compacted <= applied <= handed_out`.
/// 3. `writes.pending` ascends and lies above `handed_out`.
/// 4. Ranges are held as the stage says: none, its own, or those of `Installing`.
pub(crate) struct Peer {
    pub id: PeerId,
    /// Applied descriptor. Only the region's id while uninitialized.
    pub region: metapb::Region,
    /// What the applied state remembers of merges.
    pub merge: MergeState,
    /// What it is about in merges.
    pub merging: Merging,
    pub stage: Stage,
    pub raft: Option<Raft>,
    /// Of the Raft instance.
    pub generation: u64,
    /// The raft state in the newest batch.
    pub state: wire::RaftState,
    /// Nothing of the present instance may leave before this batch is synced.
    pub hold_sequence: u64,
    pub applied: LogPosition,
    pub handed_out: Index,
    /// Bytes of entries above the compacted position, estimated.
    pub log_bytes: u64,
    /// A compaction waits for a sync.
    pub compacting: bool,
    /// How large it is believed to be.
    pub estimate: Estimate,
    pub published: Option<Arc<RegionView>>,
    pub writes: Writes,
    pub reads: Reads,
    /// Requests that wait for a leader.
    pub parked: VecDeque<Parked>,
    /// Structural command proposed here and not applied.
    pub lane: Option<Index>,
    /// The order that was taken up last, with its epoch.
    pub order: Option<(StepId, metapb::RegionEpoch)>,
    /// Stores of peers that wrote and that the descriptor does not name.
    pub contacts: Vec<(PeerId, StoreId)>,
    /// Learners that this leader was told to add in place of replicas that are lost or about to go.
    pub repairing: Vec<PeerId>,
    /// Snapshots to members.
    pub sending: Vec<Sending>,
    /// A snapshot that arrived whole and waits for the sync before it may cut the log.
    pub staged: Option<Box<wire::SnapshotHead>>,
    pub reported: Reported,
    /// What clients do; there while it leads.
    pub load: Option<Box<LoadWindow>>,
    /// When it is to be split; there while it leads.
    pub triggers: Option<Box<Triggers>>,
    /// Where the applier would split it, when it is too large.
    pub split_keys: Vec<Bytes>,
    /// The largest key ever applied, if known.
    pub last_key: Option<Bytes>,
    /// When a split last changed its range.
    pub split_tick: Option<u64>,
    /// Its data is damaged.
    pub damage: Option<Damage>,
    /// Of what is applied, as far as it is known.
    pub digest: Option<Digest>,
    pub checkpoints: Checkpoints,
    /// When it is this region's turn to be verified, once that is drawn.
    pub verify_due_tick: Option<u64>,
    /// When a leader was last heard, or the members were last asked.
    pub heard_tick: u64,
    /// The members were asked, and no leader spoke since.
    pub asked_members: bool,
    /// The last term of which it was told that two peers claim to lead it.
    pub contradicted_term: Term,
    pub dirty: bool,
    /// Where the index of pledges has it.
    pub pledging: Pledging,
}

impl Peer {
    pub fn new(
        id: PeerId,
        region: metapb::Region,
        stage: Stage,
        state: wire::RaftState,
        tick: u64,
    ) -> Peer {
        Peer {
            id,
            region,
            merge: MergeState::default(),
            merging: Merging::default(),
            stage,
            raft: None,
            generation: 0,
            state,
            hold_sequence: 0,
            applied: LogPosition::default(),
            handed_out: 0,
            log_bytes: 0,
            compacting: false,
            estimate: Estimate::default(),
            published: None,
            writes: Writes::default(),
            reads: Reads::default(),
            parked: VecDeque::new(),
            lane: None,
            order: None,
            contacts: Vec::new(),
            repairing: Vec::new(),
            sending: Vec::new(),
            staged: None,
            reported: Reported::default(),
            load: None,
            triggers: None,
            split_keys: Vec::new(),
            last_key: None,
            split_tick: None,
            damage: None,
            digest: None,
            checkpoints: Checkpoints::default(),
            verify_due_tick: None,
            heard_tick: tick,
            asked_members: false,
            contradicted_term: 0,
            dirty: false,
            pledging: Pledging::default(),
        }
    }

    pub fn region_id(&self) -> RegionId {
        RegionId(self.region.id)
    }

    /// The applied epoch; zero while uninitialized.
    pub fn epoch(&self) -> metapb::RegionEpoch {
        self.region.region_epoch.unwrap_or_default()
    }

    pub fn range(&self) -> (Bytes, Bytes) {
        (self.region.start_key.clone(), self.region.end_key.clone())
    }

    pub fn is_normal(&self) -> bool {
        matches!(self.stage, Stage::Normal)
    }

    /// Leads, as far as this peer knows.
    pub fn is_leader(&self) -> bool {
        self.is_normal()
            && self
                .raft
                .as_ref()
                .is_some_and(|raft| raft.role() == Role::Leader)
    }

    pub fn term(&self) -> Term {
        self.raft.as_ref().map_or(self.state.term, Raft::term)
    }

    /// Less is applied than is durably known to be committed, or than was handed out, or the applier is about to write its
    /// state for another reason: nothing from outside may destroy or overwrite the peer (REGIONS §1, gate).
    pub fn is_behind(&self) -> bool {
        let marking = self.damage.as_ref().is_some_and(Damage::is_being_marked);
        self.applied.index < self.handed_out
            || marking
            || !self.merging.held.is_empty()
            || self
                .raft
                .as_ref()
                .is_some_and(|raft| self.applied.index < raft.durable_state().commit)
    }

    /// Behind, so that the gate protects it.
    pub fn is_gated<E: Engine>(&self, cx: &Context<E>) -> bool {
        self.is_behind() && cx.options.bug != Some(Bug::NoGate)
    }

    /// Whether proof from outside may end this peer (REGIONS §2). The gate guards what a peer will do again after a power loss.
    /// One that lost a snapshot's files has nothing left to do again: what it had done was synced before its log was cut, and
    /// the rest would have come with the files. One that has them is waited for: a task is writing its range.
    pub fn may_die<E: Engine>(&self, cx: &Context<E>) -> bool {
        match &self.stage {
            Stage::Normal | Stage::Uninitialized { .. } => !self.is_gated(cx),
            Stage::Installing(installing) => !installing.has_files,
            Stage::Dormant | Stage::Absorbed { .. } | Stage::Stopping { .. } => false,
        }
    }

    /// A peer that the applied descriptor names.
    pub fn member(&self, peer: PeerId) -> Option<&metapb::Peer> {
        self.region.peers.iter().find(|member| member.id == peer.0)
    }

    /// The store of a peer: a member, or one that wrote to us.
    pub fn store_of(&self, peer: PeerId) -> Option<StoreId> {
        let member = self.member(peer).map(|member| StoreId(member.store_id));
        member.or_else(|| {
            self.contacts
                .iter()
                .find(|(id, _)| *id == peer)
                .map(|(_, store)| *store)
        })
    }

    /// Remembers who wrote; without data durably, since nothing else tells it then whom to ask after a restart.
    pub fn meet<E: Engine>(&mut self, peer: PeerId, store: StoreId, cx: &mut Context<E>) {
        if self.remember_contact(peer, store) && matches!(self.stage, Stage::Uninitialized { .. }) {
            self.put_mark(cx);
        }
    }

    /// Remembers where a peer is that the descriptor does not name. Whether that is new.
    pub fn remember_contact(&mut self, peer: PeerId, store: StoreId) -> bool {
        if self.member(peer).is_some() || self.contacts.contains(&(peer, store)) {
            return false;
        }
        self.contacts.retain(|(id, _)| *id != peer);
        if self.contacts.len() == CONTACTS_MAX {
            self.contacts.remove(0);
        }
        self.contacts.push((peer, store));
        true
    }

    /// Who leads, if known, with its store.
    pub fn leader(&self) -> Option<metapb::Peer> {
        let leader = self.raft.as_ref()?.leader()?;
        if let Some(member) = self.member(leader) {
            return Some(*member);
        }
        let store = self.store_of(leader)?;
        Some(metapb::Peer {
            id: leader.0,
            store_id: store.0,
            ..Default::default()
        })
    }

    /// Publishes what changed of role, term, leader and descriptor.
    pub fn publish<E: Engine>(&mut self, cx: &mut Context<E>) {
        let (role, term) = match &self.raft {
            Some(raft) => (raft.role(), raft.term()),
            None => (Role::Follower, self.state.term),
        };
        let leader = self.leader();
        let owns_range = self.is_normal();
        let damaged = self.damage.is_some();
        if role != Role::Leader || term != self.merging.freezing_term {
            self.merging.freezing = false;
        }
        let frozen = self.is_frozen() && cx.options.bug != Some(Bug::ReadOverFreeze);
        let unchanged = self.published.as_ref().is_some_and(|view| {
            view.role == role
                && view.term == term
                && view.leader == leader
                && view.owns_range == owns_range
                && view.frozen == frozen
                && view.damaged == damaged
                && view.peer == self.id
                && view.region == self.region
        });
        if unchanged {
            return;
        }
        let view = Arc::new(RegionView {
            region: self.region.clone(),
            peer: self.id,
            owns_range,
            frozen,
            role,
            term,
            leader,
            damaged,
        });
        let before = self.published.as_ref().map(|view| &view.region.peers[..]);
        cx.neighbours
            .count(before.unwrap_or_default(), &view.region.peers);
        self.published = Some(Arc::clone(&view));
        cx.out.views.push(ViewChange::Set(view));
    }

    /// Takes the requests that wait for entries up to the last of `entries`, and answers those whose entry was overwritten.
    pub fn take_waiting<E: Engine>(
        &mut self,
        entries: &[raft::Entry],
        cx: &mut Context<E>,
    ) -> Vec<Waiting> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Vec::new();
        };
        let mut waiting = Vec::new();
        while let Some(pending) = self
            .writes
            .pending
            .pop_front_if(|pending| pending.position.index <= last.index)
        {
            let Pending {
                position,
                bytes,
                requests,
                ..
            } = pending;
            let entry = position
                .index
                .checked_sub(first.index)
                .and_then(|at| entries.get(at as usize));
            if entry.is_some_and(|entry| entry.term == position.term) {
                waiting.push(Waiting {
                    index: position.index,
                    requests,
                });
                self.writes.handed.push_back((position.index, bytes));
            } else {
                // Another entry is committed at this index, so this one never will be.
                for (request, _) in requests {
                    cx.refuse(request, crate::event::Refusal::StaleCommand);
                }
                self.release_bytes(bytes, cx);
            }
        }
        waiting
    }

    /// Gives back the room of entries that are applied.
    pub fn release_applied<E: Engine>(&mut self, applied: Index, cx: &mut Context<E>) {
        while let Some((_, bytes)) = self
            .writes
            .handed
            .pop_front_if(|(index, _)| *index <= applied)
        {
            self.release_bytes(bytes, cx);
        }
    }

    pub fn release_bytes<E: Engine>(&mut self, bytes: usize, cx: &mut Context<E>) {
        self.writes.bytes -= bytes;
        cx.pending_bytes -= bytes;
    }
}
