//! The placement machine: what a member of the placement group does while it leads.

mod ahead;
mod balancing;
mod cluster;
mod differing;
mod effect;
mod explaining;
mod leaving;
mod ruling;
mod scattering;
mod scheduling;
mod splitting;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proto::pontoon::v1 as wire;
use proto::{RegionId, metapb};

use crate::commands;
use crate::decision::Who;
use crate::drains::Drains;
use crate::event::{
    Answer, ClusterInfo, Effects, Event, Lookup, Note, Now, Refusal, Request, RequestId, SplitIds,
};
use crate::ids::Ids;
use crate::journal::Journal;
use crate::keyspace;
use crate::operators::{Occasion, Operators};
use crate::outbox::Outbox;
use crate::plan::{Metadata, StoreMetadata};
use crate::regions::{RegionInfo, Regions};
use crate::rules::{Layout, Places, RuleSet};
use crate::settings::Settings;
use crate::state::{self, Image, LoadError};
use crate::stores::Stores;
use crate::tso::{LOGICAL_MAX, Oracle};
use crate::unsettled::Unsettled;
use ahead::Ahead;
use balancing::Balancer;
use effect::Awaited;

/// Identities of one request at the most.
const IDS_MAX: u64 = 1 << 20;
/// Regions of one answer at the most.
pub const REGIONS_MAX: usize = 16 << 10;

/// A member of the placement group. It does something only while it leads; a follower holds no state but the region's
/// data in its engine.
#[derive(Debug)]
pub struct Placement {
    settings: Settings,
    leader: Option<Box<Leader>>,
}

impl Placement {
    /// A member that does not lead.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            leader: None,
        }
    }

    /// How it is set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A copy of what it knows as the leader, for a [plan](crate::plan); `None` when it does not lead.
    pub fn metadata(&self, now: Now) -> Option<Metadata> {
        let leader = self.leader.as_ref()?;
        let down_after = self.settings.store_down_after;
        let store = |id| {
            let info = leader.store_info(id, now)?;
            let here = info.store.state() != metapb::StoreState::Tombstone;
            here.then(|| StoreMetadata {
                alive: !leader.stores.down(id, now, down_after),
                boot: info.boot,
                stopping: info.stopping,
                space: info.space.unwrap_or_default(),
                store: info.store,
            })
        };
        Some(Metadata {
            pairs: leader.outbox.applied().clone(),
            regions: leader.regions.after(RegionId(0)).cloned().collect(),
            stores: leader.stores.ids().filter_map(store).collect(),
            settings: self.settings.clone(),
        })
    }

    /// Whether it leads and may serve.
    pub fn leads(&self) -> bool {
        self.leader.is_some()
    }

    /// Begins to lead in `term`, with all pairs of the placement region as they are now.
    ///
    /// The driver calls this when the member leads the region's Raft group and applied an entry of its own term, so that
    /// it holds everything that was ever committed, and after *every* write of an earlier leadership of this process was
    /// answered or refused, so that none is applied later. `cluster_id` is random and becomes the cluster's identity if
    /// it has none.
    ///
    /// # Errors
    /// When the state is damaged or was written by a newer version: this member must not lead.
    pub fn lead(
        &mut self,
        term: u64,
        pairs: BTreeMap<Bytes, Bytes>,
        cluster_id: u64,
        now: Now,
    ) -> Result<Effects, LoadError> {
        let image = Image::load(&pairs)?;
        let mut effects = self.step(Event::Lost, now);
        let outbox = Outbox::new(pairs);
        let mut leader = Box::new(Leader::new(
            self.settings.clone(),
            term,
            image,
            outbox,
            cluster_id,
            now,
        ));
        let more = leader.outbox.take();
        self.leader = Some(leader);
        effects.write = more.write;
        effects.serving = more.serving;
        effects.notes.extend(more.notes);
        Ok(effects)
    }

    /// Takes an event.
    pub fn step(&mut self, event: Event, now: Now) -> Effects {
        let Some(leader) = &mut self.leader else {
            let mut effects = Effects::default();
            if let Event::Request(request, _) = event {
                effects.answers.push((request, Err(Refusal::NotLeader)));
            }
            return effects;
        };
        match event {
            Event::Lost => {
                let leader = self.leader.take().expect("checked above");
                return leader.abandon();
            }
            Event::Request(id, request) => leader.on_request(id, *request, now),
            Event::Written(token) => {
                leader.oracle.written(token);
                leader.outbox.written(token);
            }
            Event::Confirmed(round) => leader.on_confirmed(round, now),
            Event::Report(report) => leader.on_report(*report, now),
            Event::Refused(refusal) => leader.on_refused(&refusal, now),
            Event::OwnSplit(split) => leader.on_own_split(*split, now),
            Event::Divergence(told) => leader.on_divergence(told, now),
            Event::Tick => leader.on_tick(now),
        }
        leader.begin_round();
        leader.tell_what_happened(now);
        leader.outbox.take()
    }
}

