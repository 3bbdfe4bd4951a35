//! Connections to one store: streams that carry most requests, and a channel for the few that have no place in a stream.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use proto::{
    StoreId,
    tikvpb::{
        BatchCommandsRequest, batch_commands_request::request::Cmd as Command,
        batch_commands_response::response::Cmd as Answer, tikv_client::TikvClient,
    },
};
use tokio::{sync::Mutex, time::timeout};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    cause::Cause,
    inflight::{InFlight, Miss},
    options::Options,
    placement::Placement,
};

/// Largest message taken from a store: a page and the largest pair, with room to spare.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// A connection that leaves a ping unanswered this long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Flow control of what stores send. The smallest default of HTTP/2 would halt a stream at 64 KiB.
const WINDOW_BYTES: u32 = 8 << 20;

/// One store.
pub(crate) struct Store {
    id: StoreId,
    streams: Vec<Arc<InFlight>>,
    turn: AtomicUsize,
    dialer: Arc<Dialer>,
    /// For single calls.
    channel: Mutex<Option<Channel>>,
}

impl Store {
    pub(crate) fn new(id: StoreId, placement: Arc<Placement>, options: Options) -> Self {
        let dialer = Arc::new(Dialer {
            id,
            placement,
            options,
            address: Mutex::default(),
        });
        let streams: Vec<_> = (0..options.streams_per_store.max(1))
            .map(|_| Arc::new(InFlight::new(options.queue_bytes_max)))
            .collect();
        for in_flight in &streams {
            tokio::spawn(run(dialer.clone(), in_flight.clone()));
        }
        Self {
            id,
            streams,
            turn: AtomicUsize::new(0),
            dialer,
            channel: Mutex::default(),
        }
    }

    /// Its id.
    pub(crate) fn id(&self) -> StoreId {
        self.id
    }

    /// Carries a command over a stream.
    pub(crate) async fn command(
        &self,
        command: Command,
        bytes: usize,
        limit: Duration,
    ) -> Result<Answer, Cause> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.streams.len();
        let stream = &self.streams[turn];
        let (id, reply) = stream
            .push(command, bytes)
            .map_err(|_| Cause::QueueFull { store: self.id })?;
        let miss = match timeout(limit, reply).await {
            Ok(Ok(Ok(answer))) => return Ok(answer),
            Ok(Ok(Err(miss))) => miss,
            Ok(Err(_)) => Miss::Lost("the client is gone".to_owned()),
            Err(_) => stream.withdraw(id, format!("none within {limit:?}")),
        };
        Err(match miss {
            Miss::NotSent(why) => Cause::Unreachable {
                store: self.id,
                source: why.into(),
            },
            Miss::Lost(why) => self.lost(why),
        })
    }

    /// Makes a single call.
    pub(crate) async fn call<T, F>(
        &self,
        call: impl FnOnce(TikvClient<Channel>) -> F,
        limit: Duration,
    ) -> Result<T, Cause>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let channel = {
            let mut channel = self.channel.lock().await;
            match &*channel {
                Some(channel) => channel.clone(),
                None => channel.insert(self.dialer.dial().await?).clone(),
            }
        };
        match timeout(limit, call(client(channel))).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => {
                if let Code::InvalidArgument
                | Code::Unimplemented
                | Code::OutOfRange
                | Code::PermissionDenied = status.code()
                {
                    return Err(Cause::Refused {
                        message: status.message().to_owned(),
                    });
                }
                self.channel.lock().await.take();
                Err(self.lost(text(&status)))
            }
            Err(_) => {
                self.channel.lock().await.take();
                Err(self.lost(format!("none within {limit:?}")))
            }
        }
    }

    /// The address may belong to somebody else now.
    pub(crate) async fn doubt_address(&self) {
        self.dialer.address.lock().await.doubted = true;
        self.channel.lock().await.take();
        for in_flight in &self.streams {
            in_flight.lose("another store has this address");
        }
    }

    fn lost(&self, why: String) -> Cause {
        Cause::Lost {
            store: self.id,
            why,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for in_flight in &self.streams {
            in_flight.close();
        }
    }
}

