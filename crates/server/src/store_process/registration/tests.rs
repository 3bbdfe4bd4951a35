//! What placement hears of regions, over a real stream, where nothing is due for years.

use std::sync::OnceLock;

use engine::{Engine, Family, MemoryEngine};
use proto::StoreId;
use proto::pontoon::v1::{Frame, MergeRecord, RegionState, SnapshotHead, region_state};
use store::event::{Order, OrderKind, StepId};

use super::*;
use crate::metrics::Metrics;
use crate::runtime::fatal::exit_process;
use crate::runtime::{Network, Node, Options, ReadFile, Ticket};
use crate::store_process::stub::{Answers, CLUSTER, Stub};

const REGION: RegionId = RegionId(1);
/// Of every wait; reached only when the code is wrong.
const DEADLINE: Duration = Duration::from_secs(30);
/// Ticks of 5 ms that no test lives through.
const NEVER: u64 = 1 << 40;

/// Delivers frames to the other of two nodes.
struct Line {
    from: StoreId,
    to: Arc<OnceLock<Handle<MemoryEngine>>>,
}

impl Network for Line {
    fn share(&self, _: std::collections::BTreeSet<StoreId>) {}

    fn send(&self, _: StoreId, frame: Frame) {
        // Before the other one is there frames are lost, as on a network.
        if let Some(node) = self.to.get() {
            node.frame(self.from, frame);
        }
    }

    fn send_snapshot(&self, _: StoreId, _: &SnapshotHead, _: ReadFile, _: Ticket) -> bool {
        false
    }
}

fn region() -> metapb::Region {
    metapb::Region {
        id: REGION.0,
        region_epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        peers: [1, 2]
            .map(|store_id| metapb::Peer {
                id: 10 + store_id,
                store_id,
                ..Default::default()
            })
            .to_vec(),
        ..Default::default()
    }
}

fn state_of(engine: &MemoryEngine, region: RegionId) -> RegionState {
    let state = engine.get(Family::State, &store::keys::region_state(region));
    let state = state.expect("it reads").expect("a state");
    store::codec::decode_record(&state).expect("a sound state")
}

/// The region took another one in, on stores 1 to 3; on this store nothing is left of that.
fn remember_merge(engine: &MemoryEngine) {
    let source = metapb::Region {
        id: 9,
        peers: [1, 2, 3]
            .map(|store_id| metapb::Peer {
                id: 90 + store_id,
                store_id,
                ..Default::default()
            })
            .to_vec(),
        ..region()
    };
    let mut state = state_of(engine, REGION);
    state.records.push(MergeRecord {
        source: Some(source.clone()),
        freeze_index: 5,
        absorber: Some(region()),
        version: 1,
    });
    let mut dead = RegionState {
        peer_id: 93,
        region: Some(source),
        ..Default::default()
    };
    dead.set_state(region_state::State::Tombstone);
    let put = |region, state: &RegionState| {
        let key = store::keys::region_state(region);
        let value = store::codec::encode_record(state);
        engine::Change::Put(Bytes::copy_from_slice(&key), value)
    };
    let batch = engine::Batch {
        family: Family::State,
        changes: vec![put(REGION, &state), put(RegionId(9), &dead)],
    };
    let written = engine.write(batch, engine::Logging::On);
    written.expect("the engine writes");
}

fn start(id: StoreId, network: Line) -> Node<MemoryEngine> {
    let engine = MemoryEngine::new();
    store::identity::create(&engine, CLUSTER, id, 1).expect("an empty engine");
    store::identity::bootstrap(&engine, &[region()]).expect("an identity is there");
    remember_merge(&engine);
    store::identity::bump_boot(&engine).expect("an identity is there");
    let options = store::Options {
        seed: id.0,
        ids_low: 0,
        report_ticks: NEVER,
        load_report_ticks: NEVER,
        health_ticks: NEVER,
        leaderless_ticks: 400,
        raft: raft::Options {
            election_ticks: 80,
            heartbeat_ticks: 8,
            ..Default::default()
        },
        ..Default::default()
    };
    let store = store::Store::open(engine.clone(), options).expect("a sound engine");
    let options = Options {
        tick: Duration::from_millis(5),
        ..Default::default()
    };
    let metrics = Arc::new(Metrics::new());
    Node::start(
        store,
        engine,
        Arc::new(network),
        &options,
        metrics,
        exit_process(),
    )
    .expect("threads")
}

