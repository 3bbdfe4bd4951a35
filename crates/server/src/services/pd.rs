//! `pdpb.PD` and `keyspacepb.Keyspace`, served by placement members.
//!
//! Every answer has a header with the cluster id, and an error when the request was refused; only `Tso`, whose callers do
//! not read headers, ends its stream instead. A member that does not lead refuses everything but `GetMembers`, and callers
//! then ask that for the leader (`client_errors.csv`). What is not listed here answers UNIMPLEMENTED.

pub mod convert;
mod keyspace;
mod scan;
mod scatter;
mod split;
mod steps;
mod streams;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures::StreamExt;
use placement::{Answer, BOOT_METADATA, DIAL_METADATA, Refusal, Request as Ask};
use proto::pdpb::pd_server::Pd;
use proto::pontoon::v1::{RegionNews, region_news};
use proto::{RegionId, StoreId, pdpb};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::placement_process::{Members, Placement};

/// How long `GetMembers` waits for a leader: a client that finds none on its first connection gives up.
const LEADER_PATIENCE: Duration = Duration::from_millis(1500);

/// The services. Cheap to clone.
#[derive(Clone)]
pub struct PdService {
    placement: Placement,
    members: Arc<Members>,
    streams: Arc<AtomicU64>,
}

/// What a unary call returns.
type Called<T> = Result<Response<T>, Status>;

impl PdService {
    /// For a member of a group.
    pub fn new(placement: Placement, members: Arc<Members>) -> Self {
        Self {
            placement,
            members,
            streams: Arc::default(),
        }
    }

    /// The header of an answer.
    fn header(&self, error: Option<pdpb::Error>) -> pdpb::ResponseHeader {
        pdpb::ResponseHeader {
            cluster_id: self.placement.standing().cluster_id.unwrap_or(0),
            error,
        }
    }

    /// The term in which this member serves, if the request is meant for its cluster.
    fn admit(&self, header: Option<&pdpb::RequestHeader>) -> Result<u64, pdpb::Error> {
        let standing = self.placement.standing();
        let (Some(term), Some(ours)) = (standing.serving, standing.cluster_id) else {
            return Err(convert::error(&Refusal::NotLeader));
        };
        let asked = header.map_or(0, |header| header.cluster_id);
        if asked != ours {
            return Err(pdpb::Error {
                r#type: pdpb::ErrorType::InvalidValue.into(),
                message: format!("the request is for cluster {asked}, this is cluster {ours}"),
            });
        }
        Ok(term)
    }

    /// Asks the machine; the second value is what the header says of a refusal.
    async fn ask(
        &self,
        header: Option<&pdpb::RequestHeader>,
        ask: Ask,
    ) -> (Option<Answer>, pdpb::ResponseHeader) {
        if let Err(error) = self.admit(header) {
            return (None, self.header(Some(error)));
        }
        match self.placement.ask(ask).await {
            Ok(answer) => (Some(answer), self.header(None)),
            Err(refusal) => (None, self.header(Some(convert::error(&refusal)))),
        }
    }

    async fn region(
        &self,
        header: Option<&pdpb::RequestHeader>,
        ask: Ask,
    ) -> pdpb::GetRegionResponse {
        let (answer, header) = self.ask(header, ask).await;
        let region = match answer {
            Some(Answer::Region(region)) => Some(*region),
            _ => None,
        };
        convert::region_response(header, region)
    }

    async fn regions(
        &self,
        header: Option<&pdpb::RequestHeader>,
        ask: Ask,
    ) -> (Vec<pdpb::Region>, pdpb::ResponseHeader) {
        let (answer, header) = self.ask(header, ask).await;
        let regions = match answer {
            Some(Answer::Regions(regions)) => regions.into_iter().map(convert::region).collect(),
            _ => Vec::new(),
        };
        (regions, header)
    }
}

/// A limit of the wire, where 0 and less mean none.
fn limit(limit: i32) -> usize {
    usize::try_from(limit)
        .ok()
        .filter(|limit| *limit > 0)
        .unwrap_or(usize::MAX)
}

/// The boot counter that a store tells beside its request (R30); `None` when it tells none.
fn boot<T>(request: &Request<T>) -> Result<Option<u64>, Status> {
    let Some(value) = request.metadata().get(BOOT_METADATA) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| Status::invalid_argument(format!("{BOOT_METADATA} is not a number")))
}

fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("{field} is missing"))
}

#[tonic::async_trait]
impl Pd for PdService {
    async fn get_members(
        &self,
        _: Request<pdpb::GetMembersRequest>,
    ) -> Called<pdpb::GetMembersResponse> {
        let standing = self.placement.settled(LEADER_PATIENCE).await;
        let leader = standing
            .leader
            .and_then(|leader| self.members.describe(leader));
        let unknown = leader.is_none() || standing.cluster_id.is_none();
        let error = unknown.then(|| pdpb::Error {
            r#type: pdpb::ErrorType::Unknown.into(),
            message: "the placement group has no leader now".to_owned(),
        });
        Ok(Response::new(pdpb::GetMembersResponse {
            header: Some(self.header(error)),
            members: standing
                .members
                .iter()
                .filter_map(|member| self.members.describe(*member))
                .collect(),
            etcd_leader: leader.clone(),
            leader,
            ..Default::default()
        }))
    }

    async fn tso(
        &self,
        request: Request<Streaming<pdpb::TsoRequest>>,
    ) -> Called<BoxStream<pdpb::TsoResponse>> {
        Ok(Response::new(streams::timestamps(
            self.clone(),
            request.into_inner(),
        )))
    }

    async fn region_heartbeat(
        &self,
        request: Request<Streaming<pdpb::RegionHeartbeatRequest>>,
    ) -> Called<BoxStream<pdpb::RegionHeartbeatResponse>> {
        let news = request.into_inner().map(|report| {
            report.map(|report| RegionNews {
                kind: Some(region_news::Kind::Report(report)),
            })
        });
        let steps = streams::regions(self, news.boxed())?;
        let steps = steps.map(|step| step.map(|step| step.step.unwrap_or_default()));
        Ok(Response::new(steps.boxed()))
    }

    async fn bootstrap(
        &self,
        request: Request<pdpb::BootstrapRequest>,
    ) -> Called<pdpb::BootstrapResponse> {
        let boot = boot(&request)?;
        let request = request.into_inner();
        let store = request.store.ok_or_else(|| missing("store"))?;
        let region = request.region.ok_or_else(|| missing("region"))?;
        let ask = Ask::Bootstrap {
            store,
            boot,
            region,
        };
        let (_, header) = self.ask(request.header.as_ref(), ask).await;
        Ok(Response::new(pdpb::BootstrapResponse {
            header: Some(header),
            replication_status: None,
        }))
    }

    async fn is_bootstrapped(
        &self,
        request: Request<pdpb::IsBootstrappedRequest>,
    ) -> Called<pdpb::IsBootstrappedResponse> {
        let (answer, header) = self
            .ask(request.get_ref().header.as_ref(), Ask::Cluster)
            .await;
        let bootstrapped = matches!(answer, Some(Answer::Cluster(cluster)) if cluster.bootstrapped);
        Ok(Response::new(pdpb::IsBootstrappedResponse {
            header: Some(header),
            bootstrapped,
        }))
    }

    async fn alloc_id(
        &self,
        request: Request<pdpb::AllocIdRequest>,
    ) -> Called<pdpb::AllocIdResponse> {
        let request = request.into_inner();
        // Clients from before the field want one.
        let ask = Ask::AllocateIds(request.count.max(1));
        let (answer, header) = self.ask(request.header.as_ref(), ask).await;
        let (id, count) = match answer {
            Some(Answer::Ids { last, count }) => (last, count),
            _ => (0, 0),
        };
        Ok(Response::new(pdpb::AllocIdResponse {
            header: Some(header),
            id,
            count,
        }))
    }

    async fn put_store(
        &self,
        request: Request<pdpb::PutStoreRequest>,
    ) -> Called<pdpb::PutStoreResponse> {
        let boot = boot(&request)?;
        let request = request.into_inner();
        let store = request.store.ok_or_else(|| missing("store"))?;
        let (_, header) = self
            .ask(request.header.as_ref(), Ask::PutStore { store, boot })
            .await;
        Ok(Response::new(pdpb::PutStoreResponse {
            header: Some(header),
            replication_status: None,
        }))
    }

