//! Snapshots between nodes over real sockets, where one side hangs or was not asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use engine::{Batch, Change, Engine, Family, Logging, MemoryEngine};
use futures::{StreamExt, stream};
use proto::checked;
use proto::pontoon::v1::peer_client::PeerClient;
use proto::pontoon::v1::peer_server::{Peer, PeerServer};
use proto::pontoon::v1::{
    Accepted, Frame, Hello, Operation, Put, RaftMessage, RaftStream, SnapshotChunk, SnapshotFile,
    SnapshotHead, SnapshotReceived, SnapshotStream, VoteRequest, operation, raft_message,
    raft_stream, snapshot_stream,
};
use proto::{RegionId, StoreId, metapb};
use raft::Role;
use store::event::{Keys, Order, OrderKind, StepId, Target};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::{EncodeBuf, Encoder};
use tonic::{Code, Request, Response, Status, Streaming};
use transport::{BoxError, Identity, PeerService, Transport};

use super::{CHUNK_BYTES, Incoming, Outgoing, Pacer, TIMER_LATE_MAX};
use crate::metrics::Metrics;
use crate::runtime::fatal::exit_process;
use crate::runtime::{Handle, Network, Node, Options, Pace, ReadFile, Ticket};

const HERE: StoreId = StoreId(1);
const THERE: StoreId = StoreId(2);
const REGION: RegionId = RegionId(1);
/// Of every wait; reached only when the code is wrong.
const DEADLINE: Duration = Duration::from_secs(30);
/// Without progress a snapshot is given up after 40 ticks of 5 ms.
const TICK: Duration = Duration::from_millis(5);
const SNAPSHOT_TICKS: u64 = 40;
/// More than any window of a connection holds.
const REGION_BYTES: usize = 4 << 20;

fn identity(store: StoreId) -> Identity {
    Identity {
        cluster_id: 5,
        store,
        boot: 1,
        format: 1,
    }
}

fn hello() -> Hello {
    Hello {
        cluster_id: 5,
        from_store: HERE.0,
        to_store: THERE.0,
        boot: 1,
        format: 1,
    }
}

/// The service of the receiving store. While it hangs it takes snapshot streams and never reads them.
struct MayHang {
    peers: PeerService<Incoming<MemoryEngine>>,
    hangs: watch::Receiver<bool>,
    streams: mpsc::UnboundedSender<()>,
}

#[tonic::async_trait]
impl Peer for MayHang {
    async fn raft(
        &self,
        request: Request<Streaming<RaftStream>>,
    ) -> Result<
        Response<stream::BoxStream<'static, Result<proto::pontoon::v1::Accepted, Status>>>,
        Status,
    > {
        self.peers.raft(request).await
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotStream>>,
    ) -> Result<Response<SnapshotReceived>, Status> {
        self.streams.send(()).ok();
        if *self.hangs.borrow() {
            std::future::pending::<()>().await;
        }
        self.peers.snapshot(request).await
    }
}

/// Two nodes; a region of the first is about to get a learner on the second.
struct Pair {
    here: Node<MemoryEngine>,
    there: Node<MemoryEngine>,
    hangs: watch::Sender<bool>,
    /// Streams that reached the second.
    streams: mpsc::UnboundedReceiver<()>,
    address: String,
}

fn start(
    store: StoreId,
    regions: &[metapb::Region],
    network: Arc<dyn Network>,
) -> Node<MemoryEngine> {
    let engine = MemoryEngine::new();
    store::identity::create(&engine, 5, store, 1).expect("an empty engine");
    store::identity::bootstrap(&engine, regions).expect("an identity is there");
    store::identity::bump_boot(&engine).expect("an identity is there");
    let options = store::Options {
        ids_low: 0,
        snapshot_ticks: SNAPSHOT_TICKS,
        raft: raft::Options {
            election_ticks: 80,
            heartbeat_ticks: 8,
            ..Default::default()
        },
        ..Default::default()
    };
    let store = store::Store::open(engine.clone(), options).expect("a sound engine");
    let options = Options {
        tick: TICK,
        ..Default::default()
    };
    let metrics = Arc::new(Metrics::new());
    Node::start(store, engine, network, &options, metrics, exit_process()).expect("threads")
}

