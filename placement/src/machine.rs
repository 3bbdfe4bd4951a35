//! The placement machine: what a member of the placement group does while it leads.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};

use crate::checker::{Checker, Finding};
use crate::commands;
use crate::event::{
    Answer, ClusterInfo, Effects, Event, Lookup, Note, Now, Refusal, Request, RequestId, SplitIds,
};
use crate::ids::Ids;
use crate::keyspace;
use crate::operator::{Kind, Priority, Step};
use crate::operators::{Occasion, Operators, Plan};
use crate::outbox::Outbox;
use crate::regions::{RegionInfo, Regions, Stale};
use crate::settings::Settings;
use crate::state::{self, Image, LoadError};
use crate::stores::{StoreInfo, Stores};
use crate::tso::{LOGICAL_MAX, Oracle};

/// Identities of one request at the most.
const IDS_MAX: u64 = 1 << 20;
/// Regions of one answer at the most.
const REGIONS_MAX: usize = 16 << 10;

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
            Event::Tick => leader.on_tick(now),
        }
        leader.begin_round();
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
        let window_ms = settings.timestamp_window.as_millis() as u64;
        let mut leader = Self {
            term,
            ids: Ids::new(image.high_water, settings.id_step),
            oracle: Oracle::new(image.bound_ms, window_ms),
            stores: Stores::load(image.stores, now),
            regions: Regions::default(),
            operators: Operators::load(image.operators, now, &settings, &mut outbox),
            outbox,
            lookups: BTreeMap::new(),
            timestamps: Vec::new(),
            confirming: None,
            round: 0,
            swept: RegionId(0),
            cluster,
            settings,
        };
        if leader.cluster.api_version != leader.settings.api_version {
            leader.note(format!(
                "this member is set to api-version {}, the cluster has {}, which holds",
                leader.settings.api_version, leader.cluster.api_version
            ));
        }
        leader.extend_bound(now);
        leader.outbox.serving(leader.cluster.cluster_id);
        leader
    }

    /// Refuses everything that waits: whether a write took effect is the next leader's to know.
    fn abandon(self) -> Effects {
        let confirming = self
            .confirming
            .into_iter()
            .flat_map(|(_, requests)| requests);
        let timestamps = confirming
            .chain(self.timestamps)
            .map(|(request, _)| request);
        let lookups = self.lookups.into_keys().map(|(_, request)| request);
        let mut requests: Vec<_> = self
            .outbox
            .unanswered()
            .chain(timestamps)
            .chain(lookups)
            .collect();
        requests.sort_unstable();
        Effects {
            answers: requests
                .into_iter()
                .map(|request| (request, Err(Refusal::NotLeader)))
                .collect(),
            ..Effects::default()
        }
    }

    fn on_request(&mut self, id: RequestId, request: Request, now: Now) {
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
            Request::StoreHeartbeat { store, boot, space } => self
                .bootstrapped()
                .and_then(|()| self.stores.heard(store, boot, space, now))
                .map(|()| Answer::Done),
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
            Request::ReportSplit(pieces) => self.report_split(pieces, now),
            // Routes are soft: they rest on nothing that is being written.
            Request::RegionByKey(key) => return self.on_lookup(id, key, now),
            Request::PreviousRegion(key) => {
                let found = found(self.regions.previous(&key), Lookup::Key);
                return self.outbox.answer_now(id, found);
            }
            Request::Region(region) => {
                let found = found(self.regions.get(region), Lookup::Id(region));
                return self.outbox.answer_now(id, found);
            }
            Request::Regions { start, end, limit } => {
                let regions = self
                    .regions
                    .scan(&start, &end)
                    .take(limit.min(REGIONS_MAX))
                    .cloned()
                    .collect();
                return self.outbox.answer_now(id, Ok(Answer::Regions(regions)));
            }
            Request::Keyspace(name) => match keyspace::id(&name) {
                Some(keyspace) => self.bootstrapped().map(|()| Answer::Keyspace(keyspace)),
                None => Err(Refusal::KeyspaceNotFound(name)),
            },
            Request::Split { region, keys } => self.command(region, now, |leader, region| {
                commands::split(region, keys, leader.cluster.api_version)
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
            Request::Operators { operator, region } => Ok(Answer::Operators(
                self.operators.list(operator, region, now),
            )),
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

    // Stores.

    fn bootstrap(
        &mut self,
        store: metapb::Store,
        boot: Option<u64>,
        region: metapb::Region,
        now: Now,
    ) -> Result<Answer, Refusal> {
        if self.cluster.bootstrapped_at_ms != 0 {
            return Err(Refusal::AlreadyBootstrapped);
        }
        let invalid = |problem: &str| Err(Refusal::Invalid(format!("the first region {problem}")));
        let [peer] = &region.peers[..] else {
            return invalid("has not one peer");
        };
        if !region.start_key.is_empty() || !region.end_key.is_empty() {
            return invalid("is not the whole key space");
        }
        if peer.store_id != store.id || peer.role() != metapb::PeerRole::Voter {
            return invalid("has no voter on the first store");
        }
        if !self.ids.known(region.id) || !self.ids.known(peer.id) || region.id == peer.id {
            return invalid("has identities that were not allocated here");
        }
        self.register(store, boot, now)?;
        self.cluster.bootstrapped_at_ms = now.wall_ms.max(1);
        let _ = self.outbox.stage(state::put_cluster(&self.cluster));
        self.note(format!(
            "cluster {} is bootstrapped with region {}",
            self.cluster.cluster_id, region.id
        ));
        Ok(Answer::Done)
    }

    fn put_store(
        &mut self,
        store: metapb::Store,
        boot: Option<u64>,
        now: Now,
    ) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        self.register(store, boot, now)?;
        Ok(Answer::Done)
    }

    fn register(
        &mut self,
        store: metapb::Store,
        boot: Option<u64>,
        now: Now,
    ) -> Result<(), Refusal> {
        if !self.ids.known(store.id) {
            return Err(Refusal::Invalid(format!(
                "store id {} was not allocated here",
                store.id
            )));
        }
        let text = format!("store {} registered at {}", store.id, store.address);
        let changed = self
            .stores
            .put(store, boot, now, self.settings.store_down_after)?;
        if !changed.is_empty() {
            self.note(text);
        }
        for (id, record) in changed {
            let _ = self.outbox.stage(state::put_store(id, &record));
        }
        Ok(())
    }

    fn store_info(&self, store: StoreId, now: Now) -> Option<StoreInfo> {
        self.stores.info(store, now, self.regions.counts(store))
    }

    // Regions.

    fn on_lookup(&mut self, id: RequestId, key: Bytes, now: Now) {
        let region = self.regions.by_key(&key);
        let wait = region.is_none() && self.lookups.len() < self.settings.lookups_waiting_max;
        if wait {
            self.lookups
                .insert((key, id), now.monotonic + self.settings.lookup_wait);
        } else {
            let answer = found(region, Lookup::Key);
            self.outbox.answer_now(id, answer);
        }
    }

    fn on_report(&mut self, report: RegionInfo, now: Now) {
        let id = report.id();
        let leader = report.leader.map(|leader| StoreId(leader.store_id));
        if self.take_report(report, now) {
            // Whoever leads a region is there, also before its next heartbeat reaches a new placement leader.
            if let Some(store) = leader {
                self.stores.seen(store, now);
            }
            self.look_after(id, now);
        }
    }

    /// Takes a report into the view and answers lookups that waited for it.
    fn take_report(&mut self, report: RegionInfo, now: Now) -> bool {
        let id = report.id();
        let evicted = match self.regions.report(report) {
            Ok(evicted) => evicted,
            Err(Stale::Older | Stale::Overlapped(_)) => return false,
            Err(Stale::Malformed) => {
                self.outbox.note(Note {
                    region: Some(id),
                    operator: None,
                    text: "a malformed report is refused".into(),
                });
                return false;
            }
        };
        for gone in evicted {
            self.operators
                .region_gone(gone, now, &self.settings, &mut self.outbox);
        }
        let region = self.regions.get(id).expect("it was just reported");
        let from = (region.region.start_key.clone(), RequestId(0));
        let covered = |(key, _): &(Bytes, RequestId)| region.contains(key);
        let waiting = self
            .lookups
            .range(from..)
            .map(|(lookup, _)| lookup.clone())
            .take_while(covered);
        for lookup in waiting.collect::<Vec<_>>() {
            self.outbox
                .answer_now(lookup.1, found(Some(region), Lookup::Key));
            self.lookups.remove(&lookup);
        }
        true
    }

    /// The pieces replace their parent at once, so that no lookup falls between. Until their leaders report, each is
    /// taken to be led where the parent was: that is the rule, and clients that find it otherwise are told.
    fn report_split(&mut self, pieces: Vec<metapb::Region>, now: Now) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        let contiguous = pieces
            .windows(2)
            .all(|pair| pair[0].end_key == pair[1].start_key && !pair[0].end_key.is_empty());
        let Some(parent) = pieces.first().filter(|_| contiguous) else {
            return Err(Refusal::Invalid("the pieces of a split do not join".into()));
        };
        let known = self
            .regions
            .get(RegionId(parent.id))
            .cloned()
            .unwrap_or_default();
        let store = known.leader.as_ref().map(|leader| leader.store_id);
        let share = pieces.len() as u64;
        for piece in pieces {
            let term = if piece.id == known.region.id {
                known.term
            } else {
                0
            };
            let leader = piece
                .peers
                .iter()
                .find(|peer| Some(peer.store_id) == store)
                .cloned();
            let report = RegionInfo {
                region: piece,
                leader,
                term,
                bytes: known.bytes / share,
                keys: known.keys / share,
                ..RegionInfo::default()
            };
            // A piece whose leader was quicker is known already.
            let _ = self.take_report(report, now);
        }
        Ok(Answer::Done)
    }

    // Operators.

    /// Moves the operator of a region forward, or checks whether it needs one.
    fn look_after(&mut self, id: RegionId, now: Now) {
        let Some(region) = self.regions.get(id) else {
            return;
        };
        self.operators.advance(
            region,
            Occasion::Report,
            &self.stores,
            now,
            &self.settings,
            &mut self.outbox,
        );
        self.check(id, now);
    }

    fn check(&mut self, id: RegionId, now: Now) {
        if self.cluster.bootstrapped_at_ms == 0 {
            return;
        }
        let Some(region) = self.regions.get(id) else {
            return;
        };
        let checker = Checker {
            settings: &self.settings,
            replicas: self.cluster.replicas,
            api_version: self.cluster.api_version,
            stores: &self.stores,
            regions: &self.regions,
            operators: &self.operators,
            now,
        };
        let Some(finding) = checker.check(region) else {
            return;
        };
        let region = region.clone();
        if let Ok(plan) = self.plan(&region, finding) {
            // A checker can wait: the region is checked again.
            let _ = self.start(&region, plan, now);
        }
    }

    fn plan(&mut self, region: &RegionInfo, finding: Finding) -> Result<Plan, Refusal> {
        let repair = |kind, steps, cause| Plan {
            kind,
            priority: Priority::Repair,
            steps,
            cause,
        };
        Ok(match finding {
            Finding::SplitAt(keys) => Plan {
                kind: Kind::Split,
                priority: Priority::Rule,
                steps: vec![Step::Split(keys)],
                cause: "edges of keyspaces are boundaries of regions".into(),
            },
            Finding::Promote(peer) => {
                let cause = format!(
                    "learner {} fills a gap: {} voters of {}",
                    peer.id,
                    region.voters().count(),
                    self.cluster.replicas
                );
                repair(
                    Kind::AddReplica,
                    vec![Step::Swap {
                        promote: vec![peer],
                        demote: Vec::new(),
                    }],
                    cause,
                )
            }
            Finding::RemoveLearner { peer, why } => {
                let cause = format!("learner {} belongs to no operator, and {why}", peer.id);
                repair(Kind::RemoveLearner, vec![Step::RemoveLearner(peer)], cause)
            }
            Finding::Add { to, voters } => {
                let cause = format!(
                    "{voters} voters of {}; store {to} has the fewest peers",
                    self.cluster.replicas
                );
                let peer = self.new_learner(to)?;
                repair(Kind::AddReplica, commands::add_steps(&peer), cause)
            }
            Finding::Move { from, to } => {
                let cause = format!(
                    "store {} is leaving; store {to} has the fewest peers",
                    from.store_id
                );
                let peer = self.new_learner(to)?;
                repair(
                    Kind::MoveReplica,
                    commands::move_steps(region, &from, &peer),
                    cause,
                )
            }
        })
    }

    fn plan_move(
        &mut self,
        region: &RegionInfo,
        from: StoreId,
        to: StoreId,
        now: Now,
    ) -> Result<Plan, Refusal> {
        let old = commands::check_move(region, from, to, &self.stores, &self.settings, now)?;
        let new = self.new_learner(to)?;
        Ok(Plan {
            kind: Kind::MoveReplica,
            priority: Priority::Admin,
            steps: commands::move_steps(region, old, &new),
            cause: format!("an administrator moves it from store {from} to store {to}"),
        })
    }

    fn new_learner(&mut self, store: StoreId) -> Result<metapb::Peer, Refusal> {
        Ok(metapb::Peer {
            id: self.take_ids(1)?,
            store_id: store.0,
            role: metapb::PeerRole::Learner.into(),
            ..Default::default()
        })
    }

    /// Carries out a command of an administrator.
    fn command(
        &mut self,
        id: RegionId,
        now: Now,
        plan: impl FnOnce(&mut Self, &RegionInfo) -> Result<Plan, Refusal>,
    ) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        let region = self
            .regions
            .get(id)
            .cloned()
            .ok_or(Refusal::RegionNotFound(Lookup::Id(id)))?;
        if region.leader.is_none() {
            return Err(Refusal::Busy(format!("region {id} has no known leader")));
        }
        let plan = plan(self, &region)?;
        self.start(&region, plan, now).map(Answer::Operator)
    }

    /// Starts an operator unless the region has one that may not be replaced.
    fn start(&mut self, region: &RegionInfo, plan: Plan, now: Now) -> Result<u64, Refusal> {
        let id = region.id();
        if let Some((other, priority, between)) = self.operators.of_region(id) {
            if priority >= plan.priority || !between || region.is_joint() {
                return Err(Refusal::Busy(format!("region {id} has operator {other}")));
            }
            let reason = format!("replaced: {}", plan.cause);
            self.operators
                .cancel(other, reason, now, &self.settings, &mut self.outbox);
        }
        if self.operators.len() >= self.settings.operators_max {
            return Err(Refusal::Busy(format!(
                "{} operators are under way",
                self.operators.len()
            )));
        }
        let operator = self.take_ids(1)?;
        self.operators
            .start(operator, plan, region, now, &mut self.outbox);
        self.operators.advance(
            region,
            Occasion::Report,
            &self.stores,
            now,
            &self.settings,
            &mut self.outbox,
        );
        Ok(operator)
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
                    &self.stores,
                    now,
                    &self.settings,
                    &mut self.outbox,
                );
            }
        }
        self.sweep(now);
    }

    /// Checks the next regions: a store that joined, came back or left concerns regions that have nothing to report.
    fn sweep(&mut self, now: Now) {
        let ids: Vec<_> = self
            .regions
            .after(self.swept)
            .take(self.settings.sweep_regions_max)
            .map(RegionInfo::id)
            .collect();
        let whole = ids.len() < self.settings.sweep_regions_max;
        self.swept = ids
            .last()
            .copied()
            .filter(|_| !whole)
            .unwrap_or(RegionId(0));
        for id in ids {
            self.check(id, now);
        }
        if whole {
            self.bury_stores();
        }
    }

    /// Once a round: a store that was taken out and has no peer left is gone for good.
    fn bury_stores(&mut self) {
        let empty = |id: &StoreId| self.stores.leaving(*id) && self.regions.counts(*id).0 == 0;
        let gone: Vec<_> = self.stores.ids().filter(empty).collect();
        if gone.is_empty() || !self.regions.is_whole() {
            return;
        }
        for id in gone {
            if let Some(record) = self.stores.bury(id) {
                self.note(format!("store {id} holds nothing any more and is removed"));
                let _ = self.outbox.stage(state::put_store(id, &record));
            }
        }
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
