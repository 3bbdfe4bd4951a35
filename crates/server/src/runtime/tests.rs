//! Nodes with all their threads, over memory engines and a switchboard instead of sockets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::{Engine, Family, Fault, MemoryEngine};
use proto::pontoon::v1::{CompareAndSwap, Delete, Frame, Operation, Put, SnapshotHead, operation};
use proto::{RegionId, StoreId, metapb};
use raft::Role;
use store::event::{Keys, OperationResult, Refusal, Target};

use super::fatal::{FatalError, OnFatal};
use super::network::ReadFile;
use super::transfers::Ticket;
use super::{Handle, Network, Node, Options};
use crate::metrics::Metrics;

const REGION: RegionId = RegionId(1);

/// Delivers frames from node to node.
#[derive(Default)]
struct Switchboard {
    nodes: Mutex<BTreeMap<StoreId, Handle<MemoryEngine>>>,
}

struct Line {
    from: StoreId,
    board: Arc<Switchboard>,
}

impl Network for Line {
    fn share(&self, _: std::collections::BTreeSet<StoreId>) {}

    fn send(&self, to: StoreId, frame: Frame) {
        let nodes = self
            .board
            .nodes
            .lock()
            .expect("no test panics with the lock");
        if let Some(node) = nodes.get(&to) {
            node.frame(self.from, frame);
        }
    }

    fn send_snapshot(
        &self,
        _to: StoreId,
        _head: &SnapshotHead,
        _read: ReadFile,
        _ticket: Ticket,
    ) -> bool {
        false
    }
}

/// Keeps the first failure.
#[derive(Clone, Default)]
struct Failure(Arc<OnceLock<FatalError>>);

impl Failure {
    fn on_fatal(&self) -> OnFatal {
        let kept = self.0.clone();
        Arc::new(move |error| drop(kept.set(error)))
    }
}

struct Cluster {
    board: Arc<Switchboard>,
    nodes: BTreeMap<StoreId, Node<MemoryEngine>>,
    engines: BTreeMap<StoreId, MemoryEngine>,
    failure: Failure,
}

impl Cluster {
    fn start(stores: u64) -> Cluster {
        let peers = (1..=stores).map(|id| metapb::Peer {
            id: 10 + id,
            store_id: id,
            ..Default::default()
        });
        let region = metapb::Region {
            id: REGION.0,
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 1,
            }),
            peers: peers.collect(),
            ..Default::default()
        };
        let (board, failure) = (Arc::new(Switchboard::default()), Failure::default());
        let mut cluster = Cluster {
            board,
            nodes: BTreeMap::new(),
            engines: BTreeMap::new(),
            failure,
        };
        for id in (1..=stores).map(StoreId) {
            let engine = MemoryEngine::new();
            store::identity::create(&engine, 1, id, 1).expect("an empty engine");
            store::identity::bootstrap(&engine, std::slice::from_ref(&region))
                .expect("an identity is there");
            cluster.start_node(id, engine);
        }
        cluster
    }

    /// Writes, and waits until the node has told that it failed: the write is not acknowledged then and never will be.
    async fn failed_while_writing(&self, node: &Handle<MemoryEngine>) -> &FatalError {
        let mut write = std::pin::pin!(node.propose(target("k"), put("k", "w")));
        let told = async {
            let mut look = tokio::time::interval(Duration::from_millis(5));
            loop {
                look.tick().await;
                if let Some(failure) = self.failure.0.get() {
                    break failure;
                }
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(30), told);
        tokio::select! {
            answered = &mut write => {
                assert!(answered.is_err(), "acknowledged after a failure: {answered:?}");
                self.failure.0.get().expect("the failure is told before the threads end")
            }
            told = told => told.expect("the failure is told"),
        }
    }

    fn start_node(&mut self, id: StoreId, engine: MemoryEngine) {
        let identity = store::identity::bump_boot(&engine).expect("an identity is there");
        // Fast, so that tests do not wait long for elections, but no pause of a busy machine.
        let raft = raft::Options {
            election_ticks: 80,
            heartbeat_ticks: 8,
            ..Default::default()
        };
        let options = store::Options {
            raft,
            seed: id.0 * 1000 + identity.boot,
            ids_low: 0,
            ..Default::default()
        };
        let store = store::Store::open(engine.clone(), options).expect("a sound engine");
        let node = Node::start(
            store,
            engine.clone(),
            Arc::new(Line {
                from: id,
                board: self.board.clone(),
            }),
            &Options {
                tick: Duration::from_millis(5),
                appliers: 2,
                ..Default::default()
            },
            Arc::new(Metrics::new()),
            self.failure.on_fatal(),
        )
        .expect("threads");
        self.board
            .nodes
            .lock()
            .expect("no test panics with the lock")
            .insert(id, node.handle());
        self.nodes.insert(id, node);
        self.engines.insert(id, engine);
    }

    fn stop(&mut self, id: StoreId) {
        self.board
            .nodes
            .lock()
            .expect("no test panics with the lock")
            .remove(&id);
        self.nodes.remove(&id).expect("the node runs").stop();
    }

    fn handles(&self) -> Vec<Handle<MemoryEngine>> {
        self.nodes.values().map(Node::handle).collect()
    }

    /// Waits for a leader.
    async fn leader(&self) -> Handle<MemoryEngine> {
        self.leader_other_than(None).await.1
    }

    async fn leader_other_than(&self, not: Option<StoreId>) -> (StoreId, Handle<MemoryEngine>) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let waits: Vec<_> = self
                .nodes
                .iter()
                .map(|(id, node)| (*id, node.handle()))
                .collect();
            for (id, node) in &waits {
                let leads = node
                    .region(REGION)
                    .is_some_and(|view| view.role == Role::Leader);
                if leads && Some(*id) != not {
                    return (*id, node.clone());
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
            let any = waits
                .iter()
                .map(|(_, node)| Box::pin(node.views().changed()));
            drop(
                tokio::time::timeout(Duration::from_millis(100), futures::future::select_all(any))
                    .await,
            );
        }
    }

    fn end(mut self) {
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        for id in ids {
            self.stop(id);
        }
    }
}

