//! What a store and placement tell each other, as `crates/server/src/store_process` has it: a store registers, beats, and
//! reports what it leads; orders come back. Everything repeats itself until it gets through.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use placement::{
    Answer, Event as Heard, OrderKind as Ordered, Refusal, RegionInfo, Request, Space,
};
use proto::pontoon::v1::{self as wire, own_split::Cause};
use proto::{RegionId, StoreId, metapb};
use raft::{PeerId, Role};
use store::event::{Event, Order, OrderAnswer, OrderKind, OwnSplit, Purpose, RegionReport, StepId};
use store::{Dial, SplitCause};

use super::super::settings::TICK;
use super::super::world::{Action, World};
use super::{Ask, Asker, BEAT, Errand, Link, Placed, Said, Told, What};
use crate::group::settings::Fault;
use crate::rule::{Violation, ensure};
use crate::schedule::Time;

/// A store looks for another member when it got no answer for so long.
const PATIENCE: Time = 3 * BEAT;
/// Free bytes of every store, and bytes of its disk.
const AVAILABLE: u64 = 1 << 39;
const CAPACITY: u64 = 1 << 40;

/// What a store has for placement.
pub struct News {
    pub reports: Vec<RegionReport>,
    pub orders: Vec<OrderAnswer>,
    pub own_splits: Vec<OwnSplit>,
    pub splits: Vec<Vec<metapb::Region>>,
    pub locate: Vec<Bytes>,
    pub describe: Vec<RegionId>,
    pub inquire: Vec<StoreId>,
    pub ids_wanted: u32,
}

impl World {
    /// A process of a store begins to talk to placement, where there is one.
    pub(in super::super) fn begin_link(&mut self, id: StoreId, incarnation: u32, boot: u64) {
        let now = self.schedule.now();
        let Some(placed) = &mut self.placed else {
            return;
        };
        let link = Link {
            incarnation,
            boot,
            leader: placed.leader,
            term: 0,
            registered: false,
            stopping: false,
            answered: now,
            reports: BTreeMap::new(),
        };
        placed.links.insert(id, link);
        let delay = placed.random.below(TICK);
        let beat = Action::Placement(Errand::Beat(id, incarnation));
        self.schedule.after(delay, beat);
    }

    fn placed(&mut self) -> &mut Placed {
        self.placed
            .as_mut()
            .expect("only worlds with placement have errands")
    }

    /// The group lives up to now, and what it said is on its way.
    pub(in super::super) fn run_placement(&mut self) -> Result<(), Violation> {
        let now = self.schedule.now();
        let Some(placed) = &mut self.placed else {
            return Ok(());
        };
        placed.group.run_until(now)?;
        self.pass_on();
        Ok(())
    }

    /// What members said goes out.
    fn pass_on(&mut self) {
        let placed = self.placed();
        let said = placed.group.take_said();
        for what in std::mem::take(&mut placed.group.happened) {
            self.count(what);
        }
        for said in said {
            let (to, incarnation) = match &said.what {
                What::Answer(Asker::Admin, ..) => {
                    let delay = self.placement_delay();
                    let answered = Errand::Answered(Box::new(said));
                    self.schedule.after(delay, Action::Placement(answered));
                    continue;
                }
                What::Answer(Asker::Store(store, incarnation), ..) => (*store, Some(*incarnation)),
                What::Order(order) => (order.store, None),
            };
            let deaf = self.placed().deaf.contains(PeerId(to.0));
            for _ in 0..self.copies(deaf) {
                let delay = self.placement_delay();
                let said = Errand::Said(to, incarnation, Box::new(said.clone()));
                self.schedule.after(delay, Action::Placement(said));
            }
        }
    }

    /// How often a message between a store and placement arrives.
    fn copies(&mut self, cut: bool) -> u64 {
        let (faults, settings) = (self.settings.faults, &self.settings);
        let (loss, double) = (settings.loss_permille, settings.duplicate_permille);
        let placed = self
            .placed
            .as_mut()
            .expect("asked in worlds with placement only");
        let lost = cut || faults.has(Fault::Loss) && placed.random.chance(loss);
        let doubled = faults.has(Fault::Duplicate) && placed.random.chance(double);
        if lost { 0 } else { 1 + u64::from(doubled) }
    }

    fn placement_delay(&mut self) -> Time {
        let settings = &self.settings;
        let placed = self
            .placed
            .as_mut()
            .expect("asked in worlds with placement only");
        let slow =
            settings.faults.has(Fault::Reorder) && placed.random.chance(settings.slow_permille);
        let (low, high) = if slow {
            settings.slow_delay
        } else {
            settings.delay
        };
        placed.random.between(low, high)
    }

