//! `pontoon.v1.Admin`, served by placement members: what the command line asks for.

use std::sync::Arc;
use std::time::Duration;

use placement::decision::Who;
use placement::plan::{self, Forecast, PlanError, Question};
use placement::{
    Answer, JournalQuery, OperatorView, Refusal, RegionInfo, Request as Ask, SchedulerInfo,
    StoreInfo,
};
use proto::pontoon::v1::admin_server::Admin;
use proto::pontoon::v1::{
    AdminError, AdminHeader, CancelOperatorRequest, ClusterStatusRequest, ClusterStatusResponse,
    CommandResponse, DrainStatus, LabelStoreRequest, ListOperatorsRequest, ListOperatorsResponse,
    ListRegionsRequest, ListRegionsResponse, ListRulesRequest, ListRulesResponse,
    ListSchedulersRequest, ListSchedulersResponse, ListStoresRequest, ListStoresResponse,
    MergeRegionRequest, MoveReplicaRequest, OperatorResponse, OperatorStatus,
    PauseSchedulerRequest, PlanRequest, PlanResponse, PlannedStep, ReadJournalRequest,
    ReadJournalResponse, RegionStatus, ReplaceRulesRequest, ReplaceRulesResponse,
    ScatterRegionsRequest, ScatterRegionsResponse, SchedulerStatus, SplitRegionRequest,
    StoreCommandRequest, StoreStatus, TransferLeaderRequest, UnplacedRegion, admin_error,
    operator_status, plan_request,
};
use proto::{RegionId, StoreId};
use tonic::{Request, Response, Status};

use crate::placement_process::{Members, Placement};

mod rules;

/// Regions of one answer, when the request names no limit.
const REGIONS_DEFAULT: usize = 1024;
/// Entries of the journal in one answer, when the request names no limit, and at the most.
const ENTRIES_DEFAULT: usize = 100;
const ENTRIES_MAX: usize = 1000;
/// Stores that a plan adds at the most.
const STORES_PLANNED_MAX: u32 = 1000;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct AdminService {
    placement: Placement,
    members: Arc<Members>,
}

type Called<T> = Result<Response<T>, Status>;

impl AdminService {
    /// For a member of a group.
    pub fn new(placement: Placement, members: Arc<Members>) -> Self {
        Self { placement, members }
    }

    /// Asks the machine. A header without a cluster id is not checked: a person typed an address, not an identity.
    ///
    /// # Errors
    /// A status when the answer is lost: a command may have been taken then, so that it must not look like a refusal.
    async fn ask(
        &self,
        header: Option<AdminHeader>,
        ask: Ask,
    ) -> Result<Result<Answer, AdminError>, Status> {
        let standing = self.placement.standing();
        let asked = header.map_or(0, |header| header.cluster_id);
        if let Some(ours) = standing.cluster_id
            && asked != 0
            && asked != ours
        {
            return Ok(Err(AdminError {
                kind: admin_error::Kind::ClusterMismatch.into(),
                message: format!("the request is for cluster {asked}, this is cluster {ours}"),
                leader: String::new(),
            }));
        }
        if standing.serving.is_none() {
            return Ok(Err(self.error(&Refusal::NotLeader)));
        }
        match self.placement.ask_once(ask).await {
            Some(answer) => Ok(answer.map_err(|refusal| self.error(&refusal))),
            None => Err(Status::unknown(
                "leadership was lost before the answer: it may have been done",
            )),
        }
    }

    async fn operator(&self, header: Option<AdminHeader>, ask: Ask) -> Called<OperatorResponse> {
        let response = match self.ask(header, ask).await? {
            Ok(Answer::Operator(operator_id)) => OperatorResponse {
                error: None,
                operator_id,
            },
            Ok(_) => return Err(unexpected()),
            Err(error) => OperatorResponse {
                error: Some(error),
                operator_id: 0,
            },
        };
        Ok(Response::new(response))
    }