#[derive(Debug)]
struct Leader {
    settings: Settings,
    term: u64,
    cluster: wire::PlacementCluster,
    ids: Ids,
    oracle: Oracle,
    stores: Stores,
    regions: Regions,
    operators: Operators,
    outbox: Outbox,
    /// Lookups of keys that no known region covers, with the time at which they are given up.
    lookups: BTreeMap<(Bytes, RequestId), Duration>,
    /// Timestamp requests that arrived after the round under way began.
    timestamps: Vec<(RequestId, u32)>,
    /// The round under way and the requests it serves.
    confirming: Option<(u64, Vec<(RequestId, u32)>)>,
    round: u64,
    /// Where the sweep goes on.
    swept: RegionId,
    drains: Drains,
    rules: RuleSet,
    /// What they say of stores; looked at again whenever rules, stores or labels change.
    places: Places,
    unsettled: Unsettled,
    journal: Journal,
    /// When the pauses of schedulers end, in Unix milliseconds.
    pauses: BTreeMap<Who, u64>,
    /// Changes of the view of regions.
    view_version: u64,
    balancer: Balancer,
    awaited: Awaited,
    ahead: Ahead,
}

impl Leader {
    fn new(
        settings: Settings,
        term: u64,
        image: Image,
        mut outbox: Outbox,
        cluster_id: u64,
        now: Now,
    ) -> Self {
        let created = image.cluster.is_none();
        let cluster = image.cluster.unwrap_or(wire::PlacementCluster {
            cluster_id,
            created_at_ms: now.wall_ms,
            bootstrapped_at_ms: 0,
            api_version: settings.api_version,
            replicas: settings.replicas,
        });
        if created {
            let _ = outbox.stage(state::put_cluster(&cluster));
        }
        let stores = Stores::load(image.stores, now);
        let locations = &settings.balance.location_labels;
        let layout = Layout::new(&image.rules, cluster.replicas, locations);
        let window_ms = settings.timestamp_window.as_millis() as u64;
        let operators = Operators::load(image.operators, now, &settings, &mut outbox);
        let mut leader = Self {
            term,
            ids: Ids::new(image.high_water, settings.id_step),
            oracle: Oracle::new(image.bound_ms, window_ms),
            places: Places::new(layout, stores.labels()),
            rules: image.rules,
            stores,
            regions: Regions::default(),
            balancer: Balancer::new(term, now, &settings, &operators),
            operators,
            outbox,
            lookups: BTreeMap::new(),
            timestamps: Vec::new(),
            confirming: None,
            round: 0,
            swept: RegionId(0),
            drains: Drains::default(),
            unsettled: Unsettled::default(),
            journal: Journal::load(image.journal, settings.journal, term, now),
            pauses: image.pauses,
            view_version: 0,
            awaited: Awaited::default(),
            ahead: Ahead::default(),
            cluster,
            settings,
        };
        let settle = leader.settings.balance.settle;
        leader.awaited = Awaited::load(&leader.operators, &leader.journal, settle, now);
        if leader.cluster.api_version != leader.settings.api_version {
            leader.note(format!(
                "this member is set to api-version {}, the cluster has {}, which holds",
                leader.settings.api_version, leader.cluster.api_version
            ));
        }
        leader.extend_bound(now);
        leader.tell_what_happened(now);
        leader.outbox.serving(leader.cluster.cluster_id);
        leader
    }

    /// Refuses what waits for nothing that was written, and abandons the rest.
    fn abandon(self) -> Effects {
        let confirming = self
            .confirming
            .into_iter()
            .flat_map(|(_, requests)| requests);
        let timestamps = confirming
            .chain(self.timestamps)
            .map(|(request, _)| request);
        let lookups = self.lookups.into_keys().map(|(_, request)| request);
        let mut refused: Vec<_> = timestamps.chain(lookups).collect();
        refused.sort_unstable();
        let refuse = |request| (request, Err(Refusal::NotLeader));
        let mut abandoned: Vec<_> = self.outbox.unanswered().collect();
        abandoned.sort_unstable();
        Effects {
            answers: refused.into_iter().map(refuse).collect(),
            abandoned,
            ..Effects::default()
        }
    }

