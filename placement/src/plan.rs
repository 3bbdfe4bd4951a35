//! What would happen if: the same placement against a copy of the cluster's metadata, in virtual time (REGIONS §9).
//!
//! [`Placement::metadata`] copies what the leader knows, which takes memory and a moment but changes nothing.
//! [`plan`] lets a machine of its own lead that copy against a [`Model`] whose stores carry out orders at the cost that the
//! dial grants, makes the change, and writes down what is ordered until nothing is any more. Identities are made up, and no
//! order leaves it, so nothing of a plan can be carried out.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proto::pontoon::v1::journal_entry;
use proto::{RegionId, StoreId, metapb};

use crate::dial::Purpose;
use crate::event::{
    Answer, Effects, Event, Now, Order, OrderKind, Refusal, Request, RequestId, Space,
};
use crate::journal::JournalQuery;
use crate::machine::Placement;
use crate::model::{Costs, Model};
use crate::regions::RegionInfo;
use crate::rules::Group;
use crate::settings::Settings;
use crate::state::LoadError;

/// Steps that a forecast names; all are counted.
pub const STEPS_MAX: usize = 1000;
/// Regions that a forecast names as not placed; all are counted.
pub const UNPLACED_MAX: usize = 100;
/// Entries of the journal that are looked through for why a region was left as it is.
const JOURNAL_LOOK: usize = 16;
/// Stores that are named with what speaks against them.
const STORES_NAMED: usize = 4;
/// Virtual time after which a plan ends, come what may.
const MOST: Duration = Duration::from_secs(7 * 24 * 3600);
/// A plan ends when nothing was ordered for so long. More than the longest pause of a scheduler that is not at rest.
const QUIET: Duration = Duration::from_secs(120);
/// How often stores of the copy tell that they live.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// From an order to its effect.
const ORDER: Duration = Duration::from_millis(200);

/// What is known of a store.
#[derive(Clone, Debug)]
pub struct StoreMetadata {
    /// The store.
    pub store: metapb::Store,
    /// Highest boot counter.
    pub boot: u64,
    /// Its space.
    pub space: Space,
    /// Whether it is heard.
    pub alive: bool,
    /// Whether it told that it stops. A plan goes by what is: it stops for ever, as one that is dead stays so.
    pub stopping: bool,
}

/// A copy of what a placement leader knows.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// What is replicated.
    pub pairs: BTreeMap<Bytes, Bytes>,
    /// The view of regions.
    pub regions: Vec<RegionInfo>,
    /// The stores that are not tombstones.
    pub stores: Vec<StoreMetadata>,
    /// As the leader is set.
    pub settings: Settings,
}

/// What is to be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A store is drained.
    Drain(StoreId),
    /// So many empty stores like the others join.
    AddStores(u32),
    /// Every store with this label dies at once.
    Lose {
        /// The label.
        label: String,
        /// Its value.
        value: String,
    },
    /// All placement rules are replaced.
    Rules {
        /// The version that was read.
        read: u64,
        /// All groups from then on.
        groups: Vec<Group>,
    },
}

/// Something that would be ordered.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// When, from now.
    pub at: Duration,
    /// The region.
    pub region: RegionId,
    /// What, for people.
    pub text: String,
}

/// What would happen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// The first [`STEPS_MAX`] steps.
    pub steps: Vec<Planned>,
    /// Peers that would be added.
    pub moves: u64,
    /// Leaders that would change by order.
    pub transfers: u64,
    /// Bytes of snapshots.
    pub bytes: u64,
    /// When the last step would have taken effect; `None` if it goes on after a week.
    pub eta: Option<Duration>,
    /// How long regions would be without one of their voters.
    pub risk: Option<Duration>,
    /// How many regions would at the worst.
    pub at_risk: u64,
    /// Regions without a quorum, for which nothing can be done.
    pub unavailable: u64,
    /// Regions that would not get what they lack, or not leave what they should, with the reason; the first
    /// [`UNPLACED_MAX`].
    pub unplaced: Vec<(RegionId, String)>,
    /// How many.
    pub unplaced_total: u64,
    /// What is asked for and can never be, as the stores are.
    pub warnings: Vec<String>,
}

