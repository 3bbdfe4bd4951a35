//! The placement group, as a store reaches it: any member tells who leads, the leader answers.

use std::sync::Mutex;
use std::time::Duration;

use proto::pdpb::pd_client::PdClient;
use proto::pdpb::{self, RequestHeader, ResponseHeader};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// Time for a connection or for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Why placement did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// No member answered as leader in time.
    #[error("no leader of the placement group answers at {addresses}: {last}")]
    Unreachable {
        /// Where it was looked for.
        addresses: String,
        /// What the last attempt ended with.
        last: String,
    },
    /// The leader refuses, and will again.
    #[error("{message}")]
    Refused {
        /// The kind of refusal.
        kind: pdpb::ErrorType,
        /// What it says.
        message: String,
    },
}

/// An answer of placement, which says in its header what went wrong.
pub trait Answer {
    /// The header.
    fn header(&self) -> Option<&ResponseHeader>;
}

macro_rules! answers {
    ($($name:ident),* $(,)?) => {$(
        impl Answer for pdpb::$name {
            fn header(&self) -> Option<&ResponseHeader> {
                self.header.as_ref()
            }
        }
    )*};
}

answers!(
    AllocIdResponse,
    BootstrapResponse,
    GetAllStoresResponse,
    GetMembersResponse,
    GetRegionResponse,
    IsBootstrappedResponse,
    PutStoreResponse,
    ReportBatchSplitResponse,
    StoreHeartbeatResponse,
);

/// The leader, as last found.
#[derive(Clone)]
pub struct Leader {
    /// A connection to it.
    pub channel: Channel,
    /// The cluster it serves.
    pub cluster_id: u64,
    /// Its address.
    pub address: String,
}

/// Says with which boot counter a request is made (R30). The public interface has no field for it.
pub fn with_boot<T>(request: T, boot: u64) -> Request<T> {
    let mut request = Request::new(request);
    request
        .metadata_mut()
        .insert(placement::BOOT_METADATA, boot.into());
    request
}

/// Finds the leader and calls it.
pub struct PlacementClient {
    seeds: Vec<String>,
    leader: Mutex<Option<Leader>>,
}

impl PlacementClient {
    /// A client that starts at these addresses, `host:port` with or without `http://`.
    pub fn new(seeds: &[String]) -> Self {
        PlacementClient {
            seeds: seeds.to_vec(),
            leader: Mutex::new(None),
        }
    }

    /// The leader as last known, or looked for now.
    ///
    /// # Errors
    /// What the last member asked said.
    pub async fn leader(&self) -> Result<Leader, String> {
        if let Some(leader) = self.known() {
            return Ok(leader);
        }
        let mut last = "no address is configured".to_owned();
        for seed in &self.seeds {
            match find_leader(seed).await {
                Ok(leader) => {
                    *self.leader.lock().expect("no holder of the lock panics") =
                        Some(leader.clone());
                    return Ok(leader);
                }
                Err(error) => last = format!("{seed}: {error}"),
            }
        }
        Err(last)
    }

    /// Forgets the leader, so that the next call looks for it.
    pub fn forget(&self) {
        *self.leader.lock().expect("no holder of the lock panics") = None;
    }

    /// Whether the member at an address is the leader that was last found.
    pub fn is_leader(&self, address: &str) -> bool {
        self.known().is_some_and(|leader| leader.address == address)
    }

    fn known(&self) -> Option<Leader> {
        self.leader
            .lock()
            .expect("no holder of the lock panics")
            .clone()
    }

    /// Calls the leader until it answers, for at most `patience`; at least once.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub async fn call<A, F>(
        &self,
        patience: Duration,
        call: impl Fn(PdClient<Channel>, RequestHeader) -> F,
    ) -> Result<A, PlacementError>
    where
        A: Answer,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + patience;
        loop {
            let last = match self.leader().await {
                Err(error) => error,
                Ok(leader) => {
                    let header = RequestHeader {
                        cluster_id: leader.cluster_id,
                        ..Default::default()
                    };
                    let answer = tokio::time::timeout(
                        ANSWER_MAX,
                        call(PdClient::new(leader.channel), header),
                    )
                    .await;
                    match answer
                        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
                    {
                        Ok(answer) => match refusal(answer.get_ref()) {
                            None => return Ok(answer.into_inner()),
                            Some(error) if is_final(error.r#type()) => {
                                let (kind, message) = (error.r#type(), error.message.clone());
                                return Err(PlacementError::Refused { kind, message });
                            }
                            Some(error) => format!("{}: {}", leader.address, error.message),
                        },
                        Err(status) => format!("{}: {}", leader.address, status.message()),
                    }
                }
            };
            self.forget();
            if Instant::now() + PAUSE >= deadline {
                return Err(PlacementError::Unreachable {
                    addresses: self.seeds.join(", "),
                    last,
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Asks one member for the leader, and connects to that.
async fn find_leader(address: &str) -> Result<Leader, String> {
    let text = |error: tonic::transport::Error| crate::exit::chain(&error);
    let endpoint = |address: &str| {
        let url = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let endpoint = Endpoint::from_shared(url).map_err(text)?;
        Ok::<_, String>(
            endpoint
                .connect_timeout(Duration::from_secs(1))
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_secs(2))
                .keep_alive_timeout(ANSWER_MAX)
                .keep_alive_while_idle(true),
        )
    };
    let channel = endpoint(address)?.connect().await.map_err(text)?;
    let members = tokio::time::timeout(
        ANSWER_MAX,
        PdClient::new(channel.clone()).get_members(pdpb::GetMembersRequest::default()),
    )
    .await
    .map_err(|_| "no answer in time".to_owned())?
    .map_err(|status| status.message().to_owned())?
    .into_inner();
    if let Some(error) = refusal(&members) {
        return Err(error.message.clone());
    }
    let cluster_id = members
        .header
        .as_ref()
        .map_or(0, |header| header.cluster_id);
    let leader = members
        .leader
        .as_ref()
        .and_then(|leader| leader.client_urls.first());
    let leader = leader.ok_or("it knows no leader")?;
    if cluster_id == 0 {
        return Err("it knows no cluster id".to_owned());
    }
    let bare = |url: &str| {
        url.trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned()
    };
    let channel = if bare(leader) == bare(address) {
        channel
    } else {
        endpoint(leader)?.connect().await.map_err(text)?
    };
    Ok(Leader {
        channel,
        cluster_id,
        address: bare(leader),
    })
}

fn refusal(answer: &impl Answer) -> Option<&pdpb::Error> {
    answer
        .header()?
        .error
        .as_ref()
        .filter(|error| error.r#type() != pdpb::ErrorType::Ok)
}

/// Whether asking again, or another member, would end the same.
fn is_final(kind: pdpb::ErrorType) -> bool {
    !matches!(
        kind,
        pdpb::ErrorType::Unknown | pdpb::ErrorType::Ok | pdpb::ErrorType::NotBootstrapped
    )
}