    fn on_request(&mut self, id: RequestId, request: Request, now: Now) {
        if self.outbox.is_full() && request.stages_much() {
            let refusal = Refusal::Busy("too much waits to be written".into());
            return self.outbox.answer_now(id, Err(refusal));
        }
        let answer = match request {
            Request::Bootstrap {
                store,
                boot,
                region,
            } => self.bootstrap(store, boot, region, now),
            Request::Cluster => Ok(Answer::Cluster(self.cluster_info(now))),
            Request::AllocateIds(count) => self
                .take_ids(u64::from(count))
                .map(|last| Answer::Ids { last, count }),
            Request::AllocateSplitIds { children, peers } => self.split_ids(children, peers),
            Request::Timestamps(count) => return self.on_timestamps(id, count),
            Request::PutStore { store, boot } => self.put_store(store, boot, now),
            Request::StoreHeartbeat {
                store,
                boot,
                space,
                damaged,
                stopping,
            } => self
                .bootstrapped()
                .and_then(|()| self.stores.heard(store, boot, space, now))
                .map(|()| {
                    self.on_stopping(store, stopping);
                    self.on_damaged(store, damaged, now);
                    Answer::Done
                }),
            Request::Store(store) => self
                .store_info(store, now)
                .map(|info| Answer::Store(Box::new(info)))
                .ok_or(Refusal::StoreNotFound(store)),
            Request::Stores => {
                let stores = self
                    .stores
                    .ids()
                    .filter_map(|store| self.store_info(store, now))
                    .collect();
                Ok(Answer::Stores(stores))
            }
            Request::CancelOperator(operator) => self.cancel_operator(operator, now),
            Request::Journal(query) => Ok(Answer::Journal(self.journal.read(query))),
            Request::Schedulers => Ok(Answer::Schedulers(self.schedulers(now))),
            Request::PauseScheduler { who, duration } => self.pause_scheduler(who, duration, now),
            Request::DrainStore(store) => self.drain_store(store, now),
            Request::UndrainStore(store) => self.undrain_store(store, now),
            Request::RemoveStore(store) => self.remove_store(store, now),
            Request::LabelStore { store, labels } => self.label_store(store, labels, now),
            Request::Scatter(regions) => self.scatter(&regions, now),
            Request::Rules => Ok(self.rule_info()),
            Request::ReplaceRules { read, groups } => self.replace_rules(read, groups, now),
            Request::ReportSplit(pieces) => self.report_split(pieces, now),
            // Routes are soft: they rest on nothing that is being written.
            Request::RegionByKey(key) => {
                return match commands::check_key(&key) {
                    Ok(()) => self.on_lookup(id, key, now),
                    Err(refusal) => self.outbox.answer_now(id, Err(refusal)),
                };
            }
            Request::PreviousRegion(key) => {
                let found = commands::check_key(&key)
                    .and_then(|()| found(self.regions.previous(&key), Lookup::Key));
                return self.outbox.answer_now(id, found);
            }
            Request::Region(region) => {
                let found = found(self.regions.get(region), Lookup::Id(region));
                return self.outbox.answer_now(id, found);
            }
            Request::Regions { start, end, limit } => {
                let checked = commands::check_key(&start).and_then(|()| commands::check_key(&end));
                let answer = checked.map(|()| {
                    let regions = self.regions.scan(&start, &end);
                    Answer::Regions(regions.take(limit.min(REGIONS_MAX)).cloned().collect())
                });
                return self.outbox.answer_now(id, answer);
            }
            Request::Keyspace(name) => match keyspace::id(&name) {
                Some(keyspace) => self.bootstrapped().map(|()| Answer::Keyspace(keyspace)),
                None => Err(Refusal::KeyspaceNotFound(name)),
            },
            Request::Split { region, keys } => self.command(region, now, |leader, region| {
                commands::split(region, keys, leader.cluster.api_version)
            }),
            Request::Merge { region, target } => self.command(region, now, |leader, region| {
                leader.plan_merge(region, target, now)
            }),
            Request::MoveReplica { region, from, to } => {
                self.command(region, now, |leader, region| {
                    leader.plan_move(region, from, to, now)
                })
            }
            Request::TransferLeader { region, to } => {
                self.command(region, now, |leader, region| {
                    commands::transfer(region, to, &leader.stores, &leader.settings, now)
                })
            }
            Request::Operators { operator, region } => Ok(Answer::Operators(self.operators.list(
                operator,
                region,
                now,
                &self.settings,
            ))),
        };
        self.outbox.answer(id, answer);
    }

    fn bootstrapped(&self) -> Result<(), Refusal> {
        if self.cluster.bootstrapped_at_ms == 0 {
            return Err(Refusal::NotBootstrapped);
        }
        Ok(())
    }

