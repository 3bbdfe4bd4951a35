//! The members of the placement group, each a store with one region of a world of its own, and what drives the machine there: the
//! same steps as those of the real driver (`crates/server/src/placement_process/driver.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use engine::{Direction, Engine, Family, View};
use placement::{
    Answer, Change, Effects, Event, Note, Now, Placement, Refusal as Refused, Request, RequestId,
    Settings as MachineSettings, Write,
};
use proto::pontoon::v1::{CompareAndSwap, Delete, Operation, operation};
use proto::{RegionId, StoreId, metapb};
use raft::Role;
use store::event::{
    self, Keys, OperationResult, Proposal, ReadRequest, Refusal, RequestId as StoreRequest, Target,
};

use super::super::check::placement::Ids;
use super::super::settings::{Settings, TICK};
use super::super::world::{Reply, World, broken};
use super::{Ask, Asker, SCALE, Said, Told, What, machine_settings};
use crate::group::settings::{Fault, Plan};
use crate::random::Stream;
use crate::rule::{Violation, ensure};
use crate::schedule::Time;

/// The one region of the group.
const REGION: RegionId = RegionId(1);
/// Between looks at deadlines: 100 ms.
const LOOK: Time = 2 * TICK;
/// Before something that was refused is tried again.
const PAUSE: Time = TICK / 5;
/// Ids that the cluster begins with: stores, the first region and its peers have them.
const FIRST_IDS: u32 = 1000;

/// Faults that mean nothing to one region without clients whose members stay.
const STRANGE: &[Fault] = &[
    Fault::Membership,
    Fault::Split,
    Fault::Merge,
    Fault::Exile,
    Fault::Untimely,
    Fault::Focus,
    Fault::Newborn,
    Fault::LostStore,
    Fault::LostFiles,
    Fault::Deletes,
    Fault::Appends,
    Fault::Verify,
    Fault::Rot,
    Fault::NoPlacement,
    Fault::Dial,
    Fault::Placement,
];

/// The group.
pub struct Group {
    world: Box<World>,
    settings: MachineSettings,
    members: BTreeMap<StoreId, Member>,
    pending: BTreeMap<StoreRequest, (StoreId, u32, Awaited)>,
    /// What was refused as busy, until it is tried again.
    later: VecDeque<(Time, StoreId, u32, Awaited)>,
    requests: u64,
    said: Vec<Said>,
    pub(super) ids: Ids,
    /// What operators are for, by id.
    purposes: BTreeMap<u64, &'static str>,
    pub(super) happened: Vec<&'static str>,
    /// The highest term in which a member led.
    led_in: u64,
    /// The time at which the cluster began.
    began: Time,
    random: Stream,
}

/// A process of a member.
struct Member {
    incarnation: u32,
    machine: Placement,
    leading: Option<Leadership>,
    leaderships: u64,
    loading: bool,
    load_at: Time,
    /// Writes without an outcome, of any leadership.
    writes: usize,
    requests: u64,
    asked: BTreeMap<RequestId, (Asker, Ask)>,
    inbox: VecDeque<(Asker, Told)>,
    look_at: Time,
    /// By how much its wall clock is ahead of the slowest.
    ahead_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Leadership {
    number: u64,
    term: u64,
}

/// What a member waits for.
enum Awaited {
    Load { term: u64 },
    Write { leadership: u64, write: Write },
    Confirm { leadership: u64, round: u64 },
}

impl Group {
    /// A group whose machine knows the first region.
    pub fn new(plan: &Plan, settings: &Settings, random: &mut Stream) -> Result<Self, Violation> {
        let mut without = plan.without.clone();
        without.extend(STRANGE);
        let mut faults: Vec<Fault> = plan.faults.iter().copied().chain([Fault::Crash]).collect();
        faults.retain(|fault| !without.contains(fault));
        let inner = Plan {
            seed: random.next(),
            without,
            faults,
            bug: None,
            store_bug: None,
            ..plan.clone()
        };
        let world = Box::new(World::of_members(&inner)?);
        let mut group = Group {
            members: BTreeMap::new(),
            pending: BTreeMap::new(),
            later: VecDeque::new(),
            requests: 0,
            said: Vec::new(),
            ids: Ids::new(u64::from(FIRST_IDS)),
            purposes: BTreeMap::new(),
            happened: Vec::new(),
            led_in: 0,
            began: 0,
            random: random.clone(),
            settings: machine_settings(settings),
            world,
        };
        for id in group.world.nodes.keys().copied().collect::<Vec<_>>() {
            let member = group.begin(id);
            group.members.insert(id, member);
        }
        Ok(group)
    }

