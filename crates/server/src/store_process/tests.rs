//! A store behind real sockets: RocksDB, tonic, the whole path of a request.

use std::sync::Arc;
use std::time::Duration;

use engine::{RocksEngine, RocksOptions};
use proto::kvrpcpb as kv;
use proto::pontoon::v1::replicas_client::ReplicasClient;
use proto::pontoon::v1::verified_peer::Outcome;
use proto::pontoon::v1::{Frame, SnapshotHead, VerifyRegionRequest};
use proto::tikvpb::tikv_client::TikvClient;
use proto::tikvpb::{
    BatchCommandsEmptyRequest, BatchCommandsRequest, batch_commands_request,
    batch_commands_response,
};
use proto::{RegionId, StoreId, memcomparable, metapb};
use raft::Role;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::link::Incoming;
use super::{StoreConfig, check, describe, listen, reserve, server};
use crate::exit::Kind;
use crate::metrics::Metrics;
use crate::runtime::fatal::exit_process;
use crate::runtime::{Network, Node, Options, ReadFile, Ticket};
use crate::services::replicas::ReplicasService;
use crate::services::served;
use crate::services::tikv::{Addresses, ApiVersion, Rules, TikvService};

/// A store with no other.
struct Alone;

impl Network for Alone {
    fn share(&self, _: std::collections::BTreeSet<StoreId>) {}

    fn send(&self, to: StoreId, _frame: Frame) {
        panic!("there is no store {to}");
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

impl Addresses for Alone {
    fn address(&self, _store: StoreId) -> Option<String> {
        None
    }
}

struct Running {
    _directory: tempfile::TempDir,
    node: Option<Node<RocksEngine>>,
    client: TikvClient<Channel>,
    channel: Channel,
    stop: watch::Sender<bool>,
    close: watch::Sender<bool>,
    api: ApiVersion,
}

/// The middle of the key space, where the first region is cut in two.
fn middle(api: ApiVersion) -> bytes::Bytes {
    match api {
        ApiVersion::V1 => "m".into(),
        ApiVersion::V2 => memcomparable::encode(b"r\0\0\0m"),
    }
}

impl Running {
    /// Two regions, 1 and 2, that meet in the middle.
    async fn start(api: ApiVersion) -> Running {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = RocksOptions {
            cache_bytes: 8 << 20,
            memtable_bytes: 8 << 20,
            ..Default::default()
        };
        let engine = RocksEngine::open(directory.path(), &options).expect("an empty directory");
        store::identity::create(&engine, 5, StoreId(1), api.number()).expect("an empty engine");
        let region = |id: u64, start_key: bytes::Bytes, end_key: bytes::Bytes| metapb::Region {
            id,
            start_key,
            end_key,
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 1,
            }),
            peers: vec![metapb::Peer {
                id: id * 10,
                store_id: 1,
                ..Default::default()
            }],
            ..Default::default()
        };
        let regions = [
            region(1, "".into(), middle(api)),
            region(2, middle(api), "".into()),
        ];
        store::identity::bootstrap(&engine, &regions).expect("an identity is there");
        let identity = store::identity::bump_boot(&engine).expect("an identity is there");
        let options = store::Options {
            ids_low: 0,
            ..Default::default()
        };
        let store = store::Store::open(engine.clone(), options).expect("a sound engine");
        let options = Options {
            tick: Duration::from_millis(5),
            ..Default::default()
        };
        let node = Node::start(
            store,
            engine,
            Arc::new(Alone),
            &options,
            Arc::new(Metrics::new()),
            exit_process(),
        );
        let node = node.expect("threads");
        let handle = node.handle();

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let rules = Rules {
            cluster_id: 5,
            store_id: 1,
            api,
        };
        let (stop, stopping) = watch::channel(false);
        let (close, closing) = watch::channel(false);
        let tikv = TikvService::new(handle.clone(), rules, Arc::new(Alone), closing.clone());
        let me = transport::Identity {
            cluster_id: 5,
            store: StoreId(1),
            boot: identity.boot,
            format: identity.format,
        };
        let replicas = ReplicasService::new(handle.clone(), 5);
        let peers = transport::PeerService::new(me, Incoming::new(handle.clone(), None));
        tokio::spawn(server::serve(
            listener,
            address.clone(),
            tikv,
            replicas,
            peers,
            stopping,
            closing,
        ));

        for region in [RegionId(1), RegionId(2)] {
            loop {
                let changed = handle.views().changed();
                if handle
                    .region(region)
                    .is_some_and(|view| view.role == Role::Leader)
                {
                    break;
                }
                changed.await;
            }
        }
        let channel = Channel::from_shared(format!("http://{address}"))
            .expect("a URI")
            .connect()
            .await
            .expect("it serves");
        let client = TikvClient::new(channel.clone()).max_decoding_message_size(32 << 20);
        Running {
            _directory: directory,
            node: Some(node),
            client,
            channel,
            stop,
            close,
            api,
        }
    }

