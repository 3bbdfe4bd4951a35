//! The leader's side: offers, builds, and what becomes of them.

use engine::Engine;
use proto::metapb::PeerRole;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::snapshot_answer::{Grant, Kind};
use proto::{RegionId, StoreId};
use raft::{Event as RaftEvent, Index, PeerId};

use super::{Reason, SendState, Sending, remove_files};
use crate::context::Context;
use crate::event::{Task, Transfer, TransferChange};
use crate::peer::Peer;
use crate::store::{Store, step_quietly};

impl Peer {
    /// Starts getting a snapshot to a member that needs entries from before the log.
    pub(crate) fn begin_sending<E: Engine>(&mut self, to: PeerId, cx: &mut Context<E>) {
        if self.sending.iter().all(|sending| sending.to != to) {
            self.sending.push(Sending {
                to,
                state: SendState::Offered,
                due_tick: cx.tick,
                told_tick: cx.tick,
                rate: 0,
            });
        }
        self.tick_sending(cx);
    }

    /// Keeps the log from here on for snapshots on their way.
    pub(crate) fn pin(&self) -> Option<Index> {
        let pins = self
            .sending
            .iter()
            .filter_map(|sending| match sending.state {
                SendState::Offered => None,
                SendState::Building { from_index, .. } => Some(from_index),
                SendState::Sent { index, .. } => Some(index),
            });
        pins.min()
    }

    /// Repeats offers, gives up what takes too long.
    pub(crate) fn tick_sending<E: Engine>(&mut self, cx: &mut Context<E>) {
        let due: Vec<PeerId> = self
            .sending
            .iter()
            .filter(|sending| cx.tick >= sending.due_tick)
            .map(|sending| sending.to)
            .collect();
        for to in due {
            match self
                .sending
                .iter()
                .find(|sending| sending.to == to)
                .map(|sending| sending.state)
            {
                // From damaged data nothing can be built. The member is asked again: a split may have filled it meanwhile, and
                // then it takes entries, and the leadership.
                Some(SendState::Offered) if self.damage.is_some() => {
                    self.end_sending(to, None, cx);
                }
                // With every sender busy the grant would be for nothing.
                Some(SendState::Offered) if cx.sends.len() >= cx.options.snapshot_sends => {}
                Some(SendState::Offered) => self.offer(to, cx),
                Some(SendState::Building { .. } | SendState::Sent { .. }) => {
                    self.end_sending(to, None, cx)
                }
                None => {}
            }
        }
    }

    fn offer<E: Engine>(&mut self, to: PeerId, cx: &mut Context<E>) {
        let still_needed = self.is_leader()
            && self.raft.as_ref().is_some_and(|raft| {
                raft.member_statuses()
                    .get(&to)
                    .is_some_and(|status| status.in_snapshot)
            });
        if !still_needed {
            self.end_sending(to, None, cx);
            return;
        }
        if let Some(sending) = self.sending.iter_mut().find(|sending| sending.to == to) {
            sending.told_tick = cx.tick;
            if sending.state == SendState::Offered {
                sending.due_tick = cx.tick + cx.options.snapshot_offer_ticks;
            }
        }
        // A member whose add is not applied here has no store yet; it will at a later try.
        let Some(store) = self.member(to).map(|member| StoreId(member.store_id)) else {
            return;
        };
        let offer = wire::SnapshotOffer {
            region: Some(self.region.clone()),
            from_peer: self.id.0,
            to_peer: to.0,
            from_store: cx.store.0,
            term: self.term(),
            index: self.applied.index,
            bytes: self.estimate.bytes,
            records: self.merge.records.clone(),
            reason: self.reason(to).to_wire() as i32,
        };
        cx.frame(store, false).offers.push(offer);
    }

    /// Why a member needs a snapshot. Of a learner that an earlier leader added it is not known; then it is in place of a
    /// member that is down, if there is one.
    fn reason(&self, to: PeerId) -> Reason {
        let is_learner = self
            .member(to)
            .is_some_and(|member| member.role() == PeerRole::Learner);
        let is_lost = |down: &PeerId| *down != to;
        if !is_learner {
            Reason::CatchUp
        } else if self.repairing.contains(&to) || self.reported.down.iter().any(is_lost) {
            Reason::Repair
        } else {
            Reason::Move
        }
    }