/// Why there is no forecast.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// What was asked for would be refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The copy cannot be led.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No store has this label.
    #[error("no store has label {label}={value}")]
    NoSuchLabel {
        /// The label.
        label: String,
        /// Its value.
        value: String,
    },
}

/// Finds out what would happen. Takes a while for a large cluster, and belongs on a thread that nobody waits for.
///
/// # Errors
/// When what is asked for would be refused as it is, with the reason.
pub fn plan(metadata: Metadata, question: &Question, now: Now) -> Result<Forecast, PlanError> {
    let purpose = match question {
        Question::AddStores(_) => Purpose::Balance,
        Question::Drain(_) | Question::Lose { .. } | Question::Rules { .. } => Purpose::Repair,
    };
    let mut rehearsal = Rehearsal::new(metadata, purpose, now)?;
    rehearsal.begin(question)?;
    Ok(rehearsal.run(question))
}

struct Rehearsal {
    machine: Placement,
    model: Model,
    pairs: BTreeMap<Bytes, Bytes>,
    stores: Vec<StoreMetadata>,
    now: Now,
    beat: Duration,
    requests: u64,
    answers: BTreeMap<RequestId, Result<Answer, Refusal>>,
    /// When the change was made; before, nothing is written down.
    begun: Option<Duration>,
    forecast: Forecast,
    /// What a region was last ordered, in which epoch and term: orders are repeated.
    ordered: BTreeMap<RegionId, (metapb::RegionEpoch, u64, OrderKind)>,
    last: Duration,
    /// Regions without one of their voters.
    short: BTreeSet<RegionId>,
}

impl Rehearsal {
    fn new(metadata: Metadata, purpose: Purpose, now: Now) -> Result<Self, PlanError> {
        let Metadata {
            pairs,
            regions,
            stores,
            mut settings,
        } = metadata;
        // The copy knows everything from the start.
        settings.balance.settle = Duration::ZERO;
        // What becomes of small regions is another question.
        settings.merge.enabled = false;
        let setting = settings.balance.setting();
        let costs = Costs {
            order: ORDER,
            // With nothing granted nothing moves, and no rate is asked for.
            snapshot_bytes: setting.granted_bytes(purpose).max(1),
        };
        let mut rehearsal = Self {
            machine: Placement::new(settings),
            model: Model::new(costs),
            pairs: pairs.clone(),
            stores,
            now,
            beat: now.monotonic,
            requests: 0,
            answers: BTreeMap::new(),
            begun: None,
            forecast: Forecast::default(),
            ordered: BTreeMap::new(),
            last: now.monotonic,
            short: BTreeSet::new(),
        };
        // Its term is not that of any order, since none leaves it.
        let effects = rehearsal.machine.lead(u64::MAX, pairs, 1, now)?;
        rehearsal.carry_out(effects);
        rehearsal.heartbeats();
        for region in regions {
            if region.leader.is_some() {
                rehearsal.model.put(region.clone());
                rehearsal.step(Event::Report(Box::new(region)));
            }
        }
        Ok(rehearsal)
    }

    fn begin(&mut self, question: &Question) -> Result<(), PlanError> {
        self.begun = Some(self.now.monotonic);
        self.last = self.now.monotonic;
        match question {
            Question::Drain(store) => {
                self.ask(Request::DrainStore(*store))?;
            }
            Question::AddStores(count) => self.add_stores(*count)?,
            Question::Rules { read, groups } => self.replace_rules(*read, groups)?,
            Question::Lose { label, value } => {
                let has = |store: &StoreMetadata| {
                    let told = &store.store.labels;
                    told.iter()
                        .any(|told| told.key == *label && told.value == *value)
                };
                let lost: BTreeSet<_> = self
                    .stores
                    .iter()
                    .filter(|store| has(store))
                    .map(|store| StoreId(store.store.id))
                    .collect();
                if lost.is_empty() {
                    return Err(PlanError::NoSuchLabel {
                        label: label.clone(),
                        value: value.clone(),
                    });
                }
                self.lose(&lost);
            }
        }
        Ok(())
    }

