//! Directories that become stores, with a placement member that answers as it is told.

use std::sync::Arc;
use std::sync::Mutex;

use engine::MemoryEngine;
use proto::pdpb::pd_server::{Pd, PdServer};
use proto::pontoon::v1::ClusterStatusResponse;
use proto::pontoon::v1::admin_server::{Admin, AdminServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::exit::Kind;
use crate::store_process::ids::WrongIds;

const CLUSTER: u64 = 5;

/// A member that leads the group of a cluster without regions.
#[derive(Clone)]
struct Member {
    address: String,
    /// What it answers when asked for ids, one after another: the last and the count. Then it gives what was asked for.
    gives: Arc<Mutex<Vec<(u64, u32)>>>,
    /// The first region, once there is one.
    region: Arc<Mutex<Option<metapb::Region>>>,
}

#[tonic::async_trait]
impl Pd for Member {
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
        let mut gives = self.gives.lock().expect("no holder panics");
        let (id, count) = match gives.is_empty() {
            true => (100 + u64::from(asked), asked),
            false => gives.remove(0),
        };
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
            bootstrapped: self.region.lock().expect("no holder panics").is_some(),
            ..Default::default()
        }))
    }

    async fn bootstrap(
        &self,
        request: Request<pdpb::BootstrapRequest>,
    ) -> Result<Response<pdpb::BootstrapResponse>, Status> {
        *self.region.lock().expect("no holder panics") = request.into_inner().region;
        Ok(Response::new(pdpb::BootstrapResponse::default()))
    }
}

#[tonic::async_trait]
impl Admin for Member {
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

/// Joins an empty directory while placement answers so. What came of it, and the first region that placement was told.
async fn join_with(
    engine: &MemoryEngine,
    gives: &[(u64, u32)],
) -> (Result<(), Error>, Option<metapb::Region>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it listens").to_string();
    let member = Member {
        address: address.clone(),
        gives: Arc::new(Mutex::new(gives.to_vec())),
        region: Arc::default(),
    };
    let (pd, admin) = (
        PdServer::new(member.clone()),
        AdminServer::new(member.clone()),
    );
    let serving = tokio::spawn(async move {
        tonic::transport::Server::builder()
            .add_service(pd)
            .add_service(admin)
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .expect("it serves");
    });
    let directory = tempfile::tempdir().expect("a temporary directory");
    let placement = PlacementClient::new(&[address]);
    let this_store = |id: StoreId| metapb::Store {
        id: id.0,
        ..Default::default()
    };
    let joined = join(engine, directory.path(), &placement, this_store).await;
    serving.abort();
    let region = member.region.lock().expect("no holder panics").take();
    (joined, region)
}

#[tokio::test]
async fn an_empty_directory_becomes_a_store_and_makes_the_first_region() {
    let engine = MemoryEngine::new();
    let (joined, region) = join_with(&engine, &[(7, 1), (9, 2)]).await;
    joined.expect("placement gave what it was asked for");
    let identity = identity::read(&engine).expect("a sound engine");
    assert_eq!(identity.map(|identity| identity.store_id), Some(7));
    let region = region.expect("the cluster had none");
    assert_eq!((region.id, region.peers[0].id), (8, 9));
    assert!(has_regions(&engine).expect("a sound engine"));
}

/// R31: an answer of any other count makes no store.
#[tokio::test]
async fn a_store_takes_no_id_that_was_not_given() {
    for (last, count) in [(9, 0), (9, 2), (0, 0), (0, 1)] {
        let engine = MemoryEngine::new();
        let (joined, region) = join_with(&engine, &[(last, count)]).await;
        let error = joined.expect_err("it was asked for one id");
        let wrong = WrongIds {
            asked: 1,
            count,
            last,
        };
        assert!(
            matches!(error, Error::Ids(said) if said == wrong),
            "{error}"
        );
        assert_eq!(error.kind(), Kind::Environment);
        let identity = identity::read(&engine).expect("a sound engine");
        assert_eq!((identity, region), (None, None));
    }
}

/// R31: nor a first region. The store is asked again when it is started again.
#[tokio::test]
async fn a_first_region_takes_no_id_that_was_not_given() {
    for (last, count) in [(9, 1), (9, 3), (9, 0), (1, 2)] {
        let engine = MemoryEngine::new();
        let (joined, region) = join_with(&engine, &[(7, 1), (last, count)]).await;
        let error = joined.expect_err("it was asked for two ids");
        let wrong = WrongIds {
            asked: 2,
            count,
            last,
        };
        assert!(
            matches!(error, Error::Ids(said) if said == wrong),
            "{error}"
        );
        assert_eq!(region, None);
        assert!(!has_regions(&engine).expect("a sound engine"));
    }
}