    async fn command(&self, header: Option<AdminHeader>, ask: Ask) -> Called<CommandResponse> {
        let error = match self.ask(header, ask).await? {
            Ok(Answer::Done) => None,
            Ok(_) => return Err(unexpected()),
            Err(error) => Some(error),
        };
        Ok(Response::new(CommandResponse { error }))
    }

    fn error(&self, refusal: &Refusal) -> AdminError {
        use admin_error::Kind;
        let kind = match refusal {
            Refusal::NotLeader => Kind::NotLeader,
            Refusal::NotBootstrapped => Kind::NotBootstrapped,
            Refusal::RegionNotFound(_) => Kind::UnknownRegion,
            Refusal::StoreNotFound(_) | Refusal::StoreTombstone(_) => Kind::UnknownStore,
            Refusal::Busy(_) => Kind::Busy,
            Refusal::AlreadyBootstrapped
            | Refusal::AddressInUse { .. }
            | Refusal::StaleBoot { .. }
            | Refusal::KeyspaceNotFound(_)
            | Refusal::Rules(_)
            | Refusal::Invalid(_) => Kind::Invalid,
        };
        // A member that was just elected is not yet the leader it will name.
        let leader = self
            .placement
            .standing()
            .leader
            .and_then(|leader| self.members.address(leader));
        AdminError {
            kind: kind.into(),
            message: refusal.to_string(),
            leader: leader.unwrap_or_default().to_owned(),
        }
    }
}

fn unexpected() -> Status {
    Status::internal("another answer was expected")
}

fn store_status(info: StoreInfo) -> StoreStatus {
    let space = info.space.unwrap_or_default();
    StoreStatus {
        capacity_bytes: space.capacity_bytes,
        available_bytes: space.available_bytes,
        used_bytes: space.used_bytes,
        regions: info.peers,
        leaders: info.leaders,
        // Never heard in this leadership is as silent as can be.
        silent_ms: info
            .silent
            .unwrap_or(Duration::from_millis(u64::MAX))
            .as_millis() as u64,
        boot: info.boot,
        drain: info.drain.map(|drain| DrainStatus {
            peers_at_start: drain.peers_at_start,
            elapsed_ms: drain.elapsed.as_millis() as u64,
            left_ms: drain.left.map(|left| left.as_millis() as u64),
        }),
        store: Some(info.store),
    }
}

fn plan_response(forecast: Forecast) -> PlanResponse {
    let millis = |time: Duration| time.as_millis() as u64;
    PlanResponse {
        error: None,
        steps: forecast
            .steps
            .into_iter()
            .map(|step| PlannedStep {
                at_ms: millis(step.at),
                region_id: step.region.0,
                text: step.text,
            })
            .collect(),
        moves: forecast.moves,
        transfers: forecast.transfers,
        bytes: forecast.bytes,
        eta_ms: forecast.eta.map(millis),
        risk_ms: forecast.risk.map(millis),
        at_risk: forecast.at_risk,
        unavailable: forecast.unavailable,
        unplaced: forecast
            .unplaced
            .into_iter()
            .map(|(region, reason)| UnplacedRegion {
                region_id: region.0,
                reason,
            })
            .collect(),
        unplaced_total: forecast.unplaced_total,
        warnings: forecast.warnings,
    }
}

fn region_status(info: RegionInfo) -> RegionStatus {
    RegionStatus {
        region: Some(info.region),
        leader: info.leader,
        term: info.term,
        approximate_bytes: info.bytes,
        approximate_keys: info.keys,
        down_peers: info.down.into_iter().map(|(peer, _)| peer).collect(),
        pending_peers: info.pending,
        damaged_peers: info.damaged,
        written_bytes: info.written_bytes,
        read_bytes: info.read_bytes,
        written_keys: info.written_keys,
        read_keys: info.read_keys,
        write_requests: info.write_requests,
        read_requests: info.read_requests,
    }
}

