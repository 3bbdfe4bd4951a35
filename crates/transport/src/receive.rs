//! The receiving side: the tonic service that other stores call.

use std::{io, sync::Arc};

use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use proto::{
    StoreId,
    checked::Damaged,
    pontoon::v1::{
        Accepted, Beat, BeatStream, Frame, Hello, RaftStream, SnapshotChunk, SnapshotHead,
        SnapshotReceived, SnapshotStream, beat_stream,
        liveness_server::{Liveness, LivenessServer},
        peer_server::{Peer, PeerServer},
        raft_stream, snapshot_stream,
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    Identity, MESSAGE_BYTES_MAX,
    error::refused,
    identity::{Caller, Gate},
};

/// What arrives is handed to this.
pub trait Receiver: Send + Sync + 'static {
    /// Takes a snapshot's chunks.
    type Snapshot: SnapshotSink;

    /// Takes a frame from `from`. Called on the RPC thread, so it must not block; a receiver without room drops it.
    fn frame(&self, from: StoreId, frame: Frame);

    /// Takes a beat from `from`, as it takes a frame.
    fn beat(&self, from: StoreId, beat: Beat);

    /// A message arrived damaged. It was dropped unread with its stream, which the sender opens again (F8).
    fn damaged(&self);

    /// Opens a snapshot from `from`. Called where blocking is allowed.
    ///
    /// # Errors
    /// An error ends the stream and is shown to the sender.
    fn snapshot(&self, from: StoreId, head: SnapshotHead) -> io::Result<Self::Snapshot>;
}

/// Takes the chunks of one snapshot, where blocking is allowed. Dropped unfinished, it must leave nothing behind.
pub trait SnapshotSink: Send + 'static {
    /// Takes the next chunk, in the order of sending.
    ///
    /// # Errors
    /// An error ends the stream and is shown to the sender.
    fn chunk(&mut self, chunk: SnapshotChunk) -> io::Result<()>;

    /// Completes when the snapshot is not waited for any more: the stream ends then, however quiet its sender is.
    fn over(&self) -> BoxFuture<'static, ()>;

    /// As many bytes have come as the head announced. Returns whether the snapshot is wanted; by then it must be durable.
    ///
    /// # Errors
    /// An error is shown to the sender; the snapshot counts as not received.
    fn finish(self) -> io::Result<bool>;
}

/// Largest message of a stream of beats that is decoded.
const BEAT_BYTES_MAX: usize = 4 << 10;

/// Serves `pontoon.v1.Peer`, and `pontoon.v1.Liveness`.
pub struct PeerService<R> {
    inner: Arc<Inner<R>>,
}

struct Inner<R> {
    gate: Gate,
    receiver: R,
    closing: watch::Sender<bool>,
}

