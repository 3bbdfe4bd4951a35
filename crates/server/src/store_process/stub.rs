//! A placement member for tests of a store: it leads, answers as it is told, and passes on what it hears.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use proto::pdpb::pd_server::{Pd, PdServer};
use proto::pontoon::v1::admin_server::{Admin, AdminServer};
use proto::pontoon::v1::region_news::Kind;
use proto::pontoon::v1::steps_server::{Steps, StepsServer};
use proto::pontoon::v1::{ClusterStatusRequest, ClusterStatusResponse, RegionNews, RegionStep};
use proto::{metapb, pdpb};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

/// The cluster it is of.
pub const CLUSTER: u64 = 5;

/// What it says, and whom it tells.
#[derive(Default)]
pub struct Answers {
    /// What it answers when asked for ids, one after another: the last and the count. Then it gives what was asked for.
    pub gives: Vec<(u64, u32)>,
    /// What it says of this region when asked for it; of others it knows nothing.
    pub knows: Option<metapb::Region>,
    /// The store that was removed for good.
    pub removed: Option<u64>,
    /// Where the reports of regions go.
    pub heard: Option<mpsc::UnboundedSender<pdpb::RegionHeartbeatRequest>>,
}

/// One that serves.
#[derive(Clone)]
pub struct Stub {
    /// Where.
    pub address: String,
    gives: Arc<Mutex<VecDeque<(u64, u32)>>>,
    first_region: Arc<Mutex<Option<metapb::Region>>>,
    knows: Option<metapb::Region>,
    removed: Option<u64>,
    heard: Option<mpsc::UnboundedSender<pdpb::RegionHeartbeatRequest>>,
}

impl Stub {
    /// Serves in one of `tasks`.
    pub async fn serve(tasks: &mut JoinSet<()>, answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let stub = Self {
            address: listener.local_addr().expect("it listens").to_string(),
            gives: Arc::new(Mutex::new(answers.gives.into())),
            first_region: Arc::default(),
            knows: answers.knows,
            removed: answers.removed,
            heard: answers.heard,
        };
        let serving = tonic::transport::Server::builder()
            .add_service(PdServer::new(stub.clone()))
            .add_service(AdminServer::new(stub.clone()))
            .add_service(StepsServer::new(stub.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tasks.spawn(async move { serving.await.expect("it serves") });
        stub
    }

    /// The first region of the cluster, once somebody made it.
    pub fn first_region(&self) -> Option<metapb::Region> {
        let region = self.first_region.lock();
        region.expect("no holder panics").clone()
    }
}

#[tonic::async_trait]
impl Pd for Stub {
    async fn get_members(
        &self,
        _: Request<pdpb::GetMembersRequest>,
    ) -> Result<Response<pdpb::GetMembersResponse>, Status> {
        Ok(Response::new(pdpb::GetMembersResponse {
            header: Some(pdpb::ResponseHeader {
                cluster_id: CLUSTER,
                ..Default::default()
            }),
            leader: Some(pdpb::Member {
                client_urls: vec![format!("http://{}", self.address)],
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    async fn alloc_id(
        &self,
        request: Request<pdpb::AllocIdRequest>,
    ) -> Result<Response<pdpb::AllocIdResponse>, Status> {
        let asked = request.into_inner().count;
        let told = self.gives.lock().expect("no holder panics").pop_front();
        let (id, count) = told.unwrap_or((100 + u64::from(asked), asked));
        Ok(Response::new(pdpb::AllocIdResponse {
            id,
            count,
            ..Default::default()
        }))
    }

    async fn is_bootstrapped(
        &self,
        _: Request<pdpb::IsBootstrappedRequest>,
    ) -> Result<Response<pdpb::IsBootstrappedResponse>, Status> {
        Ok(Response::new(pdpb::IsBootstrappedResponse {
            bootstrapped: self.first_region().is_some(),
            ..Default::default()
        }))
    }

    async fn bootstrap(
        &self,
        request: Request<pdpb::BootstrapRequest>,
    ) -> Result<Response<pdpb::BootstrapResponse>, Status> {
        *self.first_region.lock().expect("no holder panics") = request.into_inner().region;
        Ok(Response::new(pdpb::BootstrapResponse::default()))
    }

    async fn get_region_by_id(
        &self,
        request: Request<pdpb::GetRegionByIdRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        let asked = request.into_inner().region_id;
        Ok(Response::new(pdpb::GetRegionResponse {
            region: self.knows.clone().filter(|region| region.id == asked),
            ..Default::default()
        }))
    }

    async fn get_store(
        &self,
        request: Request<pdpb::GetStoreRequest>,
    ) -> Result<Response<pdpb::GetStoreResponse>, Status> {
        let id = request.into_inner().store_id;
        let mut store = metapb::Store {
            id,
            ..Default::default()
        };
        if self.removed == Some(id) {
            store.set_state(metapb::StoreState::Tombstone);
        }
        Ok(Response::new(pdpb::GetStoreResponse {
            store: Some(store),
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl Admin for Stub {
    async fn cluster_status(
        &self,
        _: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusResponse>, Status> {
        Ok(Response::new(ClusterStatusResponse {
            cluster_id: CLUSTER,
            api_version: 1,
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl Steps for Stub {
    async fn exchange(
        &self,
        request: Request<Streaming<RegionNews>>,
    ) -> Result<Response<BoxStream<RegionStep>>, Status> {
        let (mut news, heard) = (request.into_inner(), self.heard.clone());
        tokio::spawn(async move {
            while let Ok(Some(told)) = news.message().await {
                if let (Some(Kind::Report(report)), Some(heard)) = (told.kind, &heard) {
                    heard.send(report).ok();
                }
            }
        });
        Ok(Response::new(futures::stream::pending().boxed()))
    }
}
