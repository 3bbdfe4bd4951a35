//! `pontoon.v1.Replicas`, served by stores: what tools ask about replicas of regions that are led here.

use engine::Engine;
use proto::RegionId;
use proto::pontoon::v1::replicas_server::Replicas;
use proto::pontoon::v1::{VerifiedPeer, VerifyRegionRequest, VerifyRegionResponse, verified_peer};
use store::event::{Outcome, Verification, VerifiedMember};
use tonic::{Request, Response, Status};

use super::tikv::errors::region_error;
use crate::runtime::Handle;

/// The service.
pub struct ReplicasService<E: Engine> {
    node: Handle<E>,
    cluster_id: u64,
}

impl<E: Engine> ReplicasService<E> {
    /// For the store of a cluster.
    pub fn new(node: Handle<E>, cluster_id: u64) -> Self {
        Self { node, cluster_id }
    }
}

#[tonic::async_trait]
impl<E: Engine> Replicas for ReplicasService<E> {
    async fn verify_region(
        &self,
        request: Request<VerifyRegionRequest>,
    ) -> Result<Response<VerifyRegionResponse>, Status> {
        let VerifyRegionRequest {
            cluster_id,
            region_id,
        } = request.into_inner();
        if cluster_id != 0 && cluster_id != self.cluster_id {
            return Err(Status::failed_precondition(format!(
                "the request is for cluster {cluster_id}, this is cluster {}",
                self.cluster_id
            )));
        }
        let region = RegionId::from_wire(region_id)
            .ok_or_else(|| Status::invalid_argument("the request names no region"))?;
        let response = match self.node.verify(region).await {
            Ok(verification) => response(verification),
            Err(refusal) => VerifyRegionResponse {
                region_error: Some(Box::new(region_error(refusal))),
                ..Default::default()
            },
        };
        Ok(Response::new(response))
    }
}

fn response(verification: Verification) -> VerifyRegionResponse {
    let Verification {
        region,
        index,
        members,
    } = verification;
    VerifyRegionResponse {
        region_error: None,
        region: Some(region),
        index,
        peers: members.into_iter().map(verified_peer).collect(),
    }
}

fn verified_peer(member: VerifiedMember) -> VerifiedPeer {
    let outcome = match member.outcome {
        Outcome::Sum(_) => verified_peer::Outcome::Read,
        Outcome::Unreadable => verified_peer::Outcome::Unreadable,
        Outcome::Busy => verified_peer::Outcome::Busy,
        Outcome::Silent => verified_peer::Outcome::Silent,
    };
    let sum = member.outcome.sum().unwrap_or_default();
    VerifiedPeer {
        peer: Some(member.peer),
        outcome: outcome.into(),
        keys: sum.keys,
        bytes: sum.bytes,
        value: sum.value,
        differs: member.differs,
    }
}