    /// Sets how fast a snapshot may go: at what the receiver grants, and no faster than this store's own share.
    fn pace<E: Engine>(&mut self, to: PeerId, build: u64, granted: u64, cx: &mut Context<E>) {
        let own = cx.options.dial.rate(self.reason(to), cx.sends.len());
        let rate = match granted {
            0 => own,
            granted => granted.min(own),
        };
        let transfer = self.outgoing(to, build);
        if let Some(sending) = self.sending.iter_mut().find(|sending| sending.to == to)
            && sending.rate != rate
        {
            sending.rate = rate;
            cx.out.transfers.push(TransferChange::Paced(transfer, rate));
        }
    }

    /// Ends a snapshot and lets Raft go on with the member.
    fn end_sending<E: Engine>(
        &mut self,
        to: PeerId,
        delivered: Option<Index>,
        cx: &mut Context<E>,
    ) {
        let Some(at) = self.sending.iter().position(|sending| sending.to == to) else {
            return;
        };
        match self.sending.remove(at).state {
            SendState::Offered => {}
            SendState::Building { build, .. } | SendState::Sent { build, .. } => {
                let transfer = self.outgoing(to, build);
                cx.sends.remove(&transfer);
                cx.out.transfers.push(TransferChange::Ended(transfer));
            }
        }
        if let Some(raft) = self.raft.as_mut() {
            step_quietly(
                raft,
                RaftEvent::SnapshotEnded {
                    peer: to,
                    delivered,
                },
            );
            cx.touch(self);
        }
    }

    fn outgoing(&self, to_peer: PeerId, build: u64) -> Transfer {
        Transfer::Outgoing {
            region: self.region_id(),
            to_peer,
            build,
        }
    }

    /// A piece of a snapshot was built or streamed. While it is being built the receiver hears nothing else of it.
    pub(super) fn on_outgoing_progress<E: Engine>(
        &mut self,
        to: PeerId,
        build: u64,
        cx: &mut Context<E>,
    ) {
        let Some(sending) = self.sending.iter_mut().find(|sending| sending.to == to) else {
            return;
        };
        let builds = match sending.state {
            SendState::Building { build: current, .. } if current == build => true,
            SendState::Sent { build: current, .. } if current == build => false,
            SendState::Offered | SendState::Building { .. } | SendState::Sent { .. } => return,
        };
        sending.due_tick = cx.tick + cx.options.snapshot_ticks;
        if builds && cx.tick >= sending.told_tick + cx.options.snapshot_offer_ticks {
            self.offer(to, cx);
        }
    }

    /// Gives up all snapshots, because this peer does not lead any more.
    pub(crate) fn abandon_sending<E: Engine>(&mut self, cx: &mut Context<E>) {
        let members: Vec<PeerId> = self.sending.iter().map(|sending| sending.to).collect();
        for to in members {
            self.end_sending(to, None, cx);
        }
    }
}