impl Pair {
    /// Starts both; `network` makes that of the first from a real one.
    async fn start(network: impl FnOnce(Outgoing) -> Arc<dyn Network>) -> Pair {
        let listeners = [
            TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
            TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
        ];
        let addresses = [&listeners[0], &listeners[1]]
            .map(|listener| listener.local_addr().expect("it listens").to_string());
        let outgoing = |from: StoreId| {
            let addresses = addresses.clone();
            let resolve = move |store: StoreId| {
                let address = addresses[store.0 as usize - 1].clone();
                async move { Ok::<_, BoxError>(address) }
            };
            let (transport, _events) =
                Transport::new(identity(from), Default::default(), Arc::new(resolve));
            Outgoing {
                transport,
                runtime: tokio::runtime::Handle::current(),
                liveness: None,
            }
        };
        let region = metapb::Region {
            id: REGION.0,
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 1,
            }),
            peers: vec![metapb::Peer {
                id: 11,
                store_id: HERE.0,
                ..Default::default()
            }],
            ..Default::default()
        };
        let here = start(HERE, &[region], network(outgoing(HERE)));
        let there = start(THERE, &[], Arc::new(outgoing(THERE)));
        let (hangs, hanging) = watch::channel(false);
        let (sender, streams) = mpsc::unbounded_channel();
        let [first, second] = listeners;
        let peers = PeerService::new(identity(HERE), Incoming::new(here.handle(), None));
        serve(first, peers.server());
        let peers = MayHang {
            peers: PeerService::new(identity(THERE), Incoming::new(there.handle(), None)),
            hangs: hanging,
            streams: sender,
        };
        serve(
            second,
            PeerServer::new(peers).max_decoding_message_size(64 << 20),
        );
        let [_, address] = addresses;
        let pair = Pair {
            here,
            there,
            hangs,
            streams,
            address,
        };
        pair.fill().await;
        pair
    }

    async fn fill(&self) {
        let here = self.here.handle();
        until(&here, |here| {
            here.region(REGION)
                .is_some_and(|view| view.role == Role::Leader)
        })
        .await;
        for number in 0..4 {
            let key = bytes::Bytes::from(format!("k{number}"));
            // Random enough not to be compressed.
            let value: Vec<u8> = (0..REGION_BYTES as u32 / 4)
                .map(|at| (at.wrapping_mul(2_654_435_761 + number) >> 13) as u8)
                .collect();
            let put = Put {
                key: key.clone(),
                value: value.into(),
                expires_at: 0,
            };
            let target = Target {
                region: REGION,
                peer: None,
                epoch: None,
                keys: Keys::Points(vec![key]),
            };
            let operation = Operation {
                kind: Some(operation::Kind::Put(put)),
            };
            here.propose(target, vec![operation])
                .await
                .expect("it is written");
        }
    }

    fn add_learner(&self) {
        let learner = metapb::Peer {
            id: 12,
            store_id: THERE.0,
            role: metapb::PeerRole::Learner as i32,
            ..Default::default()
        };
        self.here.handle().order(Order {
            region: REGION,
            epoch: metapb::RegionEpoch {
                conf_ver: 1,
                version: 1,
            },
            id: StepId::default(),
            kind: OrderKind::AddLearner(learner),
            purpose: Default::default(),
        });
    }

    async fn stream(&mut self) {
        let stream = tokio::time::timeout(DEADLINE, self.streams.recv()).await;
        stream.expect("a stream comes").expect("the service lives");
    }

    /// Both nodes end, within the deadline though something may hang.
    async fn stop(self) {
        let Pair { here, there, .. } = self;
        for node in [here, there] {
            let stopped = tokio::task::spawn_blocking(move || node.stop());
            let stopped = tokio::time::timeout(DEADLINE, stopped).await;
            stopped.expect("it ends").expect("no thread panics");
        }
    }
}

fn serve<S>(listener: TcpListener, service: PeerServer<S>)
where
    S: Peer,
{
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
}