    async fn store_heartbeat(
        &self,
        request: Request<pdpb::StoreHeartbeatRequest>,
    ) -> Called<pdpb::StoreHeartbeatResponse> {
        let boot = boot(&request)?;
        let request = request.into_inner();
        let stats = request.stats.ok_or_else(|| missing("stats"))?;
        let ask = Ask::StoreHeartbeat {
            store: StoreId(stats.store_id),
            boot,
            space: convert::space(&stats),
            damaged: stats.damaged_regions_id.into_iter().map(RegionId).collect(),
            stopping: stats.is_stopping,
        };
        let (_, header) = self.ask(request.header.as_ref(), ask).await;
        let mut answer = Response::new(pdpb::StoreHeartbeatResponse {
            header: Some(header),
            ..Default::default()
        });
        let (balance, repair) = self.placement.dial();
        let dial = format!("{balance} {repair}").parse();
        let dial = dial.map_err(|_| Status::internal("digits are metadata"))?;
        answer.metadata_mut().insert(DIAL_METADATA, dial);
        Ok(answer)
    }

    async fn get_store(
        &self,
        request: Request<pdpb::GetStoreRequest>,
    ) -> Called<pdpb::GetStoreResponse> {
        let request = request.into_inner();
        let (answer, header) = self
            .ask(
                request.header.as_ref(),
                Ask::Store(StoreId(request.store_id)),
            )
            .await;
        let info = match answer {
            Some(Answer::Store(info)) => Some(info),
            _ => None,
        };
        let stats = info.as_ref().map(|info| convert::stats(info));
        let store = info.map(|info| info.store);
        Ok(Response::new(pdpb::GetStoreResponse {
            header: Some(header),
            store,
            stats,
        }))
    }

    async fn get_all_stores(
        &self,
        request: Request<pdpb::GetAllStoresRequest>,
    ) -> Called<pdpb::GetAllStoresResponse> {
        let request = request.into_inner();
        let (answer, header) = self.ask(request.header.as_ref(), Ask::Stores).await;
        let stores = match answer {
            Some(Answer::Stores(stores)) => stores,
            _ => Vec::new(),
        };
        let wanted = |store: &proto::metapb::Store| {
            !request.exclude_tombstone_stores
                || store.state() != proto::metapb::StoreState::Tombstone
        };
        let stores = stores
            .into_iter()
            .map(|info| info.store)
            .filter(wanted)
            .collect();
        Ok(Response::new(pdpb::GetAllStoresResponse {
            header: Some(header),
            stores,
        }))
    }

    async fn get_region(
        &self,
        request: Request<pdpb::GetRegionRequest>,
    ) -> Called<pdpb::GetRegionResponse> {
        let request = request.into_inner();
        let ask = Ask::RegionByKey(request.region_key);
        Ok(Response::new(
            self.region(request.header.as_ref(), ask).await,
        ))
    }

    async fn get_prev_region(
        &self,
        request: Request<pdpb::GetRegionRequest>,
    ) -> Called<pdpb::GetRegionResponse> {
        let request = request.into_inner();
        let ask = Ask::PreviousRegion(request.region_key);
        Ok(Response::new(
            self.region(request.header.as_ref(), ask).await,
        ))
    }

    async fn get_region_by_id(
        &self,
        request: Request<pdpb::GetRegionByIdRequest>,
    ) -> Called<pdpb::GetRegionResponse> {
        let request = request.into_inner();
        let ask = Ask::Region(RegionId(request.region_id));
        Ok(Response::new(
            self.region(request.header.as_ref(), ask).await,
        ))
    }

    async fn scan_regions(
        &self,
        request: Request<pdpb::ScanRegionsRequest>,
    ) -> Called<pdpb::ScanRegionsResponse> {
        let request = request.into_inner();
        let ask = Ask::Regions {
            start: request.start_key,
            end: request.end_key,
            limit: limit(request.limit),
        };
        let (regions, header) = self.regions(request.header.as_ref(), ask).await;
        // The two older lists are read by older clients; there a missing leader is an empty peer.
        Ok(Response::new(pdpb::ScanRegionsResponse {
            header: Some(header),
            region_metas: regions
                .iter()
                .filter_map(|region| region.region.clone())
                .collect(),
            leaders: regions
                .iter()
                .map(|region| region.leader.unwrap_or_default())
                .collect(),
            regions,
        }))
    }