    /// Any member.
    pub fn first(&self) -> StoreId {
        *self.members.keys().next().expect("a group has members")
    }

    /// The member after this one.
    pub fn after(&self, member: StoreId) -> StoreId {
        let later = self.members.keys().find(|other| **other > member);
        later.copied().unwrap_or(self.first())
    }

    /// Lets everything happen that happens up to a time. The group lives in the time of the cluster.
    pub fn run_until(&mut self, until: Time) -> Result<(), Violation> {
        self.run_to(self.began + until)
    }

    fn run_to(&mut self, until: Time) -> Result<(), Violation> {
        while self.world.due().is_some_and(|due| due <= until) {
            let advanced = self.world.advance();
            advanced.map_err(of_members)?;
            self.attend()?;
        }
        Ok(())
    }

    /// A message arrives at a member.
    pub fn deliver(&mut self, member: StoreId, from: Asker, told: Told) -> Result<(), Violation> {
        if self.world.nodes[&member].store.is_some() {
            let member = self.members.get_mut(&member).expect("a member");
            member.inbox.push_back((from, told));
        }
        self.attend()
    }

    /// What members said since this was asked last.
    pub fn take_said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    /// Bytes per second that snapshots may take, for balance and for repair.
    pub fn rates(&self) -> (u64, u64) {
        self.settings.balance.snapshot_rates()
    }

    /// Faults end.
    pub fn heal(&mut self) -> Result<(), Violation> {
        self.world.heal().map_err(of_members)
    }

    /// Compares what members hold.
    pub fn check(&mut self) -> Result<(), Violation> {
        self.world.check_contents().map_err(of_members)
    }

    /// Hash of everything that happened.
    pub fn digest(&self) -> u64 {
        self.world.digest()
    }

    /// The text of it.
    pub fn into_trace(self) -> Vec<String> {
        self.world.into_trace()
    }

    /// Has the first store and region known before anything else happens, and some ids handed out.
    ///
    /// # Errors
    /// When that takes longer than faults explain.
    pub fn found(&mut self, store: metapb::Store, region: metapb::Region) -> Result<(), Violation> {
        let bootstrap = Request::Bootstrap {
            store,
            boot: None,
            region,
        };
        for request in [Request::AllocateIds(FIRST_IDS), bootstrap] {
            let mut tries = 0;
            while !self.takes(&request)? {
                tries += 1;
                ensure!(Healing, tries < 10_000, "no member takes {request:?}");
            }
        }
        self.began = self.world.now();
        self.happened.clear();
        Ok(())
    }

    /// Asks every member that leads, and waits a while for an answer.
    fn takes(&mut self, request: &Request) -> Result<bool, Violation> {
        let leading = self
            .members
            .iter()
            .filter(|(_, member)| member.leading.is_some());
        let leading: Vec<StoreId> = leading.map(|(id, _)| *id).collect();
        for member in leading {
            let told = Told::Request(Ask::Command("begun"), request.clone());
            self.deliver(member, Asker::Admin, told)?;
        }
        self.run_to(self.world.now() + 10 * TICK)?;
        let done = |said: &Said| match &said.what {
            What::Answer(_, _, answer) => {
                matches!(answer, Ok(_) | Err(Refused::AlreadyBootstrapped))
            }
            What::Order(_) => false,
        };
        Ok(self.take_said().iter().any(done))
    }

    /// Lets members do what is theirs to do now, until nothing is left.
    fn attend(&mut self) -> Result<(), Violation> {
        loop {
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                self.look_after(id)?;
            }
            let replies = self.world.replies.replace(Vec::new()).unwrap_or_default();
            if replies.is_empty() {
                return Ok(());
            }
            for (request, reply) in replies {
                self.on_reply(request, reply)?;
            }
        }
    }

