//! What the members of a placement group ask each other about themselves, and the asking (`pontoon.v1.Members`).

use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use proto::StoreId;
use proto::pontoon::v1::members_client::MembersClient;
use proto::pontoon::v1::members_server;
use proto::pontoon::v1::{GreetRequest, GreetResponse, JoinRequest, JoinResponse};
use raft::Role;
use store::event::{Order, StepId};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::directory::Known;
use super::formation::Answer;
use super::member::{Members, REGION, name};
use super::succession::{Step, next_step};
use crate::runtime::Handle;

/// Time for another member to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The service of a member.
pub struct MembersService<E: Engine> {
    members: Arc<Members>,
    known: watch::Receiver<Known>,
    node: Option<Handle<E>>,
}

impl<E: Engine> MembersService<E> {
    /// Tells what is `known`. With a node it takes others in while that leads.
    pub fn new(
        members: Arc<Members>,
        known: watch::Receiver<Known>,
        node: Option<Handle<E>>,
    ) -> Self {
        Self {
            members,
            known,
            node,
        }
    }

    fn check_group(&self, group_id: u64) -> Result<(), Status> {
        if group_id == self.members.group_id() {
            return Ok(());
        }
        Err(Status::failed_precondition(
            "this member has another list of members",
        ))
    }

    /// Takes one step to let `newcomer` in. `None` when this member does not lead.
    async fn take_in(&self, newcomer: StoreId) -> Result<Option<Step>, Status> {
        let position = self
            .members
            .position_of(newcomer)
            .filter(|position| *position != self.members.position())
            .ok_or_else(|| Status::invalid_argument("no other member has that id"))?;
        let leads = |node: &Handle<E>| {
            let view = node.region(REGION);
            view.filter(|view| view.role == Role::Leader)
        };
        let Some(node) = &self.node else {
            return Ok(None);
        };
        if leads(node).is_none() {
            return Ok(None);
        }
        // One process listens at the address of a position, and whoever that is has the place. An id that a message brings
        // along shows nothing.
        let me = self.known.borrow().member;
        let there = greet(&self.members, me, position).await;
        let there = there.map_err(|error| {
            Status::unavailable(format!("{} cannot be asked: {error}", name(position)))
        })?;
        if there.member != newcomer {
            return Err(Status::failed_precondition(format!(
                "{} is another member",
                name(position)
            )));
        }
        // The order is for the epoch from which the step was derived, and refused at any other.
        let Some(view) = leads(node) else {
            return Ok(None);
        };
        let step = next_step(&view.region, newcomer);
        if let Some(kind) = step.clone().order() {
            tracing::info!(newcomer = newcomer.0, name = %name(position), %step, "taking a member in");
            node.order(Order {
                region: REGION,
                epoch: view.region.region_epoch.unwrap_or_default(),
                id: StepId::default(),
                kind,
                purpose: Default::default(),
            });
        }
        Ok(Some(step))
    }
}

#[tonic::async_trait]
impl<E: Engine> members_server::Members for MembersService<E> {
    async fn greet(
        &self,
        request: Request<GreetRequest>,
    ) -> Result<Response<GreetResponse>, Status> {
        self.check_group(request.get_ref().group_id)?;
        let known = self.known.borrow().clone();
        Ok(Response::new(GreetResponse {
            member: known.member.0,
            first: known.first.iter().map(|member| member.0).collect(),
            begun: known.begun,
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        self.check_group(request.group_id)?;
        let step = self.take_in(StoreId(request.member)).await?;
        Ok(Response::new(JoinResponse {
            leads: step.is_some(),
            step: step.map(|step| step.to_string()).unwrap_or_default(),
        }))
    }
}

/// Asks the member at a position who it is.
///
/// # Errors
/// Why there is no answer that counts.
pub async fn greet(members: &Members, me: StoreId, position: usize) -> Result<Answer, String> {
    let group_id = members.group_id();
    let request = GreetRequest {
        group_id,
        member: me.0,
    };
    let response = call(members, position, async |mut client| {
        client.greet(request).await
    })
    .await?;
    let answer = Answer {
        member: StoreId(response.member),
        first: response.first.into_iter().map(StoreId).collect(),
        begun: response.begun,
    };
    let whole = members.is_whole(&answer.first);
    let sound = whole || (answer.first.is_empty() && !answer.begun);
    if members.position_of(answer.member) != Some(position) || !sound {
        return Err(format!("it calls itself {}", answer.member));
    }
    Ok(answer)
}

/// Asks the member at a position to take this one in. `None` when it does not lead.
///
/// # Errors
/// Why it does not answer, or does not do it.
pub async fn join(
    members: &Members,
    me: StoreId,
    position: usize,
) -> Result<Option<String>, String> {
    let request = JoinRequest {
        group_id: members.group_id(),
        member: me.0,
    };
    let response = call(members, position, async |mut client| {
        client.join(request).await
    })
    .await?;
    Ok(response.leads.then_some(response.step))
}

async fn call<T>(
    members: &Members,
    position: usize,
    call: impl AsyncFnOnce(MembersClient<Channel>) -> Result<Response<T>, Status>,
) -> Result<T, String> {
    let (_, address) = members
        .others()
        .find(|(other, _)| *other == position)
        .ok_or("it is this member")?;
    let answer = async {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|error| crate::exit::chain(&error))?;
        let connected = endpoint.tcp_nodelay(true).connect().await;
        let channel = connected.map_err(|error| crate::exit::chain(&error))?;
        let answered = call(MembersClient::new(channel)).await;
        let response = answered.map_err(|status| status.message().to_owned())?;
        Ok(response.into_inner())
    };
    tokio::time::timeout(ANSWER_MAX, answer)
        .await
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
}
