//! The node on one side, the transport on the other.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::Engine;
use futures::future::BoxFuture;
use futures::{Stream, stream};
use proto::StoreId;
use proto::pontoon::v1::{Beat, Frame, SnapshotChunk, SnapshotFile, SnapshotHead};
use tokio::sync::mpsc;
use transport::{Receiver, SnapshotSink, Transport};

use super::liveness::Inlet;
use crate::runtime::{Handle, Network, Pace, ReadFile, Ticket};

/// Size of a chunk, and so of what is lost when a stream breaks.
const CHUNK_BYTES: usize = 512 << 10;
/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;
/// Far above what a timer is late.
const TIMER_LATE_MAX: Duration = Duration::from_millis(20);
/// Files of one snapshot. With the default size of a file this is 32 GiB.
const FILES_MAX: usize = 1024;

/// Sends what the node has to say.
pub struct Outgoing {
    pub transport: Transport,
    pub runtime: tokio::runtime::Handle,
    /// Who beats, if anybody does.
    pub liveness: Option<Inlet>,
}

impl Network for Outgoing {
    fn send(&self, to: StoreId, frame: Frame) {
        self.transport.send(to, frame);
    }

    fn share(&self, stores: BTreeSet<StoreId>) {
        if let Some(inlet) = &self.liveness {
            inlet.share(stores);
        }
    }

    fn send_snapshot(
        &self,
        to: StoreId,
        head: &SnapshotHead,
        read: ReadFile,
        mut ticket: Ticket,
    ) -> bool {
        let (chunks, stream) = mpsc::channel(CHUNKS_AHEAD);
        let stream = paced(stream, ticket.pace());
        let transport = self.transport.clone();
        let of_head = head.clone();
        let mut watch = ticket.clone();
        let call = self.runtime.spawn(async move {
            let call = transport.send_snapshot(to, of_head, stream);
            tokio::select! {
                received = call => Some(received),
                // Leaving the call resets its stream, so that neither side waits for the other.
                () = watch.over() => None,
            }
        });
        read_chunks(&head.files, &read, &chunks, &mut ticket);
        drop(chunks);
        match self.runtime.block_on(call) {
            Ok(Some(Ok(received))) => received.accepted,
            Ok(Some(Err(error))) => {
                tracing::warn!(store = %to, error = %crate::exit::chain(&error), "a snapshot was not delivered");
                false
            }
            Ok(None) => {
                tracing::warn!(store = %to, "a snapshot was given up: it made no progress, or is not wanted any more");
                false
            }
            // The runtime ends only with the process.
            Err(_) => false,
        }
    }
}

/// Reads files into a channel, until its other end goes away, as it does when the ticket is over. The channel is short and
/// the receiver sets the pace, so a chunk that found room is progress.
fn read_chunks(
    files: &[SnapshotFile],
    read: &ReadFile,
    chunks: &mpsc::Sender<io::Result<SnapshotChunk>>,
    ticket: &mut Ticket,
) {
    for (number, file) in files.iter().enumerate() {
        let mut offset = 0;
        while offset < file.bytes {
            let chunk = match read(&file.name, offset, CHUNK_BYTES) {
                Ok(data) if data.is_empty() => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(data) => {
                    let crc32c = crc32c::crc32c(&data);
                    let chunk = SnapshotChunk {
                        file: number as u32,
                        offset,
                        data,
                        crc32c,
                    };
                    offset += chunk.data.len() as u64;
                    Ok(chunk)
                }
                Err(error) => Err(io::Error::other(error)),
            };
            let failed = chunk.is_err();
            if chunks.blocking_send(chunk).is_err() || failed || !ticket.progress() {
                return;
            }
        }
    }
}

/// A chunk, or why there is none.
type Chunk = io::Result<SnapshotChunk>;

/// Lets chunks go no faster than their pace allows.
fn paced(chunks: mpsc::Receiver<Chunk>, pace: Pace) -> impl Stream<Item = Chunk> + Send + 'static {
    let (begun, pacer) = (Instant::now(), Pacer::new(pace));
    stream::unfold((chunks, pacer), move |(mut chunks, mut pacer)| async move {
        let chunk = chunks.recv().await?;
        let bytes = chunk.as_ref().map_or(0, |chunk| chunk.data.len());
        tokio::time::sleep(pacer.wait(begun.elapsed(), bytes)).await;
        Some((chunk, (chunks, pacer)))
    })
}

/// When the chunks of a stream leave: the next one when the last has had its time. Time in which none came is lost; what a
/// timer is late is made up for.
struct Pacer {
    pace: Pace,
    due: Duration,
}

impl Pacer {
    fn new(pace: Pace) -> Self {
        let due = Duration::ZERO;
        Pacer { pace, due }
    }

    /// How long a chunk of so many bytes waits that came at `now`, a time since the beginning of the stream.
    fn wait(&mut self, now: Duration, bytes: usize) -> Duration {
        let leaves = self.due.max(now.saturating_sub(TIMER_LATE_MAX));
        self.due = leaves + self.pace.time_of(bytes);
        leaves.saturating_sub(now)
    }
}

/// Takes what other stores send.
pub struct Incoming<E: Engine> {
    node: Handle<E>,
    liveness: Option<Inlet>,
    /// Names of files that are being received.
    receiving: Arc<Mutex<HashSet<String>>>,
}