/// Waits for something that shows in the published views.
async fn until(node: &Handle<MemoryEngine>, holds: impl Fn(&Handle<MemoryEngine>) -> bool) {
    let wait = async {
        loop {
            let changed = node.views().changed();
            if holds(node) {
                return;
            }
            changed.await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .expect("it happens in time");
}

fn owns(node: &Handle<MemoryEngine>) -> bool {
    node.region(REGION).is_some_and(|view| view.owns_range)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_receiver_costs_one_attempt_and_holds_up_no_stop() {
    let mut pair = Pair::start(|outgoing| Arc::new(outgoing)).await;
    pair.hangs.send_replace(true);
    pair.add_learner();
    // The second stream needs the first to have ended: there is one snapshot to a peer at a time.
    pair.stream().await;
    pair.stream().await;
    pair.hangs.send_replace(false);
    until(&pair.there.handle(), owns).await;
    pair.stop().await;

    let mut pair = Pair::start(|outgoing| Arc::new(outgoing)).await;
    pair.hangs.send_replace(true);
    pair.add_learner();
    pair.stream().await;
    pair.stop().await;
}

/// Reads every chunk of a snapshot as slowly as a slow link lets it go.
struct Slow(Outgoing);

impl Slow {
    /// Below what a snapshot without progress has, and with the chunks of the region's one file far above it.
    const CHUNK_TAKES: Duration = Duration::from_millis(80);
}

impl Network for Slow {
    fn share(&self, _: std::collections::BTreeSet<StoreId>) {}

    fn send(&self, to: StoreId, frame: Frame) {
        self.0.send(to, frame);
    }

    fn send_snapshot(
        &self,
        to: StoreId,
        head: &SnapshotHead,
        read: ReadFile,
        ticket: Ticket,
    ) -> bool {
        let slowly: ReadFile = Box::new(move |name, offset, bytes_max| {
            std::thread::sleep(Slow::CHUNK_TAKES);
            read(name, offset, bytes_max)
        });
        self.0.send_snapshot(to, head, slowly, ticket)
    }
}

/// Each chunk that arrives is progress, long before its file is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_snapshot_is_not_given_up() {
    let pair = Pair::start(|outgoing| Arc::new(Slow(outgoing))).await;
    let begun = std::time::Instant::now();
    pair.add_learner();
    until(&pair.there.handle(), owns).await;
    assert!(begun.elapsed() > 2 * SNAPSHOT_TICKS as u32 * TICK);
    pair.stop().await;
}

/// A rate that is set, and another one while chunks are on their way; in each, so many bytes in so much time, though every
/// timer is late.
#[test]
fn a_stream_keeps_to_its_rate() {
    let pace = Pace::default();
    let mut pacer = Pacer::new(pace.clone());
    let mut now = Duration::ZERO;
    let mut send = |chunks: u64| {
        let begun = now;
        for _ in 0..chunks {
            let wait = pacer.wait(now, CHUNK_BYTES);
            now += wait;
            if !wait.is_zero() {
                now += Duration::from_millis(1);
            }
        }
        (now - begun).as_secs_f64()
    };
    assert_eq!(send(1_000), 0.0, "nothing is set");
    for (chunks_per_second, seconds) in [(2, 10), (64, 5), (8, 10)] {
        pace.set(chunks_per_second * CHUNK_BYTES as u64);
        // The first still waits for the time of what went before.
        send(1);
        let took = send(chunks_per_second * seconds) / seconds as f64;
        assert!((0.99..1.01).contains(&took), "{took} of the time");
    }
    // A pause is not made up for.
    let late = Duration::from_secs(3600);
    assert_eq!(pacer.wait(late, CHUNK_BYTES), Duration::ZERO);
    let next = pacer.wait(late, CHUNK_BYTES);
    assert_eq!(next, Duration::from_millis(125) - TIMER_LATE_MAX);
}

/// Between two nodes: the dial of the receiver, which the sender hears of with the grant.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_takes_what_the_dial_says() {
    let pair = Pair::start(|outgoing| Arc::new(outgoing)).await;
    pair.there.handle().dial(store::Dial {
        balance_bytes: 4 << 20,
        repair_bytes: 4 << 20,
    });
    let begun = std::time::Instant::now();
    pair.add_learner();
    until(&pair.there.handle(), owns).await;
    let least = (REGION_BYTES - CHUNK_BYTES) as f64 / f64::from(4 << 20);
    let took = begun.elapsed().as_secs_f64();
    assert!(took >= least - TIMER_LATE_MAX.as_secs_f64(), "{took} s");
    pair.stop().await;
}

/// Opens the stream of every snapshot, says what it is, and then sends a file of its own, or nothing, whatever its own store
/// thinks of that.
struct Rogue {
    outgoing: Outgoing,
    address: watch::Receiver<String>,
    ends: mpsc::UnboundedSender<Status>,
    file: Option<(SnapshotFile, SnapshotChunk)>,
}

impl Network for Rogue {
    fn share(&self, _: std::collections::BTreeSet<StoreId>) {}

    fn send(&self, to: StoreId, frame: Frame) {
        self.outgoing.send(to, frame);
    }

    fn send_snapshot(
        &self,
        _to: StoreId,
        head: &SnapshotHead,
        _read: ReadFile,
        _ticket: Ticket,
    ) -> bool {
        let address = self.address.borrow().clone();
        let mut head = head.clone();
        let chunk = self.file.clone().map(|(file, chunk)| {
            head.files = vec![file];
            chunk
        });
        let messages = messages(head, chunk);
        let ended = self.outgoing.runtime.block_on(async move {
            let mut client = PeerClient::connect(format!("http://{address}")).await?;
            let quiet = messages.chain(stream::pending());
            let answer = client.snapshot(quiet).await;
            Ok::<_, tonic::transport::Error>(answer.expect_err("that was no snapshot"))
        });
        if let Ok(ended) = ended {
            self.ends.send(ended).ok();
        }
        false
    }
}

fn messages(
    head: SnapshotHead,
    chunk: Option<SnapshotChunk>,
) -> stream::Iter<std::vec::IntoIter<SnapshotStream>> {
    let mut kinds = vec![
        snapshot_stream::Kind::Hello(hello()),
        snapshot_stream::Kind::Head(head),
    ];
    kinds.extend(chunk.map(snapshot_stream::Kind::Chunk));
    let messages: Vec<_> = kinds
        .into_iter()
        .map(|kind| SnapshotStream { kind: Some(kind) })
        .collect();
    stream::iter(messages)
}

/// How a snapshot of a rogue ends, and the pair afterwards.
async fn end_of(file: Option<(SnapshotFile, SnapshotChunk)>) -> (Status, Pair) {
    let (address, addresses) = watch::channel(String::new());
    let (ends, mut ended) = mpsc::unbounded_channel();
    let pair = Pair::start(|outgoing| {
        Arc::new(Rogue {
            outgoing,
            address: addresses,
            ends,
            file,
        })
    })
    .await;
    address.send_replace(pair.address.clone());
    pair.add_learner();
    let ended = tokio::time::timeout(DEADLINE, ended.recv()).await;
    let status = ended.expect("it ends").expect("the network lives");
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    (status, pair)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_sender_is_let_go() {
    let (_, pair) = end_of(None).await;
    assert_eq!(
        pair.there.handle().engine().stage_list().expect("a list"),
        [""; 0]
    );
}

/// A sound file of these keys, and all of it as one chunk.
fn packed(keys: &[Bytes]) -> (SnapshotFile, SnapshotChunk) {
    let packer = MemoryEngine::new();
    let put = |key: &Bytes| Change::Put(key.clone(), Bytes::from_static(b"x"));
    let changes = keys.iter().map(put).collect();
    let family = Family::State;
    packer
        .write(Batch { family, changes }, Logging::On)
        .expect("memory does not fail");
    let staged = packer.stage_range(&packer.view(), family, b"", &[0xFF], u64::MAX, "packed.sst");
    let (staged, _) = staged.expect("memory does not fail");
    let staged = staged.expect("it has keys");
    let data = packer.stage_read(&staged.name, 0, usize::MAX);
    let data = data.expect("it is staged");
    let file = SnapshotFile {
        name: staged.name,
        bytes: staged.bytes,
        keys: staged.keys,
        crc32c: staged.crc32c,
    };
    let chunk = SnapshotChunk {
        file: 0,
        offset: 0,
        crc32c: crc32c::crc32c(&data),
        data,
    };
    (file, chunk)
}

/// R16: a sound file, announced as it is, that holds what is not of the region: a record of the store itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_keys_of_others_is_refused() {
    let foreign = Bytes::copy_from_slice(&store::keys::region_state(RegionId(9)));
    let file = packed(&[store::keys::data(b"a"), foreign.clone()]);
    let (status, pair) = end_of(Some(file)).await;
    let refusal = store::FileRefusal::OutsideRegion {
        name: "packed.sst".to_owned(),
        region: REGION,
    };
    assert!(
        status.message().contains(&refusal.to_string()),
        "{status:?}"
    );
    let there = pair.there.handle();
    assert_eq!(there.engine().stage_list().expect("a list"), [""; 0]);
    let got = there.engine().get(Family::State, &foreign);
    assert_eq!(got.expect("memory does not fail"), None, "it was taken in");
}

/// R13, F14: what is not what its sender says of it is refused, piece by piece and as a whole, and nothing of it stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_refused() {
    let (file, chunk) = packed(&[store::keys::data(b"a"), store::keys::data(b"b")]);
    let different = store::FileRefusal::Different {
        name: file.name.clone(),
    };
    let different = different.to_string();
    let mut flipped = chunk.data.to_vec();
    flipped[0] ^= 1;
    let of_chunk = |chunk| (file.clone(), chunk);
    let of_file = |file| (file, chunk.clone());
    let cases = [
        (
            "a chunk is damaged",
            of_chunk(SnapshotChunk {
                data: flipped.into(),
                ..chunk.clone()
            }),
        ),
        (
            "a chunk is out of order",
            of_chunk(SnapshotChunk {
                offset: 1,
                ..chunk.clone()
            }),
        ),
        (
            "a chunk is out of order",
            of_chunk(SnapshotChunk {
                file: 1,
                ..chunk.clone()
            }),
        ),
        (
            &different,
            of_file(SnapshotFile {
                crc32c: file.crc32c ^ 1,
                ..file.clone()
            }),
        ),
        (
            &different,
            of_file(SnapshotFile {
                keys: file.keys + 1,
                ..file.clone()
            }),
        ),
    ];
    for (reason, sent) in cases {
        let (status, pair) = end_of(Some(sent)).await;
        assert!(status.message().contains(reason), "{reason}: {status:?}");
        let there = pair.there.handle();
        assert_eq!(there.engine().stage_list().expect("a list"), [""; 0]);
        assert!(!owns(&there), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninvited_snapshot_stores_nothing() {
    let pair = Pair::start(|outgoing| Arc::new(outgoing)).await;
    let data = bytes::Bytes::from_static(b"bytes");
    let head = SnapshotHead {
        slot: 7,
        from_peer: 11,
        to_peer: 12,
        from_store: HERE.0,
        leader_term: 1,
        term: 1,
        index: 5,
        region: Some(metapb::Region {
            id: REGION.0,
            ..Default::default()
        }),
        files: vec![SnapshotFile {
            name: "uninvited.sst".to_owned(),
            bytes: data.len() as u64 + 1,
            keys: 1,
            crc32c: 0,
        }],
        ..Default::default()
    };
    let chunk = SnapshotChunk {
        file: 0,
        offset: 0,
        crc32c: crc32c::crc32c(&data),
        data,
    };
    let mut client = PeerClient::connect(format!("http://{}", pair.address))
        .await
        .expect("it serves");
    let refused = client.snapshot(messages(head, Some(chunk))).await;
    let status = refused.expect_err("nobody granted it");
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains("no slot"), "{status:?}");
    assert_eq!(
        pair.there.handle().engine().stage_list().expect("a list"),
        [""; 0]
    );
    pair.stop().await;
}

/// A codec that sends messages as these bytes, whatever they say.
struct Bare;

impl tonic::codec::Codec for Bare {
    type Encode = Vec<u8>;
    type Decode = Accepted;
    type Encoder = Bare;
    type Decoder = checked::Opener<Accepted>;

    fn encoder(&mut self) -> Bare {
        Bare
    }

    fn decoder(&mut self) -> Self::Decoder {
        checked::Codec::<RaftStream, Accepted>::default().decoder()
    }
}

impl Encoder for Bare {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&message);
        Ok(())
    }
}