    fn begin(&mut self, id: StoreId) -> Member {
        Member {
            incarnation: self.world.nodes[&id].incarnation,
            machine: Placement::new(self.settings.clone()),
            leading: None,
            leaderships: 0,
            loading: false,
            load_at: 0,
            writes: 0,
            requests: 0,
            asked: BTreeMap::new(),
            inbox: VecDeque::new(),
            look_at: 0,
            ahead_ms: self.random.below(2_000),
        }
    }

    /// What a member does by itself: begins or ends to lead, takes what arrived, and looks at the clock.
    fn look_after(&mut self, id: StoreId) -> Result<(), Violation> {
        let node = &self.world.nodes[&id];
        let (now, incarnation) = (self.world.now(), node.incarnation);
        let (is_up, paused_until) = (node.store.is_some(), node.paused_until);
        if self.members[&id].incarnation != incarnation {
            let led = self.members[&id].leading.is_some();
            self.happened.push("placement restarted");
            if led {
                self.happened.push("placement leader stopped");
            }
            let member = self.begin(id);
            self.members.insert(id, member);
        }
        if !is_up || paused_until > now {
            return Ok(());
        }
        self.look_at_region(id)?;
        let due = |(at, of, _, _): &(Time, StoreId, u32, Awaited)| *of == id && *at <= now;
        while let Some(place) = self.later.iter().position(due) {
            let (_, _, asked_in, awaited) = self.later.remove(place).expect("found just now");
            if asked_in == incarnation {
                self.ask(id, awaited)?;
            }
        }
        while let Some((from, told)) = self.member(id).inbox.pop_front() {
            match told {
                Told::News(event) => self.step(id, event)?,
                Told::Request(ask, request) => {
                    let member = self.member(id);
                    member.requests += 1;
                    let request_id = RequestId(member.requests);
                    member.asked.insert(request_id, (from, ask));
                    self.step(id, Event::Request(request_id, Box::new(request)))?;
                }
            }
        }
        if self.members[&id].look_at <= now {
            self.member(id).look_at = now + LOOK;
            self.step(id, Event::Tick)?;
        }
        Ok(())
    }

    fn member(&mut self, id: StoreId) -> &mut Member {
        self.members.get_mut(&id).expect("a member of the group")
    }

    /// The term in which a member leads, as its published view says.
    fn led_term(&self, id: StoreId) -> Option<u64> {
        let view = self.world.nodes[&id].views.get(&REGION)?;
        (view.role == Role::Leader).then_some(view.term)
    }

    fn look_at_region(&mut self, id: StoreId) -> Result<(), Violation> {
        let leads = self.led_term(id);
        let now = self.world.now();
        let leading = self.members[&id].leading;
        if leading.is_some_and(|leading| Some(leading.term) != leads) {
            self.lose(id)?;
        }
        let member = self.member(id);
        if let Some(term) = leads
            && member.leading.is_none()
            && !member.loading
            && member.writes == 0
            && member.load_at <= now
        {
            member.loading = true;
            self.ask(id, Awaited::Load { term })?;
        }
        Ok(())
    }

    fn lead(
        &mut self,
        id: StoreId,
        term: u64,
        pairs: BTreeMap<Bytes, Bytes>,
    ) -> Result<(), Violation> {
        let now = self.clock(id);
        let cluster_id = self.random.next().max(1);
        let member = self.member(id);
        member.leaderships += 1;
        let number = member.leaderships;
        member.leading = Some(Leadership { number, term });
        let effects = member.machine.lead(term, pairs, cluster_id, now);
        let effects = effects.map_err(broken)?;
        if term > self.led_in {
            self.led_in = term;
            self.happened.push("placement led anew");
        }
        self.carry_out(id, effects)
    }

    fn lose(&mut self, id: StoreId) -> Result<(), Violation> {
        if self.member(id).leading.take().is_some() {
            self.step(id, Event::Lost)?;
        }
        Ok(())
    }