    async fn batch_scan_regions(
        &self,
        request: Request<pdpb::BatchScanRegionsRequest>,
    ) -> Called<pdpb::BatchScanRegionsResponse> {
        let request = request.into_inner();
        let whole = request.contain_all_key_range;
        let found = match self.admit(request.header.as_ref()) {
            Ok(_) => scan::scan(&self.placement, request.ranges, limit(request.limit), whole)
                .await
                .map_err(pdpb::Error::from),
            Err(error) => Err(error),
        };
        let (regions, error) = match found {
            Ok(found) => (found.into_iter().map(convert::region).collect(), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        Ok(Response::new(pdpb::BatchScanRegionsResponse {
            header: Some(self.header(error)),
            regions,
        }))
    }

    async fn ask_batch_split(
        &self,
        request: Request<pdpb::AskBatchSplitRequest>,
    ) -> Called<pdpb::AskBatchSplitResponse> {
        let request = request.into_inner();
        let peers = request
            .region
            .as_ref()
            .map_or(0, |region| region.peers.len() as u32);
        let ask = Ask::AllocateSplitIds {
            children: request.split_count,
            peers,
        };
        let (answer, header) = self.ask(request.header.as_ref(), ask).await;
        let ids = match answer {
            Some(Answer::SplitIds(ids)) => ids,
            _ => Vec::new(),
        };
        let split = |ids: placement::SplitIds| pdpb::SplitId {
            new_region_id: ids.region,
            new_peer_ids: ids.peers,
        };
        let ids = ids.into_iter().map(split).collect();
        Ok(Response::new(pdpb::AskBatchSplitResponse {
            header: Some(header),
            ids,
        }))
    }

    async fn report_batch_split(
        &self,
        request: Request<pdpb::ReportBatchSplitRequest>,
    ) -> Called<pdpb::ReportBatchSplitResponse> {
        let request = request.into_inner();
        let (_, header) = self
            .ask(request.header.as_ref(), Ask::ReportSplit(request.regions))
            .await;
        Ok(Response::new(pdpb::ReportBatchSplitResponse {
            header: Some(header),
        }))
    }

    async fn split_regions(
        &self,
        request: Request<pdpb::SplitRegionsRequest>,
    ) -> Called<pdpb::SplitRegionsResponse> {
        let request = request.into_inner();
        let found = match self.admit(request.header.as_ref()) {
            Ok(_) => split::split_at(&self.placement, request.split_keys, request.retry_limit)
                .await
                .map_err(|refusal| convert::error(&refusal)),
            Err(error) => Err(error),
        };
        let response = match found {
            Ok(found) => pdpb::SplitRegionsResponse {
                header: Some(self.header(None)),
                finished_percentage: found.percentage(),
                regions_id: found.done.iter().map(|region| region.0).collect(),
            },
            Err(error) => pdpb::SplitRegionsResponse {
                header: Some(self.header(Some(error))),
                ..Default::default()
            },
        };
        Ok(Response::new(response))
    }

    async fn scatter_region(
        &self,
        request: Request<pdpb::ScatterRegionRequest>,
    ) -> Called<pdpb::ScatterRegionResponse> {
        let request = request.into_inner();
        let scattered = match self.admit(request.header.as_ref()) {
            Ok(_) => {
                let retry_limit = request.retry_limit;
                scatter::scatter(&self.placement, scatter::named(request), retry_limit)
                    .await
                    .map_err(|refusal| convert::error(&refusal))
            }
            Err(error) => Err(error),
        };
        let response = match scattered {
            Ok(scattered) => pdpb::ScatterRegionResponse {
                header: Some(self.header(None)),
                finished_percentage: scattered.percentage(),
                failed_regions_id: scattered.failed.iter().map(|region| region.0).collect(),
            },
            Err(error) => pdpb::ScatterRegionResponse {
                header: Some(self.header(Some(error))),
                ..Default::default()
            },
        };
        Ok(Response::new(response))
    }

    async fn split_and_scatter_regions(
        &self,
        request: Request<pdpb::SplitAndScatterRegionsRequest>,
    ) -> Called<pdpb::SplitAndScatterRegionsResponse> {
        let request = request.into_inner();
        let done = match self.admit(request.header.as_ref()) {
            Ok(_) => scatter::split_and_scatter(&self.placement, request)
                .await
                .map_err(|refusal| convert::error(&refusal)),
            Err(error) => Err(error),
        };
        let response = match done {
            Ok((found, scattered)) => pdpb::SplitAndScatterRegionsResponse {
                header: Some(self.header(None)),
                split_finished_percentage: found.percentage(),
                scatter_finished_percentage: scattered.percentage(),
                regions_id: found.done.iter().map(|region| region.0).collect(),
            },
            Err(error) => pdpb::SplitAndScatterRegionsResponse {
                header: Some(self.header(Some(error))),
                ..Default::default()
            },
        };
        Ok(Response::new(response))
    }

    async fn ask_split(
        &self,
        request: Request<pdpb::AskSplitRequest>,
    ) -> Called<pdpb::AskSplitResponse> {
        let request = request.into_inner();
        let peers = request
            .region
            .as_ref()
            .map_or(0, |region| region.peers.len() as u32);
        let ask = Ask::AllocateSplitIds { children: 1, peers };
        let (answer, header) = self.ask(request.header.as_ref(), ask).await;
        let ids = match answer {
            Some(Answer::SplitIds(ids)) => ids.into_iter().next(),
            _ => None,
        };
        let (new_region_id, new_peer_ids) =
            ids.map_or((0, Vec::new()), |ids| (ids.region, ids.peers));
        Ok(Response::new(pdpb::AskSplitResponse {
            header: Some(header),
            new_region_id,
            new_peer_ids,
        }))
    }

    async fn report_split(
        &self,
        request: Request<pdpb::ReportSplitRequest>,
    ) -> Called<pdpb::ReportSplitResponse> {
        let request = request.into_inner();
        let pieces = request.left.into_iter().chain(request.right).collect();
        let (_, header) = self
            .ask(request.header.as_ref(), Ask::ReportSplit(pieces))
            .await;
        Ok(Response::new(pdpb::ReportSplitResponse {
            header: Some(header),
        }))
    }

    async fn get_operator(
        &self,
        request: Request<pdpb::GetOperatorRequest>,
    ) -> Called<pdpb::GetOperatorResponse> {
        let request = request.into_inner();
        let ask = Ask::Operators {
            operator: None,
            region: Some(RegionId(request.region_id)),
        };
        let (answer, header) = self.ask(request.header.as_ref(), ask).await;
        let newest = match answer {
            Some(Answer::Operators(operators)) => operators.into_iter().next(),
            _ => None,
        };
        Ok(Response::new(convert::operator(header, newest)))
    }

    async fn get_cluster_config(
        &self,
        request: Request<pdpb::GetClusterConfigRequest>,
    ) -> Called<pdpb::GetClusterConfigResponse> {
        let (answer, header) = self
            .ask(request.get_ref().header.as_ref(), Ask::Cluster)
            .await;
        let cluster = match answer {
            Some(Answer::Cluster(cluster)) => Some(proto::metapb::Cluster {
                id: cluster.cluster_id,
                max_peer_count: cluster.replicas,
            }),
            _ => None,
        };
        Ok(Response::new(pdpb::GetClusterConfigResponse {
            header: Some(header),
            cluster,
        }))
    }

    async fn put_cluster_config(
        &self,
        request: Request<pdpb::PutClusterConfigRequest>,
    ) -> Called<pdpb::PutClusterConfigResponse> {
        let request = request.into_inner();
        let wanted = request.cluster.ok_or_else(|| missing("cluster"))?;
        let (answer, mut header) = self.ask(request.header.as_ref(), Ask::Cluster).await;
        if let Some(Answer::Cluster(cluster)) = answer
            && (wanted.id, wanted.max_peer_count) != (cluster.cluster_id, cluster.replicas)
        {
            let message = format!(
                "cluster {} of {} replicas stays as it is: how many replicas keys have is said by a placement rule",
                cluster.cluster_id, cluster.replicas
            );
            header.error = Some(pdpb::Error {
                r#type: pdpb::ErrorType::InvalidValue.into(),
                message,
            });
        }
        Ok(Response::new(pdpb::PutClusterConfigResponse {
            header: Some(header),
        }))
    }

    async fn get_cluster_info(
        &self,
        _: Request<pdpb::GetClusterInfoRequest>,
    ) -> Called<pdpb::GetClusterInfoResponse> {
        self.placement.settled(LEADER_PATIENCE).await;
        Ok(Response::new(pdpb::GetClusterInfoResponse {
            header: Some(self.header(None)),
            service_modes: vec![pdpb::ServiceMode::PdSvcMode.into()],
            tso_urls: Vec::new(),
        }))
    }
}