impl<E: Engine> Incoming<E> {
    /// For a node, and for the thread that beats for it if one does.
    pub fn new(node: Handle<E>, liveness: Option<Inlet>) -> Self {
        Incoming {
            node,
            liveness,
            receiving: Arc::default(),
        }
    }
}

impl<E: Engine> Receiver for Incoming<E> {
    type Snapshot = Staging<E>;

    fn frame(&self, from: StoreId, frame: Frame) {
        self.node.frame(from, frame);
    }

    fn beat(&self, from: StoreId, beat: Beat) {
        if let Some(inlet) = &self.liveness {
            inlet.beat(from, beat);
        }
    }

    fn damaged(&self) {
        self.node.damaged_message();
    }

    fn snapshot(&self, from: StoreId, head: SnapshotHead) -> io::Result<Staging<E>> {
        // Before anything is stored: nobody fills this disk uninvited.
        let ticket = self
            .node
            .granted(from, &head)
            .ok_or_else(|| invalid("no slot is granted to it, or not any more: offer it again"))?;
        if head.files.len() > FILES_MAX {
            return Err(invalid("too many files"));
        }
        let names: HashSet<&str> = head.files.iter().map(|file| file.name.as_str()).collect();
        if names.len() < head.files.len() {
            return Err(invalid("two files of the same name"));
        }
        let staged = self.node.engine().stage_list().map_err(io::Error::other)?;
        let mut receiving = self.receiving.lock().expect("no holder of the lock panics");
        // A file that is here already may be on its way into the engine, so it is not touched.
        if names.iter().any(|name| receiving.contains(*name))
            || staged.iter().any(|name| names.contains(name.as_str()))
        {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        receiving.extend(names.into_iter().map(str::to_owned));
        drop(receiving);
        Ok(Staging {
            node: self.node.clone(),
            receiving: self.receiving.clone(),
            from,
            head,
            ticket,
            file: 0,
            offset: 0,
            finished: 0,
            kept: false,
        })
    }
}

/// A snapshot on its way into the staging area. Dropped unfinished, it removes what it wrote.
pub struct Staging<E: Engine> {
    node: Handle<E>,
    receiving: Arc<Mutex<HashSet<String>>>,
    from: StoreId,
    head: SnapshotHead,
    ticket: Ticket,
    /// The file being received and the bytes of it that are here.
    file: usize,
    offset: u64,
    /// Files that are here whole and checked.
    finished: usize,
    kept: bool,
}

impl<E: Engine> Staging<E> {
    /// Makes the next file durable and checks it.
    fn finish_file(&mut self) -> io::Result<()> {
        let wanted = &self.head.files[self.finished];
        let staged = self
            .node
            .engine()
            .stage_finish(&wanted.name)
            .map_err(io::Error::other)?;
        store::check_file(&self.head, wanted, &staged)
            .map_err(|refusal| io::Error::new(io::ErrorKind::InvalidData, refusal))?;
        self.finished += 1;
        Ok(())
    }
}

impl<E: Engine> SnapshotSink for Staging<E> {
    fn chunk(&mut self, chunk: SnapshotChunk) -> io::Result<()> {
        let wanted = loop {
            let wanted = self
                .head
                .files
                .get(self.file)
                .ok_or_else(|| invalid("more chunks than announced"))?;
            if self.offset < wanted.bytes {
                break wanted;
            }
            self.file += 1;
            self.offset = 0;
        };
        if (chunk.file as usize, chunk.offset) != (self.file, self.offset) {
            return Err(invalid("a chunk is out of order"));
        }
        if chunk.data.len() as u64 > wanted.bytes - self.offset {
            return Err(invalid("a file is longer than announced"));
        }
        if crc32c::crc32c(&chunk.data) != chunk.crc32c {
            return Err(invalid("a chunk is damaged"));
        }
        self.node
            .engine()
            .stage_append(&wanted.name, &chunk.data)
            .map_err(io::Error::other)?;
        self.offset += chunk.data.len() as u64;
        // Each file when it is here, so that the sender feels the pace of this disk, and the end has little left to do.
        if self.offset == wanted.bytes && self.file == self.finished {
            self.finish_file()?;
        }
        if self.ticket.progress() {
            Ok(())
        } else {
            Err(invalid("its slot ran out"))
        }
    }

    fn over(&self) -> BoxFuture<'static, ()> {
        let mut ticket = self.ticket.clone();
        Box::pin(async move { ticket.over().await })
    }

    fn finish(mut self) -> io::Result<bool> {
        while self.finished < self.head.files.len() {
            self.finish_file()?;
        }
        self.kept = true;
        self.node.snapshot_received(self.from, self.head.clone());
        Ok(true)
    }
}

impl<E: Engine> Drop for Staging<E> {
    fn drop(&mut self) {
        let names: Vec<String> = self
            .head
            .files
            .iter()
            .map(|file| file.name.clone())
            .collect();
        if !self.kept
            && let Err(error) = self.node.engine().stage_remove(&names)
        {
            tracing::warn!(%error, "cannot remove the files of a broken snapshot");
        }
        let mut receiving = self.receiving.lock().expect("no holder of the lock panics");
        for name in &names {
            receiving.remove(name);
        }
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
