//! The part of a leader: it asks, waits and compares; when somebody wants to know, and for each region in its turn.

use std::collections::BTreeMap;

use engine::Engine;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};
use raft::{Event as RaftEvent, LogPosition, Payload, PeerId};

use super::{Outcome, Verification};
use crate::codec;
use crate::context::Context;
use crate::digest;
use crate::event::{Difference, Divergence, Refusal, RequestId};
use crate::options::Options;
use crate::peer::Peer;
use crate::store::Store;

/// A verification that did not reach every member is begun again after this part of the time between two.
const AGAIN_PART: u64 = 8;
/// One that could not begin, or came to nothing, is tried again after so many ticks.
const RETRY_TICKS: u64 = 20;
/// Regions that a store may read before one, for which its leader waits.
const WAITS: u64 = 10;

/// A verification that a leader waits for.
#[derive(Debug)]
pub(crate) struct Running {
    /// The leader.
    pub(super) peer: PeerId,
    /// The entry.
    pub(super) position: LogPosition,
    /// As it was proposed for, and as it is at the entry, or nobody reads anything.
    pub(super) region: metapb::Region,
    found: BTreeMap<PeerId, Outcome>,
    /// Who wants to know; nobody, when it was the region's turn.
    request: Option<RequestId>,
    until_tick: u64,
}

impl Running {
    pub(super) fn outcome(&self, peer: PeerId) -> Outcome {
        self.found.get(&peer).copied().unwrap_or(Outcome::Silent)
    }

    fn missing(&self) -> impl Iterator<Item = PeerId> {
        let members = self.region.peers.iter().map(|member| PeerId(member.id));
        members.filter(|member| !self.found.contains_key(member))
    }

    /// Whether nobody is left of whom something may still be heard.
    fn is_over(&self, leader: &Peer, tick: u64, options: &Options) -> bool {
        if tick >= self.until_tick {
            return true;
        }
        let statuses = leader.raft.as_ref().map(|raft| raft.member_statuses());
        let statuses = statuses.unwrap_or_default();
        let down = |member: PeerId| {
            let status = statuses.get(&member);
            status.is_some_and(|status| u64::from(status.silent_ticks) >= options.down_ticks)
        };
        self.missing().all(down)
    }
}

impl<E: Engine> Store<E> {
    /// Somebody wants to know whether all members of a region store the same.
    pub(crate) fn on_verify(&mut self, request: RequestId, region: RegionId) {
        self.tick_leader(region);
        if let Err(refusal) = self.begin_verify(region, Some(request)) {
            self.cx.refuse(request, *refusal);
        }
    }

    /// A region's turn has come.
    pub(super) fn verify_in_turn(&mut self, region: RegionId) {
        let begun = self.begin_verify(region, None);
        if begun.is_err()
            && let Some(peer) = self.peers.get_mut(&region)
        {
            peer.verify_due_tick = Some(self.cx.tick + RETRY_TICKS);
        }
    }

    fn begin_verify(
        &mut self,
        region: RegionId,
        request: Option<RequestId>,
    ) -> Result<(), Box<Refusal>> {
        let cx = &mut self.cx;
        let here = self.peers.get_mut(&region);
        let peer = here.ok_or_else(|| Box::new(Refusal::RegionNotFound(region)))?;
        if !peer.is_leader() {
            return Err(Box::new(peer.not_leader()));
        }
        if peer.is_frozen() {
            return Err(Box::new(Refusal::Merging(region)));
        }
        let busy = |reason| Err(Box::new(Refusal::Busy { reason }));
        if peer.lane.is_some() {
            return busy("the region is about to change");
        }
        if cx.verifier.running.contains_key(&region) {
            return busy("the region is being verified");
        }
        peer.flush_writes(cx);
        let command = wire::Command {
            verify: Some(wire::VerifyData {}),
            ..peer.structural_command(None)
        };
        let payload = Payload::Command(codec::seal(&command));
        let proposed = peer
            .raft
            .as_mut()
            .map(|raft| raft.step(RaftEvent::Propose(payload)));
        let position = match proposed {
            Some(Ok(Some(position))) => position,
            Some(Err(raft::Error::Busy { .. })) => {
                return busy("too many writes wait in this region");
            }
            Some(Ok(None) | Err(_)) | None => return Err(Box::new(peer.not_leader())),
        };
        cx.touch(peer);
        let bytes = WAITS * peer.estimate.bytes;
        let running = Running {
            peer: peer.id,
            position,
            region: peer.region.clone(),
            found: BTreeMap::new(),
            request,
            until_tick: cx.tick
                + cx.options.verify_ticks
                + bytes / cx.options.verify_bytes_per_tick(),
        };
        cx.verifier.running.insert(region, running);
        Ok(())
    }

    /// At the entry the region was not any more what the leader knew.
    pub(super) fn on_not_asked(&mut self, region: RegionId, position: LogPosition) {
        let running = &mut self.cx.verifier.running;
        let known = running.get(&region);
        if known.is_none_or(|running| running.position != position) {
            return;
        }
        let request = running.remove(&region).and_then(|running| running.request);
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        peer.verify_due_tick = Some(self.cx.tick + RETRY_TICKS);
        if let Some(request) = request {
            let current = vec![peer.region.clone()];
            self.cx.refuse(request, Refusal::EpochNotMatch { current });
        }
    }

