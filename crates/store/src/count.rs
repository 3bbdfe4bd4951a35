//! Counting regions of which too little is certain (STORAGE §7, sizes).
//!
//! A leader whose estimate may be wrong by as much as it says has its region counted in the background, one region of the
//! store at a time and no more bytes per time than the settings allow. What is found goes through the applier, which knows
//! what it counted since ([`crate::apply`]), and comes back with what it applied.

use std::ops::Bound;

use bytes::Bytes;
use engine::Engine;
use proto::RegionId;
use raft::PeerId;

use crate::apply::BUCKETS_MAX;
use crate::event::{Applied, ApplyTask, Count, Estimate, Task};
use crate::options::Options;
use crate::peer::Peer;
use crate::store::Store;

impl<E: Engine> Store<E> {
    /// Begins with the next region that is due, when none is being counted.
    pub(crate) fn tick_count(&mut self) {
        let (cx, peers) = (&mut self.cx, &self.peers);
        if cx.counting.is_some()
            || cx.tick < cx.count_due_tick
            || cx.options.count_bytes_per_second == 0
        {
            return;
        }
        let above = (Bound::Excluded(cx.counted), Bound::Unbounded);
        let in_turn = peers.range(above).chain(peers.range(..=cx.counted));
        let due = in_turn
            .map(|(_, peer)| peer)
            .find(|peer| peer.is_count_due(&cx.options));
        let Some(peer) = due else { return };
        let region = peer.region_id();
        cx.counting = Some((region, peer.id));
        cx.counted = region;
        // As many parts as an applier counts in, and some room for what comes.
        let parts = BUCKETS_MAX as u64 / 2;
        let part_bytes = peer
            .estimate
            .bytes
            .max(cx.options.split.bytes)
            .div_ceil(parts);
        cx.out.tasks.push(Task::Count {
            region,
            peer: peer.id,
            part_bytes,
        });
    }

    /// The applier may hold another range by now, or a snapshot's data: it decides whether the count still fits.
    pub(crate) fn on_counted(&mut self, region: RegionId, id: PeerId, count: Option<Count>) {
        let (bytes, options) = (
            count.as_ref().map_or(0, |count| count.bytes),
            &self.cx.options,
        );
        let bytes_per_tick = options.count_bytes_per_second * options.tick_ms / 1_000;
        self.cx.count_due_tick = self.cx.tick + bytes / bytes_per_tick.max(1);
        let here = self.peers.get(&region).filter(|peer| peer.id == id);
        let lives = here.is_some_and(|peer| peer.is_normal());
        match count.filter(|_| lives) {
            Some(count) => self.cx.out.apply.push(ApplyTask::Counted {
                region,
                peer: id,
                count: Box::new(count),
            }),
            None => self.end_count(region, id),
        }
    }

    /// The applier has taken a count over, or refused it.
    pub(crate) fn on_corrected(&mut self, applied: Applied) {
        self.end_count(applied.region, applied.peer);
        let peer = self.peers.get_mut(&applied.region);
        let Some(peer) =
            peer.filter(|peer| peer.id == applied.peer && peer.applied.index == applied.index)
        else {
            return;
        };
        peer.adopt_sizes(applied.estimate, applied.split_keys, applied.last_key);
        peer.report(&mut self.cx);
    }

    /// Nothing more comes of the count of a peer.
    pub(crate) fn end_count(&mut self, region: RegionId, peer: PeerId) {
        self.cx
            .counting
            .take_if(|counting| *counting == (region, peer));
    }
}

impl Peer {
    /// Takes over what an applier tells of sizes.
    pub(crate) fn adopt_sizes(
        &mut self,
        estimate: Estimate,
        split_keys: Vec<Bytes>,
        last_key: Option<Bytes>,
    ) {
        self.estimate = estimate;
        self.split_keys = split_keys;
        if last_key.is_some() {
            self.last_key = last_key;
        }
    }

    /// Only what a leader believes is told to anybody.
    fn is_count_due(&self, options: &Options) -> bool {
        let Estimate {
            bytes,
            uncertain_bytes,
            ..
        } = self.estimate;
        uncertain_bytes >= bytes.max(options.count_bytes_min).max(1)
            && self.damage.is_none()
            && self.is_leader()
    }
}
