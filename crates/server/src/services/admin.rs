//! `pontoon.v1.Admin`, served by placement members: what the command line asks for.

use std::sync::Arc;
use std::time::Duration;

use placement::{Answer, OperatorView, Refusal, RegionInfo, Request as Ask, StoreInfo};
use proto::pontoon::v1::admin_server::Admin;
use proto::pontoon::v1::{
    AdminError, AdminHeader, ClusterStatusRequest, ClusterStatusResponse, ListOperatorsRequest,
    ListOperatorsResponse, ListRegionsRequest, ListRegionsResponse, ListStoresRequest,
    ListStoresResponse, MoveReplicaRequest, OperatorResponse, OperatorStatus, RegionStatus,
    SplitRegionRequest, StoreStatus, TransferLeaderRequest, admin_error, operator_status,
};
use proto::{RegionId, StoreId};
use tonic::{Request, Response, Status};

use crate::placement_process::{Members, Placement};

/// Regions of one answer, when the request names no limit.
const REGIONS_DEFAULT: usize = 1024;

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
        store: Some(info.store),
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
