//! Writes of clients, from arrival to the log.
//!
//! A proposal is checked when it arrives and waits in its region's queue until effects are taken. Then all that gathered
//! becomes as few entries as the limits allow, so that under load many requests share one append, one sync and one apply.
//! A proposal is answered exactly once: by the applier of its entry; as stale when another entry is applied at its index;
//! as unknown when this peer will not learn its fate, or not in time (R26).

use engine::Engine;
use prost::Message as _;
use proto::RegionId;
use proto::pontoon::v1 as wire;
use raft::{Event as RaftEvent, Payload};

use crate::codec;
use crate::context::Context;
use crate::event::{Proposal, Refusal, RequestId};
use crate::park::{self, Request};
use crate::peer::{Peer, Pending, Ready};
use crate::planted::Bug;
use crate::route::Misroute;
use crate::store::Store;

/// What a request is charged beside its operations.
const REQUEST_BYTES: usize = 64;

impl<E: Engine> Store<E> {
    pub(crate) fn on_propose(&mut self, proposal: Proposal) {
        let (request, target) = (proposal.id, &proposal.target);
        let region = target.region;
        let Some(peer) = self.peers.get_mut(&region) else {
            let refusal = self.refusal(Misroute::Gone, target);
            self.cx.refuse(request, refusal);
            return;
        };
        let taken = self.cx.options.bug == Some(Bug::FrozenApplies);
        if let Err(misroute) = peer.check_target(target)
            && !(taken && peer.is_leader() && matches!(misroute, Misroute::Frozen))
        {
            let mut proposal = proposal;
            if park::may_pass(&misroute) {
                match peer.park(Request::Write(proposal), &mut self.cx) {
                    Some(Request::Write(back)) => proposal = back,
                    Some(Request::Read(_)) | None => return,
                }
            }
            let refusal = self.refusal(misroute, &proposal.target);
            self.cx.refuse(request, refusal);
            return;
        }
        let operations: usize = proposal
            .operations
            .iter()
            .map(|operation| operation.encoded_len() + 4)
            .sum();
        let bytes = operations + REQUEST_BYTES;
        let options = &self.cx.options;
        let refusal = if bytes > options.entry_bytes_max {
            Some(Refusal::TooLarge {
                region,
                bytes: bytes as u64,
            })
        } else if peer.writes.bytes + bytes > options.region_pending_bytes_max {
            Some(Refusal::Busy {
                reason: "too many writes wait in this region",
            })
        } else if self.cx.pending_bytes + bytes > options.pending_bytes_max {
            Some(Refusal::Busy {
                reason: "too many writes wait in this store",
            })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.cx.refuse(request, refusal);
            return;
        }
        peer.count_write(&proposal, &self.cx);
        peer.writes.bytes += bytes;
        self.cx.pending_bytes += bytes;
        peer.writes.queue.push_back((proposal, bytes));
        self.cx.touch(peer);
    }

    /// Checks queued proposals against a descriptor that changed since they arrived.
    pub(crate) fn recheck_queue(&mut self, region: RegionId) {
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        let queue = std::mem::take(&mut peer.writes.queue);
        for (proposal, bytes) in queue {
            let Some(peer) = self.peers.get_mut(&region) else {
                return;
            };
            match peer.check_target(&proposal.target) {
                Ok(()) => peer.writes.queue.push_back((proposal, bytes)),
                Err(_) => {
                    peer.release_bytes(bytes, &mut self.cx);
                    self.on_propose(proposal);
                }
            }
        }
    }
}

impl Peer {
    /// Proposes what gathered, in as few entries as the limits allow.
    pub fn flush_writes<E: Engine>(&mut self, cx: &mut Context<E>) {
        while let Some(ready) = self.writes.ready.take().or_else(|| self.group(cx)) {
            let Some(raft) = self
                .raft
                .as_mut()
                .filter(|_| matches!(self.stage, crate::peer::Stage::Normal))
            else {
                self.refuse_ready(ready, cx);
                continue;
            };
            match raft.step(RaftEvent::Propose(Payload::Command(ready.payload.clone()))) {
                Ok(Some(position)) => {
                    let Ready {
                        bytes, requests, ..
                    } = ready;
                    self.abandon_overwritten(position.index, cx);
                    self.writes.pending.push_back(Pending {
                        position,
                        since_tick: cx.tick,
                        bytes,
                        requests,
                    });
                }
                Err(raft::Error::Busy { .. }) => {
                    // Room comes with commits, which touch the peer again. Until then the queue fills, which is bounded.
                    self.writes.ready = Some(ready);
                    return;
                }
                Ok(None) | Err(_) => self.refuse_ready(ready, cx),
            }
        }
    }

