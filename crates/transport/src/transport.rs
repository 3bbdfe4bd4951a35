//! The sending side.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{Stream, StreamExt, future::BoxFuture, stream};
use proto::{
    StoreId,
    pontoon::v1::{
        Frame, SnapshotChunk, SnapshotHead, SnapshotReceived, SnapshotStream, snapshot_stream::Kind,
    },
};
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    Config, Event, Events, Identity, SnapshotError,
    error::{BoxError, LinkError},
    link::{self, Shared},
    queue::{Pushed, Queue},
};

/// Finds the address of a store. Asked before each attempt to connect; while it has no answer the last one is used.
pub trait Resolve: Send + Sync + 'static {
    /// `host:port`, or a URI with a scheme.
    fn resolve(&self, store: StoreId) -> BoxFuture<'static, Result<String, BoxError>>;
}

impl<F, R> Resolve for F
where
    F: Fn(StoreId) -> R + Send + Sync + 'static,
    R: Future<Output = Result<String, BoxError>> + Send + 'static,
{
    fn resolve(&self, store: StoreId) -> BoxFuture<'static, Result<String, BoxError>> {
        Box::pin(self(store))
    }
}

/// Load of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// The store at its other end.
    pub store: StoreId,
    /// Bytes that wait.
    pub queued_bytes: usize,
    /// Frames that found no room since the start.
    pub dropped_total: u64,
}

/// Sends to other stores. Clones share their links; the last one ends them when it goes.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    runtime: Handle,
    queues: Mutex<BTreeMap<StoreId, Arc<Queue>>>,
}

impl Transport {
    /// A transport that speaks as `identity` and runs its links on the current runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(identity: Identity, config: Config, resolver: Arc<dyn Resolve>) -> (Self, Events) {
        let events = Events::default();
        let shared = Arc::new(Shared {
            identity,
            config,
            resolver,
            events: events.clone(),
        });
        let inner = Inner {
            shared,
            runtime: Handle::current(),
            queues: Mutex::default(),
        };
        (
            Self {
                inner: Arc::new(inner),
            },
            events,
        )
    }

    /// Queues `frame` for `store` and returns at once. May be called from any thread.
    ///
    /// Without room the frame is dropped, heartbeats excepted, and [`Event::Unreachable`] follows.
    pub fn send(&self, store: StoreId, frame: Frame) {
        if self.queue(store).push(frame) == Pushed::Dropped {
            self.inner.shared.events.add(Event::Unreachable(store));
        }
    }

    /// Sends a snapshot over a connection of its own, and waits until the receiver has it durably.
    ///
    /// `chunks` is read no faster than the receiver takes them, and has as many bytes in all as the files of `head`.
    ///
    /// # Errors
    /// See [`SnapshotError`]. A receiver that got everything but does not want it answers with `accepted` unset.
    pub async fn send_snapshot<S>(
        &self,
        store: StoreId,
        head: SnapshotHead,
        chunks: S,
    ) -> Result<SnapshotReceived, SnapshotError>
    where
        S: Stream<Item = io::Result<SnapshotChunk>> + Send + 'static,
    {
        let shared = &self.inner.shared;
        let channel = link::connect(shared, store, &mut None).await?;
        let (failed, failure) = oneshot::channel();
        let opening = [Kind::Hello(shared.identity.hello(store)), Kind::Head(head)];
        let messages = stream::iter(opening)
            .chain(until_failure(chunks, failed).map(Kind::Chunk))
            .map(|kind| SnapshotStream { kind: Some(kind) });
        let mut client = link::client(channel);
        tokio::select! {
            // The call is left unfinished. The receiver misses bytes that the head announced, and keeps nothing.
            Ok(error) = failure => Err(SnapshotError::Source(error)),
            answer = client.snapshot(messages) => match answer {
                Ok(answer) => Ok(answer.into_inner()),
                Err(status) => Err(LinkError::from(status).into()),
            },
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Load of every link.
    pub fn stats(&self) -> Vec<QueueStats> {
        let queues = self
            .inner
            .queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        queues
            .iter()
            .map(|(store, queue)| {
                let (queued_bytes, dropped_total) = queue.load();
                QueueStats {
                    store: *store,
                    queued_bytes,
                    dropped_total,
                }
            })
            .collect()
    }

    /// The queue of a store; the first use starts its link.
    fn queue(&self, store: StoreId) -> Arc<Queue> {
        let mut queues = self
            .inner
            .queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(store).or_insert_with(|| {
            let queue = Arc::new(Queue::new(&self.inner.shared.config));
            let link = link::run(self.inner.shared.clone(), store, queue.clone());
            self.inner.runtime.spawn(link);
            queue
        });
        queue.clone()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let queues = self
            .queues
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for queue in queues.values() {
            queue.close();
        }
    }
}

/// Passes chunks on until the first error, which goes to `failed`; after that the stream neither yields nor ends.
fn until_failure<S>(
    chunks: S,
    failed: oneshot::Sender<io::Error>,
) -> impl Stream<Item = SnapshotChunk> + Send
where
    S: Stream<Item = io::Result<SnapshotChunk>> + Send + 'static,
{
    let mut chunks: Pin<Box<S>> = Box::pin(chunks);
    let mut failed = Some(failed);
    stream::poll_fn(move |cx| {
        if failed.is_none() {
            return std::task::Poll::Pending;
        }
        chunks.as_mut().poll_next(cx).map(|next| match next {
            Some(Ok(chunk)) => Some(Some(chunk)),
            Some(Err(error)) => {
                // The receiver is only gone when the call is over anyway.
                let _ = failed.take().expect("checked above").send(error);
                Some(None)
            }
            None => None,
        })
    })
    .filter_map(std::future::ready)
}
