//! The search for the leader, against members that only say who leads.

use proto::pdpb::pd_server::{Pd, PdServer};
use proto::pontoon::v1::admin_server::{Admin as Administered, AdminServer};
use proto::pontoon::v1::{AdminError, ClusterStatusRequest, ClusterStatusResponse, admin_error};
use tokio::net::TcpListener;
use tonic::Request;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::*;

#[test]
fn addresses_are_compared_without_scheme() {
    assert_eq!(bare("http://127.0.0.1:2379/"), bare("127.0.0.1:2379"));
    assert_ne!(bare("127.0.0.1:2379"), bare("127.0.0.1:2380"));
}

#[test]
fn a_header_with_an_error_is_no_answer() {
    let error = pdpb::Error {
        r#type: pdpb::ErrorType::NotBootstrapped.into(),
        message: "wait".to_owned(),
    };
    let header = Some(pdpb::ResponseHeader {
        cluster_id: 1,
        error: Some(error),
    });
    let refused = checked(pdpb::GetStoreResponse {
        header,
        ..Default::default()
    })
    .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "placement gives no answer: NOT_BOOTSTRAPPED: wait"
    );
    assert!(checked(pdpb::GetStoreResponse::default()).is_ok());
}

/// A member that believes that one of two leads, and refuses commands if it is not itself.
#[derive(Clone)]
struct Member {
    own: String,
    /// Whom it names as leader to who asks for members.
    believes: String,
    /// Whom it names when it refuses a command; it takes them if that is itself.
    leads: String,
}

#[tonic::async_trait]
impl Pd for Member {
    async fn get_members(
        &self,
        _request: Request<pdpb::GetMembersRequest>,
    ) -> Result<Response<pdpb::GetMembersResponse>, Status> {
        let member = |url: &String| pdpb::Member {
            client_urls: vec![url.clone()],
            ..Default::default()
        };
        Ok(Response::new(pdpb::GetMembersResponse {
            header: Some(pdpb::ResponseHeader {
                cluster_id: 7,
                error: None,
            }),
            members: vec![member(&self.own)],
            leader: Some(member(&self.believes)),
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl Administered for Member {
    async fn cluster_status(
        &self,
        _request: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusResponse>, Status> {
        let refusal = AdminError {
            kind: admin_error::Kind::NotLeader.into(),
            message: "another member leads".to_owned(),
            leader: self.leads.clone(),
        };
        Ok(Response::new(ClusterStatusResponse {
            error: (self.leads != self.own).then_some(refusal),
            ..Default::default()
        }))
    }
}

/// The old leader does not know yet that it is deposed, as far as members go, and the client knows nobody else. What the
/// refusal of its command says is enough to find the new one.
#[tokio::test]
async fn a_refusal_leads_to_the_leader_it_names() {
    let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = |listener: &TcpListener| {
        let address = listener.local_addr().expect("it listens");
        format!("http://{address}")
    };
    let (old, new) = (listen().await, listen().await);
    let (old_url, new_url) = (url(&old), url(&new));
    for (listener, own) in [(old, &old_url), (new, &new_url)] {
        let member = Member {
            own: own.clone(),
            believes: own.clone(),
            leads: new_url.clone(),
        };
        tokio::spawn(
            Server::builder()
                .add_service(PdServer::new(member.clone()))
                .add_service(AdminServer::new(member))
                .serve_with_incoming(TcpIncoming::from(listener)),
        );
    }
    let admin = crate::Admin::new(&[old_url], Options::default());
    admin.status().await.expect("the new leader answers");
}