/// A vote request for a region that is not there: a store that takes it notes the region.
fn vote_request(region: u64) -> RaftStream {
    let message = RaftMessage {
        region_id: region,
        from_peer: 71,
        to_peer: 72,
        from_store: HERE.0,
        to_store: THERE.0,
        epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        term: 6,
        body: Some(raft_message::Body::VoteRequest(VoteRequest {
            last_term: 5,
            last_index: 10,
            ..Default::default()
        })),
    };
    let frame = Frame {
        messages: vec![message],
        ..Default::default()
    };
    RaftStream {
        kind: Some(raft_stream::Kind::Frame(frame)),
    }
}

/// F8: a message of which a bit was flipped on the way is counted, ends its stream, and does nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_message_is_counted_and_dropped() {
    let pair = Pair::start(|outgoing| Arc::new(outgoing)).await;
    let there = pair.there.handle();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", pair.address));
    let channel = endpoint.expect("a URI").connect().await;
    let channel = channel.expect("it serves");
    let send = async |message: Vec<u8>| {
        let hello = RaftStream {
            kind: Some(raft_stream::Kind::Hello(hello())),
        };
        let sent = stream::iter([checked::seal(&hello), message]).chain(stream::pending());
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.expect("it is connected");
        let path = http::uri::PathAndQuery::from_static("/pontoon.v1.Peer/Raft");
        let answers = grpc.streaming(Request::new(sent), path, Bare).await;
        answers.expect("the hello is whole").into_inner()
    };
    let damaged = || there.metrics().messages_damaged.get();

    let mut flipped = checked::seal(&vote_request(70));
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut answers = send(flipped).await;
    let end = loop {
        let answer = tokio::time::timeout(DEADLINE, answers.message()).await;
        match answer.expect("the stream ends") {
            Ok(answer) => assert!(answer.is_some(), "it ended in order"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::DataLoss, "{end:?}");
    assert_eq!(damaged(), 1);

    let _answers = send(checked::seal(&vote_request(80))).await;
    until(&there, |there| there.region(RegionId(80)).is_some()).await;
    assert_eq!(there.views().len(), 1, "the other one was taken");
    assert_eq!(damaged(), 1);
    pair.stop().await;
}
