//! A store, told anything: frames of other stores, requests of clients, steps of placement, snapshots.
//!
//! Whatever it is told, it keeps its invariants after every event, comes to rest, and answers no request twice; its directory
//! opens again. What may be told is what a process lets through: frames whose checksum fits, from a store that was let in.
//!
//! Lies are told, too, such as that a second peer leads a region in a term (R1): what it says is not taken, and the store tells of it.

use std::collections::BTreeSet;

use ::store::event::{
    Event, Keys, Order, OrderKind, Proposal, Purpose, ReadRequest, ReadVolume, RequestId, StepId,
    Target, Transfer,
};
use ::store::{Dial, identity, keys, value};
use bytes::Bytes;
use engine::{Engine, MemoryEngine};
use prost::Message;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, kvrpcpb, metapb, pdpb};
use raft::PeerId;

use crate::node::Node;
use crate::parsers::server::services::tikv::check::{ApiVersion, Rules};
use crate::parsers::server::services::tikv::errors::Reject;
use crate::parsers::server::store_process::orders;
use crate::words::{digest, entry, epoch, freeze, head, id, key, merge_id, peer, record, several};
use crate::{Input, Seeds, words};

const STORE: StoreId = StoreId(1);
/// Led by whom it has, and one that needs others.
const ALONE: RegionId = RegionId(2);
const SHARED: RegionId = RegionId(4);
/// Things told in a run at the most.
const EVENTS_MAX: usize = 48;

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    for _ in 0..EVENTS_MAX {
        if input.is_over() || !world.node.runs() {
            break;
        }
        world.tell(&mut input);
        // Two things may come before anything is written or applied.
        if input.byte() % 4 != 3 {
            world.node.settle();
        }
        world.check_answers();
    }
    world.node.settle();
    for _ in 0..12 {
        world.node.tick();
    }
    world.check_answers();
    if world.node.runs() {
        assert!(Node::open(world.node.stopped()).is_some(), "it opens again");
    }
}

/// Examples: what each kind of event does in a store that leads.
pub fn seeds() -> Seeds {
    let election = [0, 255, 0];
    let told = |events: &[&[u8]]| [&election, &events.concat()[..]].concat();
    let put = kvrpcpb::RawPutRequest {
        context: Some(kvrpcpb::Context {
            region_id: 2,
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 1,
            }),
            ..Default::default()
        }),
        key: Bytes::from_static(b"c"),
        value: Bytes::from_static(b"value"),
        ..Default::default()
    };
    let put = put.encode_to_vec();
    let request = [&[4, put.len() as u8][..], &put, &[0]].concat();
    vec![
        ("election", told(&[])),
        // From store 2 to the second region: an answer to a vote, entries of a leader.
        ("vote", told(&[&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 0]])),
        (
            "append",
            told(&[&[1, 0, 0, 0, 1, 0, 0, 1, 0, 9, 1, 0, 0, 0, 0, 1, 1, 0]]),
        ),
        (
            "propose",
            told(&[&[3, 2, 0, 1, 0, 100, 3, b'a', b'b', b'c', 0, 0, 0]]),
        ),
        ("request", told(&[&request])),
        ("read", told(&[&[5, 2, 0, 0, 1, 100, 0]])),
        (
            "split",
            told(&[&[8, 4, 20, 21, 22, 23, 0], &[6, 2, 0, 0, 1, 100, 0]]),
        ),
        ("order", told(&[&[6, 2, 0, 1, 9, 3, 1, 0, 0]])),
        ("restart", told(&[&request, &[13, 0, 0]])),
        ("snapshot", told(&[&[10, 0, 6, 9, 4, 9, 1, 2, 0]])),
        // Heartbeats of one term from stores 2 and 3 to the second region.
        (
            "liar",
            told(&[
                &[1, 0, 0, 4, 1, 1, 0, 0, 0, 0],
                &[1, 1, 0, 4, 1, 0, 0, 0, 0, 0],
            ]),
        ),
    ]
}

struct World {
    node: Node,
    requests: u64,
    answered: BTreeSet<RequestId>,
}

/// A region of the start, whole or not.
fn region(
    id: RegionId,
    start: &'static str,
    end: &'static str,
    peers: &[(u64, u64)],
) -> metapb::Region {
    let peers = peers.iter().map(|(id, store_id)| metapb::Peer {
        id: *id,
        store_id: *store_id,
        ..Default::default()
    });
    metapb::Region {
        id: id.0,
        start_key: start.into(),
        end_key: end.into(),
        region_epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        peers: peers.collect(),
        ..Default::default()
    }
}

