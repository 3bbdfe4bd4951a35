//! The target's side: deciding for who asks, and taking the local source in (REGIONS §5, steps 3 and 4).
//!
//! A committed CommitMerge is held back from the applier until the local source has applied its log exactly up to the freeze.
//! Its peers have all persisted that much, so each store gets there alone. Then the source says and takes nothing any more,
//! and the applier swaps everything in one batch.

use engine::Engine;
use proto::RegionId;
use proto::StoreId;
use proto::metapb;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::command::Structural;
use proto::pontoon::v1::merge_message::Kind;
use raft::{Entry, Event as RaftEvent, LogPosition, Payload};

use super::verdict::Verdict;
use super::{MergeKey, are_neighbours, peer_on, same_stores};
use crate::codec;
use crate::context::{Context, Followup};
use crate::event::{Absorbed, ApplyTask, Difference, Divergence};
use crate::peer::{Peer, Stage};
use crate::planted::Bug;
use crate::store::{Store, step_quietly};

/// The source that a command takes in if it is applied to a region as it is. Store and applier must judge alike: the one
/// makes the source ready, the other takes it.
pub(crate) fn absorbs<'a>(
    region: &metapb::Region,
    is_frozen: bool,
    command: &'a wire::Command,
    bug: Option<Bug>,
) -> Option<&'a wire::MergeSource> {
    let Some(Structural::CommitMerge(commit)) = &command.structural else {
        return None;
    };
    let exact = command.epoch == region.region_epoch;
    let denied = is_frozen && bug != Some(Bug::AdminWhileFrozen);
    let [source] = &commit.sources[..] else {
        return None;
    };
    let other = source.region.as_ref()?;
    let fits = are_neighbours(region, other) && same_stores(region, other);
    (exact && !denied && fits).then_some(source)
}

/// The command of an entry, if it may take a source in.
fn commit_of(entry: &Entry) -> Option<wire::Command> {
    let Payload::Structural(payload) = &entry.payload else {
        return None;
    };
    // What cannot be read is the applier's to find.
    let command = codec::unseal(payload).ok()?;
    matches!(command.structural, Some(Structural::CommitMerge(_))).then_some(command)
}

/// What a held commit waits for.
enum Held {
    /// Nothing: it may be applied. With the source that it takes in, if it does.
    Ready(Option<RegionId>),
    /// Something that comes by itself. (A source that is damaged here never comes; then the peer must be replaced.)
    Waits,
}

impl Peer {
    /// Gives committed entries to the applier, up to the first that may take a source in.
    pub(crate) fn hand_out_or_hold<E: Engine>(&mut self, entries: Vec<Entry>, cx: &mut Context<E>) {
        let mut entries = entries;
        if self.merging.held.is_empty() {
            let Some(at) = entries.iter().position(|entry| commit_of(entry).is_some()) else {
                self.hand_out(entries, cx);
                return;
            };
            let held = entries.split_off(at);
            self.hand_out(entries, cx);
            entries = held;
        }
        self.merging.held.extend(entries);
        cx.holding.insert(self.region_id());
    }

    /// Gives the first held entry to the applier, and what follows up to the next that may take a source in.
    fn release_held<E: Engine>(&mut self, cx: &mut Context<E>) {
        let mut entries: Vec<Entry> = self.merging.held.pop_front().into_iter().collect();
        while let Some(next) = self
            .merging
            .held
            .pop_front_if(|next| commit_of(next).is_none())
        {
            entries.push(next);
        }
        self.hand_out(entries, cx);
    }

    /// Says and takes nothing any more: the local target is taking this peer in, or a snapshot that names it replaces it.
    pub(crate) fn begin_absorbed<E: Engine>(&mut self, into: RegionId, cx: &mut Context<E>) {
        cx.end_slot(self.region_id());
        self.abandon_writes(cx);
        self.abandon_reads(cx);
        self.abandon_sending(cx);
        self.raft = None;
        self.stage = Stage::Absorbed { into };
        self.publish(cx);
        cx.out.apply.push(ApplyTask::Close(self.region_id()));
    }
}