    fn step(&mut self, id: StoreId, event: Event) -> Result<(), Violation> {
        let now = self.clock(id);
        let effects = self.member(id).machine.step(event, now);
        self.carry_out(id, effects)
    }

    /// What the clocks of a member show.
    fn clock(&self, id: StoreId) -> Now {
        let passed = self.world.now() * SCALE;
        Now {
            wall_ms: 1_000_000_000 + passed / 1_000 + self.members[&id].ahead_ms,
            monotonic: Duration::from_micros(passed) + Duration::from_secs(1_000 * id.0),
        }
    }

    fn carry_out(&mut self, id: StoreId, effects: Effects) -> Result<(), Violation> {
        for note in &effects.notes {
            let now = self.world.now();
            let words = [53, id.0, note.operator.unwrap_or(0), note.text.len() as u64];
            self.world
                .trace
                .note(now, words, || format!("{id} notes: {note:?}"));
            self.learn_note(note);
        }
        for (request, answer) in effects.answers {
            if let Some((from, ask)) = self.member(id).asked.remove(&request) {
                if let Ok(Answer::Ids { last, count }) = &answer {
                    self.ids.give(*last, u64::from(*count))?;
                }
                self.say(id, What::Answer(from, ask, answer));
            }
        }
        for request in effects.abandoned {
            self.member(id).asked.remove(&request);
        }
        for order in effects.orders {
            if let placement::OrderKind::AddLearner(peer) = &order.kind {
                self.ids.place(peer, order.region)?;
            }
            self.say(id, What::Order(Box::new(order)));
        }
        let Some(leading) = self.members[&id].leading else {
            return Ok(());
        };
        let leadership = leading.number;
        if let Some(write) = effects.write {
            self.member(id).writes += 1;
            self.ask(id, Awaited::Write { leadership, write })?;
        }
        if let Some(round) = effects.confirm {
            self.ask(id, Awaited::Confirm { leadership, round })?;
        }
        Ok(())
    }

    fn say(&mut self, member: StoreId, what: What) {
        let term = self.members[&member].leading.map(|leading| leading.term);
        self.said.push(Said { member, term, what });
    }

    /// Asks the member's store for what is awaited.
    fn ask(&mut self, id: StoreId, awaited: Awaited) -> Result<(), Violation> {
        self.requests += 1;
        let request = StoreRequest(self.requests);
        let mut target = Target {
            region: REGION,
            peer: None,
            epoch: None,
            keys: Keys::Clamped(Bytes::new()),
        };
        let event = match &awaited {
            Awaited::Load { .. } | Awaited::Confirm { .. } => event::Event::Read(ReadRequest {
                id: request,
                target,
            }),
            Awaited::Write { write, .. } => {
                let keys = write.changes.iter().map(|change| change.key.clone());
                target.keys = Keys::Points(keys.collect());
                event::Event::Propose(Proposal {
                    id: request,
                    target,
                    operations: write.changes.iter().cloned().map(operation).collect(),
                })
            }
        };
        let incarnation = self.members[&id].incarnation;
        self.pending.insert(request, (id, incarnation, awaited));
        self.world.step(id, event).map_err(of_members)
    }