    /// A store tells the member that it believes to lead.
    fn tell(&mut self, id: StoreId, told: Told) {
        let Some(link) = self.placed().links.get(&id) else {
            return;
        };
        let (leader, asker) = (link.leader, Asker::Store(id, link.incarnation));
        let mute = self.placed().mute.contains(PeerId(id.0)) || self.is_placement_silent();
        self.convey_told(asker, leader, told, mute);
    }

    /// An administrator does.
    pub(super) fn command(&mut self, ask: Ask, request: Request) {
        let leader = self.placed().leader;
        let silent = self.is_placement_silent();
        let told = Told::Request(ask, request);
        self.convey_told(Asker::Admin, leader, told, silent);
    }

    fn convey_told(&mut self, asker: Asker, member: StoreId, told: Told, cut: bool) {
        for _ in 0..self.copies(cut) {
            let delay = self.placement_delay();
            let errand = Errand::Told(asker, member, Box::new(told.clone()));
            self.schedule.after(delay, Action::Placement(errand));
        }
    }

    /// Carries an errand out.
    pub(in super::super) fn run_errand(&mut self, errand: Errand) -> Result<(), Violation> {
        match errand {
            Errand::Beat(id, incarnation) => self.beat(id, incarnation),
            Errand::Told(from, member, told) => {
                let now = self.schedule.now();
                self.trace.note(now, [50, member.0, self.events, 0], || {
                    format!("placement {member} is told by {from:?}: {told:?}")
                });
                self.placed().group.deliver(member, from, *told)?;
                self.pass_on();
                Ok(())
            }
            Errand::Said(to, asked_in, said) => self.hear(to, asked_in, *said),
            Errand::Answered(said) => self.learn_answer(*said),
            Errand::Mend => {
                let placed = self.placed();
                (placed.mute, placed.deaf) = Default::default();
                Ok(())
            }
            Errand::Stop(id, incarnation) => {
                if self.nodes[&id].is_up(incarnation) {
                    self.stop(id, false);
                }
                Ok(())
            }
            Errand::Replace => self.replace_lost(),
        }
    }

    /// A store registers, or beats.
    fn beat(&mut self, id: StoreId, incarnation: u32) -> Result<(), Violation> {
        if !self.nodes[&id].is_up(incarnation) {
            return Ok(());
        }
        let beat = Action::Placement(Errand::Beat(id, incarnation));
        self.schedule.after(BEAT, beat);
        let now = self.schedule.now();
        let node = &self.nodes[&id];
        let damaged = node.views.values().filter(|view| view.damaged);
        let damaged = damaged.map(|view| RegionId(view.region.id)).collect();
        let regions = node.views.len() as u32;
        let placed = self.placed();
        let next = placed.group.after(placed.links[&id].leader);
        let link = placed.links.get_mut(&id).expect("begun with the process");
        if now - link.answered > PATIENCE {
            (link.leader, link.registered, link.answered) = (next, false, now);
        }
        let told = if link.registered {
            let request = Request::StoreHeartbeat {
                store: id,
                boot: Some(link.boot),
                space: Space {
                    capacity_bytes: CAPACITY,
                    available_bytes: AVAILABLE,
                    used_bytes: 1 << 20,
                    regions,
                },
                damaged,
                stopping: link.stopping,
            };
            Told::Request(Ask::Beat, request)
        } else {
            let request = Request::PutStore {
                store: record(id, incarnation),
                boot: Some(link.boot),
            };
            Told::Request(Ask::Register, request)
        };
        self.tell(id, told);
        Ok(())
    }

    /// Tells placement what a store has for it. Reports first: by them placement judges whether a refusal counts.
    pub(in super::super) fn tell_news(&mut self, id: StoreId, news: News) {
        for report in news.reports {
            let told = Told::News(Heard::Report(Box::new(info(&report))));
            if let Some(link) = self.placed().links.get_mut(&id) {
                link.reports.insert(RegionId(report.region.id), report);
            }
            self.tell(id, told);
        }
        for answer in news.orders {
            if let Some(refusal) = refusal(&answer) {
                self.count("order of placement refused");
                self.tell(id, Told::News(Heard::Refused(Box::new(refusal))));
            }
        }
        for split in &news.own_splits {
            let told = Heard::OwnSplit(Box::new(own_split(split)));
            self.tell(id, Told::News(told));
        }
        for pieces in news.splits {
            self.tell(id, Told::Request(Ask::Split, Request::ReportSplit(pieces)));
        }
        for key in news.locate {
            let request = Request::RegionByKey(key.clone());
            self.tell(id, Told::Request(Ask::Locate(key), request));
        }
        for region in news.describe {
            let request = Request::Region(region);
            self.tell(id, Told::Request(Ask::Describe(region), request));
        }
        for store in news.inquire {
            let request = Request::Store(store);
            self.tell(id, Told::Request(Ask::Inquire(store), request));
        }
        if news.ids_wanted > 0 {
            let count = news.ids_wanted;
            let request = Request::AllocateIds(count);
            self.tell(id, Told::Request(Ask::Ids(count), request));
        }
    }

