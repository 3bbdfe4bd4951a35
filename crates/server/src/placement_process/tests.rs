//! A placement group behind real sockets: RocksDB, Raft among the members, gRPC and HTTP/1.1 on one port.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use proto::keyspacepb::keyspace_client::KeyspaceClient;
use proto::pdpb::pd_client::PdClient;
use proto::pontoon::v1::admin_client::AdminClient;
use proto::pontoon::v1::steps_client::StepsClient;
use proto::pontoon::v1::{
    AdminHeader, ClusterStatusRequest, ListOperatorsRequest, ListSchedulersRequest,
    ListStoresRequest, MoveReplicaRequest, PauseSchedulerRequest, ReadJournalRequest, RegionNews,
    SplitRegionRequest, StepRefusal, StoreCommandRequest, admin_error, journal_entry,
    operator_status, region_news, step_refusal,
};
use proto::{keyspacepb, metapb, pdpb};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::*;
use crate::services::served;

mod members;
mod operators;
mod scattering;
mod stop;

/// Nothing here takes that long; it is the time after which a test says what it waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A group, some of whose members may be down.
struct Group {
    directories: Vec<tempfile::TempDir>,
    configs: Vec<PlacementConfig>,
    members: Vec<Option<Member>>,
}

impl Group {
    async fn start(size: usize, api_version: u32) -> Group {
        Self::start_with(size, api_version, |_, _| {}).await
    }

    /// Starts members whose settings `adjust` changes.
    async fn start_with(
        size: usize,
        api_version: u32,
        adjust: impl Fn(usize, &mut PlacementConfig),
    ) -> Group {
        let (mut group, listeners) = Self::prepare(size, api_version, adjust).await;
        let start = async |(config, listener): (&PlacementConfig, TcpListener)| {
            let members = Arc::new(check(config).expect("a sound configuration"));
            let started = Member::start(config, members, listener).await;
            Some(started.expect("it starts"))
        };
        // A first start needs all.
        group.members = join_all(group.configs.iter().zip(listeners).map(start)).await;
        group
    }

    /// Members that do not run yet, and what they are to listen on.
    async fn prepare(
        size: usize,
        api_version: u32,
        adjust: impl Fn(usize, &mut PlacementConfig),
    ) -> (Group, Vec<TcpListener>) {
        let mut listeners = Vec::new();
        for _ in 0..size {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a free port"));
        }
        let address =
            |listener: &TcpListener| listener.local_addr().expect("it listens").to_string();
        let addresses: Vec<_> = listeners.iter().map(address).collect();
        let directories: Vec<_> = (0..size)
            .map(|_| tempfile::tempdir().expect("a temporary directory"))
            .collect();
        let config = |number: usize| {
            let mut config = PlacementConfig {
                data_dir: directories[number].path().to_owned(),
                addr: addresses[number].clone(),
                members: addresses.clone(),
                api_version,
                ..Default::default()
            };
            adjust(number, &mut config);
            config
        };
        let configs: Vec<_> = (0..size).map(config).collect();
        let group = Group {
            directories,
            members: configs.iter().map(|_| None).collect(),
            configs,
        };
        (group, listeners)
    }

    /// Starts a member again.
    async fn restart(&mut self, number: usize) {
        let started = tokio::time::timeout(PATIENCE, start_again(&self.configs[number])).await;
        let started = started.expect("it starts in time");
        self.members[number] = Some(started.expect("it starts"));
    }

    async fn stop(&mut self, number: usize) {
        self.members[number].take().expect("it runs").stop().await;
    }

    async fn stop_all(mut self) {
        for number in 0..self.members.len() {
            if self.members[number].is_some() {
                self.stop(number).await;
            }
        }
        drop(self.directories);
    }

    /// The member that leads and serves.
    async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (number, member) in self.members.iter().enumerate() {
                if let Some(member) = member
                    && member
                        .placement
                        .settled(Duration::from_millis(50))
                        .await
                        .serving
                        .is_some()
                {
                    return number;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
        }
    }

    async fn channel(&self, number: usize) -> Channel {
        let address = self.members[number].as_ref().expect("it runs").address;
        Channel::from_shared(format!("http://{address}"))
            .expect("a URI")
            .connect()
            .await
            .expect("it serves")
    }

