//! Two ends over real tonic on loopback. Every wait is for an event, with a deadline around the test.

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream};
use proto::{
    StoreId,
    pontoon::v1::{
        Beat, Frame, RaftMessage, RaftStream, SnapshotChunk, SnapshotFile, SnapshotHead,
        SnapshotReceived, peer_client::PeerClient, raft_stream, refusal::Reason,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use transport::{
    Beats, BoxError, Config, Event, Events, Identity, PeerService, Receiver, SnapshotError,
    SnapshotSink, Transport,
};

const HERE: StoreId = StoreId(1);
const THERE: StoreId = StoreId(2);

fn identity(store: StoreId, boot: u64) -> Identity {
    Identity {
        cluster_id: 77,
        store,
        boot,
        format: 1,
    }
}

/// What the receiving side saw.
#[derive(Debug, PartialEq)]
enum Seen {
    Frame(StoreId, Frame),
    Beat(StoreId, Beat),
    Opened(StoreId, SnapshotHead),
    Finished(Vec<u8>),
    Abandoned,
    Damaged,
}

#[derive(Clone)]
struct Recorder {
    seen: mpsc::UnboundedSender<Seen>,
    /// Whether snapshots are not waited for any more.
    unwanted: watch::Sender<bool>,
}

struct Sink {
    seen: mpsc::UnboundedSender<Seen>,
    unwanted: watch::Sender<bool>,
    data: Option<Vec<u8>>,
}

impl Receiver for Recorder {
    type Snapshot = Sink;

    fn frame(&self, from: StoreId, frame: Frame) {
        self.seen.send(Seen::Frame(from, frame)).ok();
    }

    fn beat(&self, from: StoreId, beat: Beat) {
        self.seen.send(Seen::Beat(from, beat)).ok();
    }

    fn damaged(&self) {
        self.seen.send(Seen::Damaged).ok();
    }

    fn snapshot(&self, from: StoreId, head: SnapshotHead) -> io::Result<Sink> {
        if head.slot == 0 {
            return Err(io::Error::other("no such slot"));
        }
        self.seen.send(Seen::Opened(from, head)).ok();
        Ok(Sink {
            seen: self.seen.clone(),
            unwanted: self.unwanted.clone(),
            data: Some(Vec::new()),
        })
    }
}

impl SnapshotSink for Sink {
    fn chunk(&mut self, chunk: SnapshotChunk) -> io::Result<()> {
        let data = self.data.as_mut().expect("not finished");
        if chunk.offset != data.len() as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a chunk is missing",
            ));
        }
        data.extend_from_slice(&chunk.data);
        Ok(())
    }

    fn over(&self) -> BoxFuture<'static, ()> {
        let mut unwanted = self.unwanted.subscribe();
        Box::pin(async move {
            unwanted.wait_for(|unwanted| *unwanted).await.ok();
        })
    }

    fn finish(mut self) -> io::Result<bool> {
        let data = self.data.take().expect("not finished");
        self.seen.send(Seen::Finished(data)).ok();
        Ok(true)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if self.data.is_some() {
            self.seen.send(Seen::Abandoned).ok();
        }
    }
}

/// A process that receives.
struct Server {
    address: String,
    service: PeerService<Recorder>,
    seen: mpsc::UnboundedReceiver<Seen>,
    unwanted: watch::Sender<bool>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(identity: Identity, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, seen) = mpsc::unbounded_channel();
        let unwanted = watch::Sender::new(false);
        let recorder = Recorder {
            seen: sender,
            unwanted: unwanted.clone(),
        };
        let service = PeerService::new(identity, recorder);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(service.server())
            .add_service(service.beats())
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                stopped.await.ok();
            });
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self {
            address,
            service,
            seen,
            unwanted,
            stop,
            task,
        }
    }

    async fn next_frame(&mut self) -> Frame {
        match self.seen.recv().await {
            Some(Seen::Frame(_, frame)) => frame,
            other => panic!("{other:?} instead of a frame"),
        }
    }

    async fn next_beat(&mut self) -> Beat {
        match self.seen.recv().await {
            Some(Seen::Beat(HERE, beat)) => beat,
            other => panic!("{other:?} instead of a beat"),
        }
    }

    async fn stop(self) -> String {
        self.service.close();
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
        self.address
    }
}