impl<E: Engine> Store<E> {
    /// A message about a merge.
    pub(crate) fn on_merge_message(&mut self, from: StoreId, message: wire::MergeMessage) {
        let Some(merge) = message.merge.as_ref().map(MergeKey::of_wire) else {
            return;
        };
        match message.kind {
            Some(Kind::Commit(plea)) => self.on_plea(from, merge, plea, true),
            Some(Kind::Abort(plea)) => self.on_plea(from, merge, plea, false),
            Some(Kind::Verdict(verdict)) => self.on_verdict(merge, verdict),
            Some(Kind::DeathQuestion(question)) => self.on_death_question(from, merge, question),
            Some(Kind::Death(death)) => self.on_death(from, merge, death),
            None => {}
        }
    }

    /// The leader of a frozen source wants a decision, or to know of one.
    fn on_plea(&mut self, from: StoreId, merge: MergeKey, plea: wire::MergePlea, commit: bool) {
        let (Some(source), Some(freeze)) = (plea.source, plea.freeze) else {
            return;
        };
        if source.id != merge.source.0 || freeze.index != merge.freeze_index {
            return;
        }
        let source = wire::MergeSource {
            region: Some(source),
            freeze_term: freeze.term,
            freeze_index: freeze.index,
            digest: plea.digest,
        };
        let wrong = self.cx.options.bug == Some(Bug::VerdictAtSameEpoch) && from != self.cx.store;
        let blind = self.cx.options.bug == Some(Bug::CommitWithoutEpoch);
        let committed = match self.verdict(merge, &freeze) {
            Some(Verdict::Aborted) if blind => {
                self.decide(merge, source, &freeze, commit);
                return;
            }
            Some(Verdict::Pending) if wrong => false,
            Some(Verdict::Committed) => true,
            Some(Verdict::Aborted) => false,
            Some(Verdict::Pending) | None => {
                self.decide(merge, source, &freeze, commit);
                return;
            }
        };
        // The local source asks for itself.
        if from != self.cx.store {
            let verdict = wire::MergeMessage {
                merge: Some(merge.to_wire()),
                kind: Some(Kind::Verdict(wire::MergeVerdict { committed })),
            };
            self.cx.frame(from, false).merges.push(verdict);
        }
    }

    /// Proposes a decision, if the target is led here and still at `E_T`. In every other case the source asks again.
    fn decide(
        &mut self,
        merge: MergeKey,
        source: wire::MergeSource,
        freeze: &wire::Freeze,
        commit: bool,
    ) {
        let Some(target) = &freeze.target else { return };
        let cx = &mut self.cx;
        let Some(peer) = self.peers.get_mut(&RegionId(target.id)) else {
            return;
        };
        let expected = if cx.options.bug == Some(Bug::CommitWithoutEpoch) {
            peer.epoch()
        } else {
            target.region_epoch.unwrap_or_default()
        };
        let free = peer
            .check_order(expected)
            .and_then(|()| peer.check_not_frozen());
        if free.is_err() {
            return;
        }
        let structural = if commit {
            Structural::CommitMerge(wire::CommitMerge {
                sources: vec![source],
            })
        } else {
            Structural::AbortMerge(wire::AbortMerge {
                merge: Some(merge.to_wire()),
            })
        };
        let command = peer.structural_command(Some(structural));
        let _refused = peer.propose_structural(Payload::Structural(codec::seal(&command)), cx);
    }

    /// Releases held commits whose sources are ready. Returns whether anything was.
    pub(crate) fn release_commits(&mut self) -> bool {
        let mut released = false;
        let holding: Vec<RegionId> = self.cx.holding.iter().copied().collect();
        for target in holding {
            released |= self.try_release(target);
        }
        released
    }

