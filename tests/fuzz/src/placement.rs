//! The placement machine, told anything: what it replicated earlier, reports of regions, requests of stores, clients and
//! administrators, rules.
//!
//! State that does not load is refused by a typed error. A machine that leads writes each key over what it knows to be there,
//! answers no request twice, gives no identity and no timestamp twice (R28, R31), and what it wrote loads again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::placement::decision::Who;
use ::placement::rules::{Constraint, Group, Role, Rule, Test, group_from_wire, group_to_wire};
use ::placement::{
    Answer, BalanceSettings, Effects, Event, JournalQuery, MergeSettings, Now, Placement, Request,
    RequestId, Settings, Space, Write,
};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb, pdpb};

use crate::parsers::server::services::pd::convert;
use crate::words::{epoch, id, key, peer, several};
use crate::{Input, Seeds, words};

/// Format of all values.
const FORMAT: u8 = 1;
/// Things told in a run at the most.
const EVENTS_MAX: usize = 48;

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.pick(8) {
        0 => rules(&mut input),
        1 => {
            let pairs = pairs(&mut input);
            let mut world = World::new();
            world.pairs = pairs;
            if world.lead() {
                world.go_on(&mut input);
            }
        }
        _ => {
            let mut world = World::new();
            assert!(world.lead(), "nothing is nothing damaged");
            world.bootstrap();
            world.go_on(&mut input);
        }
    }
}

/// Examples of each kind.
pub fn seeds() -> Seeds {
    let group = wire::PlacementGroup {
        name: "g".to_owned(),
        index: 1,
        rules: vec![wire::PlacementRule {
            id: "r".to_owned(),
            role: wire::placement_rule::Role::Voter.into(),
            count: 3,
            constraints: vec![wire::PlacementConstraint {
                label: "zone".to_owned(),
                test: wire::placement_constraint::Test::In.into(),
                values: vec!["a".to_owned()],
            }],
            location_labels: vec!["zone".to_owned()],
            ..Default::default()
        }],
    };
    let cluster = wire::PlacementCluster {
        cluster_id: 7,
        created_at_ms: 1,
        bootstrapped_at_ms: 2,
        api_version: 1,
        replicas: 3,
    };
    let operator = wire::PlacementOperator {
        id: 9,
        region_id: 2,
        start_epoch: Some(Default::default()),
        epoch: Some(Default::default()),
        steps: vec![wire::PlacementStep {
            kind: Some(wire::placement_step::Kind::TransferLeader(
                Default::default(),
            )),
        }],
        ..Default::default()
    };
    let entry = wire::JournalEntry {
        seq: 3,
        kind: wire::journal_entry::Kind::Refused as i32,
        who: "repair".to_owned(),
        region_id: 2,
        last_ms: 5,
        ..Default::default()
    };
    let store = wire::PlacementStore {
        store: Some(metapb::Store {
            id: 1,
            address: "a:1".to_owned(),
            ..Default::default()
        }),
        boot: 2,
        ..Default::default()
    };
    let pair = |kind: u8, id: u8, value: Vec<u8>| {
        [&[kind, id, value.len() as u8, 0], &value[..], &[0]].concat()
    };
    let state = [
        vec![1, 4],
        pair(0, 0, cluster.encode_to_vec()),
        pair(4, 1, store.encode_to_vec()),
        pair(5, 9, operator.encode_to_vec()),
        pair(6, 3, entry.encode_to_vec()),
        vec![3, 30, 0],
    ];
    // Stores 2 and 3 come, region 2 grows, and what follows from that.
    let told = |events: &[&[u8]]| [&[2], &events.concat()[..]].concat();
    let stores: &[u8] = &[
        2, 5, 2, 1, 0, 0, 2, 6, 2, 9, 9, 1, 1, 0, 0, 2, 5, 3, 1, 0, 0, 2, 6, 3, 9, 9, 1, 1, 0, 0,
    ];
    vec![
        ("rules", [&[0], &group.encode_to_vec()[..]].concat()),
        ("state", state.concat()),
        ("stores", told(&[stores, &[3, 30, 0]])),
        (
            "report",
            told(&[
                stores,
                &[
                    0, 2, 16, 16, 1, 1, 1, 1, 3, 1, 0, 0, 1, 5, 0, 0, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0,
                    3, 60, 0,
                ],
            ]),
        ),
        ("split", told(&[&[2, 23, 2, 2, 20, 21, 0, 3, 5, 0]])),
        ("timestamps", told(&[&[2, 4, 3, 0, 5, 0, 2, 4, 9, 0, 5, 0]])),
        ("drain", told(&[stores, &[2, 8, 1, 0, 3, 60, 0]])),
        (
            "replace-rules",
            told(&[stores, &[2, 15, 0, 1, 1, 1, 0, 0, 1, 3, 0, 0, 0, 3, 60, 0]]),
        ),
    ]
}