fn target(key: &str) -> Target {
    Target {
        region: REGION,
        peer: None,
        epoch: None,
        keys: Keys::Points(vec![Bytes::copy_from_slice(key.as_bytes())]),
    }
}

fn put(key: &str, value: &str) -> Vec<Operation> {
    let put = Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        expires_at: 0,
    };
    vec![Operation {
        kind: Some(operation::Kind::Put(put)),
    }]
}

async fn get(node: &Handle<MemoryEngine>, key: &str) -> Result<Option<Bytes>, Refusal> {
    let permit = node.permit(target(key)).await?;
    let value = permit
        .get(&store::keys::data(key.as_bytes()))?
        .expect("memory does not fail");
    Ok(value.map(|value| {
        store::value::decode(value)
            .expect("written by the applier")
            .value
    }))
}

#[tokio::test]
async fn what_was_acknowledged_is_read() {
    let cluster = Cluster::start(1);
    let node = cluster.leader().await;
    assert_eq!(get(&node, "k").await, Ok(None));
    assert_eq!(
        node.propose(target("k"), put("k", "v")).await,
        Ok(vec![OperationResult::Done])
    );
    assert_eq!(get(&node, "k").await, Ok(Some("v".into())));

    let delete = operation::Kind::Delete(Delete { key: "k".into() });
    let both = [put("j", "w"), vec![Operation { kind: Some(delete) }]].concat();
    assert_eq!(
        node.propose(target("k"), both).await,
        Ok(vec![OperationResult::Done, OperationResult::Done])
    );
    assert_eq!(get(&node, "k").await, Ok(None));
    assert_eq!(get(&node, "j").await, Ok(Some("w".into())));
    assert_eq!(node.request_bytes(), 0, "nothing is in work");
    cluster.end();
}

#[tokio::test]
async fn writes_of_many_clients_share_syncs() {
    let cluster = Cluster::start(3);
    let node = cluster.leader().await;
    let before = cluster
        .engines
        .values()
        .map(|engine| engine.statistics().syncs)
        .sum::<u64>();
    let writes = (0..500).map(|number| {
        let node = node.clone();
        async move {
            let key = format!("key-{number}");
            node.propose(target(&key), put(&key, "v")).await
        }
    });
    for result in futures::future::join_all(writes).await {
        assert_eq!(result, Ok(vec![OperationResult::Done]));
    }
    let syncs = cluster
        .engines
        .values()
        .map(|engine| engine.statistics().syncs)
        .sum::<u64>()
        - before;
    assert!(syncs < 500, "{syncs} syncs for 500 writes on three stores");
    assert_eq!(get(&node, "key-499").await, Ok(Some("v".into())));
    cluster.end();
}

#[tokio::test]
async fn another_leads_after_one_stops_and_nothing_is_lost() {
    let mut cluster = Cluster::start(3);
    let (id, node) = cluster.leader_other_than(None).await;
    assert_eq!(
        node.propose(target("k"), put("k", "v")).await,
        Ok(vec![OperationResult::Done])
    );
    cluster.stop(id);
    let refused = node.propose(target("k"), put("k", "w")).await;
    assert!(
        matches!(refused, Err(Refusal::NotLeader { .. })),
        "a stopped node takes nothing: {refused:?}"
    );

    let (_, other) = cluster.leader_other_than(Some(id)).await;
    assert_eq!(get(&other, "k").await, Ok(Some("v".into())));

    let engine = cluster.engines[&id].reopen().expect("memory does not fail");
    cluster.start_node(id, engine);
    assert_eq!(
        other.propose(target("k"), put("k", "w")).await,
        Ok(vec![OperationResult::Done])
    );
    cluster.end();
}

#[tokio::test]
async fn a_follower_names_the_leader() {
    let cluster = Cluster::start(3);
    let (leader, node) = cluster.leader_other_than(None).await;
    // A write that is acknowledged was heard by one follower at least.
    assert!(node.propose(target("k"), put("k", "v")).await.is_ok());
    let mut named = 0;
    for follower in cluster.handles() {
        if let Err(Refusal::NotLeader {
            leader: Some(peer), ..
        }) = follower.propose(target("k"), put("k", "v")).await
        {
            assert_eq!(StoreId(peer.store_id), leader);
            named += 1;
        }
    }
    assert!(named >= 1);
    cluster.end();
}

