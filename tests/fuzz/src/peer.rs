//! What other stores send: streams of frames, of snapshots and of beats, as bytes of the requests in which they come.
//!
//! The real service takes them (`transport::PeerService`). A model that reads the same messages says what it may deliver: nothing
//! before a hello that fits, nothing of or behind a message whose checksum does not fit, and of a snapshot exactly as many
//! bytes as its head announced.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, pending};
use http_body_util::{BodyExt, BodyStream, Full};
use prost::Message;
use proto::StoreId;
use proto::checked;
use proto::pontoon::v1::{
    Beat, BeatStream, Frame, Hello, RaftMessage, RaftStream, SnapshotChunk, SnapshotFile,
    SnapshotHead, SnapshotStream, beat_stream, raft_stream, snapshot_stream,
};
use tokio::runtime::{Builder, Runtime};
use tower::Service;
use transport::{Identity, PeerService, Receiver, SnapshotSink};

use crate::{Input, Seeds};

const MINE: Identity = Identity {
    cluster_id: 7,
    store: StoreId(1),
    boot: 3,
    format: 2,
};

/// Length of what comes before each message: whether it is compressed, and its bytes.
const PREFIX_BYTES: usize = 5;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .expect("a runtime without clock and sockets");
}

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.pick(3);
    let body = match input.pick(3) {
        // As it comes.
        0 => input.rest().to_vec(),
        // Messages of any bytes, with a checksum that fits or another.
        1 => joined(&mut input, |input| {
            let message = input.long_bytes().to_vec();
            seal(message, input.byte() < 250)
        }),
        _ => joined(&mut input, |input| {
            let message = match kind {
                0 => raft_message(input),
                1 => snapshot_message(input),
                _ => beat_message(input),
            };
            seal(message, input.byte() < 250)
        }),
    };
    let (messages, whole) = split(&body);
    match kind {
        0 => take_frames(body, &messages),
        1 => take_snapshot(body, &messages, whole),
        _ => take_beats(body, &messages),
    }
}

/// Examples: streams as they are, and pieces of which they are made.
pub fn seeds() -> Seeds {
    let hello = Hello {
        cluster_id: 7,
        from_store: 2,
        to_store: 1,
        boot: 5,
        format: 2,
    };
    let frame = Frame {
        messages: vec![RaftMessage {
            region_id: 2,
            term: 5,
            ..Default::default()
        }],
        ..Default::default()
    };
    let frames = [
        raft_stream::Kind::Hello(hello),
        raft_stream::Kind::Frame(frame),
    ];
    let frames = frames.map(|kind| checked::seal(&RaftStream { kind: Some(kind) }));
    let head = SnapshotHead {
        slot: 1,
        files: vec![SnapshotFile {
            name: "a".to_owned(),
            bytes: 4,
            ..Default::default()
        }],
        ..Default::default()
    };
    let chunk = SnapshotChunk {
        data: Bytes::from_static(b"data"),
        ..Default::default()
    };
    let snapshot = [
        snapshot_stream::Kind::Hello(hello),
        snapshot_stream::Kind::Head(head),
        snapshot_stream::Kind::Chunk(chunk),
    ];
    let snapshot = snapshot.map(|kind| checked::seal(&SnapshotStream { kind: Some(kind) }));
    let beat = Beat {
        from_store: 2,
        to_store: 1,
        seq: 9,
        lost: vec![3],
        ..Default::default()
    };
    let beats = [
        beat_stream::Kind::Hello(hello),
        beat_stream::Kind::Beat(beat),
    ];
    let beats = beats.map(|kind| checked::seal(&BeatStream { kind: Some(kind) }));
    let body = |first: u8, messages: &[Vec<u8>]| {
        let messages = messages.iter().flat_map(|message| prefixed(message));
        [first, 0].into_iter().chain(messages).collect()
    };
    vec![
        ("frames", body(0, &frames)),
        ("snapshot", body(1, &snapshot)),
        ("beats", body(2, &beats)),
        ("made-frames", b"\x00\x02\x03\x00\x07\x02\x01\x05\x02\x00\x01\x02\x00\x01\x03\x00".to_vec()),
        ("made-snapshot", b"\x01\x02\x05\x00\x07\x02\x01\x05\x02\x00\x01\x02\x02\x03\x00\x02\x02ab\x00\x02\x02cd\x00\x02\x01e\x00".to_vec()),
    ]
}

fn prefixed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [&[0], &length[..], message].concat()
}

fn seal(mut message: Vec<u8>, fits: bool) -> Vec<u8> {
    let checksum = crc32c::crc32c(&message) ^ u32::from(!fits);
    message.push((checked::FIELD << 3 | 5) as u8);
    message.extend(checksum.to_le_bytes());
    message
}

