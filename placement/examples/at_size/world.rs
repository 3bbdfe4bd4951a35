//! Placement alone: the machine and a model of a cluster, in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use placement::model::{Costs, Model};
use placement::{
    Answer, Effects, Event, Now, Order, OrderKind, Placement, RegionInfo, Request, RequestId,
    Settings, Space,
};
use proto::{RegionId, StoreId, metapb};

const MIB: u64 = 1 << 20;
/// Voters of a region.
const REPLICAS: u64 = 3;
/// Space of a store.
const CAPACITY_BYTES: u64 = 1 << 40;
/// How often a store tells that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Draws that are the same for the same seed (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1.
    pub fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How large a cluster is, and its load.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub stores: u64,
    pub regions: u64,
    /// Bytes that all clients together write per second, for each store.
    pub written_bytes: u64,
    /// The share of the region of rank `r` is `r^-exponent`.
    pub exponent: f64,
    pub seed: u64,
}

/// What was ordered so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Peers added to a store, which is what a move costs.
    pub moves: u64,
    pub transfers: u64,
    /// Moves of a region, or of its leadership, to a store that it left before.
    pub returns: u64,
    /// Moves of the replicas of a region, or of its leadership, less than ten minutes after the one before.
    pub again: u64,
    /// Operators, by who decided.
    pub by: BTreeMap<String, u64>,
}

/// What stores carry: the greatest and the least, as parts of the mean.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub mean: f64,
    pub min: f64,
    pub max: f64,
}

pub struct World {
    pub now: Now,
    pub machine: Placement,
    pub model: Model,
    pub tally: Tally,
    pub stores: Vec<StoreId>,
    /// Hottest first.
    pub by_heat: Vec<RegionId>,
    dice: Dice,
    pairs: BTreeMap<Bytes, Bytes>,
    requests: u64,
    answers: Vec<Answer>,
    beat: Duration,
    /// Stores that a region left.
    left: BTreeMap<RegionId, Vec<StoreId>>,
    /// Stores whose peers do not lead it any more.
    led: BTreeMap<RegionId, Vec<StoreId>>,
    /// Orders that were seen, by region and epoch: they are repeated until their effect shows.
    seen: BTreeMap<RegionId, (u64, u64)>,
    /// When the replicas of a region were moved last, and when its leadership was.
    moved: BTreeMap<(RegionId, &'static str), Duration>,
    term: u64,
}

impl World {
    /// A cluster that is even by count, and whose load is where it fell.
    pub fn new(shape: &Shape, settings: Settings) -> Self {
        let balance = &settings.balance;
        let granted = balance.store_rate_bytes * u64::from(balance.share_percent) / 100;
        Self::with_rate(shape, settings, granted.max(1))
    }

    /// The same with stores that take in so many bytes of snapshots per second, whatever the dial says.
    pub fn with_rate(shape: &Shape, settings: Settings, snapshot_bytes: u64) -> Self {
        let costs = Costs {
            order: Duration::from_millis(200),
            snapshot_bytes,
        };
        let now = Now {
            wall_ms: 1_700_000_000_000,
            monotonic: Duration::from_secs(1000),
        };
        let mut world = Self {
            now,
            machine: Placement::new(settings),
            model: Model::new(costs),
            tally: Tally::default(),
            stores: Vec::new(),
            by_heat: Vec::new(),
            dice: Dice(shape.seed),
            pairs: BTreeMap::new(),
            requests: 0,
            answers: Vec::new(),
            beat: Duration::ZERO,
            left: BTreeMap::new(),
            led: BTreeMap::new(),
            seen: BTreeMap::new(),
            moved: BTreeMap::new(),
            term: 1,
        };
        let effects = world
            .machine
            .lead(1, BTreeMap::new(), 7, now)
            .expect("an empty region can be led");
        world.carry_out(effects);
        world.bootstrap();
        world.add_stores(shape.stores - 1);
        world.add_regions(shape);
        world
    }

