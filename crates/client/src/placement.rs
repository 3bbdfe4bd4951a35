//! The placement group: who leads it, and the calls that are made to it.

use std::{
    sync::{PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use proto::{
    StoreId, metapb,
    pdpb::{self, pd_client::PdClient},
};
use tokio::{sync::Mutex, time::timeout};
use tonic::{Response, Status, transport::Channel};

use crate::{
    cause::Cause,
    options::Options,
    store::{connect, text},
};

/// Time for one call, far above what an answer takes.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// Time to connect to a member. A dead machine should not hold up the search for long.
const MEMBER_LIMIT: Duration = Duration::from_millis(500);
/// Time for a member to say who leads; it may wait for an election before it does.
const LEADER_LIMIT: Duration = Duration::from_secs(2);
/// Largest answer taken: a page of regions.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The leader as last seen.
#[derive(Clone)]
pub(crate) struct Leader {
    pub channel: Channel,
    pub cluster_id: u64,
    /// Counts searches.
    seen: u64,
}

/// A connection to the placement group.
pub(crate) struct Placement {
    options: Options,
    leader: RwLock<Option<Leader>>,
    /// Who is asked first in the next search: a member that led no more named it.
    hint: RwLock<Option<String>>,
    /// Held while the leader is searched, so that a hundred callers search once.
    members: Mutex<Members>,
}

struct Members {
    /// As the caller gave them; tried last.
    given: Vec<String>,
    /// As the group gave them.
    told: Vec<String>,
    cluster_id: Option<u64>,
    searches: u64,
}

/// An answer of the group: a header with an error, if any.
pub(crate) trait Headed {
    fn header(&self) -> Option<&pdpb::ResponseHeader>;
}

macro_rules! headed {
    ($($name:ident),*) => {$(
        impl Headed for pdpb::$name {
            fn header(&self) -> Option<&pdpb::ResponseHeader> {
                self.header.as_ref()
            }
        }
    )*};
}

headed!(
    GetRegionResponse,
    GetStoreResponse,
    TsoResponse,
    GetMembersResponse
);

/// Fails when the header carries an error.
fn checked<T: Headed>(answer: T) -> Result<T, Cause> {
    match answer.header().and_then(|header| header.error.as_ref()) {
        Some(error) => Err(refused(format!(
            "{}: {}",
            error.r#type().as_str_name(),
            error.message
        ))),
        None => Ok(answer),
    }
}

fn refused(why: impl Into<String>) -> Cause {
    Cause::Placement { why: why.into() }
}

impl Placement {
    pub(crate) fn new(given: &[String], options: Options) -> Self {
        let members = Members {
            given: given.to_vec(),
            told: Vec::new(),
            cluster_id: None,
            searches: 0,
        };
        Self {
            options,
            leader: RwLock::default(),
            hint: RwLock::default(),
            members: Mutex::new(members),
        }
    }

    /// The leader, searched for if none is known.
    pub(crate) async fn leader(&self) -> Result<Leader, Cause> {
        if let Some(leader) = self.known() {
            return Ok(leader);
        }
        let mut members = self.members.lock().await;
        if let Some(leader) = self.known() {
            return Ok(leader);
        }
        let hint = self
            .hint
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let leader = members.search(hint, &self.options).await?;
        tracing::debug!(cluster = leader.cluster_id, "placement leader found");
        *self.leader.write().unwrap_or_else(PoisonError::into_inner) = Some(leader.clone());
        Ok(leader)
    }

    fn known(&self) -> Option<Leader> {
        self.leader
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Searches anew at the next call, unless somebody did since `failed` was found.
    pub(crate) fn doubt(&self, failed: &Leader) {
        let mut leader = self.leader.write().unwrap_or_else(PoisonError::into_inner);
        if leader
            .as_ref()
            .is_some_and(|leader| leader.seen == failed.seen)
        {
            *leader = None;
        }
    }

    /// As [`Placement::doubt`], when the one that failed names who leads now; empty if it does not know.
    pub(crate) fn redirect(&self, failed: &Leader, named: &str) {
        if !named.is_empty() {
            let mut hint = self.hint.write().unwrap_or_else(PoisonError::into_inner);
            *hint = Some(named.to_owned());
        }
        self.doubt(failed);
    }

    /// Makes one call to the leader. A failure of any kind puts the leader in doubt: a member that lost office answers
    /// with an error too.
    async fn call<T, F>(
        &self,
        call: impl FnOnce(PdClient<Channel>, pdpb::RequestHeader) -> F,
    ) -> Result<T, Cause>
    where
        T: Headed,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let leader = self.leader().await?;
        let header = pdpb::RequestHeader {
            cluster_id: leader.cluster_id,
            ..Default::default()
        };
        let client =
            PdClient::new(leader.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = match timeout(CALL_LIMIT, call(client, header)).await {
            Ok(Ok(answer)) => checked(answer.into_inner()),
            Ok(Err(status)) => Err(refused(text(&status))),
            Err(_) => Err(refused(format!("none within {CALL_LIMIT:?}"))),
        };
        if answer.is_err() {
            self.doubt(&leader);
        }
        answer
    }

    /// The region that holds a route key, and its leader if known.
    pub(crate) async fn region(
        &self,
        route: Bytes,
    ) -> Result<(metapb::Region, Option<metapb::Peer>), Cause> {
        let answer = self
            .call(|mut client, header| async move {
                let request = pdpb::GetRegionRequest {
                    header: Some(header),
                    region_key: route,
                    need_buckets: false,
                };
                client.get_region(request).await
            })
            .await?;
        let region = answer
            .region
            .ok_or_else(|| refused("no region covers the key"))?;
        Ok((region, answer.leader))
    }

    /// The address of a store.
    pub(crate) async fn store_address(&self, store: StoreId) -> Result<String, Cause> {
        let answer = self
            .call(|mut client, header| async move {
                client
                    .get_store(pdpb::GetStoreRequest {
                        header: Some(header),
                        store_id: store.0,
                    })
                    .await
            })
            .await?;
        match answer.store {
            Some(found) if !found.address.is_empty() => Ok(found.address),
            _ => Err(refused(format!("store {store} has no address"))),
        }
    }

    /// The last of `count` new timestamps.
    pub(crate) async fn tso(&self, count: u32) -> Result<pdpb::Timestamp, Cause> {
        let answer = self
            .call(|mut client, header| async move {
                let request = pdpb::TsoRequest {
                    header: Some(header),
                    count,
                    ..Default::default()
                };
                // The stream stays open until the answer is there: some servers take its end for a farewell.
                let requests = futures::StreamExt::chain(
                    futures::stream::iter([request]),
                    futures::stream::pending::<pdpb::TsoRequest>(),
                );
                let mut answers = client.tso(requests).await?.into_inner();
                let answer = answers.message().await?;
                answer
                    .map(Response::new)
                    .ok_or_else(|| Status::unavailable("the stream ended"))
            })
            .await?;
        answer
            .timestamp
            .filter(|_| answer.count == count)
            .ok_or_else(|| refused("it sent no timestamp"))
    }
}

impl Members {
    /// Asks members who leads until one knows, and connects to the leader. The first is the hint, if there is one.
    async fn search(&mut self, hint: Option<String>, options: &Options) -> Result<Leader, Cause> {
        let mut why = Vec::new();
        let known = self.told.iter().chain(&self.given).cloned();
        let candidates: Vec<String> = hint.into_iter().chain(known).collect();
        let mut asked: Vec<&String> = Vec::new();
        for candidate in &candidates {
            if asked.iter().any(|other| bare(other) == bare(candidate)) {
                continue;
            }
            asked.push(candidate);
            match self.ask(candidate, options).await {
                Ok(leader) => return Ok(leader),
                Err(error) => why.push(format!("{}: {error}", bare(candidate))),
            }
        }
        Err(refused(if why.is_empty() {
            "no member is known".to_owned()
        } else {
            why.join("; ")
        }))
    }

    /// Asks one member who leads, and connects to whom it names.
    async fn ask(&mut self, member: &str, options: &Options) -> Result<Leader, String> {
        let limit = options.connect_timeout.min(MEMBER_LIMIT);
        let channel = connect(member, limit).await?;
        let asking = PdClient::new(channel.clone());
        let answer = get_members(asking, LEADER_LIMIT).await?;
        let cluster_id = answer.header.as_ref().map_or(0, |header| header.cluster_id);
        match self.cluster_id {
            Some(known) if known != cluster_id => {
                return Err(format!("it is of cluster {cluster_id}, not of {known}"));
            }
            _ if cluster_id == 0 => return Err("it has no cluster id yet".to_owned()),
            _ => {}
        }
        let url = answer
            .leader
            .and_then(|leader| leader.client_urls.into_iter().next())
            .ok_or_else(|| "it knows no leader".to_owned())?;
        let channel = if bare(&url) == bare(member) {
            channel
        } else {
            connect(&url, limit).await?
        };
        self.told = answer
            .members
            .into_iter()
            .filter_map(|member| member.client_urls.into_iter().next())
            .collect();
        // There is a next search when this leader failed, so it is asked last.
        self.told.sort_by_key(|told| bare(told) == bare(&url));
        self.cluster_id = Some(cluster_id);
        self.searches += 1;
        Ok(Leader {
            channel,
            cluster_id,
            seen: self.searches,
        })
    }
}

async fn get_members(
    mut client: PdClient<Channel>,
    limit: Duration,
) -> Result<pdpb::GetMembersResponse, String> {
    match timeout(
        limit,
        client.get_members(pdpb::GetMembersRequest::default()),
    )
    .await
    {
        Ok(Ok(answer)) => checked(answer.into_inner()).map_err(|error| error.to_string()),
        Ok(Err(status)) => Err(text(&status)),
        Err(_) => Err(format!("none within {limit:?}")),
    }
}

/// An address without its scheme, for comparing.
fn bare(address: &str) -> &str {
    address
        .split_once("://")
        .map_or(address, |(_, rest)| rest)
        .trim_end_matches('/')
}

#[cfg(test)]
mod tests;
