//! Splits by the leader's own decision: what it counts, and how a wish becomes a command (REGIONS §4).

use std::collections::BTreeMap;

use engine::Engine;
use proto::metapb::PeerRole;
use proto::{RegionId, StoreId};
use raft::PeerId;

use crate::context::Context;
use crate::event::{Applied, NoSplit, OrderRefusal, OwnSplit, Proposal, ReadRequest, ReadVolume};
use crate::load::LoadWindow;
use crate::peer::Peer;
use crate::store::Store;
use crate::triggers::{Now, SplitCause, Triggers, Wish};

impl<E: Engine> Store<E> {
    pub(crate) fn on_reads(&mut self, volumes: &[ReadVolume]) {
        for volume in volumes {
            if let Some(peer) = self.peers.get_mut(&volume.region) {
                peer.count_volume(volume, self.cx.tick);
            }
        }
    }

    /// Proposes what a leader wants, if the region is in a state to be split; a refusal makes it wait.
    pub(crate) fn split_by_wish(&mut self, region: RegionId, wish: Wish) {
        let result = self.try_wish(region, &wish);
        let (tick, options) = (self.cx.tick, &self.cx.options.split);
        let triggers = self.peers.get_mut(&region).map(|peer| &mut peer.triggers);
        if let Some(Some(triggers)) = triggers {
            match &result {
                Ok(()) => triggers.on_proposed(),
                Err(_) => triggers.on_refused(wish.cause, tick, options),
            }
        }
        let epoch = self.peers.get(&region).map(|peer| peer.epoch());
        self.cx.out.own_splits.push(OwnSplit {
            region,
            epoch,
            cause: wish.cause,
            keys: wish.keys,
            inputs: wish.inputs,
            result: result.map_err(NoSplit::Refused),
        });
    }

    fn try_wish(&mut self, region: RegionId, wish: &Wish) -> Result<(), OrderRefusal> {
        let peer = self.peers.get(&region).ok_or(OrderRefusal::NotLeader)?;
        peer.check_order(peer.epoch())?;
        peer.check_not_frozen()?;
        peer.check_not_joint()?;
        if self.cx.draining {
            return Err(OrderRefusal::Transferring);
        }
        let first = match wish.cause {
            SplitCause::Appends => self.least_loaded_voter(region),
            SplitCause::Size | SplitCause::Load => None,
        };
        self.propose_split(region, &wish.keys, first, 0)
    }

    /// Of the voters that are caught up, the one on the store that leads the fewest regions, as far as is known here. This
    /// store counts one more: it leads what is left of the region.
    fn least_loaded_voter(&self, region: RegionId) -> Option<PeerId> {
        let peer = self.peers.get(&region)?;
        let mut leaders: BTreeMap<StoreId, usize> = BTreeMap::new();
        for leader in self.peers.values().filter_map(|peer| peer.leader()) {
            *leaders.entry(StoreId(leader.store_id)).or_default() += 1;
        }
        let statuses = peer.raft.as_ref()?.member_statuses();
        let fit = |member: &&proto::metapb::Peer| {
            member.role() == PeerRole::Voter
                && (member.id == peer.id.0
                    || peer
                        .check_caught_up(PeerId(member.id), &statuses, &self.cx)
                        .is_ok())
        };
        let load = |member: &&proto::metapb::Peer| {
            let store = StoreId(member.store_id);
            let led = leaders.get(&store).copied().unwrap_or(0);
            (led + usize::from(store == self.cx.store), store)
        };
        let best = peer.region.peers.iter().filter(fit).min_by_key(load);
        best.map(|member| PeerId(member.id))
    }
}

impl Peer {
    /// Begins to count anew: the leader or the range is another.
    pub(crate) fn forget_load<E: Engine>(&mut self, cx: &Context<E>) {
        let window = LoadWindow::new(cx.tick, cx.options.load_ticks);
        self.load = Some(Box::new(window));
        let seed = self.region.id ^ cx.options.seed.rotate_left(32) ^ cx.tick;
        let mut triggers = Triggers::new(cx.tick, seed, &cx.options.split);
        if let Some(split) = self.split_tick {
            triggers.rest(split + cx.options.split.rest_ticks);
        }
        self.triggers = Some(Box::new(triggers));
    }