impl World {
    fn new() -> Self {
        let engine = MemoryEngine::new();
        identity::create(&engine, 7, STORE, 1).expect("it is empty");
        let regions = [
            region(ALONE, "", "m", &[(3, 1)]),
            region(SHARED, "m", "", &[(5, 1), (6, 2), (7, 3)]),
        ];
        identity::bootstrap(&engine, &regions).expect("nothing is there yet");
        Self {
            node: Node::open(engine).expect("it is sound"),
            requests: 0,
            answered: BTreeSet::new(),
        }
    }

    fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    fn check_answers(&mut self) {
        for request in self.node.answered.drain(..) {
            assert!(
                (1..=self.requests).contains(&request.0),
                "{request:?} was not asked"
            );
            assert!(
                self.answered.insert(request),
                "{request:?} is answered twice"
            );
        }
    }

    /// Tells it one thing.
    fn tell(&mut self, input: &mut Input<'_>) {
        match input.pick(14) {
            0 => {
                for _ in 0..1 + input.byte() % 32 {
                    self.node.tick();
                }
            }
            1 | 2 => {
                let from = StoreId(u64::from(2 + input.byte() % 3));
                let frame = self.frame(from, input);
                self.node.step(Event::Frame { from, frame });
            }
            3 => self.propose(input),
            4 => self.client(input),
            5 => {
                let id = self.request();
                let target = self.target(input);
                self.node.step(Event::Read(ReadRequest { id, target }));
            }
            6 => {
                let order = self.order(input);
                self.node.step(Event::Order(order));
            }
            7 => {
                if let Ok(answer) = pdpb::RegionHeartbeatResponse::decode(input.bytes()) {
                    let id = wire::StepId::default();
                    let region = self.descriptor(RegionId(answer.region_id));
                    let purpose = wire::Purpose::Restore;
                    if let Some(order) = orders::from_wire(answer, id, purpose, region.as_ref()) {
                        assert!(!orders::name(&order.kind).is_empty());
                        self.node.step(Event::Order(order));
                    }
                }
            }
            8 => {
                // They are placement's to give, and never the same twice.
                let first = 1000 + 16 * self.requests;
                self.requests += 1;
                self.answered.insert(RequestId(self.requests));
                let ids = (first..first + u64::from(input.byte() % 16)).collect();
                self.node.step(Event::Ids(ids));
            }
            9 => {
                let event = match input.pick(6) {
                    0 => Event::Located {
                        key: key(input),
                        region: words::region(input),
                    },
                    1 => Event::Described(words::region(input)),
                    2 => Event::StoreRemoved(StoreId(u64::from(2 + input.byte() % 3))),
                    3 => Event::Unreachable(StoreId(u64::from(2 + input.byte() % 3))),
                    4 => Event::Drain,
                    _ => Event::Dial(Dial {
                        balance_bytes: input.number(),
                        repair_bytes: input.number(),
                    }),
                };
                self.node.step(event);
            }
            10 => self.snapshot(input),
            11 => {
                let volume = ReadVolume {
                    region: RegionId(id(input)),
                    keys: input.number(),
                    bytes: input.number(),
                };
                self.node.step(Event::Reads(vec![volume]));
            }
            12 => {
                if let Ok(frame) = wire::Frame::decode(input.long_bytes()) {
                    let from = StoreId(2);
                    self.node.step(Event::Frame { from, frame });
                }
            }
            _ => self.node.restart(input.flag()),
        }
    }

    fn descriptor(&self, region: RegionId) -> Option<metapb::Region> {
        let mut views = self.node.store().views();
        views
            .find(|view| view.region.id == region.0)
            .map(|view| view.region.clone())
    }

    /// The epoch that a region has, or another.
    fn epoch_of(&self, region: RegionId, input: &mut Input<'_>) -> metapb::RegionEpoch {
        let known = self
            .descriptor(region)
            .and_then(|region| region.region_epoch);
        known
            .filter(|_| input.byte() < 200)
            .unwrap_or_else(|| epoch(input))
    }

    fn target(&self, input: &mut Input<'_>) -> Target {
        let region = RegionId(id(input));
        Target {
            region,
            peer: (input.byte() % 8 == 7).then(|| PeerId(id(input))),
            epoch: (input.byte() != 255).then(|| self.epoch_of(region, input)),
            keys: match input.pick(4) {
                0 | 1 => Keys::Points(several(input, 2, key)),
                2 => Keys::Range(key(input), key(input)),
                _ => Keys::Clamped(key(input)),
            },
        }
    }