    /// A client of the leader, and the header it uses.
    async fn client(&self) -> (PdClient<Channel>, Option<pdpb::RequestHeader>) {
        let leader = self.leader().await;
        let mut client = PdClient::new(self.channel(leader).await);
        let members = client
            .get_members(pdpb::GetMembersRequest::default())
            .await
            .expect("it answers")
            .into_inner();
        let header = members.header.expect("a header");
        assert_eq!(header.error, None);
        let header = pdpb::RequestHeader {
            cluster_id: header.cluster_id,
            ..Default::default()
        };
        (client, Some(header))
    }
}

/// Starts a member again. Its port and directory are free once the connections of the one before are gone.
async fn start_again(config: &PlacementConfig) -> Result<Member, Error> {
    let members = Arc::new(check(config).expect("a sound configuration"));
    loop {
        if let Ok(listener) = TcpListener::bind(&config.addr).await {
            match Member::start(config, members.clone(), listener).await {
                Err(Error::DirectoryInUse { .. }) => {}
                started => return started,
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn ok(header: Option<pdpb::ResponseHeader>) {
    let header = header.expect("a header");
    assert_ne!(header.cluster_id, 0);
    assert_eq!(header.error, None);
}

fn refused(header: Option<pdpb::ResponseHeader>) -> pdpb::ErrorType {
    header.expect("a header").error.expect("a refusal").r#type()
}

fn store(id: u64) -> metapb::Store {
    metapb::Store {
        id,
        address: format!("127.0.0.1:{}", 20160 + id),
        ..Default::default()
    }
}

fn first_region(store_id: u64) -> metapb::Region {
    metapb::Region {
        id: 8,
        region_epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        peers: vec![metapb::Peer {
            id: 9,
            store_id,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Allocates identities and makes store 1 with region 8 the cluster's first.
async fn bootstrap(client: &mut PdClient<Channel>, header: &Option<pdpb::RequestHeader>) {
    let request = pdpb::AllocIdRequest {
        header: header.clone(),
        count: 10,
    };
    let ids = client
        .alloc_id(request)
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!((ids.id, ids.count), (10, 10));
    let request = pdpb::BootstrapRequest {
        header: header.clone(),
        store: Some(store(1)),
        region: Some(first_region(1)),
    };
    ok(client
        .bootstrap(request)
        .await
        .expect("it answers")
        .into_inner()
        .header);
}

/// One timestamp of an open stream.
async fn timestamp(
    requests: &mpsc::Sender<pdpb::TsoRequest>,
    answers: &mut Streaming<pdpb::TsoResponse>,
    header: &Option<pdpb::RequestHeader>,
) -> Option<(i64, i64)> {
    let request = pdpb::TsoRequest {
        header: header.clone(),
        count: 3,
        ..Default::default()
    };
    requests.send(request).await.ok()?;
    let answer = answers.message().await.ok()??;
    assert_eq!(answer.count, 3);
    let timestamp = answer.timestamp.expect("a timestamp");
    Some((timestamp.physical, timestamp.logical))
}

/// R28, R31, F21: timestamps and identities grow strictly over the loss of leaders and a restart of all, and the cluster
/// keeps its identity.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_survives_its_leaders() {
    let mut group = Group::start(3, 1).await;
    let (mut client, header) = group.client().await;
    bootstrap(&mut client, &header).await;
    let mut last = (0, 0);
    let mut last_id = 10;
    for round in 0..3 {
        let (mut client, again) = group.client().await;
        assert_eq!(again, header);
        let (requests, stream) = mpsc::channel(8);
        let mut answers = client
            .tso(ReceiverStream::new(stream))
            .await
            .expect("it opens")
            .into_inner();
        for _ in 0..20 {
            let next = timestamp(&requests, &mut answers, &header)
                .await
                .expect("the leader lives");
            assert!(next > last, "{next:?} after {last:?}");
            last = next;
        }
        let request = pdpb::AllocIdRequest {
            header: header.clone(),
            count: 1,
        };
        let id = client
            .alloc_id(request)
            .await
            .expect("it answers")
            .into_inner()
            .id;
        assert!(id > last_id, "{id} after {last_id}");
        last_id = id;

        let leader = group.leader().await;
        if round == 2 {
            break;
        }
        group.stop(leader).await;
        assert_eq!(
            timestamp(&requests, &mut answers, &header).await,
            None,
            "a stopped member gives nothing out"
        );
        group.leader().await;
        group.restart(leader).await;
    }
    for number in 0..3 {
        group.stop(number).await;
    }
    for number in 0..3 {
        group.restart(number).await;
    }
    let (mut client, again) = group.client().await;
    assert_eq!(again, header);
    let request = pdpb::IsBootstrappedRequest {
        header: header.clone(),
    };
    assert!(
        client
            .is_bootstrapped(request)
            .await
            .expect("it answers")
            .into_inner()
            .bootstrapped
    );
    let (requests, stream) = mpsc::channel(8);
    let mut answers = client
        .tso(ReceiverStream::new(stream))
        .await
        .expect("it opens")
        .into_inner();
    let next = timestamp(&requests, &mut answers, &header)
        .await
        .expect("the leader lives");
    assert!(next > last, "{next:?} after {last:?}");
    group.stop_all().await;
}

/// What clients rely on (`client_fields.csv`), and what members that do not lead and wrong clusters get.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_that_clients_act_on() {
    let group = Group::start(3, 2).await;
    let (mut client, header) = group.client().await;
    let request = pdpb::PutStoreRequest {
        header: header.clone(),
        store: Some(store(2)),
    };
    let early = client
        .put_store(request.clone())
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(refused(early.header), pdpb::ErrorType::NotBootstrapped);
    bootstrap(&mut client, &header).await;
    let twice = pdpb::BootstrapRequest {
        header: header.clone(),
        store: Some(store(2)),
        region: Some(first_region(2)),
    };
    let twice = client
        .bootstrap(twice)
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(refused(twice.header), pdpb::ErrorType::AlreadyBootstrapped);
    ok(client
        .put_store(request)
        .await
        .expect("it answers")
        .into_inner()
        .header);

    let leader = group.leader().await;
    for number in 0..3 {
        let mut member = PdClient::new(group.channel(number).await);
        let members = member
            .get_members(pdpb::GetMembersRequest::default())
            .await
            .expect("it answers")
            .into_inner();
        ok(members.header);
        assert_eq!(members.members.len(), 3);
        let told = members.leader.expect("a leader");
        assert!(
            members.members.contains(&told),
            "the leader is one of the members"
        );
        assert_eq!(told.name, member::name(leader));
        if number != leader {
            let request = pdpb::GetAllStoresRequest {
                header: header.clone(),
                ..Default::default()
            };
            let stores = member
                .get_all_stores(request)
                .await
                .expect("it answers")
                .into_inner();
            assert_eq!(refused(stores.header), pdpb::ErrorType::Unknown);
            let (requests, stream) = mpsc::channel(8);
            let answers = member.tso(ReceiverStream::new(stream)).await;
            let mut answers = answers.expect("it opens").into_inner();
            assert_eq!(
                timestamp(&requests, &mut answers, &header).await,
                None,
                "only the leader gives timestamps out"
            );
        }
    }

    let wrong = Some(pdpb::RequestHeader {
        cluster_id: 1,
        ..Default::default()
    });
    let request = pdpb::GetRegionRequest {
        header: wrong.clone(),
        region_key: "k".into(),
        ..Default::default()
    };
    let region = client
        .get_region(request)
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(
        (refused(region.header), region.region),
        (pdpb::ErrorType::InvalidValue, None)
    );
    let (requests, stream) = mpsc::channel(8);
    let mut answers = client
        .tso(ReceiverStream::new(stream))
        .await
        .expect("it opens")
        .into_inner();
    assert_eq!(
        timestamp(&requests, &mut answers, &wrong).await,
        None,
        "the stream of another cluster ends"
    );

    let request = pdpb::GetStoreRequest {
        header: header.clone(),
        store_id: 2,
    };
    let found = client
        .get_store(request)
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(found.store.expect("a store").address, store(2).address);
    let request = pdpb::GetStoreRequest {
        header: header.clone(),
        store_id: 77,
    };
    let missing = client
        .get_store(request)
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(
        (refused(missing.header), missing.store),
        (pdpb::ErrorType::EntryNotFound, None)
    );
    let request = pdpb::GetGcSafePointRequest {
        header: header.clone(),
    };
    let status = client
        .get_gc_safe_point(request)
        .await
        .expect_err("not served");
    assert_eq!(status.code(), tonic::Code::Unimplemented);

    let mut keyspaces = KeyspaceClient::new(group.channel(leader).await);
    let mut load = async |name: &str| {
        let request = keyspacepb::LoadKeyspaceRequest {
            header: header.clone(),
            name: name.to_owned(),
            ..Default::default()
        };
        keyspaces
            .load_keyspace(request)
            .await
            .expect("it answers")
            .into_inner()
    };
    let keyspace = load("DEFAULT").await.keyspace.expect("the keyspace");
    assert_eq!(
        keyspace.keyspace,
        Some(keyspacepb::keyspace_meta::Keyspace::Id(0))
    );
    assert_eq!(
        refused(load("other").await.header),
        pdpb::ErrorType::EntryNotFound
    );
    group.stop_all().await;
}

/// An opened stream of reports.
struct Reports {
    sender: mpsc::Sender<pdpb::RegionHeartbeatRequest>,
    orders: Streaming<pdpb::RegionHeartbeatResponse>,
    header: Option<pdpb::RequestHeader>,
}

impl Reports {
    async fn open(client: &mut PdClient<Channel>, header: &Option<pdpb::RequestHeader>) -> Reports {
        let (sender, stream) = mpsc::channel(8);
        let orders = client
            .region_heartbeat(ReceiverStream::new(stream))
            .await
            .expect("it opens")
            .into_inner();
        Reports {
            sender,
            orders,
            header: header.clone(),
        }
    }

    async fn report(&self, region: &metapb::Region) {
        let request = pdpb::RegionHeartbeatRequest {
            header: self.header.clone(),
            region: Some(region.clone()),
            leader: region.peers.first().copied(),
            term: 5,
            ..Default::default()
        };
        self.sender.send(request).await.expect("the stream is open");
    }

    async fn order(&mut self) -> pdpb::RegionHeartbeatResponse {
        tokio::time::timeout(PATIENCE, self.orders.message())
            .await
            .expect("an order in time")
            .expect("no failure")
            .expect("an order")
    }
}

fn learner(id: u64, store_id: u64) -> metapb::Peer {
    metapb::Peer {
        id,
        store_id,
        role: metapb::PeerRole::Learner.into(),
        ..Default::default()
    }
}

/// R22 over the wire: an administrator's move is sent to the region's leader step by step, and a new placement leader
/// goes on with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_outlives_the_placement_leader() {
    let mut group = Group::start(3, 1).await;
    let (mut client, header) = group.client().await;
    bootstrap(&mut client, &header).await;
    for id in 2..=4 {
        let request = pdpb::PutStoreRequest {
            header: header.clone(),
            store: Some(store(id)),
        };
        ok(client
            .put_store(request)
            .await
            .expect("it answers")
            .into_inner()
            .header);
    }
    let mut region = first_region(1);
    region.region_epoch = Some(metapb::RegionEpoch {
        conf_ver: 5,
        version: 1,
    });
    region.peers.push(metapb::Peer {
        id: 6,
        store_id: 2,
        ..Default::default()
    });
    region.peers.push(metapb::Peer {
        id: 7,
        store_id: 3,
        ..Default::default()
    });
    let mut reports = Reports::open(&mut client, &header).await;
    reports.report(&region).await;
    let request = pdpb::GetRegionRequest {
        header: header.clone(),
        region_key: "k".into(),
        ..Default::default()
    };
    let found = client
        .get_region(request)
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(
        (found.region.as_ref(), found.leader),
        (Some(&region), region.peers.first().copied())
    );

    let leader = group.leader().await;
    let mut admin = AdminClient::new(group.channel(leader).await);
    let cluster_id = header.as_ref().map_or(0, |header| header.cluster_id);
    let admin_header = Some(AdminHeader { cluster_id });
    let request = MoveReplicaRequest {
        header: admin_header,
        region_id: 8,
        from_store: 2,
        to_store: 4,
    };
    let operator = admin
        .move_replica(request)
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(operator.error, None);
    let again = admin
        .move_replica(request)
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(
        again.error.expect("a refusal").kind(),
        admin_error::Kind::Busy
    );
    let change = reports
        .order()
        .await
        .change_peer
        .expect("a learner is to be added");
    let new = change.peer.expect("a peer");
    assert_eq!((new.store_id, new.role()), (4, metapb::PeerRole::Learner));

    // The learner is there, and the swap is ordered.
    region.region_epoch = Some(metapb::RegionEpoch {
        conf_ver: 6,
        version: 1,
    });
    region.peers.push(new);
    reports.report(&region).await;
    let swap = loop {
        // Orders repeat; the first may still be on its way.
        if let Some(swap) = reports.order().await.change_peer_v2 {
            break swap;
        }
    };
    assert_eq!(swap.changes.len(), 2);

    group.stop(leader).await;
    let ended = tokio::time::timeout(PATIENCE, async {
        while let Some(Ok(_)) = reports.orders.next().await {}
    })
    .await;
    assert!(ended.is_ok(), "the stream of a stopped leader ends");
    let (mut client, again) = group.client().await;
    assert_eq!(again, header);
    // The swap was applied while nobody listened.
    region.region_epoch = Some(metapb::RegionEpoch {
        conf_ver: 8,
        version: 1,
    });
    region.peers[3].set_role(metapb::PeerRole::Voter);
    region.peers[1] = learner(6, 2);
    let mut reports = Reports::open(&mut client, &header).await;
    reports.report(&region).await;
    let change = reports
        .order()
        .await
        .change_peer
        .expect("the old peer is to be removed");
    assert_eq!(change.peer.expect("a peer").id, 6);
    region.region_epoch = Some(metapb::RegionEpoch {
        conf_ver: 9,
        version: 1,
    });
    region.peers.remove(1);
    reports.report(&region).await;

    let mut admin = AdminClient::new(group.channel(group.leader().await).await);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = ListOperatorsRequest {
            header: admin_header,
            operator_id: operator.operator_id,
            region_id: 0,
        };
        let operators = admin
            .list_operators(request)
            .await
            .expect("it answers")
            .into_inner()
            .operators;
        if operators[0].state() == operator_status::State::Done {
            break;
        }
        assert!(Instant::now() < deadline, "{operators:?}");
    }
    let status = admin
        .cluster_status(ClusterStatusRequest { header: None })
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(
        (status.cluster_id, status.regions, status.stores),
        (cluster_id, 1, 4)
    );
    group.stop_all().await;
}

async fn get(address: std::net::SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("it serves");
    let request = format!("GET {path} HTTP/1.1\r\nHost: placement\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (
        head.lines().next().expect("a status line").to_owned(),
        body.to_owned(),
    )
}

/// Of the table of methods, those of placement that are served today; and the services of gRPC itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_of_the_table_is_served() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;

    let group = Group::start(1, 2).await;
    let channel = group.channel(group.leader().await).await;
    let count = served::call_all(&channel, "pdpb.PD").await;
    assert!(count >= 25, "{count} methods");
    let count = served::call_all(&channel, "keyspacepb.Keyspace").await;
    assert_eq!(count, 1);
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "pdpb.PD"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.expect("an answer").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let listed = served::reflected(&channel).await;
    for service in ["pdpb.PD", "keyspacepb.Keyspace", "grpc.health.v1.Health"] {
        assert!(listed.contains(service), "{service} is not in {listed}");
    }
    drop((channel, health));
    group.stop_all().await;
}

/// The regions of several ranges, each once, or which key has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_scanned_together() {
    let group = Group::start(1, 1).await;
    let (mut client, header) = group.client().await;
    bootstrap(&mut client, &header).await;
    let reports = Reports::open(&mut client, &header).await;
    // The whole of it splits; the piece from "p" on is not known yet.
    let whole = first_region(1);
    let epoch = whole.region_epoch.map(|epoch| metapb::RegionEpoch {
        version: epoch.version + 1,
        ..epoch
    });
    let piece = |id: u64, start: &'static str, end: &'static str| metapb::Region {
        id,
        start_key: start.into(),
        end_key: end.into(),
        region_epoch: epoch,
        ..whole.clone()
    };
    reports.report(&piece(8, "", "f")).await;
    reports.report(&piece(9, "f", "p")).await;

    let range = |start: &'static str, end: &'static str| pdpb::KeyRange {
        start_key: start.into(),
        end_key: end.into(),
    };
    let mut scan = async |ranges: &[pdpb::KeyRange], limit: i32, whole: bool| {
        let request = pdpb::BatchScanRegionsRequest {
            header: header.clone(),
            ranges: ranges.to_vec(),
            limit,
            contain_all_key_range: whole,
            ..Default::default()
        };
        let answer = client.batch_scan_regions(request).await.expect("an answer");
        let answer = answer.into_inner();
        let error = answer.header.and_then(|header| header.error);
        let ids = answer
            .regions
            .into_iter()
            .filter_map(|region| region.region);
        let ids: Vec<_> = ids.map(|region| region.id).collect();
        (ids, error.map(|error| error.r#type()))
    };
    loop {
        let (found, _) = scan(&[range("", "")], 0, false).await;
        if found == [8, 9] {
            break;
        }
        tokio::task::yield_now().await;
    }
    let inside = [range("a", "b"), range("b", "c"), range("d", "g")];
    assert_eq!(scan(&inside, 0, true).await, (vec![8, 9], None));
    assert_eq!(scan(&inside, 1, true).await, (vec![8], None));
    assert_eq!(scan(&[range("g", "h")], 0, true).await, (vec![9], None));
    assert_eq!(scan(&[], 0, true).await, (vec![], None));
    let beyond = [range("a", "b"), range("n", "q")];
    assert_eq!(scan(&beyond, 0, false).await, (vec![8, 9], None));
    let hole = pdpb::ErrorType::RegionsNotContainAllKeyRange;
    assert_eq!(scan(&beyond, 0, true).await, (vec![], Some(hole)));
    let wrong = pdpb::ErrorType::InvalidValue;
    assert_eq!(
        scan(&[range("b", "a")], 0, true).await,
        (vec![], Some(wrong))
    );

    // The configuration is told, and as it is it may be put.
    let request = pdpb::GetClusterConfigRequest {
        header: header.clone(),
    };
    let answer = client.get_cluster_config(request).await.expect("an answer");
    let mut cluster = answer.into_inner().cluster.expect("a cluster");
    for wanted in [None, Some(wrong)] {
        let request = pdpb::PutClusterConfigRequest {
            header: header.clone(),
            cluster: Some(cluster),
        };
        let answer = client.put_cluster_config(request).await.expect("an answer");
        let error = answer.into_inner().header.and_then(|header| header.error);
        assert_eq!(error.map(|error| error.r#type()), wanted);
        cluster.max_peer_count += 1;
    }
    group.stop_all().await;
}

/// Tools read JSON over HTTP/1.1 on the port of gRPC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_shares_the_port() {
    let group = Group::start(3, 1).await;
    let (mut client, header) = group.client().await;
    bootstrap(&mut client, &header).await;
    let reports = Reports::open(&mut client, &header).await;
    reports.report(&first_region(1)).await;
    let request = pdpb::GetRegionRequest {
        header: header.clone(),
        region_key: "k".into(),
        ..Default::default()
    };
    assert!(
        client
            .get_region(request)
            .await
            .expect("it answers")
            .into_inner()
            .region
            .is_some()
    );

    // Any member will do.
    for member in group.members.iter().flatten() {
        let (status, body) = get(member.address, "/pd/api/v1/regions").await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        let regions: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            (&regions["count"], &regions["regions"][0]["id"]),
            (&1.into(), &8.into())
        );
        let (_, body) = get(member.address, "/pd/api/v1/stores").await;
        let stores: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            (
                &stores["count"],
                &stores["stores"][0]["store"]["state_name"]
            ),
            (&1.into(), &"Up".into())
        );
        for path in [
            "region/key/k",
            "region/key/%00%2F",
            "region/key/6BfF?format=hex",
        ] {
            let (status, body) = get(member.address, &format!("/pd/api/v1/{path}")).await;
            let region: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!((&status[..], &region["id"]), ("HTTP/1.1 200 OK", &8.into()));
        }
        for path in ["region/key/6BF?format=hex", "region/key/k?format=base64"] {
            let (status, body) = get(member.address, &format!("/pd/api/v1/{path}")).await;
            assert_eq!(status, "HTTP/1.1 400 Bad Request", "{body}");
        }
        let (_, body) = get(member.address, "/pd/api/v1/stores/limit").await;
        let limits: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        // 30 % of 100 MiB/s are 1 800 MiB in a minute, and a full region has 95: 38 MiB are 40 % of it.
        assert_eq!(limits["1"]["add-peer"]["type"], "add-peer");
        let rate = limits["1"]["add-peer"]["rate"].as_f64().expect("a number");
        assert!((rate - 1800.0 / 95.0).abs() < 0.01, "{rate}");
        assert_eq!(get(member.address, "/health").await.0, "HTTP/1.1 200 OK");
    }
    let address = group.members[group.leader().await]
        .as_ref()
        .expect("it runs")
        .address;
    assert!(
        get(address, "/metrics")
            .await
            .1
            .contains("placement_leads 1")
    );
    group.stop_all().await;
}