    fn on_reply(&mut self, request: StoreRequest, reply: Reply) -> Result<(), Violation> {
        let Some((id, incarnation, awaited)) = self.pending.remove(&request) else {
            return Ok(());
        };
        if self.members[&id].incarnation != incarnation {
            return Ok(());
        }
        if matches!(reply, Reply::Answered(Err(Refusal::Busy { .. })))
            && !matches!(awaited, Awaited::Load { .. })
        {
            let at = self.world.now() + PAUSE;
            self.later.push_back((at, id, incarnation, awaited));
            return Ok(());
        }
        let current = self.members[&id].leading;
        let number = current.map(|leading| leading.number);
        match awaited {
            Awaited::Load { term } => {
                let load_at = self.world.now() + PAUSE;
                let member = self.member(id);
                (member.loading, member.load_at) = (false, load_at);
                if matches!(reply, Reply::Permitted) && self.led_term(id) == Some(term) {
                    let pairs = scan(&self.world.nodes[&id].engine.view()).map_err(broken)?;
                    self.lead(id, term, pairs)?;
                }
            }
            Awaited::Write { leadership, write } => {
                self.member(id).writes -= 1;
                let applied = match &reply {
                    Reply::Answered(Ok(results)) => results.iter().all(took_effect),
                    Reply::Answered(Err(_)) | Reply::Permitted => false,
                };
                if !applied {
                    self.happened.push("placement write failed");
                }
                if number == Some(leadership) {
                    if applied {
                        self.step(id, Event::Written(write.token))?;
                    } else {
                        self.lose(id)?;
                    }
                }
            }
            Awaited::Confirm { leadership, round } => {
                if let Some(leading) = current.filter(|leading| leading.number == leadership) {
                    let leads = self.led_term(id) == Some(leading.term);
                    if leads && matches!(reply, Reply::Permitted) {
                        self.step(id, Event::Confirmed(round))?;
                    } else {
                        self.lose(id)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Counts what operators did, by what they were made for.
    fn learn_note(&mut self, note: &Note) {
        let Some(operator) = note.operator else {
            return;
        };
        if let Some((kind, cause)) = note.text.split_once(" started: ") {
            self.purposes.insert(operator, purpose(kind, cause));
        } else if note.text.contains(" cancelled: ") {
            self.happened.push("operator cancelled");
        } else if note.text.ends_with(" done") {
            self.happened.extend(self.purposes.remove(&operator));
        }
    }
}

/// What an operator comes to when it is done.
fn purpose(kind: &str, cause: &str) -> &'static str {
    let by_balance = cause.starts_with("balance-") || cause.starts_with("hot-");
    match kind {
        "move-replica" if cause.contains(" is lost") => "replica replaced",
        "move-replica" if cause.contains(" is damaged") => "damaged replica replaced",
        "move-replica" if cause.contains(" is drained") => "replica drained",
        "move-replica" if by_balance => "replica moved by balance",
        "move-replica" => "replica moved",
        "add-replica" => "replica added",
        "transfer-leader" if cause.contains(" is drained") => "leader drained",
        "transfer-leader" if by_balance => "leader moved by balance",
        "transfer-leader" => "leader moved",
        "merge" if cause.starts_with("it is small") => "regions merged by placement",
        "merge" => "regions merged by command",
        "split" => "region split by command",
        "scatter" => "region scattered",
        "remove-learner" => "orphan removed",
        _ => "other operator done",
    }
}

/// Tells that it was in the group of placement.
fn of_members(violation: Violation) -> Violation {
    Violation {
        text: format!("placement group: {}", violation.text),
        ..violation
    }
}

/// A change as an operation: a value is set only over the one it replaces.
fn operation(change: Change) -> Operation {
    let kind = match change.value {
        Some(value) => operation::Kind::CompareAndSwap(CompareAndSwap {
            key: change.key,
            value,
            expires_at: 0,
            previous: change.previous,
            now: 0,
        }),
        None => operation::Kind::Delete(Delete { key: change.key }),
    };
    Operation { kind: Some(kind) }
}

fn took_effect(result: &OperationResult) -> bool {
    match result {
        OperationResult::Done => true,
        OperationResult::Swapped { succeeded, .. } => *succeeded,
    }
}

/// All pairs of the region.
fn scan(view: &impl View) -> Result<BTreeMap<Bytes, Bytes>, engine::Error> {
    let (start, end) = (store::keys::data(b""), store::keys::data_end(b""));
    let mut pairs = BTreeMap::new();
    let mut damaged = None;
    view.scan(
        Family::State,
        Bound::Included(&start),
        Bound::Excluded(&end),
        Direction::Forward,
        &mut |key, value| {
            let user = store::keys::user_key(key).map(Bytes::copy_from_slice);
            match (user, store::value::decode(Bytes::copy_from_slice(value))) {
                (Some(user), Ok(stored)) => {
                    pairs.insert(user, stored.value);
                    true
                }
                (_, Err(error)) => {
                    damaged = Some(error);
                    false
                }
                (None, Ok(_)) => true,
            }
        },
    )?;
    damaged.map_or(Ok(pairs), Err)
}