    fn context(&self, region: u64) -> Option<kv::Context> {
        let version = match self.api {
            ApiVersion::V1 => kv::ApiVersion::V1,
            ApiVersion::V2 => kv::ApiVersion::V2,
        };
        Some(kv::Context {
            region_id: region,
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 1,
            }),
            peer: Some(metapb::Peer {
                id: region * 10,
                store_id: 1,
                ..Default::default()
            }),
            api_version: version.into(),
            ..Default::default()
        })
    }

    async fn put(&mut self, region: u64, key: &str, value: &str, ttl: u64) -> kv::RawPutResponse {
        let (key, value) = (self.key(key), value.to_owned().into());
        let request = kv::RawPutRequest {
            context: self.context(region),
            key,
            value,
            ttl,
            ..Default::default()
        };
        self.client
            .raw_put(request)
            .await
            .expect("an answer")
            .into_inner()
    }

    async fn get(&mut self, region: u64, key: &str) -> kv::RawGetResponse {
        let request = kv::RawGetRequest {
            context: self.context(region),
            key: self.key(key),
            ..Default::default()
        };
        self.client
            .raw_get(request)
            .await
            .expect("an answer")
            .into_inner()
    }

    async fn scan(
        &mut self,
        region: u64,
        start: &str,
        end: &str,
        limit: u32,
        reverse: bool,
    ) -> kv::RawScanResponse {
        let (start_key, end_key) = (self.bound(start), self.bound(end));
        let context = self.context(region);
        let request = kv::RawScanRequest {
            context,
            start_key,
            end_key,
            limit,
            reverse,
            ..Default::default()
        };
        self.client
            .raw_scan(request)
            .await
            .expect("an answer")
            .into_inner()
    }

    fn key(&self, key: &str) -> bytes::Bytes {
        match self.api {
            ApiVersion::V1 => key.to_owned().into(),
            ApiVersion::V2 => [b"r\0\0\0", key.as_bytes()].concat().into(),
        }
    }

    fn bound(&self, key: &str) -> bytes::Bytes {
        if key.is_empty() {
            bytes::Bytes::new()
        } else {
            self.key(key)
        }
    }

    /// Keys without their prefix.
    fn keys(&self, kvs: &[kv::KvPair]) -> Vec<String> {
        let prefix = self.key("").len();
        kvs.iter()
            .map(|pair| String::from_utf8_lossy(&pair.key[prefix..]).into_owned())
            .collect()
    }

    async fn end(mut self) {
        self.close.send_replace(true);
        let node = self.node.take().expect("stopped once");
        tokio::task::spawn_blocking(move || node.stop())
            .await
            .expect("the threads end");
    }
}