fn operator_status(view: OperatorView) -> OperatorStatus {
    let state = match view.state {
        placement::State::Running => operator_status::State::Running,
        placement::State::Done => operator_status::State::Done,
        placement::State::Cancelled => operator_status::State::Cancelled,
    };
    OperatorStatus {
        id: view.id,
        kind: view.kind.name().to_owned(),
        region_id: view.region.0,
        state: state.into(),
        steps: view.steps,
        step: view.step as u32,
        cause: view.cause,
        reason: view.reason,
        age_ms: view.age_ms,
        target_region_id: view.target.map_or(0, |target| target.0),
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn list_stores(&self, request: Request<ListStoresRequest>) -> Called<ListStoresResponse> {
        let response = match self.ask(request.into_inner().header, Ask::Stores).await? {
            Ok(Answer::Stores(stores)) => ListStoresResponse {
                error: None,
                stores: stores.into_iter().map(store_status).collect(),
            },
            Ok(_) => return Err(unexpected()),
            Err(error) => ListStoresResponse {
                error: Some(error),
                stores: Vec::new(),
            },
        };
        Ok(Response::new(response))
    }

    async fn list_regions(
        &self,
        request: Request<ListRegionsRequest>,
    ) -> Called<ListRegionsResponse> {
        let request = request.into_inner();
        let ask = match RegionId::from_wire(request.region_id) {
            Some(region) => Ask::Region(region),
            None => Ask::Regions {
                start: request.start_key,
                end: request.end_key,
                limit: if request.limit == 0 {
                    REGIONS_DEFAULT
                } else {
                    request.limit as usize
                },
            },
        };
        let regions = match self.ask(request.header, ask).await? {
            Ok(Answer::Regions(regions)) => regions,
            Ok(Answer::Region(region)) => vec![*region],
            Ok(_) => return Err(unexpected()),
            Err(error) => {
                return Ok(Response::new(ListRegionsResponse {
                    error: Some(error),
                    regions: Vec::new(),
                }));
            }
        };
        let regions = regions.into_iter().map(region_status).collect();
        Ok(Response::new(ListRegionsResponse {
            error: None,
            regions,
        }))
    }

    async fn list_operators(
        &self,
        request: Request<ListOperatorsRequest>,
    ) -> Called<ListOperatorsResponse> {
        let request = request.into_inner();
        let ask = Ask::Operators {
            operator: (request.operator_id != 0).then_some(request.operator_id),
            region: RegionId::from_wire(request.region_id),
        };
        let response = match self.ask(request.header, ask).await? {
            Ok(Answer::Operators(operators)) => ListOperatorsResponse {
                error: None,
                operators: operators.into_iter().map(operator_status).collect(),
            },
            Ok(_) => return Err(unexpected()),
            Err(error) => ListOperatorsResponse {
                error: Some(error),
                operators: Vec::new(),
            },
        };
        Ok(Response::new(response))
    }

    async fn split_region(&self, request: Request<SplitRegionRequest>) -> Called<OperatorResponse> {
        let request = request.into_inner();
        let ask = Ask::Split {
            region: RegionId(request.region_id),
            keys: request.keys,
        };
        self.operator(request.header, ask).await
    }

    async fn merge_region(&self, request: Request<MergeRegionRequest>) -> Called<OperatorResponse> {
        let request = request.into_inner();
        let ask = Ask::Merge {
            region: RegionId(request.region_id),
            target: RegionId::from_wire(request.target_region_id),
        };
        self.operator(request.header, ask).await
    }

    async fn scatter_regions(
        &self,
        request: Request<ScatterRegionsRequest>,
    ) -> Called<ScatterRegionsResponse> {
        let request = request.into_inner();
        let regions = request.region_ids.into_iter().map(RegionId).collect();
        let response = match self.ask(request.header, Ask::Scatter(regions)).await? {
            Ok(Answer::Scattered { failed }) => ScatterRegionsResponse {
                error: None,
                failed_region_ids: failed.into_iter().map(|region| region.0).collect(),
            },
            Ok(_) => return Err(unexpected()),
            Err(error) => ScatterRegionsResponse {
                error: Some(error),
                failed_region_ids: Vec::new(),
            },
        };
        Ok(Response::new(response))
    }

    async fn move_replica(&self, request: Request<MoveReplicaRequest>) -> Called<OperatorResponse> {
        let request = request.into_inner();
        let ask = Ask::MoveReplica {
            region: RegionId(request.region_id),
            from: StoreId(request.from_store),
            to: StoreId(request.to_store),
        };
        self.operator(request.header, ask).await
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Called<OperatorResponse> {
        let request = request.into_inner();
        let ask = Ask::TransferLeader {
            region: RegionId(request.region_id),
            to: StoreId(request.to_store),
        };
        self.operator(request.header, ask).await
    }

    async fn drain_store(&self, request: Request<StoreCommandRequest>) -> Called<CommandResponse> {
        let request = request.into_inner();
        let ask = Ask::DrainStore(StoreId(request.store_id));
        self.command(request.header, ask).await
    }

    async fn undrain_store(
        &self,
        request: Request<StoreCommandRequest>,
    ) -> Called<CommandResponse> {
        let request = request.into_inner();
        let ask = Ask::UndrainStore(StoreId(request.store_id));
        self.command(request.header, ask).await
    }

    async fn remove_store(&self, request: Request<StoreCommandRequest>) -> Called<CommandResponse> {
        let request = request.into_inner();
        let ask = Ask::RemoveStore(StoreId(request.store_id));
        self.command(request.header, ask).await
    }

    async fn label_store(&self, request: Request<LabelStoreRequest>) -> Called<CommandResponse> {
        let request = request.into_inner();
        let ask = Ask::LabelStore {
            store: StoreId(request.store_id),
            labels: request.labels,
        };
        self.command(request.header, ask).await
    }

    async fn cancel_operator(
        &self,
        request: Request<CancelOperatorRequest>,
    ) -> Called<CommandResponse> {
        let request = request.into_inner();
        let ask = Ask::CancelOperator(request.operator_id);
        self.command(request.header, ask).await
    }

    async fn read_journal(
        &self,
        request: Request<ReadJournalRequest>,
    ) -> Called<ReadJournalResponse> {
        let request = request.into_inner();
        let limit = match request.limit {
            0 => ENTRIES_DEFAULT,
            limit => (limit as usize).min(ENTRIES_MAX),
        };
        let ask = Ask::Journal(JournalQuery {
            region: RegionId::from_wire(request.region_id),
            store: StoreId::from_wire(request.store_id),
            operator: (request.operator_id != 0).then_some(request.operator_id),
            limit,
        });
        let response = match self.ask(request.header, ask).await? {
            Ok(Answer::Journal(entries)) => ReadJournalResponse {
                error: None,
                entries,
            },
            Ok(_) => return Err(unexpected()),
            Err(error) => ReadJournalResponse {
                error: Some(error),
                entries: Vec::new(),
            },
        };
        Ok(Response::new(response))
    }

    async fn list_schedulers(
        &self,
        request: Request<ListSchedulersRequest>,
    ) -> Called<ListSchedulersResponse> {
        let status = |info: SchedulerInfo| SchedulerStatus {
            name: info.who.name().to_owned(),
            paused_ms: info.paused.as_millis() as u64,
        };
        let asked = self.ask(request.into_inner().header, Ask::Schedulers);
        let response = match asked.await? {
            Ok(Answer::Schedulers(schedulers)) => ListSchedulersResponse {
                error: None,
                schedulers: schedulers.into_iter().map(status).collect(),
            },
            Ok(_) => return Err(unexpected()),
            Err(error) => ListSchedulersResponse {
                error: Some(error),
                schedulers: Vec::new(),
            },
        };
        Ok(Response::new(response))
    }

    async fn pause_scheduler(
        &self,
        request: Request<PauseSchedulerRequest>,
    ) -> Called<CommandResponse> {
        let request = request.into_inner();
        let Some(who) = Who::from_name(&request.name) else {
            let message = format!("there is no scheduler {:?}", request.name);
            let error = self.error(&Refusal::Invalid(message));
            return Ok(Response::new(CommandResponse { error: Some(error) }));
        };
        let ask = Ask::PauseScheduler {
            who,
            duration: Duration::from_millis(request.duration_ms),
        };
        self.command(request.header, ask).await
    }

    async fn list_rules(&self, request: Request<ListRulesRequest>) -> Called<ListRulesResponse> {
        let response = match self.ask(request.into_inner().header, Ask::Rules).await? {
            Ok(Answer::Rules { set, default }) => rules::listed(set, default),
            Ok(_) => return Err(unexpected()),
            Err(error) => ListRulesResponse {
                error: Some(error),
                ..Default::default()
            },
        };
        Ok(Response::new(response))
    }

    async fn replace_rules(
        &self,
        request: Request<ReplaceRulesRequest>,
    ) -> Called<ReplaceRulesResponse> {
        let request = request.into_inner();
        let refused = |error| {
            Ok(Response::new(ReplaceRulesResponse {
                error: Some(error),
                version: 0,
            }))
        };
        let ask = match rules::groups(request.groups) {
            Ok(groups) => Ask::ReplaceRules {
                read: request.read,
                groups,
            },
            Err(refusal) => return refused(self.error(&refusal)),
        };
        match self.ask(request.header, ask).await? {
            Ok(Answer::RulesVersion(version)) => Ok(Response::new(ReplaceRulesResponse {
                error: None,
                version,
            })),
            Ok(_) => Err(unexpected()),
            Err(error) => refused(error),
        }
    }

    async fn plan(&self, request: Request<PlanRequest>) -> Called<PlanResponse> {
        let request = request.into_inner();
        let refused = |error| {
            Ok(Response::new(PlanResponse {
                error: Some(error),
                ..Default::default()
            }))
        };
        let question = match request.question {
            Some(plan_request::Question::DrainStore(store)) => Question::Drain(StoreId(store)),
            Some(plan_request::Question::AddStores(count)) => {
                Question::AddStores(count.min(STORES_PLANNED_MAX))
            }
            Some(plan_request::Question::Lose(label)) => Question::Lose {
                label: label.key,
                value: label.value,
            },
            Some(plan_request::Question::Rules(rules)) => match rules::groups(rules.groups) {
                Ok(groups) => Question::Rules {
                    read: rules.read,
                    groups,
                },
                Err(refusal) => return refused(self.error(&refusal)),
            },
            None => return Err(Status::invalid_argument("question is missing")),
        };
        // Checks the header and that this member serves.
        if let Err(error) = self.ask(request.header, Ask::Cluster).await? {
            return refused(error);
        }
        let (metadata, now) = match self.placement.metadata().await {
            Ok(copy) => copy,
            Err(refusal) => return refused(self.error(&refusal)),
        };
        let planned =
            tokio::task::spawn_blocking(move || plan::plan(metadata, &question, now)).await;
        match planned.map_err(|_| Status::internal("the plan was not finished"))? {
            Ok(forecast) => Ok(Response::new(plan_response(forecast))),
            Err(PlanError::Refused(refusal)) => refused(self.error(&refusal)),
            Err(error @ (PlanError::Load(_) | PlanError::NoSuchLabel { .. })) => {
                refused(self.error(&Refusal::Invalid(error.to_string())))
            }
        }
    }

    async fn cluster_status(
        &self,
        request: Request<ClusterStatusRequest>,
    ) -> Called<ClusterStatusResponse> {
        let response = match self.ask(request.into_inner().header, Ask::Cluster).await? {
            Ok(Answer::Cluster(cluster)) => ClusterStatusResponse {
                error: None,
                cluster_id: cluster.cluster_id,
                bootstrapped: cluster.bootstrapped,
                api_version: cluster.api_version,
                replicas: cluster.replicas,
                regions: cluster.regions,
                stores: cluster.stores,
                stores_up: cluster.stores_up,
                operators_running: cluster.operators_running,
                term: cluster.term,
            },
            Ok(_) => return Err(unexpected()),
            Err(error) => ClusterStatusResponse {
                error: Some(error),
                ..Default::default()
            },
        };
        Ok(Response::new(response))
    }
}
