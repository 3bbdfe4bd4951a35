//! Keeps a stream to one store open while there is something to say.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use proto::{
    StoreId,
    pontoon::v1::{Hello, RaftStream, peer_client::PeerClient, raft_stream},
};
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::{
    Config, Event, Events, Identity, MESSAGE_BYTES_MAX,
    error::{BoxError, LinkError},
    queue::Queue,
    transport::Resolve,
};

/// What all links of a transport have in common.
pub(crate) struct Shared {
    pub identity: Identity,
    pub config: Config,
    pub resolver: Arc<dyn Resolve>,
    pub events: Events,
}

/// Runs the link to `store` until its queue is closed.
pub(crate) async fn run(shared: Arc<Shared>, store: StoreId, queue: Arc<Queue>) {
    let mut pause = Pause::new(&shared.config);
    let mut address = None;
    // Only changes are told: a store may be down for days.
    let mut told = false;
    while poll_fn(|cx| queue.poll_waiting(cx)).await {
        let mut accepted = false;
        let end = talk(&shared, store, &queue, &mut address, &mut accepted).await;
        queue.begin();
        if accepted {
            pause.reset();
            told = false;
        }
        match end {
            LinkError::Refused(refusal) => {
                if !told {
                    let here = refusal.mine.as_ref().map(|mine| mine.from_store);
                    let reason = refusal.reason().as_str_name();
                    tracing::warn!(%store, here, reason, "handshake refused");
                }
                shared.events.add(Event::Refused(store, refusal));
                pause.stretch();
            }
            error if told => {
                tracing::debug!(%store, error = &error as &dyn std::error::Error, "still down");
            }
            error => {
                tracing::info!(%store, error = &error as &dyn std::error::Error, "link is down");
            }
        }
        told = true;
        queue.clear();
        shared.events.add(Event::Unreachable(store));
        sleep(pause.next()).await;
    }
}

/// Opens a stream and stays until it ends, for whatever reason.
async fn talk(
    shared: &Shared,
    store: StoreId,
    queue: &Arc<Queue>,
    address: &mut Option<String>,
    accepted: &mut bool,
) -> LinkError {
    match open(shared, store, queue, address).await {
        Ok(mut responses) => {
            *accepted = true;
            tracing::info!(%store, "link is up");
            queue.accept();
            match responses.message().await {
                // Nothing flows back after the acceptance.
                Ok(_) => LinkError::Closed,
                Err(status) => status.into(),
            }
        }
        Err(error) => error,
    }
}

/// Opens a stream and waits for the answer to its hello.
async fn open(
    shared: &Shared,
    store: StoreId,
    queue: &Arc<Queue>,
    address: &mut Option<String>,
) -> Result<tonic::Streaming<proto::pontoon::v1::Accepted>, LinkError> {
    let channel = connect(shared, store, address).await?;
    let outgoing = Outgoing {
        hello: Some(shared.identity.hello(store)),
        queue: queue.clone(),
        generation: queue.begin(),
    };
    let handshake = async {
        let mut responses = client(channel).raft(outgoing).await?.into_inner();
        match responses.message().await? {
            Some(_) => Ok(responses),
            None => Err(LinkError::Closed),
        }
    };
    timeout(shared.config.connect_timeout, handshake)
        .await
        .map_err(|_| LinkError::Timeout)?
}

pub(crate) fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Connects to `store`. `address` is the last one that was known: it serves while the resolver has no answer, since
/// stores go on talking when nobody can tell them addresses (R32).
pub(crate) async fn connect(
    shared: &Shared,
    store: StoreId,
    address: &mut Option<String>,
) -> Result<Channel, LinkError> {
    let limit = shared.config.connect_timeout;
    let resolved = match timeout(limit, shared.resolver.resolve(store)).await {
        Ok(resolved) => resolved,
        Err(late) => Err(BoxError::from(late)),
    };
    match resolved {
        Ok(resolved) => *address = Some(resolved),
        Err(error) if address.is_none() => return Err(LinkError::Resolve(error)),
        Err(_) => {}
    }
    let address = address.as_deref().expect("set above, or known before");
    let uri = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(LinkError::Connect)?
        .connect_timeout(limit)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(shared.config.silence_max)
        .keep_alive_timeout(shared.config.silence_max)
        .keep_alive_while_idle(true);
    // The endpoint's own limit covers one address; a name may have several.
    match timeout(limit, endpoint.connect()).await {
        Ok(connected) => connected.map_err(LinkError::Connect),
        Err(_) => Err(LinkError::Timeout),
    }
}

/// What one stream sends: its hello, then frames as they gather. tonic asks for the next frame only when the connection
/// has room, which is what makes frames grow under load.
struct Outgoing {
    hello: Option<Hello>,
    queue: Arc<Queue>,
    generation: u64,
}

impl Stream for Outgoing {
    type Item = RaftStream;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RaftStream>> {
        let kind = match self.hello.take() {
            Some(hello) => Poll::Ready(Some(raft_stream::Kind::Hello(hello))),
            None => self
                .queue
                .poll_frame(self.generation, cx)
                .map(|frame| frame.map(raft_stream::Kind::Frame)),
        };
        kind.map(|kind| kind.map(|kind| RaftStream { kind: Some(kind) }))
    }
}

/// The pause before the next attempt: it doubles, with jitter, so that stores do not knock in step.
pub(crate) struct Pause {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Pause {
    pub fn new(config: &Config) -> Self {
        Self {
            min: config.backoff_min,
            max: config.backoff_max,
            next: config.backoff_min,
        }
    }

    pub fn reset(&mut self) {
        self.next = self.min;
    }

    pub fn stretch(&mut self) {
        self.next = self.max;
    }

    /// Between half and all of the current pause.
    pub fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let mut pause = Pause::new(&Config::default());
        for expected in [50, 100, 200, 400, 800, 1_000, 1_000] {
            let expected = Duration::from_millis(expected);
            let taken = pause.next();
            assert!(
                taken <= expected && taken >= expected / 2,
                "{taken:?} of {expected:?}"
            );
        }
        pause.reset();
        assert!(pause.next() <= Duration::from_millis(50));
        pause.stretch();
        assert!(pause.next() >= Duration::from_millis(500));
    }
}