    fn try_release(&mut self, target: RegionId) -> bool {
        let Some(peer) = self
            .peers
            .get(&target)
            .filter(|peer| peer.is_normal() && !peer.merging.held.is_empty())
        else {
            self.cx.holding.remove(&target);
            return false;
        };
        let Some(front) = peer.merging.held.front() else {
            return false;
        };
        if peer.applied.index + 1 != front.index {
            return false;
        }
        let Some(command) = commit_of(front) else {
            return false;
        };
        let frozen = peer.merge.freeze.is_some();
        let source = absorbs(&peer.region, frozen, &command, self.cx.options.bug);
        let source = match source.map(|source| self.judge_source(source)) {
            None => None,
            Some(Held::Ready(source)) => source,
            Some(Held::Waits) => return false,
        };
        let cx = &mut self.cx;
        if let Some(source) = source.and_then(|source| self.peers.get_mut(&source)) {
            source.begin_absorbed(target, cx);
            if cx.options.bug == Some(Bug::SourceLogDeletedEarly) {
                let region = source.region_id();
                cx.log.delete_entries(region, 0, None);
                cx.log.require_sync();
            }
        }
        if let Some(peer) = self.peers.get_mut(&target) {
            peer.release_held(cx);
        }
        true
    }

    /// Whether the local source has applied exactly up to its freeze, and nothing of it is on its way.
    fn judge_source(&mut self, source: &wire::MergeSource) -> Held {
        let cx = &mut self.cx;
        let Some(region) = &source.region else {
            return Held::Ready(None);
        };
        let id = RegionId(region.id);
        let named = peer_on(region, cx.store);
        let Some(peer) = self
            .peers
            .get_mut(&id)
            .filter(|peer| Some(peer.id) == named)
        else {
            return Held::Waits;
        };
        if cx.options.bug == Some(Bug::AbsorbWithoutWaiting) {
            return Held::Ready(Some(id));
        }
        match peer.stage {
            Stage::Normal => {}
            // It comes back by the replay of its parent, or by the snapshot that is on its way.
            Stage::Dormant | Stage::Uninitialized { .. } | Stage::Installing(_) => {
                return Held::Waits;
            }
            Stage::Absorbed { .. } | Stage::Stopping { .. } => return Held::Waits,
        }
        let position = LogPosition {
            term: source.freeze_term,
            index: source.freeze_index,
        };
        let as_frozen =
            peer.merge.freeze.as_ref().is_some_and(|freeze| {
                (freeze.term, freeze.index) == (position.term, position.index)
            });
        let at_rest = !peer.is_behind() && peer.staged.is_none();
        if as_frozen && (at_rest || cx.options.bug == Some(Bug::NoGate)) {
            return Held::Ready(Some(id));
        }
        // The target's log says that the source's log is committed so far. Its own leader may be gone.
        if let Some(raft) = peer.raft.as_mut()
            && raft.committed() < position.index
        {
            step_quietly(raft, RaftEvent::CommittedTo(position));
            if raft.has_effects() {
                cx.touch(peer);
            }
        }
        Held::Waits
    }

    /// The applier took a source in: its range goes over, its parked requests go on, its remains are removed once the
    /// absorption is flushed.
    pub(crate) fn on_absorbed(&mut self, absorbed: Absorbed) -> Vec<crate::park::Request> {
        let Absorbed {
            region,
            peer: id,
            tombstone,
            differs,
        } = absorbed;
        if let Some((ours, theirs)) = differs
            && let Some(peer) = self.peers.get(&region)
        {
            self.cx.out.divergences.push(Divergence {
                region,
                peer: id,
                other: None,
                index: peer.applied.index,
                difference: Difference::Applied { ours, theirs },
            });
        }
        self.bury(region, id, tombstone)
    }

    /// Ends a peer whose range another took over. The tombstone is written.
    pub(crate) fn bury(
        &mut self,
        region: RegionId,
        id: raft::PeerId,
        tombstone: wire::RegionState,
    ) -> Vec<crate::park::Request> {
        let cx = &mut self.cx;
        let Some(peer) = self.peers.get_mut(&region).filter(|peer| peer.id == id) else {
            return Vec::new();
        };
        let parked = peer.take_parked(cx);
        let range = peer.range();
        let released = cx.ranges.set(region, std::slice::from_ref(&range), &[]);
        debug_assert!(released.is_ok(), "giving up a range cannot conflict");
        peer.raft = None;
        peer.stage = Stage::Stopping {
            reason: "merged into its neighbour",
            settled: true,
            merged: Some(Box::new(tombstone)),
            held: Vec::new(),
            replaces: Vec::new(),
        };
        cx.after_sync(Followup::Destroy { region, peer: id });
        self.unpublish(region);
        parked
    }
}