impl<E: Engine> Store<E> {
    /// An answer to an offer, or to a snapshot that arrived.
    pub(crate) fn on_answer(&mut self, from_store: StoreId, answer: wire::SnapshotAnswer) {
        let wire::SnapshotAnswer {
            region_id,
            from_peer,
            to_peer,
            kind,
        } = answer;
        let (region, member) = (RegionId(region_id), PeerId(from_peer));
        let cx = &mut self.cx;
        let Some(peer) = self
            .peers
            .get_mut(&region)
            .filter(|peer| peer.id.0 == to_peer)
        else {
            return;
        };
        let known = peer
            .member(member)
            .is_some_and(|known| known.store_id == from_store.0);
        let Some(state) = peer
            .sending
            .iter()
            .find(|sending| sending.to == member)
            .map(|sending| sending.state)
        else {
            return;
        };
        match kind {
            // Offered again when there is room; the slot is held until then or runs out.
            Some(Kind::Grant(_))
                if state == SendState::Offered
                    && (cx.sends.len() >= cx.options.snapshot_sends || peer.damage.is_some()) => {}
            Some(Kind::Grant(Grant { slot, rate }))
                if known && state == SendState::Offered && peer.is_leader() =>
            {
                cx.next_build += 1;
                let build = cx.next_build;
                let state = SendState::Building {
                    slot,
                    build,
                    from_index: peer.applied.index,
                };
                let transfer = peer.outgoing(member, build);
                cx.sends.insert(transfer);
                cx.out
                    .transfers
                    .push(TransferChange::Begun(transfer, from_store));
                let due_tick = cx.tick + cx.options.snapshot_ticks;
                let leader_term = peer.term();
                if let Some(sending) = peer.sending.iter_mut().find(|sending| sending.to == member)
                {
                    *sending = Sending {
                        to: member,
                        state,
                        due_tick,
                        told_tick: cx.tick,
                        rate: 0,
                    };
                }
                peer.pace(member, build, rate, cx);
                cx.out.tasks.push(Task::BuildSnapshot {
                    region,
                    from_peer: peer.id,
                    leader_term,
                    to_peer: member,
                    to_store: from_store,
                    slot,
                    build,
                });
            }
            // Repeated while it arrives and while it is put in place.
            Some(Kind::Grant(Grant { slot, rate })) => match state {
                SendState::Sent {
                    slot: used, build, ..
                } if used == slot => {
                    let due_tick = cx.tick + cx.options.snapshot_ticks;
                    if let Some(sending) =
                        peer.sending.iter_mut().find(|sending| sending.to == member)
                    {
                        sending.due_tick = due_tick;
                    }
                    peer.pace(member, build, rate, cx);
                }
                SendState::Building {
                    slot: used, build, ..
                } if used == slot => peer.pace(member, build, rate, cx),
                SendState::Offered | SendState::Building { .. } | SendState::Sent { .. } => {}
            },
            // Offered again when it is due.
            Some(Kind::Wait(_)) if state == SendState::Offered => {}
            Some(Kind::Wait(_) | Kind::Refuse(_)) => peer.end_sending(member, None, cx),
            Some(Kind::Installed(index)) => peer.end_sending(member, Some(index), cx),
            None => {}
        }
    }

    pub(crate) fn on_snapshot_built(
        &mut self,
        region: RegionId,
        to: PeerId,
        build: u64,
        head: Option<wire::SnapshotHead>,
    ) {
        let cx = &mut self.cx;
        let Some(mut head) = head else {
            let builds = |sending: &Sending| {
                sending.to == to
                    && matches!(sending.state, SendState::Building { build: current, .. } if current == build)
            };
            if let Some(peer) = self.peers.get_mut(&region)
                && peer.sending.iter().any(builds)
            {
                peer.end_sending(to, None, cx);
            }
            return;
        };
        head.from_store = cx.store.0;
        let wanted = self
            .peers
            .get_mut(&region)
            .filter(|peer| peer.id.0 == head.from_peer)
            .and_then(|peer| {
                let store = peer.member(to).map(|member| StoreId(member.store_id))?;
                let sending = peer.sending.iter_mut().find(|sending| sending.to == to)?;
                match sending.state {
                    SendState::Building {
                        slot,
                        build: current,
                        ..
                    } if current == build => {
                        sending.state = SendState::Sent {
                            slot,
                            build,
                            index: head.index,
                        };
                        sending.due_tick = cx.tick + cx.options.snapshot_ticks;
                        Some(store)
                    }
                    _ => None,
                }
            });
        match wanted {
            Some(to_store) => cx.out.tasks.push(Task::SendSnapshot {
                to_store,
                build,
                head,
            }),
            None => cx.out.tasks.push(remove_files(&head)),
        }
    }

    pub(crate) fn on_snapshot_sent(
        &mut self,
        region: RegionId,
        to: PeerId,
        build: u64,
        delivered: bool,
    ) {
        let cx = &mut self.cx;
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        let sent = |sending: &&mut Sending| {
            sending.to == to
                && matches!(sending.state, SendState::Sent { build: current, .. } if current == build)
        };
        let Some(sending) = peer.sending.iter_mut().find(sent) else {
            return;
        };
        if delivered {
            // The answer tells when it is installed.
            sending.due_tick = cx.tick + cx.options.snapshot_ticks;
            cx.sends.remove(&peer.outgoing(to, build));
        } else {
            peer.end_sending(to, None, cx);
        }
    }
}