/// A transport that finds every store at `address`.
fn sender(identity: Identity, config: Config, address: &str) -> (Transport, Events) {
    let address = address.to_owned();
    let resolve = move |_| {
        let address = address.clone();
        async move { Ok::<_, BoxError>(address) }
    };
    Transport::new(identity, config, Arc::new(resolve))
}

fn frame(region: u64, bytes: usize) -> Frame {
    let entry = proto::pontoon::v1::Entry {
        payload: vec![7; bytes].into(),
        ..Default::default()
    };
    let append = proto::pontoon::v1::Append {
        entries: vec![entry],
        ..Default::default()
    };
    let body = Some(proto::pontoon::v1::raft_message::Body::Append(append));
    Frame {
        messages: vec![RaftMessage {
            region_id: region,
            body,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn regions(frame: &Frame) -> Vec<u64> {
    frame
        .messages
        .iter()
        .map(|message| message.region_id)
        .collect()
}

async fn within_deadline<T>(test: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), test)
        .await
        .expect("the test takes too long")
}

#[tokio::test]
async fn frames_arrive_whole_and_in_order() {
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let (transport, _events) = sender(identity(HERE, 1), Config::default(), &server.address);
        let sent: Vec<u64> = (0..2_000).collect();
        for region in &sent {
            transport.send(THERE, frame(*region, 1_000));
            if region % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let mut received = Vec::new();
        while received.len() < sent.len() {
            let frame = server.next_frame().await;
            assert!(
                frame
                    .messages
                    .iter()
                    .all(|message| message.body == self::frame(0, 1_000).messages[0].body)
            );
            received.extend(regions(&frame));
        }
        assert_eq!(received, sent);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_gathered_before_the_connection_leaves_in_one_frame() {
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let address = server.address.clone();
        let (release, released) = watch::channel(false);
        let resolve = move |_| {
            let (mut released, address) = (released.clone(), address.clone());
            async move {
                released.wait_for(|released| *released).await?;
                Ok::<_, BoxError>(address)
            }
        };
        let config = Config {
            connect_timeout: Duration::from_secs(20),
            ..Config::default()
        };
        let (transport, _events) = Transport::new(identity(HERE, 1), config, Arc::new(resolve));
        let sent: Vec<u64> = (0..1_000).collect();
        for region in &sent {
            transport.send(THERE, frame(*region, 10));
        }
        release.send_replace(true);
        assert_eq!(regions(&server.next_frame().await), sent);
        // An idle link sends what comes at once.
        transport.send(THERE, frame(5, 10));
        assert_eq!(regions(&server.next_frame().await), [5]);
        assert_eq!(transport.stats()[0].queued_bytes, 0);
        server.stop().await;
    })
    .await;
}

/// Between two beats.
const INTERVAL: Duration = Duration::from_millis(100);

fn beat(from: StoreId, seq: u64) -> Beat {
    Beat {
        from_store: from.0,
        to_store: THERE.0,
        seq,
        ..Default::default()
    }
}

#[tokio::test]
async fn the_newest_beat_is_sent() {
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let address = server.address.clone();
        let (release, released) = watch::channel(false);
        let resolve = move |_| {
            let (mut released, address) = (released.clone(), address.clone());
            async move {
                released.wait_for(|released| *released).await?;
                Ok::<_, BoxError>(address)
            }
        };
        let (transport, _events) =
            Transport::new(identity(HERE, 1), Config::default(), Arc::new(resolve));
        // Long enough that nothing is tried twice.
        let beats = Beats::new(&transport, Duration::from_secs(2));
        (1..=3).for_each(|seq| beats.send(beat(HERE, seq)));
        release.send_replace(true);
        assert_eq!(server.next_beat().await, beat(HERE, 3));
        beats.send(beat(HERE, 4));
        assert_eq!(server.next_beat().await, beat(HERE, 4));
        // Its stream ends, another delivers what comes next.
        beats.send(beat(StoreId(9), 5));
        let mut seq = 6;
        let arrived = loop {
            beats.send(beat(HERE, seq));
            seq += 1;
            if let Ok(arrived) = timeout(INTERVAL, server.next_beat()).await {
                break arrived;
            }
        };
        assert!(arrived.seq >= 6, "{arrived:?}");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_store_whose_process_is_gone_is_told_and_found_again() {
    within_deadline(async {
        let server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let (transport, events) = sender(identity(HERE, 1), Config::default(), &server.address);
        let beats = Beats::new(&transport, INTERVAL);
        let address = server.stop().await;
        let mut seq = 0;
        let mut send = || {
            seq += 1;
            beats.send(beat(HERE, seq));
        };
        loop {
            send();
            if let Ok(event) = timeout(INTERVAL, events.next()).await {
                assert_eq!(event, Event::Gone(THERE));
                break;
            }
        }
        let mut server = Server::start(identity(THERE, 2), &address).await;
        loop {
            send();
            if timeout(INTERVAL, server.next_beat()).await.is_ok() {
                break;
            }
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_is_reported() {
    within_deadline(async {
        let config = Config {
            queue_bytes_max: 10_000,
            connect_timeout: Duration::from_secs(60),
            ..Config::default()
        };
        let resolve = |_| pending::<Result<String, BoxError>>();
        let (transport, events) = Transport::new(identity(HERE, 1), config, Arc::new(resolve));
        for _ in 0..9 {
            transport.send(THERE, frame(1, 1_000));
        }
        assert_eq!(events.take(), None);
        transport.send(THERE, frame(1, 1_000));
        transport.send(THERE, frame(1, 1_000));
        assert_eq!(events.next().await, Event::Unreachable(THERE));
        assert_eq!(events.take(), None, "one pending event per store");
        let stats = transport.stats()[0];
        assert!(
            stats.queued_bytes <= 10_000 && stats.dropped_total == 2,
            "{stats:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn an_unreachable_store_is_reported_and_its_frames_are_forgotten() {
    within_deadline(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let (transport, events) = sender(identity(HERE, 1), Config::default(), &address);
        transport.send(THERE, frame(1, 1_000));
        assert_eq!(events.next().await, Event::Unreachable(THERE));
        assert_eq!(transport.stats()[0].queued_bytes, 0);
    })
    .await;
}

#[tokio::test]
async fn the_link_comes_back_with_the_other_side() {
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let (transport, events) = sender(identity(HERE, 1), Config::default(), &server.address);
        transport.send(THERE, frame(1, 10));
        assert_eq!(regions(&server.next_frame().await), [1]);

        let address = server.stop().await;
        assert_eq!(events.next().await, Event::Unreachable(THERE));
        let mut server = Server::start(identity(THERE, 2), &address).await;
        let received = loop {
            transport.send(THERE, frame(2, 10));
            tokio::select! {
                frame = server.next_frame() => break frame,
                _ = events.next() => {}
            }
        };
        assert!(regions(&received).iter().all(|region| *region == 2));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_moved_store_is_found_and_the_last_address_serves_while_nobody_knows() {
    within_deadline(async {
        let addresses: Arc<Mutex<BTreeMap<StoreId, String>>> = Arc::default();
        let known = addresses.clone();
        let resolve = move |store| {
            let address = known.lock().unwrap().get(&store).cloned();
            async move { address.ok_or_else(|| BoxError::from("nobody knows")) }
        };
        let (transport, events) =
            Transport::new(identity(HERE, 1), Config::default(), Arc::new(resolve));
        transport.send(THERE, frame(1, 10));
        assert_eq!(events.next().await, Event::Unreachable(THERE));

        let first = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        addresses
            .lock()
            .unwrap()
            .insert(THERE, first.address.clone());
        let mut server = first;
        for boot in 2..4 {
            loop {
                transport.send(THERE, frame(boot, 10));
                tokio::select! {
                    _ = server.next_frame() => break,
                    _ = events.next() => {}
                }
            }
            let address = server.stop().await;
            if boot == 2 {
                // Same place, but the resolver forgot it.
                addresses.lock().unwrap().clear();
                server = Server::start(identity(THERE, boot), &address).await;
            } else {
                server = Server::start(identity(THERE, boot), "127.0.0.1:0").await;
                addresses
                    .lock()
                    .unwrap()
                    .insert(THERE, server.address.clone());
            }
        }
        loop {
            transport.send(THERE, frame(9, 10));
            tokio::select! {
                _ = server.next_frame() => break,
                _ = events.next() => {}
            }
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_stranger_is_refused_and_nothing_is_delivered() {
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let mine = identity(HERE, 5);
        let strangers = [
            (Identity { cluster_id: 78, ..mine }, THERE, Reason::Cluster),
            (mine, StoreId(3), Reason::Store),
            (Identity { store: THERE, ..mine }, THERE, Reason::Store),
            (Identity { format: 2, ..mine }, THERE, Reason::Format),
        ];
        for (stranger, to, reason) in strangers {
            let (transport, events) = sender(stranger, Config::default(), &server.address);
            transport.send(to, frame(1, 10));
            match events.next().await {
                Event::Refused(store, refusal) => {
                    assert_eq!((store, refusal.reason()), (to, reason));
                    assert_eq!(refusal.mine.unwrap().from_store, THERE.0);
                }
                other => panic!("{other:?} instead of a refusal"),
            }
            let refused = transport.send_snapshot(to, SnapshotHead::default(), stream::empty()).await;
            assert!(matches!(refused, Err(SnapshotError::Refused(refusal)) if refusal.reason() == reason));
        }
        assert!(server.seen.try_recv().is_err());
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_later_process_of_a_store_shuts_out_the_earlier() {
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let (earlier, earlier_events) =
            sender(identity(HERE, 5), Config::default(), &server.address);
        earlier.send(THERE, frame(1, 10));
        assert_eq!(regions(&server.next_frame().await), [1]);
        let (later, _events) = sender(identity(HERE, 6), Config::default(), &server.address);
        later.send(THERE, frame(2, 10));
        assert_eq!(regions(&server.next_frame().await), [2]);

        earlier.send(THERE, frame(3, 10));
        match earlier_events.next().await {
            Event::Refused(store, refusal) => {
                assert_eq!((store, refusal.reason()), (THERE, Reason::Boot))
            }
            other => panic!("{other:?} instead of a refusal"),
        }
        later.send(THERE, frame(4, 10));
        assert_eq!(regions(&server.next_frame().await), [4]);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_without_hello_is_refused() {
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let mut client = PeerClient::connect(format!("http://{}", server.address))
            .await
            .unwrap();
        let openings = [
            RaftStream {
                kind: Some(raft_stream::Kind::Frame(frame(1, 10))),
            },
            RaftStream::default(),
        ];
        for opening in openings {
            let status = client.raft(stream::iter([opening])).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
        }
        assert!(client.raft(stream::empty()).await.is_err());
        assert!(client.snapshot(stream::empty()).await.is_err());
        assert!(server.seen.try_recv().is_err());
        drop(client);
        server.stop().await;
    })
    .await;
}

/// The head of a snapshot of two files.
fn head(slot: u64, bytes: [u64; 2]) -> SnapshotHead {
    let files = bytes
        .map(|bytes| SnapshotFile {
            bytes,
            ..Default::default()
        })
        .to_vec();
    SnapshotHead {
        slot,
        files,
        ..Default::default()
    }
}

fn chunk(offset: u64, data: &'static [u8]) -> io::Result<SnapshotChunk> {
    Ok(SnapshotChunk {
        offset,
        data: data.into(),
        ..Default::default()
    })
}

#[tokio::test]
async fn snapshots_arrive_whole_or_not_at_all() {
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let (transport, _events) = sender(identity(HERE, 1), Config::default(), &server.address);
        let head = head(4, [3, 3]);

        let chunks = stream::iter([chunk(0, b"one"), chunk(3, b"two")]);
        let received = transport
            .send_snapshot(THERE, head.clone(), chunks)
            .await
            .unwrap();
        assert_eq!(received, SnapshotReceived { accepted: true });
        assert_eq!(
            server.seen.recv().await,
            Some(Seen::Opened(HERE, head.clone()))
        );
        assert_eq!(
            server.seen.recv().await,
            Some(Seen::Finished(b"onetwo".to_vec()))
        );

        // The source fails once the receiver has begun.
        let (begun, beginning) = oneshot::channel();
        let failure = async move {
            beginning.await.expect("the receiver begins");
            Err(io::Error::other("disk"))
        };
        let chunks = stream::iter([chunk(0, b"one")]).chain(stream::once(failure));
        let begin = async {
            assert!(matches!(server.seen.recv().await, Some(Seen::Opened(..))));
            begun.send(()).expect("the source waits");
        };
        let (cut, ()) = tokio::join!(transport.send_snapshot(THERE, head.clone(), chunks), begin);
        assert!(matches!(cut, Err(SnapshotError::Source(error)) if error.to_string() == "disk"));

        let chunks = stream::iter([chunk(0, b"one"), chunk(6, b"gap")]);
        let gap = transport.send_snapshot(THERE, head.clone(), chunks).await;
        assert!(
            matches!(gap, Err(SnapshotError::Stream(status)) if status.code() == Code::Aborted)
        );

        let chunks = stream::iter([chunk(0, b"one")]);
        let short = transport.send_snapshot(THERE, head.clone(), chunks).await;
        assert!(matches!(short, Err(SnapshotError::Stream(status)) if status.code() == Code::Aborted));

        let chunks = stream::iter([chunk(0, b"one"), chunk(3, b"more")]);
        let long = transport.send_snapshot(THERE, head.clone(), chunks).await;
        assert!(matches!(long, Err(SnapshotError::Stream(status)) if status.code() == Code::InvalidArgument));

        let mut abandoned = 0;
        while abandoned < 4 {
            match server.seen.recv().await.unwrap() {
                Seen::Opened(..) => {}
                Seen::Abandoned => abandoned += 1,
                other => panic!("{other:?} of a broken snapshot"),
            }
        }

        let denied = transport
            .send_snapshot(THERE, SnapshotHead::default(), stream::empty())
            .await;
        assert!(
            matches!(denied, Err(SnapshotError::Stream(status)) if status.code() == Code::Aborted)
        );
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_silent_sender_is_let_go_once_its_snapshot_is_not_waited_for() {
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let (transport, _events) = sender(identity(HERE, 1), Config::default(), &server.address);
        let head = head(4, [1, 0]);
        let sending = tokio::spawn(async move {
            transport
                .send_snapshot(THERE, head, stream::pending())
                .await
        });
        assert!(matches!(server.seen.recv().await, Some(Seen::Opened(..))));
        server.unwanted.send_replace(true);
        assert_eq!(server.seen.recv().await, Some(Seen::Abandoned));
        let ended = sending.await.unwrap();
        assert!(
            matches!(ended, Err(SnapshotError::Stream(status)) if status.code() == Code::Aborted)
        );
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn closing_ends_a_snapshot_in_progress() {
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let (transport, _events) = sender(identity(HERE, 1), Config::default(), &server.address);
        let head = head(4, [1, 0]);
        let sending = tokio::spawn(async move {
            transport
                .send_snapshot(THERE, head, stream::pending())
                .await
        });
        assert!(matches!(server.seen.recv().await, Some(Seen::Opened(..))));
        let Server {
            service,
            mut seen,
            stop,
            task,
            ..
        } = server;
        service.close();
        assert_eq!(seen.recv().await, Some(Seen::Abandoned));
        assert!(matches!(
            sending.await.unwrap(),
            Err(SnapshotError::Stream(_))
        ));
        stop.send(()).unwrap();
        task.await.unwrap();
    })
    .await;
}

/// Which bit of what is read next is to be flipped: its byte, and its place in that. Taken when it is done.
type Flip = Arc<Mutex<Option<(usize, u8)>>>;

/// A proxy in front of `address`, for one connection after the other. Returns its address.
async fn flipping_proxy(address: &str, flip: Flip) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxied = listener.local_addr().unwrap().to_string();
    let address = address.to_owned();
    tokio::spawn(async move {
        loop {
            let (caller, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(&address).await.unwrap();
            let (mut from_caller, mut to_caller) = caller.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let back = tokio::spawn(async move {
                tokio::io::copy(&mut from_server, &mut to_caller).await.ok();
            });
            let mut buffer = vec![0; 1 << 16];
            loop {
                let read = from_caller.read(&mut buffer).await.unwrap_or(0);
                if read == 0 {
                    break;
                }
                let hit = flip.lock().unwrap().take_if(|(byte, _)| *byte < read);
                if let Some((byte, bit)) = hit {
                    buffer[byte] ^= 1 << bit;
                }
                if to_server.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
            drop(to_server);
            back.abort();
        }
    });
    proxied
}

/// F8: a frame of which one bit was flipped on the way is not delivered, its stream ends, and the link comes back.
#[tokio::test]
async fn a_flipped_bit_is_never_delivered() {
    const FLIPS: usize = 300;
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let flip = Flip::default();
        let address = flipping_proxy(&server.address, flip.clone()).await;
        let config = Config {
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_millis(2),
            ..Config::default()
        };
        let (transport, events) = sender(identity(HERE, 1), config, &address);
        let sent = frame(7, 300);
        let mut damaged = 0;
        // Without it nothing would be sent while the receiver waits for the rest of a message whose length was changed.
        let mut again = tokio::time::interval(Duration::from_millis(2));
        for number in 0..2 * FLIPS {
            let calm = number % 2 == 0;
            if !calm {
                // The first bytes are the head of HTTP/2, which has no checksum.
                let byte = 9 + number * 7 % 330;
                *flip.lock().unwrap() = Some((byte, (number % 8) as u8));
            }
            loop {
                let seen = tokio::select! {
                    seen = server.seen.recv() => Some(seen.expect("the server lives")),
                    _ = events.next() => None,
                    _ = again.tick() => {
                        transport.send(THERE, sent.clone());
                        continue;
                    }
                };
                let hit = flip.lock().unwrap().is_none();
                match seen {
                    Some(Seen::Frame(_, received)) => {
                        assert!(received.messages.iter().all(|one| *one == sent.messages[0]));
                        if calm || hit {
                            break;
                        }
                    }
                    Some(Seen::Damaged) => {
                        damaged += 1;
                        if !calm {
                            break;
                        }
                    }
                    Some(other) => panic!("{other:?} instead of a frame"),
                    None if !calm && hit => break,
                    None => {}
                }
            }
        }
        assert!(
            damaged > FLIPS / 2,
            "of {FLIPS} flips {damaged} met a message"
        );
        server.stop().await;
    })
    .await;
}

/// A sender from before there were checksums is told what is wrong and delivers nothing.
#[tokio::test]
async fn a_sender_without_checksums_is_refused() {
    within_deadline(async {
        let mut server = Server::start(identity(THERE, 1), "127.0.0.1:0").await;
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{}", server.address));
        let channel = endpoint.unwrap().connect().await.unwrap();
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let hello = identity(HERE, 1);
        let hello = proto::pontoon::v1::Hello {
            cluster_id: hello.cluster_id,
            from_store: HERE.0,
            to_store: THERE.0,
            boot: 1,
            format: 1,
        };
        let opening = [
            raft_stream::Kind::Hello(hello),
            raft_stream::Kind::Frame(frame(1, 10)),
        ];
        let opening = opening.map(|kind| RaftStream { kind: Some(kind) });
        let codec: tonic_prost::ProstCodec<RaftStream, proto::pontoon::v1::Accepted> =
            tonic_prost::ProstCodec::default();
        let path = http::uri::PathAndQuery::from_static("/pontoon.v1.Peer/Raft");
        let answer = grpc
            .streaming(tonic::Request::new(stream::iter(opening)), path, codec)
            .await;
        let status = answer.expect_err("it must be refused");
        assert_eq!(status.code(), Code::DataLoss);
        assert!(status.message().contains("no checksum"), "{status:?}");
        assert_eq!(server.seen.recv().await, Some(Seen::Damaged));
        assert!(server.seen.try_recv().is_err());
        server.stop().await;
    })
    .await;
}