    /// Empty stores, each in a place of its own, with the space of an average one.
    fn add_stores(&mut self, count: u32) -> Result<(), Refusal> {
        let alive = self.stores.iter().filter(|store| store.alive);
        let spaces: Vec<_> = alive.map(|store| store.space.capacity_bytes).collect();
        let capacity = spaces.iter().sum::<u64>() / spaces.len().max(1) as u64;
        for number in 0..count {
            let Answer::Ids { last, .. } = self.ask(Request::AllocateIds(1))? else {
                return Err(Refusal::Busy("no identities".into()));
            };
            let store = metapb::Store {
                id: last,
                address: format!("planned-{number}"),
                ..Default::default()
            };
            self.ask(Request::PutStore {
                store: store.clone(),
                boot: None,
            })?;
            self.stores.push(StoreMetadata {
                store,
                boot: 0,
                space: Space {
                    capacity_bytes: capacity,
                    available_bytes: capacity,
                    ..Space::default()
                },
                alive: true,
                stopping: false,
            });
        }
        self.heartbeats();
        Ok(())
    }

    fn lose(&mut self, lost: &BTreeSet<StoreId>) {
        for store in &mut self.stores {
            store.alive &= !lost.contains(&StoreId(store.store.id));
        }
        for region in self.model.lose(lost) {
            match region {
                Ok(report) => {
                    self.short.insert(report.id());
                    self.step(Event::Report(Box::new(report)));
                }
                Err(_) => self.forecast.unavailable += 1,
            }
        }
        self.forecast.at_risk = self.short.len() as u64;
    }

    fn run(mut self, question: &Question) -> Forecast {
        let begun = self.now.monotonic;
        // What must happen before silence means anything: a lost store is waited for.
        let patience = match question {
            Question::Lose { .. } => self.machine.settings().store_lost_after + QUIET,
            // The checkers look at a part of all regions each second.
            Question::Rules { .. } => {
                let regions = self.model.regions().count();
                let part = self.machine.settings().sweep_regions(regions);
                QUIET + Duration::from_secs(regions.div_ceil(part) as u64)
            }
            Question::Drain(_) | Question::AddStores(_) => QUIET,
        };
        let ended = loop {
            self.second();
            let passed = self.now.monotonic - begun;
            if passed >= MOST {
                break false;
            }
            if passed >= patience && self.now.monotonic >= self.last + QUIET {
                break true;
            }
        };
        self.forecast.bytes = self.model.sent_bytes();
        self.forecast.eta = ended.then(|| self.last.saturating_sub(begun));
        self.find_unplaced(question);
        self.forecast
    }

    fn find_unplaced(&mut self, question: &Question) {
        let mut unplaced: Vec<(RegionId, String)> = Vec::new();
        match question {
            Question::Drain(store) => {
                let stays = |region: &&RegionInfo| region.peer_on(*store).is_some();
                let stays = self.model.regions().filter(stays);
                unplaced.extend(stays.map(|region| {
                    (
                        region.id(),
                        format!("no store can take its peer of {store}"),
                    )
                }));
            }
            Question::Lose { .. } => {
                let reason = "no store can take the place of its lost voter";
                unplaced.extend(self.short.iter().map(|id| (*id, reason.to_owned())));
            }
            Question::Rules { .. } => unplaced.extend(self.outside()),
            Question::AddStores(_) => {}
        }
        self.forecast.unplaced_total = unplaced.len() as u64;
        unplaced.truncate(UNPLACED_MAX);
        for (region, reason) in &mut unplaced {
            if let Some(refused) = self.refused(*region) {
                *reason = format!("{reason}: {refused}");
            }
        }
        self.forecast.unplaced = unplaced;
    }