    fn bootstrap(&mut self) {
        let first = self.ids(3) - 2;
        let peer = metapb::Peer {
            id: first + 2,
            store_id: first,
            ..Default::default()
        };
        let region = metapb::Region {
            id: first + 1,
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 1,
            }),
            peers: vec![peer],
            ..Default::default()
        };
        let store = StoreId(first);
        self.ask(Request::Bootstrap {
            store: described(store),
            boot: Some(1),
            region,
        });
        self.stores.push(store);
        self.beat(store);
    }

    fn ids(&mut self, count: u32) -> u64 {
        match self.ask(Request::AllocateIds(count)) {
            Answer::Ids { last, .. } => last,
            other => panic!("identities: {other:?}"),
        }
    }

    pub fn add_stores(&mut self, count: u64) {
        for _ in 0..count {
            let store = StoreId(self.ids(1));
            self.ask(Request::PutStore {
                store: described(store),
                boot: Some(1),
            });
            self.stores.push(store);
            self.beat(store);
        }
    }

    /// Regions in the order of their keys, their peers in turns, their heat at random.
    fn add_regions(&mut self, shape: &Shape) {
        let count = shape.regions;
        let mut ranks: Vec<u64> = (0..count).collect();
        for at in (1..count as usize).rev() {
            let other = (self.dice.next() % (at as u64 + 1)) as usize;
            ranks.swap(at, other);
        }
        let weight = |rank: u64| (rank as f64 + 1.0).powf(-shape.exponent);
        let total: f64 = (0..count).map(weight).sum();
        let all = (shape.written_bytes * shape.stores) as f64;
        // What is hotter was split by its leader long ago.
        let most = shape.written_bytes as f64 / 5.0;
        let first = self.ids(1) + 1;
        let mut left = count * (REPLICAS + 1);
        while left > 0 {
            let some = left.min(1 << 20);
            self.ids(some as u32);
            left -= some;
        }
        self.by_heat = vec![RegionId(0); count as usize];
        let stores = self.stores.len() as u64;
        for (at, &rank) in ranks.iter().enumerate() {
            let at = at as u64;
            let id = RegionId(first + at * (REPLICAS + 1));
            self.by_heat[rank as usize] = id;
            let written = (all * weight(rank) / total).min(most) as u64;
            let peer = |replica: u64| metapb::Peer {
                id: id.0 + 1 + replica,
                store_id: self.stores[((at + replica * (at / stores + 1)) % stores) as usize].0,
                ..Default::default()
            };
            let mut peers: Vec<metapb::Peer> = Vec::new();
            for replica in 0..REPLICAS {
                let mut peer = peer(replica);
                while peers.iter().any(|other| other.store_id == peer.store_id) {
                    peer.store_id = self.stores[(self.dice.next() % stores) as usize].0;
                }
                peers.push(peer);
            }
            let key = |at: u64| match at {
                0 => Bytes::new(),
                at if at == count => Bytes::new(),
                at => Bytes::copy_from_slice(&at.to_be_bytes()),
            };
            let report = RegionInfo {
                region: metapb::Region {
                    id: id.0,
                    start_key: key(at),
                    end_key: key(at + 1),
                    region_epoch: Some(metapb::RegionEpoch {
                        conf_ver: 3,
                        version: 2,
                    }),
                    peers: peers.clone(),
                    ..Default::default()
                },
                leader: peers.first().copied(),
                term: 5,
                bytes: 48 * MIB + self.dice.next() % (48 * MIB),
                keys: 500_000,
                written_bytes: written,
                written_keys: written / 256,
                interval: Duration::from_secs(60),
                ..RegionInfo::default()
            };
            self.model.put(report.clone());
            self.step(Event::Report(Box::new(report)));
        }
    }

    fn beat(&mut self, store: StoreId) {
        self.ask(Request::StoreHeartbeat {
            store,
            boot: Some(1),
            damaged: Vec::new(),
            stopping: false,
            space: Space {
                capacity_bytes: CAPACITY_BYTES,
                available_bytes: CAPACITY_BYTES,
                used_bytes: 0,
                regions: 0,
            },
        });
    }

    pub fn ask(&mut self, request: Request) -> Answer {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.step(Event::Request(id, Box::new(request)));
        self.answers.pop().expect("it is answered at once")
    }

    fn step(&mut self, event: Event) {
        let effects = self.machine.step(event, self.now);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        let mut next = Some(effects);
        while let Some(effects) = next.take() {
            for note in effects.notes {
                if let Some((_, cause)) = note.text.split_once(" started: ")
                    && let Some((who, _)) = cause.split_once(':')
                {
                    *self.tally.by.entry(who.to_owned()).or_default() += 1;
                }
            }
            for (_, answer) in effects.answers {
                self.answers.push(answer.expect("nothing is refused here"));
            }
            for order in effects.orders {
                self.count(&order);
                self.model.order(order, self.now.monotonic);
            }
            if let Some(write) = effects.write {
                for change in write.changes {
                    match change.value {
                        Some(value) => self.pairs.insert(change.key, value),
                        None => self.pairs.remove(&change.key),
                    };
                }
                next = Some(self.machine.step(Event::Written(write.token), self.now));
            }
        }
    }

    fn count(&mut self, order: &Order) {
        let region = self.model.get(order.region).expect("it is of the model");
        let mark = (order.epoch.conf_ver, region.term);
        if self.seen.insert(order.region, mark) == Some(mark) {
            return;
        }
        match &order.kind {
            OrderKind::AddLearner(peer) => {
                self.tally.moves += 1;
                self.begin(order, "replicas");
                let left = self.left.get(&order.region);
                if left.is_some_and(|left| left.contains(&StoreId(peer.store_id))) {
                    self.tally.returns += 1;
                }
            }
            OrderKind::TransferLeader(peer) => {
                self.tally.transfers += 1;
                // Later, it is a part of a move of replicas.
                if order.id.position == 0 {
                    self.begin(order, "leadership");
                }
                let led = self.led.entry(order.region).or_default();
                if led.contains(&StoreId(peer.store_id)) {
                    self.tally.returns += 1;
                }
                led.push(order.store);
            }
            OrderKind::RemoveLearner(peer) => {
                let left = self.left.entry(order.region).or_default();
                left.push(StoreId(peer.store_id));
            }
            OrderKind::Swap { .. } | OrderKind::Split(_) | OrderKind::Merge(_) => {}
        }
    }

    fn begin(&mut self, order: &Order, part: &'static str) {
        let now = self.now.monotonic;
        let before = self.moved.insert((order.region, part), now);
        let rested = |before: Duration| now - before >= Duration::from_secs(600);
        if before.is_some_and(|before| !rested(before)) {
            self.tally.again += 1;
        }
    }

    /// Another member leads: it has what is replicated, and hears of everything anew.
    pub fn change_leader(&mut self) {
        self.step(Event::Lost);
        self.term += 1;
        let effects = self
            .machine
            .lead(self.term, self.pairs.clone(), 7, self.now)
            .expect("the state is sound");
        self.carry_out(effects);
        for store in self.stores.clone() {
            self.beat(store);
        }
        let reports: Vec<_> = self.model.regions().cloned().collect();
        for report in reports {
            self.step(Event::Report(Box::new(report)));
        }
    }

    /// Lets a second pass.
    pub fn tick(&mut self) {
        self.now.monotonic += Duration::from_secs(1);
        self.now.wall_ms += 1000;
        if self.now.monotonic >= self.beat {
            self.beat = self.now.monotonic + HEARTBEAT;
            for store in self.stores.clone() {
                self.beat(store);
            }
        }
        for report in self.model.advance(self.now.monotonic) {
            self.step(Event::Report(Box::new(report)));
        }
        self.step(Event::Tick);
    }

    /// Changes the load of the hottest regions a little, as it does from minute to minute, and tells it.
    pub fn shake(&mut self, count: usize, by: f64) {
        for at in 0..count.min(self.by_heat.len()) {
            let id = self.by_heat[at];
            let part = 1.0 + by * (2.0 * self.dice.part() - 1.0);
            let Some(region) = self.model.get(id) else {
                continue;
            };
            let mut report = region.clone();
            report.written_bytes = (report.written_bytes as f64 * part) as u64;
            report.written_keys = report.written_bytes / 256;
            self.step(Event::Report(Box::new(report)));
        }
    }

    /// What each store carries now, in the order of `stores`.
    pub fn loads(&self, of: impl Fn(&RegionInfo, &metapb::Peer) -> f64) -> Vec<f64> {
        let mut loads: BTreeMap<u64, f64> = BTreeMap::new();
        for region in self.model.regions() {
            for peer in &region.region.peers {
                *loads.entry(peer.store_id).or_default() += of(region, peer);
            }
        }
        let load = |store: &StoreId| loads.get(&store.0).copied().unwrap_or(0.0);
        self.stores.iter().map(load).collect()
    }

    pub fn size(&self) -> Vec<f64> {
        self.loads(|region, _| region.bytes as f64)
    }

    pub fn leaders(&self) -> Vec<f64> {
        self.loads(|region, peer| f64::from(u8::from(leads(region, peer))))
    }

    /// Bytes written through leaders.
    pub fn proposals(&self) -> Vec<f64> {
        self.loads(|region, peer| {
            if leads(region, peer) {
                region.written_bytes as f64
            } else {
                0.0
            }
        })
    }
}

fn leads(region: &RegionInfo, peer: &metapb::Peer) -> bool {
    region.leader.is_some_and(|leader| leader.id == peer.id)
}

fn described(store: StoreId) -> metapb::Store {
    metapb::Store {
        id: store.0,
        address: format!("store-{store}"),
        ..Default::default()
    }
}

/// The least and the greatest of some loads, as parts of their mean.
pub fn spread(loads: &[f64]) -> Spread {
    let mean = loads.iter().sum::<f64>() / loads.len() as f64;
    let part = |load: f64| load / mean.max(f64::MIN_POSITIVE);
    Spread {
        mean,
        min: part(loads.iter().copied().fold(f64::INFINITY, f64::min)),
        max: part(loads.iter().copied().fold(0.0, f64::max)),
    }
}