/// Rules as they are sent and kept.
fn rules(input: &mut Input<'_>) {
    let Ok(sent) = wire::PlacementGroup::decode(input.rest()) else {
        return;
    };
    if let Ok(group) = group_from_wire(sent.clone()) {
        let again = group_to_wire(&group);
        assert_eq!(group_from_wire(again.clone()), Ok(group));
        assert_eq!(again, sent, "a form for each rule");
    }
}

/// What an earlier leader may have replicated.
fn pairs(input: &mut Input<'_>) -> BTreeMap<Bytes, Bytes> {
    let numbered = |prefix: &[u8], id: u64| {
        let mut key = BytesMut::from(prefix);
        key.put_u64(id);
        key.freeze()
    };
    let mut pairs = BTreeMap::new();
    for _ in 0..1 + input.byte() % 8 {
        let kind = input.pick(9);
        let id = input.number();
        let value = input.long_bytes().to_vec();
        let key = match kind {
            0 => Bytes::from_static(b"cluster"),
            1 => Bytes::from_static(b"id"),
            2 => Bytes::from_static(b"timestamp"),
            3 => Bytes::from_static(b"rules"),
            4 => numbered(b"store/", id),
            5 => numbered(b"operator/", id),
            6 => numbered(b"journal/", id),
            7 => {
                let who = Who::ALL[id as usize % Who::ALL.len()];
                [b"pause/", who.name().as_bytes()].concat().into()
            }
            _ => Bytes::copy_from_slice(input.bytes()),
        };
        let format = match input.byte() {
            255 => 2,
            _ => FORMAT,
        };
        pairs.insert(key, [&[format], &value[..]].concat().into());
    }
    pairs
}

/// Limits that few things reach.
fn settings() -> Settings {
    Settings {
        store_down_after: Duration::from_secs(10),
        store_lost_after: Duration::from_secs(30),
        lookup_wait: Duration::from_secs(1),
        lookups_waiting_max: 4,
        timestamps_waiting_max: 4,
        operators_kept_max: 4,
        operators_resting_max: 4,
        id_step: 16,
        balance: BalanceSettings {
            settle: Duration::from_secs(5),
            ..BalanceSettings::default()
        },
        merge: MergeSettings {
            after: Duration::from_secs(5),
            ..MergeSettings::default()
        },
        ..Settings::default()
    }
}

/// The machine, its clock and the region that it writes to.
struct World {
    machine: Placement,
    now: Now,
    term: u64,
    pairs: BTreeMap<Bytes, Bytes>,
    write: Option<Write>,
    confirm: Option<u64>,
    token: u64,
    requests: u64,
    waiting: BTreeSet<RequestId>,
    /// The newest timestamp: none may be at or below it.
    timestamp: (u64, u32),
    /// The newest identity.
    identity: u64,
}

impl World {
    fn new() -> Self {
        Self {
            machine: Placement::new(settings()),
            now: Now {
                wall_ms: 1_700_000_000_000,
                monotonic: Duration::from_secs(1000),
            },
            term: 1,
            pairs: BTreeMap::new(),
            write: None,
            confirm: None,
            token: 0,
            requests: 0,
            waiting: BTreeSet::new(),
            timestamp: (0, 0),
            identity: 0,
        }
    }

    /// Begins to lead; false when what is replicated is refused.
    fn lead(&mut self) -> bool {
        self.term += 1;
        self.token = 0;
        match self
            .machine
            .lead(self.term, self.pairs.clone(), 7, self.now)
        {
            Ok(effects) => {
                self.take(effects);
                true
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                false
            }
        }
    }