    /// Why nothing was decided for a region when that was last tried.
    fn refused(&mut self, region: RegionId) -> Option<String> {
        let query = JournalQuery {
            region: Some(region),
            limit: JOURNAL_LOOK,
            ..Default::default()
        };
        let Ok(Answer::Journal(entries)) = self.ask(Request::Journal(query)) else {
            return None;
        };
        let refused = entries
            .into_iter()
            .find(|entry| entry.kind() == journal_entry::Kind::Refused)?;
        let why = refused.text;
        let stores = refused.candidates.into_iter().take(STORES_NAMED);
        let stores: Vec<_> = stores
            .filter(|candidate| !candidate.verdict.is_empty())
            .map(|candidate| format!("store {}: {}", candidate.store_id, candidate.verdict))
            .collect();
        Some(match stores.is_empty() {
            true => why,
            false => format!("{why} ({})", stores.join("; ")),
        })
    }

    fn second(&mut self) {
        self.now.monotonic += Duration::from_secs(1);
        self.now.wall_ms += 1000;
        if self.now.monotonic >= self.beat {
            self.beat = self.now.monotonic + HEARTBEAT;
            self.heartbeats();
        }
        for report in self.model.advance(self.now.monotonic) {
            self.last = self.now.monotonic;
            self.watch_risk(&report);
            self.step(Event::Report(Box::new(report)));
        }
        self.step(Event::Tick);
    }

    fn watch_risk(&mut self, report: &RegionInfo) {
        let lacks = report
            .voters()
            .any(|peer| report.down.iter().any(|(down, _)| down.id == peer.id));
        if !lacks && self.short.remove(&report.id()) && self.short.is_empty() {
            self.forecast.risk = self.begun.map(|begun| self.now.monotonic - begun);
        }
    }

    fn heartbeats(&mut self) {
        for store in self.stores.clone().iter().filter(|store| store.alive) {
            // A store that was removed meanwhile is refused, which is as good as silence.
            let _ = self.ask(Request::StoreHeartbeat {
                store: StoreId(store.store.id),
                boot: (store.boot > 0).then_some(store.boot),
                space: store.space,
                damaged: Vec::new(),
                stopping: store.stopping,
            });
        }
    }

    fn ask(&mut self, request: Request) -> Result<Answer, Refusal> {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.step(Event::Request(id, Box::new(request)));
        self.answers
            .remove(&id)
            .unwrap_or_else(|| Err(Refusal::Busy("the copy does not answer".into())))
    }

    fn step(&mut self, event: Event) {
        let effects = self.machine.step(event, self.now);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        let mut next = Some(effects);
        while let Some(effects) = next.take() {
            self.answers.extend(effects.answers);
            for order in effects.orders {
                self.write_down(&order);
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

    fn write_down(&mut self, order: &Order) {
        let Some(begun) = self.begun else {
            return;
        };
        let term = self.model.get(order.region).map_or(0, |region| region.term);
        let mark = (order.epoch, term, order.kind.clone());
        if self.ordered.insert(order.region, mark.clone()) == Some(mark) {
            return;
        }
        self.last = self.now.monotonic;
        let text = match &order.kind {
            OrderKind::AddLearner(peer) => {
                self.forecast.moves += 1;
                format!("add a peer on store {}", peer.store_id)
            }
            OrderKind::RemoveLearner(peer) => format!("remove the peer on store {}", peer.store_id),
            OrderKind::TransferLeader(peer) => {
                self.forecast.transfers += 1;
                format!("let store {} lead", peer.store_id)
            }
            OrderKind::Swap { promote, demote } => {
                let stores = |peers: &[metapb::Peer]| {
                    let stores = peers.iter().map(|peer| peer.store_id.to_string());
                    stores.collect::<Vec<_>>().join(", ")
                };
                format!(
                    "exchange the voters of stores [{}] for [{}]",
                    stores(demote),
                    stores(promote)
                )
            }
            OrderKind::Split(keys) => format!("split it into {}", keys.len() + 1),
            other => format!("{other:?}"),
        };
        if self.forecast.steps.len() < STEPS_MAX {
            self.forecast.steps.push(Planned {
                at: self.now.monotonic.saturating_sub(begun),
                region: order.region,
                text,
            });
        }
    }
}