    /// A store hears a member.
    fn hear(&mut self, id: StoreId, asked_in: Option<u32>, said: Said) -> Result<(), Violation> {
        let node = &self.nodes[&id];
        let incarnation = asked_in.unwrap_or(node.incarnation);
        if !node.is_up(incarnation) {
            return Ok(());
        }
        let now = self.schedule.now();
        self.trace
            .note(now, [51, id.0, self.events, said.member.0], || {
                format!("{id} hears placement: {said:?}")
            });
        match said.what {
            What::Order(order) => self.take_order(id, *order),
            What::Answer(_, ask, answer) => {
                self.learn_leader(id, said.member, said.term, &answer);
                self.take_answer(id, ask, answer)
            }
        }
    }

    /// Whoever answers leads; one that leads anew knows no regions, and is told of those that are led here.
    fn learn_leader(
        &mut self,
        id: StoreId,
        member: StoreId,
        term: Option<u64>,
        answer: &Result<Answer, Refusal>,
    ) {
        let now = self.schedule.now();
        let views = &self.nodes[&id].views;
        let leads = |region: &RegionId| {
            let view = views.get(region);
            view.is_some_and(|view| view.role == Role::Leader)
        };
        let placed = self
            .placed
            .as_mut()
            .expect("heard in worlds with placement only");
        let next = placed.group.after(member);
        let link = placed.links.get_mut(&id).expect("begun with the process");
        if link.leader != member {
            return;
        }
        if matches!(answer, Err(Refusal::NotLeader)) {
            // Patience begins anew: both together could pass the leader over for ever.
            (link.leader, link.registered, link.answered) = (next, false, now);
            return;
        }
        link.answered = now;
        let Some(term) = term.filter(|term| *term > link.term) else {
            return;
        };
        link.term = term;
        link.reports.retain(|region, _| leads(region));
        let reports: Vec<RegionReport> = link.reports.values().cloned().collect();
        for report in reports {
            let report = Heard::Report(Box::new(info(&report)));
            self.tell(id, Told::News(report));
        }
    }