fn client(channel: Channel) -> TikvClient<Channel> {
    TikvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// What a status says, in a line.
pub(crate) fn text(status: &Status) -> String {
    let code = status.code();
    match status.message() {
        "" => format!("{code:?}"),
        message => format!("{code:?}: {message}"),
    }
}

/// Finds the store's address and connects to it.
struct Dialer {
    id: StoreId,
    placement: Arc<Placement>,
    options: Options,
    address: Mutex<Address>,
}

#[derive(Default)]
struct Address {
    known: Option<String>,
    doubted: bool,
}

impl Dialer {
    async fn dial(&self) -> Result<Channel, Cause> {
        let address = self.address().await?;
        match connect(&address, self.options.connect_timeout).await {
            Ok(channel) => Ok(channel),
            Err(source) => {
                self.address.lock().await.doubted = true;
                Err(Cause::Unreachable {
                    store: self.id,
                    source: source.into(),
                })
            }
        }
    }

    /// The address; asked of placement at first and after it failed, and then the old one serves if nobody answers.
    async fn address(&self) -> Result<String, Cause> {
        let mut address = self.address.lock().await;
        if let (Some(known), false) = (&address.known, address.doubted) {
            return Ok(known.clone());
        }
        match self.placement.store_address(self.id).await {
            Ok(found) => {
                address.doubted = false;
                Ok(address.known.insert(found).clone())
            }
            Err(error) => address.known.clone().ok_or(error),
        }
    }
}

/// Connects to `address`, which is `host:port` or a URI.
pub(crate) async fn connect(address: &str, limit: Duration) -> Result<Channel, String> {
    let uri = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| format!("{address:?} is no address: {error}"))?
        .connect_timeout(limit)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(SILENCE_MAX)
        .keep_alive_timeout(SILENCE_MAX)
        .keep_alive_while_idle(true);
    match timeout(limit, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            Err(format!("{address}: {error}{}", source.unwrap_or_default()))
        }
        Err(_) => Err(format!("{address} does not answer within {limit:?}")),
    }
}

/// Keeps a stream open while there is something to ask.
async fn run(dialer: Arc<Dialer>, in_flight: Arc<InFlight>) {
    while poll_fn(|cx| in_flight.poll_waiting(cx)).await {
        match stream(&dialer, &in_flight).await {
            Ok(why) => {
                tracing::debug!(store = %dialer.id, why, "stream ended");
                in_flight.lose(&why);
            }
            Err(cause) => {
                tracing::debug!(store = %dialer.id, error = &cause as &dyn std::error::Error, "no stream");
                let source = std::error::Error::source(&cause).map(ToString::to_string);
                in_flight.refuse(&source.unwrap_or_else(|| cause.to_string()));
            }
        }
    }
}

/// Opens a stream and serves it until it ends; returns why it did.
async fn stream(dialer: &Dialer, in_flight: &Arc<InFlight>) -> Result<String, Cause> {
    let channel = dialer.dial().await?;
    let outgoing = Outgoing {
        in_flight: in_flight.clone(),
        generation: in_flight.begin(),
    };
    let mut client = client(channel);
    let opening = client.batch_commands(outgoing);
    let opened = timeout(dialer.options.connect_timeout, opening).await;
    let unreachable = |why: String| Cause::Unreachable {
        store: dialer.id,
        source: why.into(),
    };
    let mut answers = match opened {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Err(unreachable(text(&status))),
        Err(_) => return Err(unreachable("the stream was not opened in time".to_owned())),
    };
    in_flight.open();
    loop {
        match answers.message().await {
            Ok(Some(batch)) => in_flight.answer(batch),
            Ok(None) => return Ok("the store ended the stream".to_owned()),
            Err(status) => return Ok(text(&status)),
        }
    }
}

/// What one stream sends. tonic asks for the next message only when the connection has room, so batches grow with load
/// and a lone request leaves at once.
struct Outgoing {
    in_flight: Arc<InFlight>,
    generation: u64,
}

impl Stream for Outgoing {
    type Item = BatchCommandsRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<BatchCommandsRequest>> {
        self.in_flight.poll_batch(self.generation, cx)
    }
}
