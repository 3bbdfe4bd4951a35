//! `keyspacepb.Keyspace`.

use placement::{Answer, Request as Ask};
use proto::keyspacepb::keyspace_server::Keyspace;
use proto::keyspacepb::{
    KeyspaceMeta, KeyspaceState, LoadKeyspaceRequest, LoadKeyspaceResponse, keyspace_meta,
};
use tonic::Request;

use super::{Called, PdService};

#[tonic::async_trait]
impl Keyspace for PdService {
    async fn load_keyspace(
        &self,
        request: Request<LoadKeyspaceRequest>,
    ) -> Called<LoadKeyspaceResponse> {
        let request = request.into_inner();
        let name = request.name;
        let (answer, header) = self
            .ask(request.header.as_ref(), Ask::Keyspace(name.clone()))
            .await;
        let keyspace = match answer {
            Some(Answer::Keyspace(id)) => Some(KeyspaceMeta {
                keyspace: Some(keyspace_meta::Keyspace::Id(id)),
                name,
                state: KeyspaceState::Enabled.into(),
                ..Default::default()
            }),
            _ => None,
        };
        Ok(tonic::Response::new(LoadKeyspaceResponse {
            header: Some(header),
            keyspace,
        }))
    }
}