/// Two stores with a region of two voters, and placement listening.
struct Pair {
    nodes: [Node<MemoryEngine>; 2],
    heard: mpsc::UnboundedReceiver<pdpb::RegionHeartbeatRequest>,
    tasks: tokio::task::JoinSet<()>,
    _directory: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

impl Pair {
    async fn start() -> Pair {
        Pair::with(region()).await
    }

    /// With a placement that knows this of the region.
    async fn with(knows: metapb::Region) -> Pair {
        let (sender, heard) = mpsc::unbounded_channel();
        let mut tasks = tokio::task::JoinSet::new();
        let answers = Answers {
            knows: Some(knows),
            removed: Some(3),
            heard: Some(sender),
            ..Default::default()
        };
        let placement = Stub::serve(&mut tasks, answers).await;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (stop, stopping) = watch::channel(false);
        let ends = [1, 2].map(|_| Arc::new(OnceLock::new()));
        let nodes = [1, 2].map(|id| {
            let to = ends[2 - id as usize].clone();
            let id = StoreId(id);
            let node = start(id, Line { from: id, to });
            let registration = Registration {
                node: node.handle(),
                placement: Arc::new(PlacementClient::new(std::slice::from_ref(
                    &placement.address,
                ))),
                identity: StoreIdentity {
                    cluster_id: CLUSTER,
                    store_id: id.0,
                    boot: 1,
                    ..Default::default()
                },
                store: metapb::Store::default(),
                addresses: Arc::new(AddressBook::open(directory.path().join(id.to_string()))),
                data_dir: directory.path().to_owned(),
                stopping: stopping.clone(),
            };
            tasks.spawn(async move { registration.regions().await });
            node
        });
        for (end, node) in ends.iter().zip(&nodes) {
            assert!(end.set(node.handle()).is_ok());
        }
        Pair {
            nodes,
            heard,
            tasks,
            _directory: directory,
            _stop: stop,
        }
    }

    async fn next(&mut self, what: &str) -> pdpb::RegionHeartbeatRequest {
        let heard = tokio::time::timeout(DEADLINE, self.heard.recv()).await;
        let heard = heard.unwrap_or_else(|_| panic!("placement was not told {what}"));
        heard.expect("placement listens")
    }

    /// Orders, as placement does again and again: a leader may not be ready. Gives the next report that `holds`.
    async fn order(
        &mut self,
        leader: u64,
        kind: OrderKind,
        what: &str,
        holds: impl Fn(&pdpb::RegionHeartbeatRequest) -> bool,
    ) -> pdpb::RegionHeartbeatRequest {
        let node = self.nodes[leader as usize - 1].handle();
        let ordering = async {
            let mut again = tokio::time::interval(Duration::from_millis(100));
            loop {
                again.tick().await;
                node.order(Order {
                    region: REGION,
                    epoch: region().region_epoch.expect("an epoch"),
                    id: StepId::default(),
                    kind: kind.clone(),
                    purpose: Default::default(),
                });
            }
        };
        let hearing = async {
            loop {
                let report = self.next(what).await;
                if holds(&report) {
                    return report;
                }
            }
        };
        tokio::select! {
            () = ordering => unreachable!("it orders for ever"),
            report = hearing => report,
        }
    }

    async fn stop(mut self) {
        self.tasks.shutdown().await;
        for node in self.nodes {
            let stopped = tokio::task::spawn_blocking(move || node.stop());
            stopped.await.expect("no thread panics");
        }
    }
}

/// The store that leads by a report.
fn leader(report: &pdpb::RegionHeartbeatRequest) -> u64 {
    report.leader.as_ref().expect("a leader").store_id
}

/// REGIONS §8: a new leader and a split are told at once. Reports that are due come years later here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_without_waiting_until_a_report_is_due() {
    let mut pair = Pair::start().await;
    let first = pair.next("who leads first").await;
    let (mut leads, mut term) = (leader(&first), first.term);
    // Whoever never told anything owes a report. The third and the fourth leader have told before, and owe none.
    for _ in 0..3 {
        let other = 3 - leads;
        let transfer = OrderKind::TransferLeader(raft::PeerId(10 + other));
        let told =
            |report: &pdpb::RegionHeartbeatRequest| report.term > term && leader(report) == other;
        let report = pair.order(leads, transfer, "of a new leader", told).await;
        (leads, term) = (other, report.term);
    }