    /// A follower tells what it found.
    pub(crate) fn on_sum(&mut self, from: StoreId, told: &wire::PeerSum) {
        let (region, other) = (RegionId(told.region_id), PeerId(told.from_peer));
        let Some(outcome) = told.outcome.as_ref().and_then(Outcome::of_wire) else {
            return;
        };
        let Some(peer) = self.peers.get(&region).filter(|peer| {
            peer.id.0 == told.to_peer && peer.is_leader() && peer.term() == told.term
        }) else {
            return;
        };
        let member = peer.member(other);
        if member.is_none_or(|member| member.store_id != from.0) {
            return;
        }
        let noted = wire::SumNoted {
            region_id: told.region_id,
            to_peer: told.from_peer,
            term: told.term,
            index: told.index,
        };
        self.cx.frame(from, false).sums_noted.push(noted);
        let position = LogPosition {
            term: told.term,
            index: told.index,
        };
        self.on_member_found(region, other, position, outcome);
    }

    /// What a member found, the leader included.
    pub(super) fn on_member_found(
        &mut self,
        region: RegionId,
        member: PeerId,
        position: LogPosition,
        outcome: Outcome,
    ) {
        let running = self.cx.verifier.running.get_mut(&region);
        let Some(running) = running.filter(|running| running.position == position) else {
            return;
        };
        running.found.entry(member).or_insert(outcome);
        if running.missing().next().is_none() {
            self.end_verify(region);
        }
    }

    /// Compares what is known, and tells.
    fn end_verify(&mut self, region: RegionId) {
        let cx = &mut self.cx;
        let Some(running) = cx.verifier.running.remove(&region) else {
            return;
        };
        let reached = |outcome: &Outcome| matches!(outcome, Outcome::Sum(_) | Outcome::Unreadable);
        let all = running.missing().next().is_none() && running.found.values().all(reached);
        let every = cx.options.verify_every_ticks;
        let pause = if all { every } else { every / AGAIN_PART };
        if let Some(peer) = self.peers.get_mut(&region) {
            peer.verify_due_tick = Some(cx.tick + pause.max(RETRY_TICKS));
        }
        tell_differing(&running, region, cx);
        let verification = Verification::new(&running);
        cx.out.verified.push((running.request, verification));
    }

    pub(super) fn tick_leaders(&mut self) {
        let regions: Vec<RegionId> = self.cx.verifier.running.keys().copied().collect();
        for region in regions {
            self.tick_leader(region);
        }
    }

    /// Ends a verification whose time is up, and one whose leader leads no more.
    fn tick_leader(&mut self, region: RegionId) {
        let cx = &mut self.cx;
        let Some(running) = cx.verifier.running.get(&region) else {
            return;
        };
        let here = self.peers.get(&region);
        let leads = here.filter(|peer| {
            peer.id == running.peer && peer.is_leader() && peer.term() == running.position.term
        });
        if let Some(peer) = leads {
            if running.is_over(peer, cx.tick, &cx.options) {
                self.end_verify(region);
            }
            return;
        }
        let request = running.request;
        cx.verifier.running.remove(&region);
        cx.verifier.differ.retain(|(of, _)| *of != region);
        if let Some(request) = request {
            let gone = Refusal::RegionNotFound(region);
            let refusal = here.map_or(gone, |peer| peer.not_leader());
            cx.refuse(request, refusal);
        }
    }

    /// Whether the store has room for a region whose turn it is.
    pub(crate) fn seeks_turn(&self) -> bool {
        let mut running = self.cx.verifier.running.values();
        self.cx.options.verify_every_ticks > 0 && running.all(|running| running.request.is_some())
    }
}

/// Tells of members that do not store what the leader does, of each once until it does again.
fn tell_differing<E: Engine>(running: &Running, region: RegionId, cx: &mut Context<E>) {
    let differ = &mut cx.verifier.differ;
    let is_member = |id: PeerId| running.region.peers.iter().any(|member| member.id == id.0);
    differ.retain(|(of, member)| *of != region || is_member(*member));
    let Some(ours) = running.outcome(running.peer).sum() else {
        return;
    };
    for (member, outcome) in &running.found {
        let Some(theirs) = outcome.sum() else {
            continue;
        };
        if theirs == ours {
            differ.remove(&(region, *member));
        } else if differ.insert((region, *member)) {
            cx.out.divergences.push(Divergence {
                region,
                peer: running.peer,
                other: Some(*member),
                index: running.position.index,
                difference: Difference::Stored { ours, theirs },
            });
        }
    }
}

impl Peer {
    /// When it is this region's turn, if it is. Turns of regions that came here together are spread over the time of all.
    pub(crate) fn verify_turn<E: Engine>(&mut self, cx: &Context<E>) -> Option<u64> {
        let due = *self.verify_due_tick.get_or_insert_with(|| {
            let drawn = u128::from(digest::mix(cx.options.seed, self.region.id));
            let part = (drawn * u128::from(cx.options.verify_every_ticks)) >> 64;
            cx.tick + part as u64
        });
        let may_be = cx.tick >= due
            && self.is_leader()
            && self.damage.is_none()
            && self.lane.is_none()
            && !self.is_frozen();
        may_be.then_some(due)
    }
}