    fn propose(&mut self, input: &mut Input<'_>) {
        use wire::operation::Kind;
        let id = self.request();
        let mut target = self.target(input);
        let mut operations = several(input, 3, words::operation);
        // Processes make them, of requests that have at least one.
        operations.retain(|operation| operation.kind.is_some());
        if operations.is_empty() {
            self.answered.insert(id);
            return;
        }
        let points = operations
            .iter()
            .filter_map(|operation| match operation.kind.as_ref()? {
                Kind::Put(put) => Some(put.key.clone()),
                Kind::Delete(delete) => Some(delete.key.clone()),
                Kind::CompareAndSwap(swap) => Some(swap.key.clone()),
                Kind::DeleteRange(_) => None,
            });
        let range = operations
            .iter()
            .find_map(|operation| match &operation.kind {
                Some(Kind::DeleteRange(range)) => {
                    Some((range.start_key.clone(), range.end_key.clone()))
                }
                _ => None,
            });
        target.keys = match range {
            Some((start, end)) => {
                operations.truncate(1);
                operations[0].kind = Some(Kind::DeleteRange(wire::DeleteRange {
                    start_key: start.clone(),
                    end_key: end.clone(),
                }));
                Keys::Range(start, end)
            }
            None => Keys::Points(points.collect()),
        };
        self.node.step(Event::Propose(Proposal {
            id,
            target,
            operations,
        }));
    }

    /// A request as it comes from a client, as far as it is one.
    fn client(&mut self, input: &mut Input<'_>) {
        let bytes = input.bytes();
        let rules = Rules {
            cluster_id: 7,
            store_id: STORE.0,
            api: ApiVersion::V1,
        };
        let Ok(put) = kvrpcpb::RawPutRequest::decode(bytes) else {
            return;
        };
        let context = put.context.unwrap_or_default();
        let checked = || -> Result<_, Reject> {
            rules.check(&context, &put.cf)?;
            let key = rules.key(&context, &put.key)?;
            let value = rules.value(&context, &put.value)?;
            Ok((key, value, rules.expires_at(put.ttl, 1_700_000_000)?))
        };
        let Ok((key, value, expires_at)) = checked() else {
            return;
        };
        let id = self.request();
        let target = rules.target(&context, Keys::Points(vec![key.clone()]));
        let kind = wire::operation::Kind::Put(wire::Put {
            key: key.clone(),
            value: value.clone(),
            expires_at,
        });
        self.node.step(Event::Propose(Proposal {
            id,
            target,
            operations: vec![wire::Operation { kind: Some(kind) }],
        }));
        // Nobody else writes meanwhile: what is there is read back.
        let stored = self
            .node
            .engine()
            .get(engine::Family::State, &keys::data(&key));
        let stored = stored.expect("memory reads").map(value::decode);
        assert!(stored.is_none_or(|stored| stored.is_ok()));
    }

    fn order(&mut self, input: &mut Input<'_>) -> Order {
        let region = RegionId(id(input));
        let epoch = self.epoch_of(region, input);
        let ids = |input: &mut Input<'_>| several(input, 2, |input| PeerId(id(input)));
        let kind = match input.pick(6) {
            0 => OrderKind::Split(several(input, 4, key)),
            1 => OrderKind::AddLearner(peer(input)),
            2 => OrderKind::RemoveLearner(PeerId(id(input))),
            3 => OrderKind::EnterJoint {
                promote: ids(input),
                demote: ids(input),
            },
            4 => OrderKind::TransferLeader(PeerId(id(input))),
            _ => OrderKind::Merge {
                target: RegionId(id(input)),
            },
        };
        Order {
            region,
            epoch,
            id: StepId::default(),
            kind,
            purpose: Purpose::Balance,
        }
    }

    /// A snapshot that came whole. Its files are here as a rule, and of what they should be.
    fn snapshot(&mut self, input: &mut Input<'_>) {
        let from = StoreId(u64::from(2 + input.byte() % 3));
        let mut head = head(input);
        let granted = self
            .node
            .transfers
            .iter()
            .find_map(|transfer| match transfer {
                Transfer::Incoming {
                    region,
                    to_peer,
                    slot,
                } => Some((*region, *to_peer, *slot)),
                Transfer::Outgoing { .. } => None,
            });
        if let Some((region, to_peer, slot)) = granted.filter(|_| input.byte() < 200) {
            (head.slot, head.to_peer, head.from_store) = (slot, to_peer.0, from.0);
            if let Some(descriptor) = &mut head.region {
                descriptor.id = region.0;
            }
            self.stage(&mut head);
        }
        self.node.step(Event::SnapshotReceived { from, head });
    }