impl<R> Clone for PeerService<R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<R: Receiver> PeerService<R> {
    /// A service that lets in who fits `identity`.
    pub fn new(identity: Identity, receiver: R) -> Self {
        let inner = Inner {
            gate: Gate::new(identity),
            receiver,
            closing: watch::Sender::new(false),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The service with its limits, ready for a tonic router.
    pub fn server(&self) -> PeerServer<Self> {
        PeerServer::new(self.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The service of beats, for those that send some.
    pub fn beats(&self) -> LivenessServer<Self> {
        LivenessServer::new(self.clone()).max_decoding_message_size(BEAT_BYTES_MAX)
    }

    /// Ends all streams and refuses new ones. A graceful stop of the server waits for its streams, and these never end
    /// by themselves.
    pub fn close(&self) {
        self.inner.closing.send_replace(true);
    }
}

impl<R: Receiver> Inner<R> {
    fn admit(&self, hello: Option<Hello>) -> Result<Caller, Status> {
        let hello = hello.ok_or_else(|| {
            Status::invalid_argument("the first message of a stream is its hello")
        })?;
        match self.gate.admit(&hello) {
            Ok(caller) => {
                tracing::info!(store = %caller.store, boot = caller.boot, "stream accepted");
                Ok(caller)
            }
            Err(refusal) => {
                tracing::warn!(
                    store = hello.from_store,
                    wanted = hello.to_store,
                    here = %self.gate.mine().store,
                    reason = refusal.reason().as_str_name(),
                    "stream refused"
                );
                Err(refused(&refusal))
            }
        }
    }

    /// Reads the messages of a stream that follow its hello until it ends; the reason goes to the sender.
    async fn read<M: Message>(&self, caller: Caller, mut messages: Streaming<M>) -> Status {
        let mut closing = self.closing.subscribe();
        loop {
            let next = tokio::select! {
                _ = closing.wait_for(|closing| *closing) => return stopping(),
                next = self.next(&mut messages) => next,
            };
            let message = match next {
                Ok(Some(message)) => message,
                Ok(None) => return Status::ok("the sender ended the stream"),
                Err(status) => return status,
            };
            if let Err(refusal) = self.gate.check(&caller) {
                return refused(&refusal);
            }
            if !message.deliver(caller.store, &self.receiver) {
                return Status::invalid_argument(M::EXPECTED);
            }
        }
    }

    /// Tells the receiver when a stream failed because of damage.
    fn noticed(&self, status: Status) -> Status {
        if let Some(damaged) = Damaged::found(&status) {
            tracing::warn!(%damaged, "closing a stream between stores");
            self.receiver.damaged();
        }
        status
    }

    /// The next message of a stream.
    async fn next<M>(&self, messages: &mut Streaming<M>) -> Result<Option<M>, Status> {
        messages
            .message()
            .await
            .map_err(|status| self.noticed(status))
    }
}

/// A message of a stream that begins with a hello and has nothing to answer but that.
trait Message: Send + 'static {
    /// What follows the hello.
    const EXPECTED: &'static str;

    /// The hello, if it is one.
    fn hello(self) -> Option<Hello>;

    /// Hands it over, unless it is not what is expected.
    fn deliver<R: Receiver>(self, from: StoreId, receiver: &R) -> bool;
}

impl Message for RaftStream {
    const EXPECTED: &'static str = "only frames follow the hello";

    fn hello(self) -> Option<Hello> {
        match self.kind {
            Some(raft_stream::Kind::Hello(hello)) => Some(hello),
            _ => None,
        }
    }

    fn deliver<R: Receiver>(self, from: StoreId, receiver: &R) -> bool {
        match self.kind {
            Some(raft_stream::Kind::Frame(frame)) => {
                receiver.frame(from, frame);
                true
            }
            _ => false,
        }
    }
}

impl Message for BeatStream {
    const EXPECTED: &'static str = "only beats follow the hello";

    fn hello(self) -> Option<Hello> {
        match self.kind {
            Some(beat_stream::Kind::Hello(hello)) => Some(hello),
            _ => None,
        }
    }

    fn deliver<R: Receiver>(self, from: StoreId, receiver: &R) -> bool {
        match self.kind {
            // It speaks for the store whose stream it is.
            Some(beat_stream::Kind::Beat(beat)) if beat.from_store == from.0 => {
                receiver.beat(from, beat);
                true
            }
            _ => false,
        }
    }
}

/// What answers a stream: the acceptance, and at its end the reason.
type Answers = BoxStream<'static, Result<Accepted, Status>>;

impl<R: Receiver> PeerService<R> {
    /// Accepts a stream and reads it.
    async fn stream<M: Message>(
        &self,
        request: Request<Streaming<M>>,
    ) -> Result<Response<Answers>, Status> {
        let mut messages = request.into_inner();
        if *self.inner.closing.borrow() {
            return Err(stopping());
        }
        let first = self.inner.next(&mut messages).await?;
        let caller = self.inner.admit(first.and_then(M::hello))?;
        // Room for the acceptance and the reason of the end, so that neither has to wait for the caller to read.
        let (answers, responses) = mpsc::channel(2);
        let accepted = Accepted {
            boot: self.inner.gate.mine().boot,
        };
        answers
            .try_send(Ok(accepted))
            .expect("the channel has room for two");
        let inner = self.inner.clone();
        tokio::spawn(async move {
            let end = inner.read(caller, messages).await;
            tracing::info!(store = %caller.store, reason = end.message(), "stream ended");
            answers.try_send(Err(end)).ok();
        });
        Ok(Response::new(ReceiverStream::new(responses).boxed()))
    }
}

#[tonic::async_trait]
impl<R: Receiver> Liveness for PeerService<R> {
    async fn beats(
        &self,
        request: Request<Streaming<BeatStream>>,
    ) -> Result<Response<Answers>, Status> {
        self.stream(request).await
    }
}

fn stopping() -> Status {
    Status::unavailable("the store is stopping")
}

fn failed(error: io::Error) -> Status {
    Status::aborted(format!("the snapshot was not taken: {error}"))
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(stopping()),
    }
}

#[tonic::async_trait]
impl<R: Receiver> Peer for PeerService<R> {
    async fn raft(
        &self,
        request: Request<Streaming<RaftStream>>,
    ) -> Result<Response<Answers>, Status> {
        self.stream(request).await
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotStream>>,
    ) -> Result<Response<SnapshotReceived>, Status> {
        let mut messages = request.into_inner();
        let mut closing = self.inner.closing.subscribe();
        let receive = async {
            let hello = match self
                .inner
                .next(&mut messages)
                .await?
                .and_then(|message| message.kind)
            {
                Some(snapshot_stream::Kind::Hello(hello)) => Some(hello),
                _ => None,
            };
            let caller = self.inner.admit(hello)?;
            let Some(snapshot_stream::Kind::Head(head)) = self
                .inner
                .next(&mut messages)
                .await?
                .and_then(|message| message.kind)
            else {
                return Err(Status::invalid_argument(
                    "the second message of a snapshot is its head",
                ));
            };
            // A sender that gives up cancels its stream, and here that looks like an orderly end. So only the sizes in
            // the head tell a whole snapshot from a cut one.
            let announced: u64 = head
                .files
                .iter()
                .fold(0, |sum, file| sum.saturating_add(file.bytes));
            let mut received = 0;
            let inner = self.inner.clone();
            let mut sink = blocking(move || inner.receiver.snapshot(caller.store, head)).await?;
            let mut over = sink.over();
            loop {
                let message = tokio::select! {
                    message = self.inner.next(&mut messages) => message?,
                    () = &mut over => {
                        return Err(Status::aborted("the snapshot is not waited for any more"));
                    }
                };
                let Some(message) = message else { break };
                let Some(snapshot_stream::Kind::Chunk(chunk)) = message.kind else {
                    return Err(Status::invalid_argument("only chunks follow the head"));
                };
                if let Err(refusal) = self.inner.gate.check(&caller) {
                    return Err(refused(&refusal));
                }
                received += chunk.data.len() as u64;
                if received > announced {
                    return Err(Status::invalid_argument(
                        "the snapshot is longer than its head says",
                    ));
                }
                sink = blocking(move || sink.chunk(chunk).map(|()| sink)).await?;
            }
            if received < announced {
                return Err(Status::aborted(format!(
                    "the snapshot ended after {received} of {announced} bytes"
                )));
            }
            let accepted = blocking(move || sink.finish()).await?;
            Ok(Response::new(SnapshotReceived { accepted }))
        };
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => Err(stopping()),
            received = receive => received,
        }
    }
}
