//! Beats between stores (LIVENESS §2): a connection of their own to each store, so that no frame and no snapshot delays them.

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, stream};
use proto::{
    StoreId,
    pontoon::v1::{Accepted, Beat, BeatStream, beat_stream::Kind, liveness_client::LivenessClient},
};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    Event, Transport,
    error::LinkError,
    link::{self, Pause, Shared},
};

/// Sends beats to other stores. Clones share their connections; the last one ends them when it goes.
///
/// A beat that was not sent yet is replaced by the next one to the same store: only the newest is worth sending.
#[derive(Clone)]
pub struct Beats {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    runtime: Handle,
    interval: Duration,
    newest: Mutex<BTreeMap<StoreId, watch::Sender<Option<Beat>>>>,
}

impl Beats {
    /// Beats of the process that `transport` speaks for, sent from the current runtime. Stores that cannot be reached are tried
    /// again about every `interval`, the time between two beats.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(transport: &Transport, interval: Duration) -> Self {
        let shared = transport.shared();
        let config = crate::Config {
            connect_timeout: 10 * interval,
            backoff_min: interval / 2,
            backoff_max: 2 * interval,
            silence_max: 10 * interval,
            ..shared.config
        };
        let shared = Shared {
            config,
            resolver: shared.resolver.clone(),
            events: shared.events.clone(),
            ..*shared
        };
        let inner = Inner {
            shared: Arc::new(shared),
            runtime: Handle::current(),
            interval,
            newest: Mutex::default(),
        };
        Beats {
            inner: Arc::new(inner),
        }
    }

    /// Sends a beat to the store that it names, and returns at once. May be called from any thread.
    pub fn send(&self, beat: Beat) {
        let Some(store) = StoreId::from_wire(beat.to_store) else {
            return;
        };
        let inner = &self.inner;
        let mut newest = inner.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = newest.entry(store).or_insert_with(|| {
            let slot = watch::Sender::new(None);
            let link = run(
                inner.shared.clone(),
                store,
                inner.interval,
                slot.subscribe(),
            );
            inner.runtime.spawn(link);
            slot
        });
        slot.send_replace(Some(beat));
    }
}

/// Keeps a stream to `store` open while there are beats for it, until nobody can send any more.
async fn run(
    shared: Arc<Shared>,
    store: StoreId,
    interval: Duration,
    mut newest: watch::Receiver<Option<Beat>>,
) {
    let mut pause = Pause::new(&shared.config);
    let (mut address, mut told) = (None, false);
    let mut refused: Option<Instant> = None;
    while newest.changed().await.is_ok() {
        // What woke this is sent first.
        newest.mark_changed();
        let end = match open(&shared, store, &newest, &mut address).await {
            Ok(mut answers) => {
                tracing::debug!(%store, "beats are sent");
                pause.reset();
                (told, refused) = (false, None);
                match answers.message().await {
                    // Nothing flows back after the acceptance.
                    Ok(_) => LinkError::Closed,
                    Err(status) => status.into(),
                }
            }
            Err(error) => error,
        };
        if is_refused_connection(&end) {
            // Twice, an interval apart: the process there is gone, and its machine is not (S7).
            let first = *refused.get_or_insert_with(Instant::now);
            if first.elapsed() >= interval {
                shared.events.add(Event::Gone(store));
            }
        } else {
            refused = None;
        }
        if let LinkError::Refused(refusal) = end {
            shared.events.add(Event::Refused(store, refusal));
            pause.stretch();
        } else if !told {
            tracing::info!(%store, error = &end as &dyn Error, "no beats are sent");
        }
        told = true;
        sleep(pause.next()).await;
    }
}

async fn open(
    shared: &Shared,
    store: StoreId,
    newest: &watch::Receiver<Option<Beat>>,
    address: &mut Option<String>,
) -> Result<tonic::Streaming<Accepted>, LinkError> {
    let channel = link::connect(shared, store, address).await?;
    let hello = BeatStream {
        kind: Some(Kind::Hello(shared.identity.hello(store))),
    };
    let outgoing = stream::iter([hello]).chain(outgoing(newest.clone()));
    let handshake = async {
        let mut client = LivenessClient::new(channel);
        let mut answers = client.beats(outgoing).await?.into_inner();
        match answers.message().await? {
            Some(_) => Ok(answers),
            None => Err(LinkError::Closed),
        }
    };
    timeout(shared.config.connect_timeout, handshake)
        .await
        .map_err(|_| LinkError::Timeout)?
}

/// The newest beat, whenever the connection has room for one.
fn outgoing(newest: watch::Receiver<Option<Beat>>) -> impl Stream<Item = BeatStream> {
    stream::unfold(newest, |mut newest| async move {
        newest.changed().await.ok()?;
        let beat = newest.borrow_and_update().clone();
        let kind = beat.map(Kind::Beat);
        Some((BeatStream { kind }, newest))
    })
}

/// Whether a machine said that nobody listens there.
fn is_refused_connection(error: &LinkError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}
