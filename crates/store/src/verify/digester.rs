//! The part of a peer: it reads what it stores and tells its leader.

use engine::Engine;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId};
use raft::{Index, LogPosition, PeerId, Raft};

use super::{Asked, Outcome, StoredData, Sum, VerifyPart};
use crate::event::Task;
use crate::store::Store;

/// Regions of a store that are being read or wait for that. Each holds a view, and with it what was overwritten since.
const JOBS_MAX: usize = 8;
/// Ticks after which a leader that noted nothing is told again, and how often it is.
const TELL_TICKS: u64 = 10;
const TELL_MAX: u32 = 20;

/// What is being read of a peer.
#[derive(Debug)]
pub(crate) struct Job {
    pub(super) region: RegionId,
    peer: PeerId,
    position: LogPosition,
    /// What is left.
    data: StoredData,
    sum: Sum,
    /// A piece is being read.
    reading: bool,
}

/// What a peer found.
#[derive(Debug)]
pub(crate) struct Telling {
    peer: PeerId,
    position: LogPosition,
    outcome: Outcome,
    due_tick: u64,
    told: u32,
}

impl<E: Engine> Store<E> {
    /// The applier of a peer came by an entry that asks for a digest.
    pub(crate) fn on_asked(&mut self, region: RegionId, id: PeerId, asked: Asked) {
        let Asked { position, data } = asked;
        let here = self.peers.get(&region).filter(|peer| peer.id == id);
        // In a later term nobody waits for it, and after a restart it may come by a second time.
        let Some(peer) = here.filter(|peer| peer.term() == position.term) else {
            return;
        };
        let Some(data) = data else {
            self.on_not_asked(region, position);
            return;
        };
        let jobs = &mut self.cx.verifier.jobs;
        // One leader asks again only when it gave up.
        jobs.retain(|job| job.region != region);
        if peer.damage.is_some() {
            self.on_found(region, id, position, Outcome::Unreadable);
        } else if jobs.len() >= JOBS_MAX {
            self.on_found(region, id, position, Outcome::Busy);
        } else {
            jobs.push_back(Job {
                region,
                peer: id,
                position,
                data,
                sum: Sum::default(),
                reading: false,
            });
            self.read_on();
        }
    }

    /// Has the next piece read when it is time.
    fn read_on(&mut self) {
        let cx = &mut self.cx;
        if cx.tick < cx.verifier.due_tick {
            return;
        }
        let Some(job) = cx.verifier.jobs.front_mut().filter(|job| !job.reading) else {
            return;
        };
        job.reading = true;
        cx.out.tasks.push(Task::Verify(Box::new(VerifyPart {
            region: job.region,
            peer: job.peer,
            index: job.position.index,
            data: job.data.clone(),
            sum: job.sum,
            bytes_max: cx.options.verify_bytes_per_tick(),
        })));
    }

    /// A piece was read: all of it up to `next`.
    pub(crate) fn on_verified_part(
        &mut self,
        region: RegionId,
        id: PeerId,
        index: Index,
        sum: Sum,
        next: Option<bytes::Bytes>,
    ) {
        let cx = &mut self.cx;
        let first = cx.verifier.jobs.front_mut();
        let Some(job) = first.filter(|job| {
            job.reading && (job.region, job.peer, job.position.index) == (region, id, index)
        }) else {
            // Nobody wants it any more.
            return;
        };
        let ticks = (sum.bytes - job.sum.bytes).div_ceil(cx.options.verify_bytes_per_tick());
        cx.verifier.due_tick = cx.tick + ticks.max(1);
        job.reading = false;
        job.sum = sum;
        match next {
            Some(next) => job.data.start = next,
            None => {
                let position = job.position;
                cx.verifier.jobs.pop_front();
                self.on_found(region, id, position, Outcome::Sum(sum));
            }
        }
    }