    /// A split was applied: what was counted was of a larger range.
    pub(crate) fn on_split<E: Engine>(&mut self, cx: &Context<E>) {
        self.split_tick = Some(cx.tick);
        self.last_key = None;
        if self.load.is_some() {
            self.forget_load(cx);
        }
    }

    /// Requests of clients per second, and bytes that they read and wrote, over the last minute or since this peer leads. None
    /// where it does not.
    pub(crate) fn load_per_second<E: Engine>(&self, cx: &Context<E>) -> (u64, u64) {
        let Some(window) = self.load.as_deref() else {
            return (0, 0);
        };
        let (sum, ticks) = window.clone().sum(cx.tick);
        let per_second = |count: u64| count * 1_000 / (ticks.max(1) * cx.options.tick_ms).max(1);
        let bytes = sum.written_bytes + sum.read_bytes;
        (per_second(sum.requests.count()), per_second(bytes))
    }

    /// Counts a read that was accepted.
    pub(crate) fn count_read<E: Engine>(&mut self, read: &ReadRequest, cx: &Context<E>) {
        let keys = &read.target.keys;
        if let Some(load) = self.load.as_mut() {
            load.at(cx.tick).requests.add_read(keys);
        }
        if let Some(triggers) = self.triggers.as_mut() {
            let range = (&self.region.start_key[..], &self.region.end_key[..]);
            triggers.count_read(keys, range, &cx.options.split);
        }
    }

    /// Counts a write that was accepted.
    pub(crate) fn count_write<E: Engine>(&mut self, proposal: &Proposal, cx: &Context<E>) {
        let (keys, operations) = (&proposal.target.keys, &proposal.operations);
        if let Some(load) = self.load.as_mut() {
            load.at(cx.tick).requests.add_write(operations);
        }
        if let Some(triggers) = self.triggers.as_mut() {
            let range = (&self.region.start_key[..], &self.region.end_key[..]);
            triggers.count_write(keys, operations, range, &cx.options.split);
        }
    }

    /// Counts what was applied.
    pub(crate) fn count_applied<E: Engine>(&mut self, applied: &Applied, cx: &Context<E>) {
        if let Some(load) = self.load.as_mut() {
            let now = load.at(cx.tick);
            now.written_bytes += applied.written_bytes;
            now.written_keys += applied.written_keys;
        }
        if let Some(triggers) = self.triggers.as_mut() {
            triggers.count_bytes(applied.written_bytes);
        }
    }

    /// Counts what reads returned.
    fn count_volume(&mut self, volume: &ReadVolume, tick: u64) {
        if let Some(load) = self.load.as_mut() {
            let now = load.at(tick);
            now.read_keys += volume.keys;
            now.read_bytes += volume.bytes;
        }
        if let Some(triggers) = self.triggers.as_mut() {
            triggers.count_bytes(volume.bytes);
        }
    }

    /// Looks whether the region is to be split. While a structural command is under way nothing is asked for.
    pub(crate) fn tick_triggers<E: Engine>(&mut self, cx: &Context<E>) -> Option<(RegionId, Wish)> {
        if !self.is_leader() {
            return None;
        }
        let region = self.region_id();
        let now = Now {
            tick: cx.tick,
            start: &self.region.start_key,
            end: &self.region.end_key,
            bytes: self.estimate.bytes,
            keys: self.estimate.keys,
            last_key: self.last_key.as_deref(),
            split_keys: &self.split_keys,
        };
        let wish = self.triggers.as_mut()?.tick(now, &cx.options.split)?;
        self.lane.is_none().then_some((region, wish))
    }

    /// That its load is too much and no split would divide it, if that is to be told.
    pub(crate) fn take_hot(&mut self) -> Option<OwnSplit> {
        let inputs = self.triggers.as_mut()?.take_hot()?;
        Some(OwnSplit {
            region: self.region_id(),
            epoch: Some(self.epoch()),
            cause: SplitCause::Load,
            keys: Vec::new(),
            inputs,
            result: Err(NoSplit::HotKey),
        })
    }
}