    /// A cluster with one store and its region. Ids up to 16 are given away.
    fn bootstrap(&mut self) {
        self.ask(Request::AllocateIds(16));
        self.settle();
        let request = Request::Bootstrap {
            store: store(1),
            boot: Some(1),
            region: metapb::Region {
                id: 2,
                region_epoch: Some(metapb::RegionEpoch {
                    conf_ver: 1,
                    version: 1,
                }),
                peers: vec![metapb::Peer {
                    id: 3,
                    store_id: 1,
                    ..Default::default()
                }],
                ..Default::default()
            },
        };
        self.ask(request);
        self.settle();
    }

    fn step(&mut self, event: Event) {
        let effects = self.machine.step(event, self.now);
        self.take(effects);
    }

    fn ask(&mut self, request: Request) {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.waiting.insert(id);
        self.step(Event::Request(id, Box::new(request)));
    }

    fn take(&mut self, effects: Effects) {
        let Effects {
            write,
            confirm,
            answers,
            abandoned,
            orders,
            ..
        } = effects;
        if let Some(write) = write {
            assert!(self.write.is_none(), "two writes are under way");
            assert!(write.token > self.token, "tokens grow");
            self.token = write.token;
            for change in &write.changes {
                let there = self.pairs.get(&change.key);
                assert_eq!(change.previous.as_ref(), there, "it knows what is there");
            }
            self.write = Some(write);
        }
        if confirm.is_some() {
            self.confirm = confirm;
        }
        for (id, answer) in answers {
            assert!(self.waiting.remove(&id), "{id:?} does not wait");
            match answer {
                Ok(Answer::Timestamp {
                    physical_ms,
                    logical,
                    count,
                }) => {
                    assert!(logical + 1 >= count);
                    assert!((physical_ms, logical + 1 - count) > self.timestamp);
                    self.timestamp = (physical_ms, logical);
                }
                Ok(Answer::Ids { last, count }) => self.take_ids(last - u64::from(count) + 1, last),
                Ok(Answer::SplitIds(ids)) => {
                    for id in ids {
                        self.take_ids(id.region, id.region + id.peers.len() as u64);
                    }
                }
                Ok(_) => {}
                Err(refusal) => assert!(!refusal.to_string().is_empty()),
            }
        }
        for id in abandoned {
            assert!(self.waiting.remove(&id), "{id:?} does not wait");
        }
        for order in orders {
            let _public = convert::order(&order, 7);
        }
    }

    fn take_ids(&mut self, first: u64, last: u64) {
        assert!(first > self.identity && last >= first);
        self.identity = last;
    }

