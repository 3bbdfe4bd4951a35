//! The machine against a small world: regions that obey orders or refuse them, with orders and refusals lost, repeated and
//! late, reports late, and placement leaders that come and go; a store that dies, one that is drained, and one that stops and
//! is started again. From one seed.
//!
//! Checked all the time: no peer id is used twice (R19, R31), a region never loses a voter before its successor is there
//! (R22), what merges covers both ranges and no more, each half of a joint state has a live quorum and one voter more unless a dead one leaves, no region has two
//! operators, none of which is given up for less than two refusals of a step, or for refusals of a joint change that heal, and
//! nothing new is brought to a store that stops. Checked once the faults end: every region has its voters and nothing else (REGIONS §9: no orphan learner, no
//! joint state), none of them on a dead or drained store, those stores can be removed, and no operator is left.

mod orders;
mod region;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use placement::{
    Answer, BalanceSettings, Effects, Event, MergeSettings, Note, Now, Order, OrderKind, Placement,
    RegionInfo, Request, RequestId, Settings, Space, State, Write,
};
use proto::{RegionId, StoreId, metapb};

use orders::Refusals;
use region::Truth;
use rules::Ruled;

const STORES: u64 = 5;
const REPLICAS: usize = 3;
const EVENTS: usize = 3000;
const SEEDS: u64 = 40;
/// Silence after which a store is down.
const DOWN_AFTER: Duration = Duration::from_secs(4);

/// A bug planted on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// Regions carry orders out whatever epoch they were made for.
    EpochIgnored,
    /// Placement believes that silent stores are alive, as one without a clock would.
    SilenceIgnored,
    /// Placement does not hear that stores stop.
    StopsIgnored,
    /// Placement believes that every learner has caught up.
    LagIgnored,
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }
}

struct World {
    bug: Bug,
    dice: Dice,
    machine: Placement,
    placement: BTreeMap<Bytes, Bytes>,
    term: u64,
    now: Now,
    requests: u64,
    write: Option<Write>,
    /// A write of a leadership that is over, still on its way.
    stale: Option<Write>,
    regions: BTreeMap<u64, Truth>,
    orders: Vec<Order>,
    /// Orders that the network repeats long after.
    late: Vec<Order>,
    reports: Vec<RegionInfo>,
    /// Every peer id ever added, with its region.
    used: BTreeMap<u64, u64>,
    next_split: u64,
    answers: Vec<Answer>,
    /// A store that is dead, and since when.
    dead: Option<(u64, Duration)>,
    /// A store that is drained.
    drained: Option<u64>,
    /// A store whose process is told to stop.
    stopping: Option<u64>,
    /// Stores that told this placement leader so, with the number of writes that it had then.
    told_stopping: BTreeMap<u64, u64>,
    /// When this placement leader last heard of a store, or began to listen.
    heard: BTreeMap<u64, Duration>,
    /// Stores that are down for it, with the number of writes that it had when they came to be.
    known_down: BTreeMap<u64, u64>,
    /// Writes that were applied.
    written: u64,
    /// How often stores were started.
    starts: i64,
    refusals: Refusals,
    /// Nothing happens by chance any more, but for what `aborts` says.
    calm: bool,
    /// Whether neighbours decide against a merge.
    aborts: bool,
    stores: u64,
    /// Placement rules, in worlds that have any.
    ruled: Option<Ruled>,
    done: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(seed: u64, bug: Bug) -> Self {
        Self::with(seed, bug, STORES, None)
    }