#[tokio::test]
async fn a_permit_ends_with_the_leadership() {
    let cluster = Cluster::start(3);
    let (id, node) = cluster.leader_other_than(None).await;
    assert!(node.propose(target("k"), put("k", "v")).await.is_ok());
    let permit = node.permit(target("k")).await.expect("it leads");
    assert!(node.drain(Duration::from_secs(30)).await);
    cluster.leader_other_than(Some(id)).await;
    let read = permit.get(&store::keys::data(b"k"));
    assert!(matches!(read, Err(Refusal::NotLeader { .. })));
    cluster.end();
}

#[tokio::test]
async fn a_draining_node_hands_its_leaderships_over() {
    let cluster = Cluster::start(3);
    let (id, node) = cluster.leader_other_than(None).await;
    assert!(node.drain(Duration::from_secs(30)).await);
    let (other, _) = cluster.leader_other_than(Some(id)).await;
    assert_ne!(other, id);
    cluster.end();
}

#[tokio::test]
async fn a_failed_sync_stops_the_node_and_acknowledges_nothing() {
    let cluster = Cluster::start(1);
    let node = cluster.leader().await;
    assert!(node.propose(target("k"), put("k", "v")).await.is_ok());
    cluster.engines[&StoreId(1)].fail_next(Fault::Sync);
    let failure = cluster.failed_while_writing(&node).await;
    assert_eq!(failure.doing, "syncing the log");
    cluster.end();
}

#[tokio::test]
async fn a_failed_write_names_its_cause() {
    let cluster = Cluster::start(1);
    let node = cluster.leader().await;
    cluster.engines[&StoreId(1)].fail_next(Fault::Write);
    let failure = cluster.failed_while_writing(&node).await;
    assert!(crate::exit::chain(failure).contains("failed"), "{failure}");
    cluster.end();
}

#[tokio::test]
async fn a_request_that_passes_the_byte_limit_is_refused_as_busy() {
    let cluster = Cluster::start(1);
    let node = cluster.leader().await;
    let large = "v".repeat(7 << 20);
    let writes = (0..40).map(|_| node.propose(target("k"), put("k", &large)));
    let results = futures::future::join_all(writes).await;
    let busy = results
        .iter()
        .filter(|result| matches!(result, Err(Refusal::Busy { .. })))
        .count();
    assert!(busy > 0, "280 MiB at once pass a limit of 128 MiB");
    assert!(results.iter().any(Result::is_ok), "what fits is done");
    assert!(
        node.propose(target("k"), put("k", "small")).await.is_ok(),
        "room comes back"
    );
    cluster.end();
}

/// Lets the value of a key rot on the disk of a node.
fn rot(engine: &MemoryEngine, key: &str) {
    engine.flush(Family::State).expect("no fault");
    engine.damage(Family::State, &store::keys::data(key.as_bytes()));
}

/// R13: what met damage is told so, another leads and answers, and no node stops.
#[tokio::test]
async fn damage_costs_the_replica_and_not_the_node() {
    let cluster = Cluster::start(3);
    let (first, node) = cluster.leader_other_than(None).await;
    for key in ["k", "l"] {
        let done = node.propose(target(key), put(key, "v")).await;
        assert_eq!(done, Ok(vec![OperationResult::Done]));
    }
    rot(&cluster.engines[&first], "k");
    let permit = node.permit(target("k")).await.expect("it leads");
    let error = permit
        .get(&store::keys::data(b"k"))
        .expect("it leads")
        .expect_err("it cannot be read");
    node.met_error(REGION, &error);
    tokio::time::timeout(Duration::from_secs(30), node.views().damage_changed())
        .await
        .expect("whoever beats for the store is woken");
    assert_eq!(node.views().damaged(), [REGION.0]);

    let (second, other) = cluster.leader_other_than(Some(first)).await;
    assert_eq!(get(&other, "k").await, Ok(Some("v".into())));
    assert_eq!(other.views().damaged(), [0; 0]);

    rot(&cluster.engines[&second], "l");
    let swap = CompareAndSwap {
        key: "l".into(),
        value: "w".into(),
        previous: Some("v".into()),
        ..Default::default()
    };
    let swap = vec![Operation {
        kind: Some(operation::Kind::CompareAndSwap(swap)),
    }];
    assert_eq!(
        other.propose(target("l"), swap).await,
        Err(Refusal::Unknown)
    );
    let deadline = Instant::now() + Duration::from_secs(30);
    let swapped = loop {
        let leader = cluster.leader().await;
        if leader.views().damaged().is_empty()
            && let Ok(value) = get(&leader, "l").await
        {
            break value;
        }
        assert!(Instant::now() < deadline, "nobody whole leads");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(swapped, Some("w".into()));
    assert!(cluster.failure.0.get().is_none());
    cluster.end();
}