    /// Applies what is written, as the region does: all of it over what is there.
    fn written(&mut self) -> bool {
        let Some(write) = self.write.take() else {
            return false;
        };
        for change in write.changes {
            match change.value {
                Some(value) => self.pairs.insert(change.key, value),
                None => self.pairs.remove(&change.key),
            };
        }
        self.step(Event::Written(write.token));
        true
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            if !self.written() {
                return;
            }
        }
        panic!("it writes without end");
    }

    /// Loses leadership, what was under way written or not, and leads again.
    fn lead_again(&mut self, written: bool) {
        if written {
            self.settle();
        }
        self.write = None;
        self.confirm = None;
        self.step(Event::Lost);
        assert!(self.waiting.is_empty(), "{:?} wait", self.waiting);
        assert!(self.write.is_none() && !self.machine.leads());
        assert!(self.lead(), "what it wrote loads");
    }

    fn go_on(&mut self, input: &mut Input<'_>) {
        for _ in 0..EVENTS_MAX {
            if input.is_over() {
                break;
            }
            self.tell(input);
            if input.byte() % 4 != 3 {
                self.settle();
            }
        }
        self.lead_again(true);
        for _ in 0..10 {
            self.pass(1000);
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.monotonic += Duration::from_millis(ms);
        self.now.wall_ms += ms;
        self.step(Event::Tick);
        self.settle();
    }

    fn tell(&mut self, input: &mut Input<'_>) {
        match input.pick(8) {
            0 => {
                let report = self.report(input);
                if let Some(report) = convert::report(report) {
                    self.step(Event::Report(Box::new(report)));
                }
            }
            1 => {
                let report = pdpb::RegionHeartbeatRequest::decode(input.bytes());
                if let Some(report) = report.ok().and_then(convert::report) {
                    self.step(Event::Report(Box::new(report)));
                }
            }
            2 => {
                let request = request(input);
                self.ask(request);
            }
            3 => {
                for _ in 0..1 + input.byte() % 64 {
                    self.pass(1000);
                }
            }
            4 => self.step(refused(input)),
            5 => {
                if let Some(round) = self.confirm.take() {
                    self.step(Event::Confirmed(round));
                }
            }
            6 => {
                // The clock of the machine may be set.
                let ms = input.number() % 1_000_000;
                let wall = self.now.wall_ms;
                self.now.wall_ms = if input.flag() { wall + ms } else { wall - ms };
            }
            _ => self.lead_again(input.flag()),
        }
    }

    fn report(&self, input: &mut Input<'_>) -> pdpb::RegionHeartbeatRequest {
        let region = words::region(input);
        let pick = |input: &mut Input<'_>| {
            let at = usize::from(input.byte());
            let known = region.peers.get(at % region.peers.len().max(1)).copied();
            known.filter(|_| at < 200).unwrap_or_else(|| peer(input))
        };
        pdpb::RegionHeartbeatRequest {
            leader: (input.byte() != 255).then(|| pick(input)),
            term: input.number(),
            down_peers: several(input, 2, |input| pdpb::PeerStats {
                peer: (input.byte() != 255).then(|| pick(input)),
                down_seconds: input.number(),
            }),
            pending_peers: several(input, 2, pick),
            approximate_size: input.number() << 20,
            approximate_keys: input.number(),
            bytes_written: input.number() << 16,
            keys_written: input.number(),
            bytes_read: input.number() << 16,
            keys_read: input.number(),
            query_stats: input.flag().then(|| pdpb::QueryStats {
                put: input.number(),
                get: input.number(),
                delete: input.number(),
                ..Default::default()
            }),
            interval: input.flag().then(|| pdpb::TimeInterval {
                start_timestamp: input.number(),
                end_timestamp: input.number(),
            }),
            region: Some(region),
            ..Default::default()
        }
    }
}

fn store(id: u64) -> metapb::Store {
    metapb::Store {
        id,
        address: format!("s:{id}"),
        ..Default::default()
    }
}

fn refused(input: &mut Input<'_>) -> Event {
    if input.flag() {
        return Event::OwnSplit(Box::new(wire::OwnSplit {
            header: None,
            region_id: id(input),
            epoch: (input.byte() != 255).then(|| epoch(input)),
            cause: i32::from(input.byte() % 4),
            refused: input.flag(),
            text: text(input),
            inputs: several(input, 2, |input| wire::JournalNumber {
                name: text(input),
                value: f64::from_bits(input.number()),
            }),
        }));
    }
    Event::Refused(Box::new(wire::StepRefusal {
        header: None,
        id: input.flag().then(|| wire::StepId {
            operator_id: input.number(),
            position: u32::from(input.byte()),
        }),
        region_id: id(input),
        epoch: (input.byte() != 255).then(|| epoch(input)),
        term: input.number(),
        kind: i32::from(input.byte() % 16),
        text: text(input),
    }))
}

fn text(input: &mut Input<'_>) -> String {
    match input.byte() {
        255 => String::from_utf8_lossy(input.bytes()).into_owned(),
        few => ["", "a", "b", "zone", "a long text, which goes on and on"][usize::from(few % 5)]
            .to_owned(),
    }
}

fn label(input: &mut Input<'_>) -> metapb::StoreLabel {
    metapb::StoreLabel {
        key: text(input),
        value: text(input),
    }
}

fn told(input: &mut Input<'_>) -> metapb::Store {
    metapb::Store {
        id: u64::from(input.byte() % 6),
        address: match input.byte() {
            0 => String::new(),
            same if same % 4 == 3 => "s:1".to_owned(),
            other => format!("s:{}", other % 8),
        },
        state: i32::from(input.byte() % 4),
        labels: several(input, 2, label),
        start_timestamp: i64::from(input.byte()),
        ..Default::default()
    }
}