/// A body of messages, maybe cut.
fn joined<'a>(
    input: &mut Input<'a>,
    mut message: impl FnMut(&mut Input<'a>) -> Vec<u8>,
) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..input.pick(8) {
        body.extend(prefixed(&message(input)));
    }
    if input.byte() == 255 {
        body.truncate(body.len().saturating_sub(usize::from(input.byte())));
    }
    body
}

/// The messages in a body, up to where it makes no sense; and whether it always does.
fn split(mut body: &[u8]) -> (Vec<Bytes>, bool) {
    let mut messages = Vec::new();
    while let Some((prefix, rest)) = body.split_first_chunk::<PREFIX_BYTES>() {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let Some((message, rest)) = rest.split_at_checked(length) else {
            break;
        };
        if prefix[0] != 0 {
            break;
        }
        messages.push(Bytes::copy_from_slice(message));
        body = rest;
    }
    (messages, body.is_empty())
}

fn hello(input: &mut Input<'_>) -> Hello {
    Hello {
        cluster_id: input.number(),
        from_store: input.number(),
        to_store: input.number(),
        boot: input.number(),
        format: input.byte().into(),
    }
}

fn raft_message(input: &mut Input<'_>) -> Vec<u8> {
    let kind = match input.pick(3) {
        0 => Some(raft_stream::Kind::Hello(hello(input))),
        1 => Some(raft_stream::Kind::Frame(Frame {
            messages: vec![RaftMessage {
                region_id: input.number(),
                term: input.number(),
                ..Default::default()
            }],
            ..Default::default()
        })),
        _ => None,
    };
    RaftStream { kind }.encode_to_vec()
}

fn beat_message(input: &mut Input<'_>) -> Vec<u8> {
    let kind = match input.pick(3) {
        0 => Some(beat_stream::Kind::Hello(hello(input))),
        1 => Some(beat_stream::Kind::Beat(Beat {
            from_store: input.number(),
            seq: input.number(),
            lost: crate::words::several(input, 4, |input| input.number()),
            ..Default::default()
        })),
        _ => None,
    };
    BeatStream { kind }.encode_to_vec()
}

fn snapshot_message(input: &mut Input<'_>) -> Vec<u8> {
    let kind = match input.pick(4) {
        0 => Some(snapshot_stream::Kind::Hello(hello(input))),
        1 => Some(snapshot_stream::Kind::Head(SnapshotHead {
            files: crate::words::several(input, 4, |input| SnapshotFile {
                bytes: input.number(),
                ..Default::default()
            }),
            ..Default::default()
        })),
        2 => Some(snapshot_stream::Kind::Chunk(SnapshotChunk {
            data: Bytes::copy_from_slice(input.bytes()),
            ..Default::default()
        })),
        _ => None,
    };
    SnapshotStream { kind }.encode_to_vec()
}

/// What was delivered.
#[derive(Debug, Default, PartialEq)]
struct Delivered {
    frames: Vec<(StoreId, Frame)>,
    beats: Vec<(StoreId, Beat)>,
    heads: Vec<(StoreId, SnapshotHead)>,
    chunks: Vec<SnapshotChunk>,
    finished: bool,
    damaged: usize,
}

#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Delivered>>);

impl Taken {
    fn with(&self, change: impl FnOnce(&mut Delivered)) {
        change(&mut self.0.lock().expect("no holder of the lock panics"));
    }
}

impl Receiver for Taken {
    type Snapshot = Taken;

    fn frame(&self, from: StoreId, frame: Frame) {
        self.with(|taken| taken.frames.push((from, frame)));
    }

    fn beat(&self, from: StoreId, beat: Beat) {
        self.with(|taken| taken.beats.push((from, beat)));
    }

    fn damaged(&self) {
        self.with(|taken| taken.damaged += 1);
    }

    fn snapshot(&self, from: StoreId, head: SnapshotHead) -> io::Result<Taken> {
        self.with(|taken| taken.heads.push((from, head)));
        Ok(self.clone())
    }
}

impl SnapshotSink for Taken {
    fn chunk(&mut self, chunk: SnapshotChunk) -> io::Result<()> {
        self.with(|taken| taken.chunks.push(chunk));
        Ok(())
    }

    fn over(&self) -> BoxFuture<'static, ()> {
        Box::pin(pending())
    }

    fn finish(self) -> io::Result<bool> {
        self.with(|taken| taken.finished = true);
        Ok(true)
    }
}

/// Calls the services and reads the answer to the end.
fn call(method: &str, body: Vec<u8>) -> Delivered {
    let taken = Taken::default();
    let service = PeerService::new(MINE, taken.clone());
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let body = Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {});
            let request = http::Request::post(format!("http://store/pontoon.v1.{method}"))
                .header("content-type", "application/grpc")
                .body(tonic::body::Body::new(body))
                .expect("a request");
            let answer = match method.starts_with("Peer/") {
                true => service.server().call(request).await,
                false => service.beats().call(request).await,
            };
            let mut answer = BodyStream::new(answer.expect("errors are answers").into_body());
            while let Some(piece) = answer.next().await {
                assert!(piece.is_ok(), "the answer breaks off: {piece:?}");
            }
        });
    });
    std::mem::take(&mut *taken.0.lock().expect("no holder of the lock panics"))
}

