//! The leader's side: offers, builds, and what becomes of them.

use engine::Engine;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::snapshot_answer::{Grant, Kind};
use proto::{RegionId, StoreId};
use raft::{Event as RaftEvent, Index, PeerId};

use super::{SendState, Sending, remove_files};
use crate::context::Context;
use crate::event::Task;
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
            self.sending.retain(|sending| sending.to != to);
            return;
        }
        let due_tick = cx.tick + cx.options.snapshot_offer_ticks;
        if let Some(sending) = self.sending.iter_mut().find(|sending| sending.to == to) {
            sending.due_tick = due_tick;
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
            bytes: self.bytes,
        };
        cx.frame(store, false).offers.push(offer);
    }

    /// Ends a snapshot and lets Raft go on with the member.
    fn end_sending<E: Engine>(
        &mut self,
        to: PeerId,
        delivered: Option<Index>,
        cx: &mut Context<E>,
    ) {
        let before = self.sending.len();
        self.sending.retain(|sending| sending.to != to);
        if self.sending.len() == before {
            return;
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
            Some(Kind::Grant(Grant { slot }))
                if known && state == SendState::Offered && peer.is_leader() =>
            {
                let state = SendState::Building {
                    slot,
                    from_index: peer.applied.index,
                };
                let due_tick = cx.tick + cx.options.snapshot_ticks;
                let leader_term = peer.term();
                if let Some(sending) = peer.sending.iter_mut().find(|sending| sending.to == member)
                {
                    *sending = Sending {
                        to: member,
                        state,
                        due_tick,
                    };
                }
                cx.out.tasks.push(Task::BuildSnapshot {
                    region,
                    from_peer: peer.id,
                    leader_term,
                    to_peer: member,
                    to_store: from_store,
                    slot,
                });
            }
            // Offered again when it is due.
            Some(Kind::Grant(_) | Kind::Wait(_)) if state == SendState::Offered => {}
            Some(Kind::Grant(_)) => {}
            Some(Kind::Wait(_) | Kind::Refuse(_)) => peer.end_sending(member, None, cx),
            Some(Kind::Installed(index)) => peer.end_sending(member, Some(index), cx),
            None => {}
        }
    }

    pub(crate) fn on_snapshot_built(
        &mut self,
        region: RegionId,
        to: PeerId,
        head: Option<wire::SnapshotHead>,
    ) {
        let cx = &mut self.cx;
        let Some(mut head) = head else {
            if let Some(peer) = self.peers.get_mut(&region) {
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
                    SendState::Building { slot, .. } if slot == head.slot => {
                        sending.state = SendState::Sent {
                            slot,
                            index: head.index,
                        };
                        sending.due_tick = cx.tick + cx.options.snapshot_ticks;
                        Some(store)
                    }
                    _ => None,
                }
            });
        match wanted {
            Some(to_store) => cx.out.tasks.push(Task::SendSnapshot { to_store, head }),
            None => cx.out.tasks.push(remove_files(&head)),
        }
    }

    pub(crate) fn on_snapshot_sent(
        &mut self,
        region: RegionId,
        to: PeerId,
        slot: u64,
        delivered: bool,
    ) {
        let cx = &mut self.cx;
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        let sent = |sending: &&mut Sending| {
            sending.to == to
                && matches!(sending.state, SendState::Sent { slot: used, .. } if used == slot)
        };
        let Some(sending) = peer.sending.iter_mut().find(sent) else {
            return;
        };
        if delivered {
            // The answer tells when it is installed.
            sending.due_tick = cx.tick + cx.options.snapshot_ticks;
        } else {
            peer.end_sending(to, None, cx);
        }
    }
}