    fn with(seed: u64, bug: Bug, stores: u64, ruled: Option<Ruled>) -> Self {
        let mut world = World {
            bug,
            stores,
            ruled,
            dice: Dice(seed),
            machine: Placement::new(Settings {
                resume_deadline: Duration::from_secs(60),
                back_off_max: Duration::from_secs(4),
                store_down_after: DOWN_AFTER,
                store_lost_after: Duration::from_secs(12),
                merge: MergeSettings {
                    after: Duration::from_secs(20),
                    ..MergeSettings::default()
                },
                // Placement leaders come and go every few seconds.
                balance: BalanceSettings {
                    settle: Duration::from_millis(500),
                    ..BalanceSettings::default()
                },
                ..Settings::default()
            }),
            placement: BTreeMap::new(),
            term: 0,
            now: Now {
                wall_ms: 1_000_000,
                monotonic: Duration::from_secs(1000),
            },
            requests: 0,
            write: None,
            stale: None,
            regions: BTreeMap::new(),
            orders: Vec::new(),
            late: Vec::new(),
            reports: Vec::new(),
            used: BTreeMap::new(),
            next_split: 0,
            answers: Vec::new(),
            dead: None,
            drained: None,
            stopping: None,
            told_stopping: BTreeMap::new(),
            heard: BTreeMap::new(),
            known_down: BTreeMap::new(),
            written: 0,
            starts: 0,
            refusals: Refusals::default(),
            calm: false,
            aborts: true,
            done: BTreeMap::new(),
        };
        world.lead();
        world.settle();
        world.request(Request::AllocateIds(1000));
        world.settle();
        let peers = |first: u64| {
            (0..REPLICAS as u64)
                .map(|at| metapb::Peer {
                    id: first + at,
                    store_id: at + 1,
                    ..Default::default()
                })
                .collect::<Vec<_>>()
        };
        let mut region = metapb::Region {
            id: 100,
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 1,
            }),
            peers: peers(101)[..1].to_vec(),
            ..Default::default()
        };
        world.request(Request::Bootstrap {
            store: world.store(1),
            boot: None,
            region: region.clone(),
        });
        for id in 2..=stores {
            world.request(Request::PutStore {
                store: world.store(id),
                boot: None,
            });
            world.settle();
        }
        region.peers = peers(101);
        for peer in &region.peers {
            world.used.insert(peer.id, region.id);
        }
        world.regions.insert(
            100,
            Truth {
                region,
                leader: 101,
                term: 1,
                lagging: BTreeSet::new(),
                frozen: None,
                unwilling: None,
            },
        );
        world
    }

    fn store(&self, id: u64) -> metapb::Store {
        metapb::Store {
            labels: self
                .ruled
                .as_ref()
                .map_or(Vec::new(), |_| rules::labels(id)),
            ..store(id)
        }
    }

    fn lead(&mut self) {
        self.term += 1;
        self.told_stopping.clear();
        self.known_down.clear();
        self.heard = (1..=self.stores)
            .map(|id| (id, self.now.monotonic))
            .collect();
        self.refusals.forget();
        let effects = self
            .machine
            .lead(self.term, self.placement.clone(), 9, self.now)
            .expect("the state is sound");
        self.take(effects);
    }

    fn step(&mut self, event: Event) {
        let effects = self.machine.step(event, self.now);
        self.take(effects);
    }

    fn request(&mut self, request: Request) {
        self.requests += 1;
        self.step(Event::Request(RequestId(self.requests), Box::new(request)));
    }

    fn take(&mut self, effects: Effects) {
        if let Some(write) = effects.write {
            assert!(self.write.replace(write).is_none(), "one write at a time");
        }
        for order in &effects.orders {
            self.check_order(order);
        }
        for note in &effects.notes {
            self.check_note(note);
        }
        self.orders.extend(effects.orders);
        let answers = effects
            .answers
            .into_iter()
            .filter_map(|(_, answer)| answer.ok());
        self.answers.extend(answers);
    }

    /// Nothing new goes to a store that told that it stops, and no joint change leaves too few live voters. Orders that
    /// waited for the write under way when that became known, and for the one after it, had been given before.
    fn check_order(&self, order: &Order) {
        let known = |since: Option<&u64>| since.is_some_and(|writes| self.written >= writes + 2);
        match &order.kind {
            OrderKind::AddLearner(peer) | OrderKind::TransferLeader(peer) => {
                assert!(
                    !known(self.told_stopping.get(&peer.store_id)),
                    "store {} is stopping: {order:?}",
                    peer.store_id
                );
            }
            OrderKind::Swap { promote, demote } => {
                let truth = self.regions.get(&order.region.0);
                let dead = self.dead();
                let dead = dead.filter(|dead| known(self.known_down.get(dead)));
                if let Some(truth) = truth
                    && truth.region.region_epoch == Some(order.epoch)
                    && !truth.is_joint()
                {
                    // Its leader would refuse; but it must not come to that.
                    let lags = promote.iter().find(|peer| truth.lagging.contains(&peer.id));
                    assert!(
                        lags.is_none(),
                        "a voter is to leave before its successor is there: {order:?}"
                    );
                    assert!(
                        truth.stays_live(promote, demote, dead),
                        "too few are alive but for store {dead:?}: {order:?} in {:?}",
                        truth.region
                    );
                }
            }
            OrderKind::RemoveLearner(_) | OrderKind::Split(_) | OrderKind::Merge(_) => {}
        }
    }

    /// An operator is not given up for fewer refusals than it takes.
    fn check_note(&mut self, note: &Note) {
        if note.text.contains("started: append-ahead") {
            *self.done.entry("placed ahead").or_default() += 1;
        }
        let (Some(operator), true) = (note.operator, note.text.contains("refused by the leader"))
        else {
            return;
        };
        let all = self.refusals.most(operator, |heard| heard.all);
        assert!(all >= 2, "{note:?} after {all} refusals");
        if note.text.contains("joint change") {
            let lasting = self.refusals.most(operator, |heard| heard.lasting);
            assert!(lasting >= 2, "{note:?} after {lasting} that do not heal");
        }
        *self.done.entry("refused operators").or_default() += 1;
    }

    /// Applies changes as the placement region does: a value only over the one it replaces.
    fn apply(&mut self, write: Write) -> bool {
        let mut applied = true;
        for change in write.changes {
            match change.value {
                Some(value) if self.placement.get(&change.key) == change.previous.as_ref() => {
                    self.placement.insert(change.key, value);
                }
                Some(_) => applied = false,
                None => {
                    self.placement.remove(&change.key);
                }
            }
        }
        applied
    }

    fn finish_write(&mut self) {
        if let Some(write) = self.write.take() {
            let token = write.token;
            if self.apply(write) {
                self.step(Event::Written(token));
                self.written += 1;
            } else {
                self.replace_leader();
            }
        }
    }

    fn settle(&mut self) {
        while self.write.is_some() {
            self.finish_write();
        }
    }

    /// The leader is lost. Its write under way is applied, lost, or delayed past the next leadership.
    fn replace_leader(&mut self) {
        self.step(Event::Lost);
        match (self.write.take(), self.dice.below(3)) {
            (Some(write), 0) => drop(self.apply(write)),
            (Some(write), 1) => self.stale = Some(write),
            _ => {}
        }
        self.lead();
        *self.done.entry("leaders").or_default() += 1;
    }

    fn pass(&mut self, millis: u64) {
        self.now.wall_ms += millis;
        self.now.monotonic += Duration::from_millis(millis);
        for id in 1..=self.stores {
            if self.dead() == Some(id) && self.bug != Bug::SilenceIgnored {
                continue;
            }
            if self.dead() != Some(id) {
                self.hear(id);
            }
            let stopping = self.stopping == Some(id);
            self.request(Request::StoreHeartbeat {
                store: StoreId(id),
                boot: None,
                space: Space::default(),
                damaged: Vec::new(),
                stopping: stopping && self.bug != Bug::StopsIgnored,
            });
            if stopping {
                self.told_stopping.entry(id).or_insert(self.written);
            }
        }
        self.step(Event::Tick);
        for (id, heard) in &self.heard {
            if self.now.monotonic - *heard >= DOWN_AFTER {
                self.known_down.entry(*id).or_insert(self.written);
            }
        }
    }

    fn hear(&mut self, store: u64) {
        self.heard.insert(store, self.now.monotonic);
        self.known_down.remove(&store);
    }

    fn event(&mut self) {
        let ids: Vec<u64> = self.regions.keys().copied().collect();
        let id = ids[self.dice.below(ids.len())];
        if self.ruled.is_some() && self.dice.one_in(60) {
            return self.change_rules();
        }
        match self.dice.below(115) {
            0..25 => self.finish_write(),
            25..50 => self.deliver_order(),
            50..60 => self.report(id),
            60..70 => self.deliver_report(),
            70..82 => self.live(id),
            82..84 => {
                let (dead, dice) = (self.dead(), &mut self.dice);
                self.regions
                    .get_mut(&id)
                    .expect("a known region")
                    .elect(dice, dead);
            }
            84..94 => {
                let millis = 100 + self.dice.below(400) as u64;
                self.pass(millis);
            }
            94..96 => self.command(id),
            96 => self.change_stores(),
            97 => {
                if !self.late.is_empty() {
                    let at = self.dice.below(self.late.len());
                    let order = self.late.swap_remove(at);
                    self.obey(&order);
                }
            }
            98..113 => self.deliver_refusal(),
            113 => {
                if let Some(write) = self.stale.take() {
                    self.apply(write);
                }
            }
            _ => self.replace_leader(),
        }
    }

    /// What happens by chance.
    fn go_on(&mut self) {
        for event in 0..EVENTS {
            self.event();
            if event % 50 == 0 {
                self.check();
            }
        }
    }

    /// What a region does by itself.
    fn live(&mut self, id: u64) {
        let dead = self.dead();
        let Some(truth) = self.regions.get_mut(&id) else {
            return;
        };
        truth.live(&mut self.dice, dead);
        let Some((target, epoch)) = truth.frozen else {
            return;
        };
        let decided = self.regions[&target].region.region_epoch != Some(epoch);
        match (decided, self.dice.below(4)) {
            // The neighbour moved on: the freeze is over.
            (true, _) => self.thaw(id),
            (false, 0) if self.aborts => {
                let target = self.regions.get_mut(&target).expect("it is there");
                target.moves(0, 1);
                *self.done.entry("aborts").or_default() += 1;
            }
            (false, 1) => self.absorb(id, target),
            (false, _) => {}
        }
    }

    fn thaw(&mut self, id: u64) {
        let truth = self.regions.get_mut(&id).expect("it is there");
        truth.frozen = None;
        truth.moves(0, 1);
    }

    fn absorb(&mut self, id: u64, into: u64) {
        let source = self.regions.remove(&id).expect("it is there");
        for other in self.regions.values_mut() {
            if other.frozen.is_some_and(|(target, _)| target == id) {
                other.frozen = None;
                other.moves(0, 1);
            }
        }
        let target = self.regions.get_mut(&into).expect("it is there");
        let version = |truth: &Truth| truth.region.region_epoch.map_or(0, |epoch| epoch.version);
        let higher = version(&source).max(version(target)) - version(target) + 1;
        target.moves(0, higher);
        if !source.region.end_key.is_empty() && source.region.end_key == target.region.start_key {
            target.region.start_key = source.region.start_key;
        } else {
            assert_eq!(source.region.start_key, target.region.end_key);
            target.region.end_key = source.region.end_key;
        }
        *self.done.entry("merges").or_default() += 1;
        let copies = target.region.peers.len() > target.voters();
        *self.done.entry("merges with learners").or_default() += u64::from(copies);
    }

    fn command(&mut self, id: u64) {
        let store = StoreId(1 + self.dice.below(self.stores as usize) as u64);
        let truth = &self.regions[&id];
        let peer = truth.region.peers[self.dice.below(truth.region.peers.len())];
        let region = RegionId(id);
        match self.dice.below(6) {
            0 if self.regions.len() < 6 => {
                self.next_split += 1;
                let key = format!("{:04}", self.dice.below(10_000));
                let keys = vec![Bytes::from(key)];
                self.request(Request::Split { region, keys });
            }
            1 => self.request(Request::TransferLeader { region, to: store }),
            2 => self.request(Request::Merge {
                region,
                target: None,
            }),
            _ => self.request(Request::MoveReplica {
                region,
                from: StoreId(peer.store_id),
                to: store,
            }),
        }
    }

    fn dead(&self) -> Option<u64> {
        self.dead.map(|(store, _)| store)
    }

    /// A store dies or comes back, a drain begins or is taken back.
    fn change_stores(&mut self) {
        let store = 1 + self.dice.below(self.stores as usize) as u64;
        match (self.dice.below(10), self.dead, self.drained) {
            (0 | 1, None, _) => {
                self.dead = Some((store, self.now.monotonic));
                let dice = &mut self.dice;
                for truth in self.regions.values_mut() {
                    let leads = |peer: &metapb::Peer| peer.id == truth.leader;
                    if truth
                        .region
                        .peers
                        .iter()
                        .any(|peer| leads(peer) && peer.store_id == store)
                    {
                        truth.elect(dice, Some(store));
                    }
                }
                *self.done.entry("deaths").or_default() += 1;
            }
            (2, Some(_), _) => self.dead = None,
            (3 | 4, _, None) => {
                self.drained = Some(store);
                self.request(Request::DrainStore(StoreId(store)));
            }
            (5, _, Some(drained)) => {
                self.request(Request::UndrainStore(StoreId(drained)));
                self.drained = None;
            }
            (6 | 7, _, _) if self.stopping.is_none() && self.dead() != Some(store) => {
                self.stop(store);
            }
            (8, _, _) => self.restart(),
            _ => {}
        }
    }

    /// A store is told to stop: it hands its leaders over, as far as somebody takes them.
    fn stop(&mut self, store: u64) {
        self.stopping = Some(store);
        let (dead, dice) = (self.dead.map(|(store, _)| store), &mut self.dice);
        for truth in self.regions.values_mut() {
            if truth.led_on() == Some(store) && !dice.one_in(4) {
                truth.elect(dice, dead);
            }
        }
        *self.done.entry("stops").or_default() += 1;
    }

    /// The store that stops is started again.
    fn restart(&mut self) {
        let Some(id) = self
            .stopping
            .take_if(|store| self.dead.is_none_or(|(dead, _)| dead != *store))
        else {
            return;
        };
        self.starts += 1;
        let start_timestamp = self.starts;
        self.told_stopping.remove(&id);
        self.request(Request::PutStore {
            store: metapb::Store {
                start_timestamp,
                ..self.store(id)
            },
            boot: None,
        });
    }

    /// What the leader of a region tells; none if it is dead.
    fn told(&self, id: u64) -> Option<RegionInfo> {
        let mut report = self.regions[&id].report();
        if let Some((dead, since)) = self.dead {
            let seconds = self.now.monotonic.saturating_sub(since).as_secs();
            let on = |peer: &&metapb::Peer| peer.store_id == dead;
            let down = report.region.peers.iter().filter(on);
            report.down = down.map(|peer| (*peer, seconds)).collect();
        }
        if self.bug == Bug::LagIgnored {
            report.pending.clear();
        }
        let leader = report.leader?;
        let leads =
            Some(leader.store_id) != self.dead() && self.regions[&id].has_quorum(self.dead());
        leads.then_some(report)
    }

    fn report(&mut self, id: u64) {
        self.reports.extend(self.told(id));
    }

    /// A report arrives, perhaps an old one, perhaps again.
    fn deliver_report(&mut self) {
        if self.reports.is_empty() {
            return;
        }
        let at = self.dice.below(self.reports.len());
        let report = if self.dice.one_in(8) {
            self.reports[at].clone()
        } else {
            self.reports.swap_remove(at)
        };
        self.reports.truncate(64);
        // An old one as well: whoever leads is there.
        if let Some(leader) = &report.leader {
            self.hear(leader.store_id);
        }
        self.step(Event::Report(Box::new(report)));
    }

    /// An order arrives, perhaps a late one, perhaps again; or it is lost.
    fn deliver_order(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let at = self.dice.below(self.orders.len());
        let order = if self.dice.one_in(6) {
            self.orders[at].clone()
        } else {
            self.orders.swap_remove(at)
        };
        if self.dice.one_in(4) {
            self.late.push(order.clone());
        }
        if !self.dice.one_in(5) {
            self.obey(&order);
        }
    }

    fn check(&mut self) {
        self.settle();
        self.answers.clear();
        self.request(Request::Operators {
            operator: None,
            region: None,
        });
        self.settle();
        let mut busy = BTreeSet::new();
        for (region, state) in self.operators() {
            if state == State::Running {
                assert!(busy.insert(region), "{region} has two operators");
            }
        }
    }

    fn operators(&self) -> Vec<(RegionId, State)> {
        let operators = self.answers.iter().filter_map(|answer| match answer {
            Answer::Operators(operators) => Some(operators),
            _ => None,
        });
        let operators = operators.flatten();
        operators
            .flat_map(|operator| {
                let regions = [Some(operator.region), operator.target];
                let state = operator.state;
                regions.into_iter().flatten().map(move |id| (id, state))
            })
            .collect()
    }

    /// Nothing is lost or late any more: what was begun must end.
    fn heal(&mut self) {
        self.calm_down();
        for round in 0..400 {
            // Commands may have been lost or refused. Once every region has reported, none is, unless a write of before
            // costs this leader its office.
            if round == 10 {
                self.drain_again();
            }
            self.aborts = round < 200;
            if round == 60 {
                assert!(self.drain_again(), "a drain is refused");
            }
            self.quiet_round();
        }
        self.check();
        for (region, state) in self.operators() {
            assert_ne!(state, State::Running, "the operator of {region} never ends");
        }
        for truth in self.regions.values() {
            let region = &truth.region;
            assert_eq!(truth.voters(), REPLICAS, "{region:?}");
            assert_eq!(region.peers.len(), REPLICAS, "an orphan stays: {region:?}");
            truth.check_settled();
            for store in [self.dead(), self.drained].into_iter().flatten() {
                let on = |peer: &metapb::Peer| peer.store_id == store;
                assert!(
                    !region.peers.iter().any(on),
                    "store {store} is dead or drained: {region:?}"
                );
            }
        }
        self.remove_stores();
    }

    /// What was under way is lost, and nothing happens by chance from now on.
    fn calm_down(&mut self) {
        self.orders.clear();
        self.reports.clear();
        self.refusals.clear();
        self.calm = true;
        self.stopping = None;
        self.told_stopping.clear();
        for truth in self.regions.values_mut() {
            truth.unwilling = None;
        }
    }

    /// Every region reports, is ordered something and does it; half a second passes.
    fn quiet_round(&mut self) {
        let ids: Vec<u64> = self.regions.keys().copied().collect();
        for id in ids {
            if let Some(report) = self.told(id) {
                self.step(Event::Report(Box::new(report)));
            }
            self.settle();
            for order in std::mem::take(&mut self.orders) {
                self.obey(&order);
            }
            self.deliver_refusals();
            self.live(id);
        }
        self.pass(500);
        self.settle();
    }

    fn drain_again(&mut self) -> bool {
        self.answers.clear();
        let others = (1..=self.stores).filter(|id| self.drained != Some(*id));
        let undrain = others.map(|id| Request::UndrainStore(StoreId(id)));
        let drain = self.drained.map(|id| Request::DrainStore(StoreId(id)));
        for request in undrain.chain(drain).collect::<Vec<_>>() {
            self.request(request);
            self.settle();
        }
        let done = self
            .answers
            .iter()
            .filter(|answer| **answer == Answer::Done);
        done.count() == self.stores as usize
    }

    /// What is dead or drained holds nothing any more, and can be taken out for good.
    fn remove_stores(&mut self) {
        let leave: BTreeSet<_> = [self.dead(), self.drained].into_iter().flatten().collect();
        for store in &leave {
            self.request(Request::RemoveStore(StoreId(*store)));
            self.settle();
        }
        self.answers.clear();
        self.request(Request::Stores);
        self.settle();
        let Some(Answer::Stores(stores)) = self.answers.pop() else {
            panic!("the stores are told");
        };
        for info in stores {
            let removed = info.store.state() == metapb::StoreState::Tombstone;
            assert_eq!(removed, leave.contains(&info.store.id), "{info:?}");
        }
        *self.done.entry("removed stores").or_default() += leave.len() as u64;
    }
}

