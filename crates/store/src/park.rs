//! Requests for a region whose leader is not known here (REGIONS §8): they wait a little, because most clients give up sooner
//! than an election takes when they are told "nobody leads".

use engine::Engine;
use prost::Message as _;
use proto::RegionId;

use crate::context::Context;
use crate::event::{Proposal, ReadRequest, Refusal, RequestId, Target};
use crate::peer::{Peer, Stage};
use crate::route::Misroute;
use crate::store::Store;

/// What a request is charged beside its operations.
const REQUEST_BYTES: usize = 128;

/// A request that waits for a leader.
#[derive(Debug)]
pub(crate) enum Request {
    Write(Proposal),
    Read(ReadRequest),
}

impl Request {
    fn id(&self) -> RequestId {
        match self {
            Request::Write(proposal) => proposal.id,
            Request::Read(read) => read.id,
        }
    }

    fn target(&self) -> &Target {
        match self {
            Request::Write(proposal) => &proposal.target,
            Request::Read(read) => &read.target,
        }
    }

    fn bytes(&self) -> usize {
        let operations = match self {
            Request::Write(proposal) => proposal
                .operations
                .iter()
                .map(|operation| operation.encoded_len())
                .sum(),
            Request::Read(_) => 0,
        };
        operations + REQUEST_BYTES
    }
}

/// A parked request, until when, and its size.
#[derive(Debug)]
pub(crate) struct Parked {
    request: Request,
    until_tick: u64,
    bytes: usize,
}

/// Whether a request is refused only because nobody is known to lead, or because the region is frozen for the moment.
pub(crate) fn may_pass(misroute: &Misroute) -> bool {
    match misroute {
        Misroute::Refused(refusal) => matches!(**refusal, Refusal::NotLeader { leader: None, .. }),
        Misroute::Frozen => true,
        Misroute::Epoch | Misroute::Gone => false,
    }
}

impl<E: Engine> Store<E> {
    /// Lets requests go on whose region has a known leader now: here, or told to the client.
    pub(crate) fn unpark(&mut self, region: RegionId) {
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        let frozen = peer.is_leader() && peer.is_frozen();
        if peer.parked.is_empty() || peer.leader().is_none() || frozen {
            return;
        }
        for request in peer.take_parked(&mut self.cx) {
            self.resume(request);
        }
    }

    /// Takes a request up again.
    pub(crate) fn resume(&mut self, request: Request) {
        match request {
            Request::Write(proposal) => self.on_propose(proposal),
            Request::Read(read) => self.on_read(read),
        }
    }

    /// Answers requests that waited long enough.
    pub(crate) fn expire_parked(&mut self, region: RegionId) {
        let (tick, mut expired) = (self.cx.tick, Vec::new());
        if let Some(peer) = self.peers.get_mut(&region) {
            while let Some(parked) = peer.parked.pop_front_if(|parked| parked.until_tick <= tick) {
                self.cx.parked_bytes -= parked.bytes;
                expired.push(parked.request);
            }
        }
        for request in expired {
            let misroute = match self.peers.get(&region) {
                Some(peer) if matches!(peer.stage, Stage::Absorbed { .. }) => Misroute::Frozen,
                Some(peer) if peer.is_leader() && peer.is_frozen() => Misroute::Frozen,
                Some(peer) => peer.not_leader().into(),
                None => Misroute::Gone,
            };
            let refusal = self.refusal(misroute, request.target());
            self.cx.refuse(request.id(), refusal);
        }
    }
}

impl Peer {
    /// Keeps a request for a while; gives it back when there is no room.
    pub(crate) fn park<E: Engine>(
        &mut self,
        request: Request,
        cx: &mut Context<E>,
    ) -> Option<Request> {
        let bytes = request.bytes();
        let own: usize = self.parked.iter().map(|parked| parked.bytes).sum();
        let fits = own + bytes <= cx.options.region_parked_bytes_max
            && cx.parked_bytes + bytes <= cx.options.parked_bytes_max;
        if !fits || cx.options.park_ticks == 0 || cx.draining {
            return Some(request);
        }
        cx.parked_bytes += bytes;
        let until_tick = cx.tick + cx.options.park_ticks;
        self.parked.push_back(Parked {
            request,
            until_tick,
            bytes,
        });
        None
    }

    /// Whether a request waited long enough.
    pub(crate) fn is_parking_over(&self, tick: u64) -> bool {
        self.parked
            .front()
            .is_some_and(|parked| parked.until_tick <= tick)
    }

    /// All that is parked here, to be taken up again.
    pub(crate) fn take_parked<E: Engine>(&mut self, cx: &mut Context<E>) -> Vec<Request> {
        let parked = std::mem::take(&mut self.parked);
        let mut requests = Vec::with_capacity(parked.len());
        for parked in parked {
            cx.parked_bytes -= parked.bytes;
            requests.push(parked.request);
        }
        requests
    }

    /// Answers all of them, because this peer goes away.
    pub(crate) fn abandon_parked<E: Engine>(&mut self, cx: &mut Context<E>) {
        while let Some(parked) = self.parked.pop_front() {
            self.refuse_parked(parked, cx);
        }
    }

    fn refuse_parked<E: Engine>(&self, parked: Parked, cx: &mut Context<E>) {
        cx.parked_bytes -= parked.bytes;
        cx.refuse(parked.request.id(), self.not_leader());
    }
}