    /// One file with one key of the region.
    fn stage(&self, head: &mut wire::SnapshotHead) {
        let Some(region) = &head.region else {
            return;
        };
        let (key, value) = (keys::data(&region.start_key), value::encode(b"v", 0));
        let mut content = Vec::new();
        content.extend((key.len() as u32).to_le_bytes());
        content.extend((value.len() as u32).to_le_bytes());
        content.extend([&key[..], &value[..]].concat());
        content.extend(1_u64.to_le_bytes());
        let checksum = crc32c::crc32c(&content);
        content.extend(checksum.to_le_bytes());
        let name = format!("received-{}", head.slot);
        let engine = self.node.engine();
        if engine.stage_append(&name, &content).is_err() {
            return;
        }
        let staged = engine.stage_finish(&name).expect("it is sound");
        head.files = vec![wire::SnapshotFile {
            name,
            bytes: staged.bytes,
            keys: staged.keys,
            crc32c: staged.crc32c,
        }];
    }

    fn frame(&self, from: StoreId, input: &mut Input<'_>) -> wire::Frame {
        let mut frame = wire::Frame::default();
        for _ in 0..1 + input.byte() % 3 {
            match input.pick(10) {
                0..=3 => frame.messages.push(self.message(from, input)),
                4 => {
                    let beats = frame.heartbeats.get_or_insert_default();
                    self.beat(from, beats, input);
                }
                5 => {
                    let beats = frame.heartbeat_responses.get_or_insert_default();
                    self.beat(from, beats, input);
                }
                6 => frame.notices.push(wire::Notice {
                    to_peer: id(input),
                    region: (input.byte() != 255).then(|| words::region(input)),
                }),
                7 => frame.offers.push(wire::SnapshotOffer {
                    region: (input.byte() != 255).then(|| words::region(input)),
                    from_peer: id(input),
                    to_peer: id(input),
                    from_store: from.0,
                    term: input.number(),
                    index: input.number(),
                    bytes: input.number(),
                    records: several(input, 2, record),
                    reason: i32::from(input.byte() % 4),
                }),
                8 => frame.answers.push(answer(input)),
                _ => match input.pick(2) {
                    0 => frame.merges.push(merge(input)),
                    _ => frame.digests.push(wire::PeerDigest {
                        region_id: id(input),
                        from_peer: id(input),
                        to_peer: id(input),
                        index: input.number(),
                        digest: input.flag().then(|| digest(input)),
                    }),
                },
            }
        }
        frame
    }

    /// Region, sender and receiver as they are here, as a rule; or others.
    fn address(&self, from: StoreId, input: &mut Input<'_>) -> (RegionId, u64, u64) {
        let pick = usize::from(input.byte());
        let views: Vec<_> = self.node.store().views().collect();
        let Some(view) = views.get(pick % (views.len() + 1)) else {
            return (RegionId(id(input)), id(input), id(input));
        };
        let mut peers = view.region.peers.iter();
        let there = peers.find(|peer| peer.store_id == from.0);
        let sender = there.map_or_else(|| id(input), |peer| peer.id);
        (RegionId(view.region.id), sender, view.peer.0)
    }

    fn beat(&self, from: StoreId, beats: &mut wire::HeartbeatBatch, input: &mut Input<'_>) {
        let (region, from_peer, to_peer) = self.address(from, input);
        beats.region_ids.push(region.0);
        beats.from_peers.push(from_peer);
        beats.to_peers.push(to_peer);
        beats.terms.push(self.term(region, input));
        beats.commits.push(input.number());
        beats.rounds.push(input.number());
        beats.conf_vers.push(input.number());
    }

    /// The term of a region, or one near it, or any.
    fn term(&self, region: RegionId, input: &mut Input<'_>) -> u64 {
        let known = self.node.store().raft(region).map_or(0, raft::Raft::term);
        match input.byte() {
            near @ 0..=239 => known + u64::from(near % 3),
            _ => input.number(),
        }
    }