/// Reads messages as the model does: `None` behind one that is damaged, or of another shape.
fn read<M: Message + Default>(messages: &[Bytes], damaged: &mut usize) -> Vec<M> {
    let mut read = Vec::new();
    for message in messages {
        match checked::open(message.clone()) {
            Ok(opened) => match M::decode(opened) {
                Ok(message) => read.push(message),
                Err(_) => break,
            },
            Err(_) => {
                *damaged = 1;
                break;
            }
        }
    }
    read
}

fn admitted(hello: &Hello) -> Option<StoreId> {
    let fits = hello.cluster_id == MINE.cluster_id
        && hello.to_store == MINE.store.0
        && hello.format == MINE.format
        && hello.from_store != MINE.store.0;
    StoreId::from_wire(hello.from_store).filter(|_| fits)
}

/// What a message of a stream without end is.
enum Part<T> {
    Hello(Hello),
    Content(T),
    Other,
}

/// What is delivered of a stream that begins with a hello, and whether damage is met.
fn follow<M: Message + Default, T>(
    messages: &[Bytes],
    part: impl Fn(M) -> Part<T>,
    fits: impl Fn(StoreId, &T) -> bool,
) -> (Vec<(StoreId, T)>, usize) {
    let mut damaged = 0;
    let read: Vec<M> = read(messages, &mut damaged);
    let mut delivered = Vec::new();
    let mut from = None;
    for message in read {
        match (part(message), from) {
            (Part::Hello(hello), None) => from = admitted(&hello),
            (Part::Content(content), Some(from)) if fits(from, &content) => {
                delivered.push((from, content));
                continue;
            }
            // Nothing behind what ends the stream is looked at.
            _ => return (delivered, 0),
        }
        if from.is_none() {
            return (delivered, 0);
        }
    }
    (delivered, damaged)
}

fn take_frames(body: Vec<u8>, messages: &[Bytes]) {
    let part = |message: RaftStream| match message.kind {
        Some(raft_stream::Kind::Hello(hello)) => Part::Hello(hello),
        Some(raft_stream::Kind::Frame(frame)) => Part::Content(frame),
        None => Part::Other,
    };
    let (frames, damaged) = follow(messages, part, |_, _| true);
    let expected = Delivered {
        frames,
        damaged,
        ..Default::default()
    };
    assert_eq!(call("Peer/Raft", body), expected);
}

fn take_beats(body: Vec<u8>, messages: &[Bytes]) {
    let part = |message: BeatStream| match message.kind {
        Some(beat_stream::Kind::Hello(hello)) => Part::Hello(hello),
        Some(beat_stream::Kind::Beat(beat)) => Part::Content(beat),
        None => Part::Other,
    };
    let speaks_for_itself = |from: StoreId, beat: &Beat| beat.from_store == from.0;
    let (beats, damaged) = follow(messages, part, speaks_for_itself);
    let expected = Delivered {
        beats,
        damaged,
        ..Default::default()
    };
    assert_eq!(call("Liveness/Beats", body), expected);
}

fn take_snapshot(body: Vec<u8>, messages: &[Bytes], whole: bool) {
    use snapshot_stream::Kind;
    let mut expected = Delivered::default();
    let mut damaged = 0;
    let read: Vec<SnapshotStream> = read(messages, &mut damaged);
    let whole = whole && read.len() == messages.len();
    let mut kinds = read.into_iter().map(|message| message.kind);
    let ended = 'stream: {
        let Some(Some(Kind::Hello(hello))) = kinds.next() else {
            break 'stream true;
        };
        let Some(from) = admitted(&hello) else {
            break 'stream true;
        };
        let Some(Some(Kind::Head(head))) = kinds.next() else {
            break 'stream true;
        };
        let sizes = head.files.iter().map(|file| file.bytes);
        let announced = sizes.fold(0, u64::saturating_add);
        expected.heads.push((from, head));
        let mut received = 0;
        for kind in kinds {
            let Some(Kind::Chunk(chunk)) = kind else {
                break 'stream true;
            };
            received += chunk.data.len() as u64;
            if received > announced {
                break 'stream true;
            }
            expected.chunks.push(chunk);
        }
        expected.finished = whole && received == announced;
        false
    };
    let found = call("Peer/Snapshot", body);
    // Where the stream ends before its damage is met, nobody learns of it.
    if !ended {
        expected.damaged = damaged;
    } else {
        expected.damaged = found.damaged.min(damaged);
    }
    assert_eq!(found, expected);
}