    fn take_answer(
        &mut self,
        id: StoreId,
        ask: Ask,
        answer: Result<Answer, Refusal>,
    ) -> Result<(), Violation> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                let gone = matches!(
                    refusal,
                    Refusal::StoreTombstone(_) | Refusal::StaleBoot { .. }
                );
                ensure!(
                    Identity,
                    !gone,
                    "placement wants store {id} no more: {refusal}"
                );
                if ask == Ask::Beat {
                    self.placed()
                        .links
                        .get_mut(&id)
                        .expect("it asked")
                        .registered = false;
                }
                return Ok(());
            }
        };
        match (ask, answer) {
            (Ask::Register, Answer::Done) => {
                self.placed()
                    .links
                    .get_mut(&id)
                    .expect("it asked")
                    .registered = true;
                let (balance_bytes, repair_bytes) = self.placed().group.rates();
                let dial = Dial {
                    balance_bytes,
                    repair_bytes,
                };
                self.step(id, Event::Dial(dial))
            }
            (Ask::Locate(key), Answer::Region(found)) => {
                self.count("key located");
                let region = found.region;
                self.step(id, Event::Located { key, region })
            }
            (Ask::Describe(_), Answer::Region(found)) => {
                self.count("members asked of placement");
                self.step(id, Event::Described(found.region))
            }
            (Ask::Inquire(store), Answer::Store(found)) => {
                if found.store.state() != metapb::StoreState::Tombstone {
                    return Ok(());
                }
                self.count("told of a removed store");
                self.step(id, Event::StoreRemoved(store))
            }
            (Ask::Ids(asked), Answer::Ids { last, count }) => {
                ensure!(
                    Ids,
                    asked == count,
                    "{asked} ids were asked for, {count} came"
                );
                self.count("ids of placement");
                let ids = last - u64::from(count) + 1..=last;
                self.step(id, Event::Ids(ids.collect()))
            }
            _ => Ok(()),
        }
    }

    /// A store takes an order, in the words of the wire: a single voter that is to become a learner is said as a learner to add.
    fn take_order(&mut self, id: StoreId, order: placement::Order) -> Result<(), Violation> {
        let ids = |peers: &[metapb::Peer]| peers.iter().map(|peer| PeerId(peer.id)).collect();
        let view = self.nodes[&id].views.get(&order.region);
        let is_there = |peer: &metapb::Peer| {
            let mut peers = view.iter().flat_map(|view| &view.region.peers);
            peers.any(|known| known.id == peer.id)
        };
        let added = |peer: &metapb::Peer| {
            let learner = metapb::Peer {
                role: metapb::PeerRole::Learner.into(),
                ..*peer
            };
            if is_there(peer) {
                OrderKind::EnterJoint {
                    promote: Vec::new(),
                    demote: vec![PeerId(peer.id)],
                }
            } else {
                OrderKind::AddLearner(learner)
            }
        };
        let kind = match &order.kind {
            Ordered::AddLearner(peer) => added(peer),
            Ordered::Swap { promote, demote } => match (&promote[..], &demote[..]) {
                ([], [peer]) => added(peer),
                _ => OrderKind::EnterJoint {
                    promote: ids(promote),
                    demote: ids(demote),
                },
            },
            Ordered::RemoveLearner(peer) => OrderKind::RemoveLearner(PeerId(peer.id)),
            Ordered::TransferLeader(peer) => OrderKind::TransferLeader(PeerId(peer.id)),
            Ordered::Split(keys) => OrderKind::Split(keys.clone()),
            Ordered::Merge(target) => OrderKind::Merge {
                target: RegionId(target.id),
            },
        };
        self.count("order of placement");
        let order = Order {
            region: order.region,
            epoch: order.epoch,
            id: StepId {
                operator: order.id.operator_id,
                position: order.id.position,
            },
            kind,
            purpose: match order.purpose {
                wire::Purpose::Balance => Purpose::Balance,
                wire::Purpose::Restore => Purpose::Repair,
            },
        };
        self.step(id, Event::Order(order))
    }
}

/// What a process of a store says that it is.
pub(super) fn record(id: StoreId, incarnation: u32) -> metapb::Store {
    metapb::Store {
        id: id.0,
        address: format!("store-{id}"),
        start_timestamp: i64::from(incarnation),
        ..Default::default()
    }
}

/// A report as placement takes it, with what clients did as rates.
fn info(report: &RegionReport) -> RegionInfo {
    let load = &report.load;
    let seconds = ((report.interval_ms + 500) / 1_000).max(1);
    let requests = &load.requests;
    RegionInfo {
        region: report.region.clone(),
        leader: Some(report.leader),
        term: report.term,
        down: report.down.clone(),
        pending: report.pending.clone(),
        damaged: Vec::new(),
        bytes: report.bytes,
        keys: report.keys,
        written_bytes: load.written_bytes / seconds,
        written_keys: load.written_keys / seconds,
        read_bytes: load.read_bytes / seconds,
        read_keys: load.read_keys / seconds,
        write_requests: (requests.puts + requests.deletes + requests.range_deletes) / seconds,
        read_requests: (requests.gets + requests.scans) / seconds,
        interval: Duration::from_secs(seconds),
    }
}

/// A refusal of an operator's step.
fn refusal(answer: &OrderAnswer) -> Option<wire::StepRefusal> {
    let reason = answer.result.as_ref().err()?;
    (answer.id.operator != 0).then(|| wire::StepRefusal {
        header: None,
        id: Some(wire::StepId {
            operator_id: answer.id.operator,
            position: answer.id.position,
        }),
        region_id: answer.region.0,
        epoch: answer.epoch,
        term: answer.term,
        kind: reason.kind().into(),
        text: reason.to_string(),
    })
}

/// A split that a leader decided, or could not have.
fn own_split(split: &OwnSplit) -> wire::OwnSplit {
    let cause = match split.cause {
        SplitCause::Size => Cause::Size,
        SplitCause::Load => Cause::Load,
        SplitCause::Appends => Cause::Appends,
    };
    let number = |(name, value): &(&'static str, f64)| wire::JournalNumber {
        name: (*name).into(),
        value: *value,
    };
    wire::OwnSplit {
        header: None,
        region_id: split.region.0,
        epoch: split.epoch,
        cause: cause.into(),
        refused: split.result.is_err(),
        text: String::new(),
        inputs: split.inputs.iter().map(number).collect(),
    }
}