    /// The next entry's worth of queued proposals.
    fn group<E: Engine>(&mut self, cx: &Context<E>) -> Option<Ready> {
        let (first, first_bytes) = self.writes.queue.pop_front()?;
        let mut bytes = first_bytes;
        let mut requests = vec![(first.id, first.operations.len())];
        let mut operations = first.operations;
        while let Some((next, next_bytes)) = self.writes.queue.front() {
            let fits = operations.len() + next.operations.len() <= cx.options.entry_operations_max
                && bytes + next_bytes <= cx.options.entry_bytes_max;
            if !fits {
                break;
            }
            let (next, next_bytes) = self
                .writes
                .queue
                .pop_front()
                .expect("it was just looked at");
            bytes += next_bytes;
            requests.push((next.id, next.operations.len()));
            operations.extend(next.operations);
        }
        let command = wire::Command {
            region_id: self.region.id,
            epoch: Some(self.epoch()),
            operations,
            structural: None,
            request_operations: requests.iter().map(|(_, count)| *count as u32).collect(),
            verify: None,
        };
        Some(Ready {
            payload: codec::seal(&command),
            bytes,
            requests,
        })
    }

    /// Raft took none of it: whoever leads now, or soon, is the one to ask.
    fn refuse_ready<E: Engine>(&mut self, ready: Ready, cx: &mut Context<E>) {
        let refusal = self.not_leader();
        for (request, _) in ready.requests {
            cx.refuse(request, refusal.clone());
        }
        self.release_bytes(ready.bytes, cx);
    }

    /// Sends clients to the leader, as far as it is known. A leader about to hand over names nobody, so that they ask again.
    pub fn not_leader(&self) -> Refusal {
        let leader = self.leader().filter(|leader| leader.id != self.id.0);
        Refusal::NotLeader {
            region: self.region_id(),
            leader,
        }
    }

    /// Answers proposals that were in the log for too long. They may be applied later.
    pub fn expire_proposals<E: Engine>(&mut self, cx: &mut Context<E>) {
        let Some(limit) = cx.tick.checked_sub(cx.options.proposal_ticks) else {
            return;
        };
        for pending in &mut self.writes.pending {
            if pending.since_tick > limit {
                break;
            }
            for (request, _) in pending.requests.drain(..) {
                cx.refuse(request, Refusal::Unknown);
            }
        }
    }

    /// Answers everything that waits here because this peer will not learn its fate.
    pub fn abandon_writes<E: Engine>(&mut self, cx: &mut Context<E>) {
        let queued = std::mem::take(&mut self.writes.queue);
        for (proposal, bytes) in queued {
            cx.refuse(proposal.id, Refusal::RegionNotFound(self.region_id()));
            self.release_bytes(bytes, cx);
        }
        if let Some(ready) = self.writes.ready.take() {
            self.answer(
                ready.requests,
                &Refusal::RegionNotFound(self.region_id()),
                cx,
            );
            self.release_bytes(ready.bytes, cx);
        }
        while let Some(pending) = self.writes.pending.pop_front() {
            self.answer(pending.requests, &Refusal::Unknown, cx);
            self.release_bytes(pending.bytes, cx);
        }
    }

    /// This peer led before, lost the end of its log to another leader, and now appends at `index` again. What it had proposed
    /// from there on is gone here, but a third peer may still hold it and lead one day.
    fn abandon_overwritten<E: Engine>(&mut self, index: raft::Index, cx: &mut Context<E>) {
        while let Some(pending) = self
            .writes
            .pending
            .pop_back_if(|pending| pending.position.index >= index)
        {
            self.answer(pending.requests, &Refusal::Unknown, cx);
            self.release_bytes(pending.bytes, cx);
        }
    }

    /// A snapshot stands in for all entries up to its index: what became of them is not known here.
    pub fn abandon_pending<E: Engine>(&mut self, cx: &mut Context<E>) {
        while let Some(pending) = self.writes.pending.pop_front() {
            self.answer(pending.requests, &Refusal::Unknown, cx);
            self.release_bytes(pending.bytes, cx);
        }
    }

    fn answer<E: Engine>(
        &self,
        requests: Vec<(RequestId, usize)>,
        refusal: &Refusal,
        cx: &mut Context<E>,
    ) {
        for (request, _) in requests {
            cx.refuse(request, refusal.clone());
        }
    }
}