    /// Data of a peer was found damaged: by reading it for a digest, or otherwise.
    pub(crate) fn end_damaged_job(&mut self, region: RegionId, id: PeerId) {
        let jobs = &mut self.cx.verifier.jobs;
        let at = jobs
            .iter()
            .position(|job| (job.region, job.peer) == (region, id));
        if let Some(job) = at.and_then(|at| jobs.remove(at)) {
            self.on_found(region, id, job.position, Outcome::Unreadable);
        }
    }

    /// A peer has an outcome: its own leader takes it over, others tell theirs.
    fn on_found(
        &mut self,
        region: RegionId,
        id: PeerId,
        position: LogPosition,
        mut outcome: Outcome,
    ) {
        let here = self.peers.get(&region);
        let Some(peer) = here.filter(|peer| peer.id == id && peer.is_normal()) else {
            return;
        };
        // What was found since then may have been read before.
        if peer.damage.is_some() {
            outcome = Outcome::Unreadable;
        }
        if peer.is_leader() {
            self.on_member_found(region, id, position, outcome);
            return;
        }
        let telling = Telling {
            peer: id,
            position,
            outcome,
            due_tick: self.cx.tick,
            told: 0,
        };
        self.cx.verifier.telling.insert(region, telling);
        self.tell(region);
    }

    /// Tells the leader that asked, unless that is over.
    fn tell(&mut self, region: RegionId) {
        let cx = &mut self.cx;
        let Some(telling) = cx.verifier.telling.get_mut(&region) else {
            return;
        };
        let here = self.peers.get(&region).filter(|peer| {
            peer.id == telling.peer && peer.is_normal() && peer.term() == telling.position.term
        });
        let Some((peer, outcome)) = here
            .filter(|_| telling.told < TELL_MAX)
            .zip(telling.outcome.to_wire())
        else {
            cx.verifier.telling.remove(&region);
            return;
        };
        telling.told += 1;
        telling.due_tick = cx.tick + TELL_TICKS;
        // After a restart it speaks up in a moment.
        let leader = peer.raft.as_ref().and_then(Raft::leader);
        let Some((leader, store)) = leader.and_then(|id| Some((id, peer.store_of(id)?))) else {
            return;
        };
        let told = wire::PeerSum {
            region_id: region.0,
            from_peer: telling.peer.0,
            to_peer: leader.0,
            term: telling.position.term,
            index: telling.position.index,
            outcome: Some(outcome),
        };
        cx.frame(store, false).sums.push(told);
    }

    /// The leader noted what a peer here found: others in its place need not ask for it so soon.
    pub(crate) fn on_sum_noted(&mut self, from: StoreId, noted: &wire::SumNoted) {
        let region = RegionId(noted.region_id);
        let telling = &mut self.cx.verifier.telling;
        let is_it = |telling: &Telling| {
            telling.peer.0 == noted.to_peer
                && (telling.position.term, telling.position.index) == (noted.term, noted.index)
        };
        if !telling.get(&region).is_some_and(is_it) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        let leader = peer.raft.as_ref().and_then(Raft::leader);
        if leader.and_then(|leader| peer.store_of(leader)) == Some(from) {
            telling.remove(&region);
            peer.verify_due_tick = Some(self.cx.tick + self.cx.options.verify_every_ticks);
        }
    }

    pub(super) fn tick_telling(&mut self) {
        let telling = self.cx.verifier.telling.iter();
        let due = telling.filter(|(_, telling)| self.cx.tick >= telling.due_tick);
        let due: Vec<RegionId> = due.map(|(region, _)| *region).collect();
        for region in due {
            self.tell(region);
        }
    }

    pub(super) fn tick_jobs(&mut self) {
        let peers = &self.peers;
        self.cx.verifier.jobs.retain(|job| {
            let here = peers.get(&job.region);
            here.is_some_and(|peer| {
                peer.id == job.peer && peer.is_normal() && peer.term() == job.position.term
            })
        });
        self.read_on();
    }
}