    fn cluster_info(&self, now: Now) -> ClusterInfo {
        let (stores, stores_up) = self.stores.counts(now, self.settings.store_down_after);
        ClusterInfo {
            cluster_id: self.cluster.cluster_id,
            bootstrapped: self.cluster.bootstrapped_at_ms != 0,
            api_version: self.cluster.api_version,
            replicas: self.cluster.replicas,
            regions: self.regions.len() as u64,
            stores,
            stores_up,
            operators_running: self.operators.len() as u32,
            term: self.term,
        }
    }

    // Identities.

    /// Takes identities; an answer that shows them waits for the mark that covers them.
    fn take_ids(&mut self, count: u64) -> Result<u64, Refusal> {
        if !(1..=IDS_MAX).contains(&count) {
            return Err(Refusal::Invalid(format!(
                "1 to {IDS_MAX} identities can be asked for at once"
            )));
        }
        let range = self
            .ids
            .take(count)
            .ok_or_else(|| Refusal::Busy("no identities are left".into()))?;
        if let Some(mark) = range.save {
            let _ = self.outbox.stage(state::put_ids(mark));
        }
        Ok(range.last)
    }

    fn split_ids(&mut self, children: u32, peers: u32) -> Result<Answer, Refusal> {
        let each = u64::from(peers) + 1;
        let count = u64::from(children) * each;
        let first = self.take_ids(count)? - count + 1;
        let child = |child: u64| {
            let region = first + child * each;
            SplitIds {
                region,
                peers: (region + 1..region + each).collect(),
            }
        };
        Ok(Answer::SplitIds(
            (0..u64::from(children)).map(child).collect(),
        ))
    }

    // Timestamps (see `tso`).

    fn on_timestamps(&mut self, id: RequestId, count: u32) {
        if !(1..=LOGICAL_MAX).contains(&count) {
            let refusal = Refusal::Invalid(format!(
                "1 to {LOGICAL_MAX} timestamps can be asked for at once"
            ));
            return self.outbox.answer_now(id, Err(refusal));
        }
        if self.timestamps.len() >= self.settings.timestamps_waiting_max {
            let refusal = Refusal::Busy("too many requests wait for timestamps".into());
            return self.outbox.answer_now(id, Err(refusal));
        }
        self.timestamps.push((id, count));
    }

    /// Asks for a confirmation that serves all requests that wait now.
    fn begin_round(&mut self) {
        if self.confirming.is_none() && !self.timestamps.is_empty() {
            self.round += 1;
            self.confirming = Some((self.round, std::mem::take(&mut self.timestamps)));
            self.outbox.confirm(self.round);
        }
    }

    fn on_confirmed(&mut self, round: u64, now: Now) {
        let Some((_, requests)) = self.confirming.take_if(|(asked, _)| *asked == round) else {
            return;
        };
        for (id, count) in requests {
            let timestamp = self.oracle.take(count, now.wall_ms);
            self.extend_bound(now);
            let answer = Ok(Answer::Timestamp {
                physical_ms: timestamp.physical_ms,
                logical: timestamp.logical,
                count,
            });
            if self.oracle.durable(timestamp) {
                self.outbox.answer_now(id, answer);
            } else {
                self.outbox.answer(id, answer);
            }
        }
    }

    fn extend_bound(&mut self, now: Now) {
        if let Some(bound) = self.oracle.extend(now.wall_ms) {
            let token = self.outbox.stage(state::put_bound(bound));
            self.oracle.stage(token);
        }
    }

    // Time.

    fn on_tick(&mut self, now: Now) {
        self.extend_bound(now);
        let late: Vec<_> = self
            .lookups
            .iter()
            .filter(|(_, until)| now.monotonic >= **until)
            .map(|(lookup, _)| lookup.clone())
            .collect();
        for lookup in late {
            self.outbox
                .answer_now(lookup.1, Err(Refusal::RegionNotFound(Lookup::Key)));
            self.lookups.remove(&lookup);
        }
        for id in self.operators.due(now, &self.settings, &mut self.outbox) {
            if let Some(region) = self.regions.get(id) {
                self.operators.advance(
                    region,
                    Occasion::Tick,
                    (&self.regions, &self.stores),
                    now,
                    &self.settings,
                    &mut self.outbox,
                );
            }
        }
        self.watch_drains(now);
        self.sweep(now);
        self.journal.on_tick(now, &mut self.outbox);
        // What is empty costs next to nothing, and only now.
        self.place_ahead(now);
        self.balance(now);
        self.tell_effects(now);
    }

    fn note(&mut self, text: String) {
        self.outbox.note(Note {
            region: None,
            operator: None,
            text,
        });
    }
}

fn found(region: Option<&RegionInfo>, lookup: Lookup) -> Result<Answer, Refusal> {
    match region {
        Some(region) => Ok(Answer::Region(Box::new(region.clone()))),
        None => Err(Refusal::RegionNotFound(lookup)),
    }
}