    let node = pair.nodes[leads as usize - 1].handle();
    node.ids((100..110).collect());
    let split = |report: &pdpb::RegionHeartbeatRequest| {
        let region = report.region.as_ref().expect("a region");
        let epoch = region.region_epoch.expect("an epoch");
        region.id == REGION.0 && epoch.version == 2
    };
    let keys = OrderKind::Split(vec!["m".into()]);
    pair.order(leads, keys, "of a split", split).await;
    pair.stop().await;
}

/// REGIONS §2 (c): the other member is gone, and placement knows that the one which is left was removed before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_hears_nobody_learns_of_its_removal_from_placement() {
    let mut known = region();
    known.region_epoch = Some(metapb::RegionEpoch {
        conf_ver: 4,
        version: 1,
    });
    known.peers.retain(|peer| peer.store_id == 1);
    let mut pair = Pair::with(known).await;
    pair.next("who leads first").await;
    let [gone, left] = pair.nodes;
    let stopped = tokio::task::spawn_blocking(move || gone.stop());
    stopped.await.expect("no thread panics");
    let handle = left.handle();
    let destroyed = async {
        let mut again = tokio::time::interval(Duration::from_millis(10));
        while handle.region(REGION).is_some() {
            again.tick().await;
        }
    };
    let destroyed = tokio::time::timeout(DEADLINE, destroyed).await;
    destroyed.expect("placement's answer is proof");
    pair.tasks.shutdown().await;
    let stopped = tokio::task::spawn_blocking(move || left.stop());
    stopped.await.expect("no thread panics");
}

/// R31: the pool from which splits draw gets what placement gave, or nothing.
#[tokio::test]
async fn the_pool_takes_no_ids_that_were_not_given() {
    let mut tasks = tokio::task::JoinSet::new();
    for (gives, taken) in [
        (3, Some(vec![998, 999, 1_000])),
        (0, None),
        (2, None),
        (4, None),
    ] {
        let answers = Answers {
            gives: vec![(1_000, gives)],
            ..Default::default()
        };
        let placement = Stub::serve(&mut tasks, answers).await;
        let client = PdClient::connect(format!("http://{}", placement.address)).await;
        let ids = fresh_ids(client.expect("it serves"), Default::default(), 3).await;
        assert_eq!(ids.ok(), taken, "it gives {gives}");
    }
    tasks.shutdown().await;
}

/// REGIONS §5: the third store of a merged region says nothing, and placement knows that it was removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_does_not_wait_for_a_store_that_placement_removed() {
    let mut pair = Pair::start().await;
    pair.next("who leads first").await;
    let handles = [0, 1].map(|at: usize| pair.nodes[at].handle());
    let dropped = async {
        let mut again = tokio::time::interval(Duration::from_millis(10));
        let remembers =
            |handle: &Handle<MemoryEngine>| !state_of(handle.engine(), REGION).records.is_empty();
        while handles.iter().any(remembers) {
            again.tick().await;
        }
    };
    let dropped = tokio::time::timeout(DEADLINE, dropped).await;
    dropped.expect("placement's answer ends it");
    pair.stop().await;
}

#[test]
fn intervals_are_whole_seconds() {
    let lengths = [0, 499, 1_400, 59_600, 66_000].map(|milliseconds| {
        let interval = interval(milliseconds, 1_000);
        assert_eq!(interval.end_timestamp, 1_000);
        1_000 - interval.start_timestamp
    });
    assert_eq!(lengths, [1, 1, 1, 60, 66]);
}

#[test]
fn the_disk_has_a_size() {
    let (capacity, available) = disk(&std::env::temp_dir());
    assert!(capacity > 0 && available <= capacity);
}

#[test]
fn the_dial_is_read_from_what_placement_tells() {
    let told = |text: &str| {
        let mut metadata = tonic::metadata::MetadataMap::new();
        metadata.insert(placement::DIAL_METADATA, text.parse().expect("ASCII"));
        dial_of(&metadata)
    };
    let dial = store::Dial {
        balance_bytes: 7,
        repair_bytes: 11,
    };
    assert_eq!(told("7 11"), Some(dial));
    for wrong in ["", "7", "7 x", "7 11 12", "-7 11"] {
        assert_eq!(told(wrong), None, "{wrong}");
    }
    assert_eq!(dial_of(&Default::default()), None, "an earlier version");
}