fn group(input: &mut Input<'_>) -> Group {
    Group {
        name: text(input),
        index: u32::from(input.byte()),
        rules: several(input, 3, |input| Rule {
            id: text(input),
            start: key(input),
            end: key(input),
            role: Role::ALL[input.pick(4)],
            count: u32::from(input.byte() % 8),
            constraints: several(input, 2, |input| Constraint {
                label: text(input),
                test: match input.pick(4) {
                    0 => Test::In(several(input, 2, text)),
                    1 => Test::NotIn(several(input, 2, text)),
                    2 => Test::Exists,
                    _ => Test::NotExists,
                },
            }),
            location_labels: several(input, 2, text),
        }),
    }
}

fn request(input: &mut Input<'_>) -> Request {
    let kind = input.byte();
    let store_id = |input: &mut Input<'_>| StoreId(u64::from(input.byte() % 6));
    let region_id = |input: &mut Input<'_>| RegionId(id(input));
    let number = |input: &mut Input<'_>| u32::try_from(input.number()).unwrap_or(u32::MAX);
    match kind % 28 {
        0 => Request::Bootstrap {
            store: told(input),
            boot: input.flag().then(|| input.number()),
            region: words::region(input),
        },
        1 => Request::Cluster,
        2 => Request::AllocateIds(number(input)),
        3 => Request::AllocateSplitIds {
            children: number(input),
            peers: number(input),
        },
        4 => Request::Timestamps(number(input)),
        5 => Request::PutStore {
            store: store(store_id(input).0),
            boot: input.flag().then(|| input.number()),
        },
        6 => Request::StoreHeartbeat {
            store: store_id(input),
            boot: input.flag().then(|| input.number()),
            space: Space {
                capacity_bytes: input.number() << 30,
                available_bytes: input.number() << 30,
                used_bytes: input.number() << 20,
                regions: u32::from(input.byte()),
            },
            damaged: several(input, 2, region_id),
            stopping: input.byte() % 8 == 7,
        },
        7 => Request::PutStore {
            store: told(input),
            boot: input.flag().then(|| input.number()),
        },
        8 => Request::DrainStore(store_id(input)),
        9 => Request::UndrainStore(store_id(input)),
        10 => Request::RemoveStore(store_id(input)),
        11 => Request::LabelStore {
            store: store_id(input),
            labels: several(input, 3, label),
        },
        12 => Request::Scatter(several(input, 3, region_id)),
        13 => Request::Rules,
        14 => Request::CancelOperator(input.number()),
        15 | 27 => Request::ReplaceRules {
            read: input.number(),
            groups: several(input, 2, group),
        },
        16 => Request::Journal(JournalQuery {
            region: input.flag().then(|| region_id(input)),
            store: input.flag().then(|| store_id(input)),
            operator: input.flag().then(|| input.number()),
            limit: input.byte().into(),
        }),
        17 => Request::PauseScheduler {
            who: Who::ALL[input.pick(Who::ALL.len())],
            duration: Duration::from_secs(input.number()),
        },
        18 => match input.pick(5) {
            0 => Request::Schedulers,
            1 => Request::Store(store_id(input)),
            2 => Request::Stores,
            3 => Request::Region(region_id(input)),
            _ => Request::Keyspace(text(input)),
        },
        19 => Request::ReportSplit(several(input, 3, words::region)),
        20 => Request::RegionByKey(key(input)),
        21 => Request::PreviousRegion(key(input)),
        22 => Request::Regions {
            start: key(input),
            end: key(input),
            limit: input.byte().into(),
        },
        23 => Request::Split {
            region: region_id(input),
            keys: several(input, 3, key),
        },
        24 => Request::Merge {
            region: region_id(input),
            target: input.flag().then(|| region_id(input)),
        },
        25 => match input.flag() {
            true => Request::MoveReplica {
                region: region_id(input),
                from: store_id(input),
                to: store_id(input),
            },
            false => Request::TransferLeader {
                region: region_id(input),
                to: store_id(input),
            },
        },
        _ => Request::Operators {
            operator: input.flag().then(|| input.number()),
            region: input.flag().then(|| region_id(input)),
        },
    }
}