async fn keys_and_scans(api: ApiVersion) {
    let mut store = Running::start(api).await;
    assert!(store.get(1, "a").await.not_found);
    for (region, key) in [(1, "a"), (1, "b"), (1, "c"), (2, "n"), (2, "z")] {
        let answer = store.put(region, key, &format!("value-{key}"), 0).await;
        assert_eq!(answer, kv::RawPutResponse::default());
    }
    assert_eq!(store.get(1, "b").await.value, "value-b");
    assert_eq!(store.get(2, "z").await.value, "value-z");

    // The range is cut to the region; in reverse the start is the upper bound.
    let scan = store.scan(1, "", "", 10, false).await;
    assert_eq!(store.keys(&scan.kvs), ["a", "b", "c"]);
    let scan = store.scan(1, "b", "zz", 10, false).await;
    assert_eq!(store.keys(&scan.kvs), ["b", "c"]);
    let scan = store.scan(2, "", "", 1, false).await;
    assert_eq!(store.keys(&scan.kvs), ["n"]);
    let scan = store.scan(1, "c", "a", 10, true).await;
    assert_eq!(store.keys(&scan.kvs), ["b", "a"]);
    assert_eq!(scan.kvs[0].value, "value-b");
    let scan = store.scan(2, "", "", 10, true).await;
    assert_eq!(store.keys(&scan.kvs), ["z", "n"]);

    let request = kv::RawBatchGetRequest {
        context: store.context(1),
        keys: ["c", "nothing", "a"].map(|key| store.key(key)).into(),
        ..Default::default()
    };
    // "nothing" lies in the other region.
    let answer = store
        .client
        .raw_batch_get(request.clone())
        .await
        .expect("an answer")
        .into_inner();
    assert!(
        answer
            .region_error
            .expect("refused")
            .key_not_in_region
            .is_some()
    );
    let request = kv::RawBatchGetRequest {
        keys: ["c", "aa", "a"].map(|key| store.key(key)).into(),
        ..request
    };
    let answer = store
        .client
        .raw_batch_get(request)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(store.keys(&answer.pairs), ["c", "a"]);

    let request = kv::RawDeleteRangeRequest {
        context: store.context(1),
        start_key: store.key("a"),
        end_key: store.key("c"),
        ..Default::default()
    };
    let answer = store
        .client
        .raw_delete_range(request)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(answer, kv::RawDeleteRangeResponse::default());
    let scan = store.scan(1, "", "", 10, false).await;
    assert_eq!(store.keys(&scan.kvs), ["c"]);

    let request = kv::UnsafeDestroyRangeRequest {
        context: Some(kv::Context {
            api_version: store.context(1).expect("set").api_version,
            ..Default::default()
        }),
        start_key: store.key("b"),
        end_key: store.key("y"),
    };
    let answer = store
        .client
        .unsafe_destroy_range(request)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(answer, kv::UnsafeDestroyRangeResponse::default());
    let (left, right) = (
        store.scan(1, "", "", 10, false).await,
        store.scan(2, "", "", 10, false).await,
    );
    assert_eq!(
        (store.keys(&left.kvs), store.keys(&right.kvs)),
        (vec![], vec!["z".to_owned()])
    );

    // More than one answer may hold.
    let keys: Vec<_> = ["z1", "z2", "z3", "z4"].map(|key| store.key(key)).into();
    for key in &keys {
        let request = kv::RawPutRequest {
            context: store.context(2),
            key: key.clone(),
            value: vec![7; 5 << 20].into(),
            ..Default::default()
        };
        let answer = store.client.raw_put(request).await.expect("an answer");
        assert_eq!(answer.into_inner(), kv::RawPutResponse::default());
    }
    let request = |keys: &[bytes::Bytes]| kv::RawBatchGetRequest {
        context: store.context(2),
        keys: keys.to_vec(),
        ..Default::default()
    };
    let refused = store.client.clone().raw_batch_get(request(&keys)).await;
    let refused = refused.expect("an answer").into_inner();
    let refused = &refused.pairs[0].error;
    assert!(
        format!("{refused:?}").contains("ask for fewer keys"),
        "{refused:?}"
    );
    let answer = store
        .client
        .clone()
        .raw_batch_get(request(&keys[..2]))
        .await;
    assert_eq!(answer.expect("an answer").into_inner().pairs.len(), 2);

    // One region, as a store asks another; then a range of keys that no raw client has.
    let everything = |region_id| kv::UnsafeDestroyRangeRequest {
        context: Some(kv::Context {
            region_id,
            region_epoch: store.context(2).expect("set").region_epoch,
            api_version: store.context(1).expect("set").api_version,
            ..Default::default()
        }),
        start_key: bytes::Bytes::from_static(b"x\0\0\0"),
        end_key: bytes::Bytes::new(),
    };
    let answer = store
        .client
        .clone()
        .unsafe_destroy_range(everything(1))
        .await;
    let answer = answer.expect("an answer").into_inner();
    assert!(
        answer.region_error.is_some(),
        "the range is not inside region 1: {answer:?}"
    );
    let answer = store
        .client
        .clone()
        .unsafe_destroy_range(everything(0))
        .await;
    let answer = answer.expect("an answer").into_inner();
    assert_eq!(answer, kv::UnsafeDestroyRangeResponse::default());
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_scans_of_version_1() {
    keys_and_scans(ApiVersion::V1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_scans_of_version_2() {
    keys_and_scans(ApiVersion::V2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_expire_and_swap_in_version_2() {
    let mut store = Running::start(ApiVersion::V2).await;
    assert_eq!(store.put(1, "brief", "v", 1000).await.error, "");
    assert_eq!(store.put(1, "ever", "v", 0).await.error, "");
    let ttl = |store: &Running, key: &str| kv::RawGetKeyTtlRequest {
        context: store.context(1),
        key: store.key(key),
        ..Default::default()
    };
    let request = ttl(&store, "brief");
    let answer = store
        .client
        .raw_get_key_ttl(request)
        .await
        .expect("an answer")
        .into_inner();
    assert!(
        (990..=1000).contains(&answer.ttl) && !answer.not_found,
        "{answer:?}"
    );
    let request = ttl(&store, "ever");
    assert_eq!(
        store
            .client
            .raw_get_key_ttl(request)
            .await
            .expect("an answer")
            .into_inner()
            .ttl,
        0
    );
    let request = ttl(&store, "absent");
    assert!(
        store
            .client
            .raw_get_key_ttl(request)
            .await
            .expect("an answer")
            .into_inner()
            .not_found
    );

    let swap = |store: &Running, previous: Option<&str>, value: &str| kv::RawCasRequest {
        context: store.context(1),
        key: store.key("cas"),
        value: value.to_owned().into(),
        previous_not_exist: previous.is_none(),
        previous_value: previous.unwrap_or_default().to_owned().into(),
        ..Default::default()
    };
    let request = swap(&store, None, "one");
    let answer = store
        .client
        .raw_compare_and_swap(request)
        .await
        .expect("an answer")
        .into_inner();
    assert!(answer.succeed && answer.previous_not_exist, "{answer:?}");
    let request = swap(&store, Some("other"), "two");
    let answer = store
        .client
        .raw_compare_and_swap(request)
        .await
        .expect("an answer")
        .into_inner();
    assert!(
        !answer.succeed && answer.previous_value == "one",
        "{answer:?}"
    );
    let request = swap(&store, Some("one"), "two");
    let answer = store
        .client
        .raw_compare_and_swap(request)
        .await
        .expect("an answer")
        .into_inner();
    assert!(
        answer.succeed && answer.previous_value == "one",
        "{answer:?}"
    );
    assert_eq!(store.get(1, "cas").await.value, "two");
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_get_their_typed_answers() {
    let mut store = Running::start(ApiVersion::V1).await;
    let unknown = store.get(99, "a").await.region_error.expect("refused");
    assert_eq!(
        unknown.region_not_found.map(|cause| cause.region_id),
        Some(99)
    );
    let outside = store
        .put(1, "x", "v", 0)
        .await
        .region_error
        .expect("refused");
    assert_eq!(
        outside.key_not_in_region.map(|cause| cause.region_id),
        Some(1)
    );
    assert!(
        store.put(1, "a", "v", 7).await.error.contains("ttl"),
        "values of version 1 do not expire"
    );
    assert!(store.put(1, "", "v", 0).await.error.contains("empty"));

    let large = "v".repeat((6 << 20) + 1);
    let refused = store
        .put(1, "a", &large, 0)
        .await
        .region_error
        .expect("refused");
    assert_eq!(
        refused.raft_entry_too_large.map(|cause| cause.entry_size),
        Some(large.len() as u64)
    );
    let huge = "v".repeat(17 << 20);
    let request = kv::RawPutRequest {
        context: store.context(1),
        key: "a".into(),
        value: huge.into(),
        ..Default::default()
    };
    let status = store
        .client
        .raw_put(request)
        .await
        .expect_err("refused before it is read");
    assert_eq!(status.code(), tonic::Code::OutOfRange);
    // Just within: it is stored and read back whole.
    let largest = "v".repeat(6 << 20);
    assert_eq!(
        store.put(1, "a", &largest, 0).await,
        kv::RawPutResponse::default()
    );
    assert_eq!(store.get(1, "a").await.value.len(), largest.len());

    let newer = kv::Context {
        region_epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 9,
        }),
        ..store.context(1).unwrap()
    };
    let request = kv::RawGetRequest {
        context: Some(newer),
        key: "a".into(),
        ..Default::default()
    };
    let answer = store
        .client
        .raw_get(request)
        .await
        .expect("an answer")
        .into_inner();
    let current = answer
        .region_error
        .expect("refused")
        .epoch_not_match
        .expect("epoch_not_match")
        .current_regions;
    assert_eq!(current[0].id, 1);

    let status = store
        .client
        .kv_get(kv::GetRequest::default())
        .await
        .expect_err("not served");
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    let answer = store
        .client
        .raw_coprocessor(kv::RawCoprocessorRequest::default())
        .await
        .expect("an answer");
    assert!(!answer.into_inner().error.is_empty());
    store.end().await;
}

/// What tools ask: how the one replica is, and what is no question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_verified() {
    let mut store = Running::start(ApiVersion::V1).await;
    for key in ["a", "b"] {
        assert_eq!(store.put(1, key, "v", 0).await.error, "");
    }
    let mut replicas = ReplicasClient::new(store.channel.clone());
    let ask = |cluster_id, region_id| VerifyRegionRequest {
        cluster_id,
        region_id,
    };
    for cluster in [0, 5] {
        let answer = replicas.verify_region(ask(cluster, 1)).await;
        let answer = answer.expect("an answer").into_inner();
        assert_eq!(answer.region_error, None);
        assert_eq!(answer.region.map(|region| region.id), Some(1));
        let [peer] = &answer.peers[..] else {
            panic!("one member, told {:?}", answer.peers)
        };
        assert_eq!((peer.outcome(), peer.keys), (Outcome::Read, 2));
        assert!(!peer.differs);
    }
    let unknown = replicas.verify_region(ask(5, 99)).await;
    let unknown = unknown.expect("an answer").into_inner().region_error;
    assert!(unknown.expect("refused").region_not_found.is_some());
    for wrong in [ask(6, 1), ask(5, 0)] {
        replicas.verify_region(wrong).await.expect_err("refused");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_too_large_is_refused_and_not_cut() {
    let mut store = Running::start(ApiVersion::V1).await;
    for number in 0..6 {
        let answer = store
            .put(1, &format!("k{number}"), &"v".repeat(1 << 20), 0)
            .await;
        assert_eq!(answer, kv::RawPutResponse::default());
    }
    let scan = store.scan(1, "", "", 3, false).await;
    assert_eq!(scan.kvs.len(), 3);
    let scan = store.scan(1, "", "", 6, false).await;
    let error = scan.kvs[0]
        .error
        .as_ref()
        .expect("an error in the place of a pair");
    assert!(error.abort.contains("ask for fewer"), "{}", error.abort);
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batched_commands_are_answered_by_id() {
    use batch_commands_request::request::Cmd as Ask;
    use batch_commands_response::response::Cmd as Answer;
    let mut store = Running::start(ApiVersion::V1).await;
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let mut answers = store
        .client
        .batch_commands(ReceiverStream::new(requests))
        .await
        .expect("a stream")
        .into_inner();
    let context = store.context(1);
    let mut batch = BatchCommandsRequest::default();
    let mut add = |id: u64, cmd: Ask| {
        batch.request_ids.push(id);
        batch
            .requests
            .push(batch_commands_request::Request { cmd: Some(cmd) });
    };
    for id in 0..200 {
        let (key, value) = (format!("key-{id}").into(), format!("value-{id}").into());
        add(
            id,
            Ask::RawPut(kv::RawPutRequest {
                context: context.clone(),
                key,
                value,
                ..Default::default()
            }),
        );
    }
    add(
        200,
        Ask::Empty(BatchCommandsEmptyRequest {
            test_id: 42,
            delay_time: 0,
        }),
    );
    add(
        201,
        Ask::RawGet(kv::RawGetRequest {
            context: context.clone(),
            key: "absent".into(),
            ..Default::default()
        }),
    );
    add(
        202,
        Ask::RawGet(kv::RawGetRequest {
            context: store.context(9),
            key: "absent".into(),
            ..Default::default()
        }),
    );
    // What is not served is answered as well, and costs the others nothing.
    add(203, Ask::Get(kv::GetRequest::default()));
    add(204, Ask::Prewrite(Box::default()));
    batch.request_ids.push(205);
    batch
        .requests
        .push(batch_commands_request::Request { cmd: None });
    sender.send(batch).await.expect("the stream is open");

    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 206 {
        let batch = answers
            .message()
            .await
            .expect("no error")
            .expect("the stream is open");
        assert_eq!(batch.responses.len(), batch.request_ids.len());
        for (id, answer) in batch.request_ids.into_iter().zip(batch.responses) {
            assert!(seen.insert(id), "{id} is answered twice");
            match (id, answer.cmd) {
                (0..200, Some(Answer::RawPut(answer))) => {
                    assert_eq!(answer, kv::RawPutResponse::default())
                }
                (200, Some(Answer::Empty(answer))) => assert_eq!(answer.test_id, 42),
                (201, Some(Answer::RawGet(answer))) => assert!(answer.not_found),
                (202, Some(Answer::RawGet(answer))) => assert!(answer.region_error.is_some()),
                (203, Some(Answer::Get(answer))) => {
                    let error = answer.error.expect("an error");
                    assert_eq!(error.abort, "transactions are not served");
                }
                (204, Some(Answer::Prewrite(answer))) => {
                    assert_eq!(answer.errors[0].abort, "transactions are not served");
                }
                (205, None) => {}
                (id, answer) => panic!("{id} is answered with {answer:?}"),
            }
        }
    }
    assert_eq!(store.get(1, "key-7").await.value, "value-7");

    // A stopping server ends the stream after what it was asked.
    let (other_sender, other_requests) = tokio::sync::mpsc::channel(4);
    let other = store
        .client
        .batch_commands(ReceiverStream::new(other_requests))
        .await;
    let mut other = other.expect("a stream").into_inner();

    // A batch whose ids do not match ends the stream, not the store.
    let uneven = BatchCommandsRequest {
        request_ids: vec![1, 2],
        ..Default::default()
    };
    sender.send(uneven).await.expect("the stream is open");
    assert_eq!(
        answers.message().await.expect_err("refused").code(),
        tonic::Code::InvalidArgument
    );
    assert_eq!(store.get(1, "key-7").await.value, "value-7");
    store.close.send_replace(true);
    assert_eq!(other.message().await.expect("no error"), None);
    drop(other_sender);
    store.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_reflection_are_served() {
    use tonic_health::pb::health_check_response::ServingStatus;
    let mut store = Running::start(ApiVersion::V1).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(store.channel.clone());
    for service in ["", "tikvpb.Tikv"] {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.expect("an answer").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let listed = served::reflected(&store.channel).await;
    for service in ["tikvpb.Tikv", "grpc.health.v1.Health"] {
        assert!(listed.contains(service), "{service} is not in {listed}");
    }
    // A store that is told to stop says so, and serves while it hands over.
    let watched = tonic_health::pb::HealthCheckRequest {
        service: "tikvpb.Tikv".to_owned(),
    };
    let mut watching = health.watch(watched).await.expect("a stream").into_inner();
    let mut next = async || {
        let told = watching.message().await.expect("no error");
        told.expect("it goes on").status()
    };
    assert_eq!(next().await, ServingStatus::Serving);
    store.stop.send_replace(true);
    assert_eq!(next().await, ServingStatus::NotServing);
    let all = tonic_health::pb::HealthCheckRequest::default();
    let mut watching = health.watch(all).await.expect("a stream").into_inner();
    loop {
        let told = watching.message().await.expect("no error");
        if told.expect("it goes on").status() == ServingStatus::NotServing {
            break;
        }
    }
    assert!(store.get(1, "absent").await.not_found);
    store.end().await;
}

/// Of the table of methods, those of clients that are served today.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_of_the_table_is_served() {
    let store = Running::start(ApiVersion::V1).await;
    let count = served::call_all(&store.channel, "tikvpb.Tikv").await;
    assert!(count >= 13, "{count} methods");
    store.end().await;
}

#[test]
fn settings_that_make_no_sense_are_named() {
    assert!(check(&StoreConfig::default()).is_ok());
    let mut config = StoreConfig {
        placement: Vec::new(),
        ..Default::default()
    };
    assert!(
        check(&config)
            .unwrap_err()
            .to_string()
            .starts_with("placement is wrong")
    );
    config = StoreConfig {
        labels: vec!["zone".to_owned()],
        ..Default::default()
    };
    assert!(
        check(&config)
            .unwrap_err()
            .to_string()
            .contains("key=value")
    );
    // Times are counted in ticks: none may be rounded to nothing, nor the tick itself.
    for (tick, wrong) in [
        ("0ms", "raft.tick is wrong"),
        ("1500us", "raft.tick is wrong"),
        ("301ms", "raft.tick is wrong"),
        ("101ms", "raft.heartbeat is wrong"),
    ] {
        config = StoreConfig::default();
        config.raft.tick = tick.parse().expect("a span");
        let refused = check(&config).expect_err(tick).to_string();
        assert!(refused.starts_with(wrong), "{tick}: {refused}");
    }
    config.raft.tick = config.raft.heartbeat;
    assert!(check(&config).is_ok());
    config = StoreConfig::default();
    config.raft.heartbeat = config.raft.election_timeout;
    assert!(
        check(&config)
            .unwrap_err()
            .to_string()
            .starts_with("raft.heartbeat is wrong")
    );
}

#[test]
fn placement_is_told_where_the_store_is() {
    let config = StoreConfig {
        advertise_addr: "store-1:20160".to_owned(),
        labels: vec!["zone=a".to_owned(), "note=x=y".to_owned()],
        ..Default::default()
    };
    let store = describe(&config, StoreId(4), 1000);
    assert_eq!(
        (store.id, store.address.as_str(), store.start_timestamp),
        (4, "store-1:20160", 1000)
    );
    assert_eq!(
        (store.labels[1].key.as_str(), store.labels[1].value.as_str()),
        ("note", "x=y")
    );
}

#[tokio::test]
async fn a_taken_port_is_told_from_other_failures() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("it listens").to_string();
    let error = reserve(&address).await.expect_err("the port is taken");
    assert_eq!(error.kind(), Kind::PortTaken);
    assert!(error.to_string().contains(&address));
    let error = reserve("nonsense").await.expect_err("not an address");
    assert_eq!(error.kind(), Kind::Environment);

    drop(taken);
    let free = reserve(&address).await.expect("the port is free");
    assert!(
        tokio::net::TcpStream::connect(&address).await.is_err(),
        "nobody is kept waiting by a port that is only reserved"
    );
    assert!(listen(free, &address).is_ok());
}