    fn message(&self, from: StoreId, input: &mut Input<'_>) -> wire::RaftMessage {
        use wire::raft_message::Body;
        let (region, from_peer, to_peer) = self.address(from, input);
        let from_store = match input.byte() {
            255 => u64::from(input.byte() % 5),
            _ => from.0,
        };
        let term = self.term(region, input);
        let last = self.node.store().raft(region).map(raft::Raft::last);
        let last = last.unwrap_or_default();
        let vote = |input: &mut Input<'_>| wire::VoteRequest {
            last_term: input.number(),
            last_index: input.number(),
            released: input.flag().then(|| input.number()),
            transfer: input.flag(),
        };
        let voted = |input: &mut Input<'_>| wire::VoteResponse {
            refusal: i32::from(input.byte() % 6),
        };
        let body = match input.pick(12) {
            0 => Some(Body::VoteResponse(voted(input))),
            1 | 2 => {
                let (previous_term, previous_index) = match input.byte() {
                    0..=199 => (last.term, last.index),
                    _ => (input.number(), input.number()),
                };
                let commit = input.number();
                let count = u64::from(input.byte() % 4);
                let entry_term = match input.byte() {
                    0..=199 => term,
                    _ => input.number(),
                };
                let entries = (1..=count)
                    .map(|next| entry(input, entry_term, previous_index.wrapping_add(next)));
                Some(Body::Append(wire::Append {
                    previous_term,
                    previous_index,
                    commit,
                    entries: entries.collect(),
                }))
            }
            3 => Some(Body::PreVoteResponse(voted(input))),
            4 => Some(Body::VoteRequest(vote(input))),
            5 => Some(Body::PreVoteRequest(vote(input))),
            6 => Some(Body::AppendResponse(wire::AppendResponse {
                matched: match input.byte() {
                    0..=199 => last.index,
                    _ => input.number(),
                },
                mismatch: input.byte() % 4 == 3,
                rejected: input.number(),
                hint_term: input.number(),
                hint_index: input.number(),
                commit: input.number(),
                pledge: input.number(),
                lost: (input.byte() % 8 == 7).then(|| wire::LostSnapshot {
                    term: input.number(),
                    index: input.number(),
                }),
            })),
            7 => Some(Body::ReadIndexRequest(wire::ReadIndexRequest {
                request: input.number(),
            })),
            8 => Some(Body::ReadIndexResponse(wire::ReadIndexResponse {
                request: input.number(),
                index: input.flag().then(|| input.number()),
            })),
            9 => Some(Body::TimeoutNow(wire::TimeoutNow {})),
            10 => Some(Body::Release(wire::Release {})),
            _ => None,
        };
        wire::RaftMessage {
            region_id: region.0,
            from_peer,
            to_peer,
            from_store,
            to_store: STORE.0,
            epoch: (input.byte() != 255).then(|| epoch(input)),
            term,
            body,
        }
    }
}

fn answer(input: &mut Input<'_>) -> wire::SnapshotAnswer {
    use wire::snapshot_answer::{Grant, Kind, Refuse, Wait};
    let kind = match input.pick(5) {
        0 => Some(Kind::Grant(Grant {
            slot: input.number(),
            rate: input.number(),
        })),
        1 => Some(Kind::Wait(Wait {
            reason: i32::from(input.byte() % 4),
            overlap: input.flag().then(|| words::region(input)),
        })),
        2 => Some(Kind::Refuse(Refuse {
            reason: i32::from(input.byte() % 5),
        })),
        3 => Some(Kind::Installed(input.number())),
        _ => None,
    };
    wire::SnapshotAnswer {
        region_id: id(input),
        from_peer: id(input),
        to_peer: id(input),
        kind,
    }
}

fn merge(input: &mut Input<'_>) -> wire::MergeMessage {
    use wire::merge_message::Kind;
    let plea = |input: &mut Input<'_>| wire::MergePlea {
        source: input.flag().then(|| words::region(input)),
        from_peer: id(input),
        freeze: input.flag().then(|| freeze(input)),
        digest: input.flag().then(|| digest(input)),
    };
    let kind = match input.pick(6) {
        0 => Some(Kind::Commit(plea(input))),
        1 => Some(Kind::Abort(plea(input))),
        2 => Some(Kind::Verdict(wire::MergeVerdict {
            committed: input.flag(),
        })),
        3 => Some(Kind::DeathQuestion(wire::MergeDeathQuestion {
            holder_id: id(input),
            record: input.flag().then(|| record(input)),
        })),
        4 => Some(Kind::Death(wire::MergeDeath {
            holder_id: id(input),
            peer_id: id(input),
        })),
        _ => None,
    };
    wire::MergeMessage {
        merge: input.flag().then(|| merge_id(input)),
        kind,
    }
}