fn store(id: u64) -> metapb::Store {
    metapb::Store {
        id,
        address: format!("store-{id}"),
        ..Default::default()
    }
}

/// Runs a seed to its end; returns how often what happened, refusals by their kind.
fn run(seed: u64, bug: Bug) -> BTreeMap<&'static str, u64> {
    let mut world = World::new(seed, bug);
    world.go_on();
    world.heal();
    world.done.append(&mut world.refusals.told);
    world.done
}

fn seeds_or(default: u64) -> u64 {
    let seeds = std::env::var("PLACEMENT_SEEDS").ok();
    seeds
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(default)
}

/// Races 42 and 43 of REGIONS §10, at random.
#[test]
fn operators_end_and_leave_nothing_behind() {
    let mut done = BTreeMap::<&str, u64>::new();
    for seed in 0..seeds_or(SEEDS) {
        let happened = std::panic::catch_unwind(|| run(seed, Bug::None));
        let Ok(happened) = happened else {
            panic!("seed {seed} failed: see above");
        };
        for (what, count) in happened {
            *done.entry(what).or_default() += count;
        }
    }
    let wanted = [
        "leaders",
        "removals",
        "swaps",
        "transfers",
        "splits",
        "deaths",
        "freezes",
        "aborts",
        "merges",
        "removed stores",
        "placed ahead",
        "stops",
        "refused operators",
        "INVALID",
        "NOT_LEADER",
        "EPOCH_NOT_MATCH",
        "LANE_BUSY",
        "JOINT",
        "BEHIND",
        "NOT_CAUGHT_UP",
        "TOO_FEW_LIVE",
        "LEADER_WOULD_LEAVE",
        "STORE_HAS_PEER",
        "PEER_ID_USED",
        "TRANSFERRING",
        "STORE_DRAINING",
        "NO_IDS",
        "FROZEN",
    ];
    for what in wanted {
        assert!(
            done.get(what).copied() > Some(0),
            "no {what} in all seeds: {done:?}"
        );
    }
}

/// The net holds: planted bug 27 of REGIONS §11, an operator without epoch.
#[test]
fn orders_without_an_epoch_are_caught() {
    assert!(caught(Bug::EpochIgnored));
}

/// The net holds: planted bug 26 of REGIONS §11, a voter that is removed before its successor has caught up.
#[test]
fn removals_before_the_successor_caught_up_are_caught() {
    assert!(caught(Bug::LagIgnored));
}

/// The net holds: a dead store that is never missed keeps its voters.
#[test]
fn stores_that_are_never_missed_are_caught() {
    assert!(caught(Bug::SilenceIgnored));
}

/// The net holds: stores that stop are taken for stores that stay.
#[test]
fn stores_whose_stop_is_not_heard_of_are_caught() {
    assert!(caught(Bug::StopsIgnored));
}

fn caught(bug: Bug) -> bool {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = (0..300).any(|seed| std::panic::catch_unwind(|| run(seed, bug)).is_err());
    std::panic::set_hook(hook);
    caught
}
