//! What a member tells others while it stops, what it hears of stores that do, and settings that are refused.

use proto::pdpb::pd_server::SERVICE_NAME;
use proto::pontoon::v1::{Delete, Operation, operation};
use store::event::{Keys, Target};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;

/// A leader that is told to stop while nobody can follow it: probers are told at once, and what comes is served until a
/// follower is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probers_are_told_of_a_stop_before_the_leadership_is_handed_over() {
    // Member 0 never begins an election and, leading, does not miss the others: it leads for as long as it takes.
    let mut group = Group::start_with(3, 1, |number, config| {
        if number == 0 {
            config.election_timeout = Span::secs(3600);
        }
    })
    .await;
    let first = group.leader().await;
    let other = 3 - first;
    assert_ne!(first, 0);
    group.stop(other).await;
    let leader = group.members[first].as_ref().expect("it runs");
    assert!(leader.node.handle().drain(PATIENCE).await);
    // Who handed over may not have noticed yet.
    let deadline = Instant::now() + PATIENCE;
    while group.leader().await != 0 {
        assert!(Instant::now() < deadline, "member 0 does not take over");
    }
    group.stop(first).await;

    // Nobody has this write, so nobody can take over. It removes what is not there.
    let member = group.members[0].as_ref().expect("it runs");
    let (node, address) = (member.node.handle(), member.address);
    let key = bytes::Bytes::from(vec![b'~'; PADDING]);
    let target = Target {
        region: member::REGION,
        peer: None,
        epoch: None,
        keys: Keys::Points(vec![key.clone()]),
    };
    let delete = Operation {
        kind: Some(operation::Kind::Delete(Delete { key })),
    };
    let before = log_bytes(address).await;
    let writing = tokio::spawn(async move { node.propose(target, vec![delete]).await });
    while log_bytes(address).await < before + PADDING {
        assert!(!writing.is_finished(), "it was refused, or is committed");
    }
    let channel = group.channel(0).await;
    let mut health = HealthClient::new(channel.clone());
    let mut told = Vec::new();
    for service in ["", SERVICE_NAME] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.watch(request).await.expect("it answers");
        let mut stream = answer.into_inner();
        assert_eq!(next(&mut stream).await, ServingStatus::Serving);
        told.push(stream);
    }
    let (signal, mut signals) = mpsc::channel(1);
    let member = group.members[0].take().expect("it runs");
    let ending = tokio::spawn(member.run(PATIENCE, async move || {
        signals.recv().await.expect("the test lives");
    }));
    signal.send(()).await.expect("it runs");
    for stream in &mut told {
        assert_eq!(next(stream).await, ServingStatus::NotServing);
    }
    let members = PdClient::new(channel)
        .get_members(pdpb::GetMembersRequest::default())
        .await
        .expect("it serves until its leadership is handed over");
    assert_eq!(members.into_inner().members.len(), 3);

    group.restart(first).await;
    let ended = tokio::time::timeout(PATIENCE, ending).await;
    let ended = ended.expect("it hands over").expect("no panic");
    ended.expect("it stops");
    group.restart(other).await;
    assert_ne!(group.leader().await, 0);
    group.stop_all().await;
}

/// Length of a write that is not mistaken for another.
const PADDING: usize = 4 << 10;

/// What a member wrote into its log.
async fn log_bytes(address: std::net::SocketAddr) -> usize {
    let (_, metrics) = get(address, "/metrics").await;
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix("server_log_written_bytes_total "))
        .expect("the metric");
    value.trim().parse().expect("a count")
}

async fn next(stream: &mut Streaming<tonic_health::pb::HealthCheckResponse>) -> ServingStatus {
    let answer = tokio::time::timeout(PATIENCE, stream.message()).await;
    let answer = answer.expect("an answer in time").expect("no failure");
    answer.expect("it goes on").status()
}

/// Times are counted in ticks: none may be rounded to nothing, nor the tick itself.
#[test]
fn ticks_that_are_too_coarse_are_refused_by_name() {
    assert!(check(&PlacementConfig::default()).is_ok());
    let mut config = PlacementConfig::default();
    for (tick, wrong) in [
        ("0ms", "tick is wrong"),
        ("1500us", "tick is wrong"),
        ("301ms", "tick is wrong"),
        ("101ms", "heartbeat is wrong"),
    ] {
        config.tick = tick.parse().expect("a span");
        let Err(refused) = check(&config) else {
            panic!("{tick} is taken");
        };
        let refused = refused.to_string();
        assert!(refused.starts_with(wrong), "{tick}: {refused}");
    }
    config.tick = config.heartbeat;
    assert!(check(&config).is_ok());
}

/// A share of more than everything is a mistake, and is not taken for everything.
#[test]
fn a_share_of_more_than_everything_is_refused_by_name() {
    let mut config = PlacementConfig::default();
    for share in [0, 30, 100] {
        config.balance.rebalance_share = share;
        assert!(check(&config).is_ok(), "{share}");
        assert_eq!(settings(&config).balance.share_percent, share);
    }
    for share in [101, u32::MAX] {
        config.balance.rebalance_share = share;
        let Err(Error::Setting { setting, reason }) = check(&config) else {
            panic!("{share} is taken");
        };
        assert_eq!(setting, "balance.rebalance_share");
        assert!(reason.contains("100"), "{reason}");
    }
}

/// Whatever a store was told before: the dial is the leader's setting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dial_comes_with_the_answer_to_a_heartbeat() {
    let group = Group::start(1, 1).await;
    let (mut client, header) = group.client().await;
    bootstrap(&mut client, &header).await;
    let request = pdpb::StoreHeartbeatRequest {
        header,
        stats: Some(pdpb::StoreStats {
            store_id: 1,
            ..Default::default()
        }),
        ..Default::default()
    };
    let beat = client.store_heartbeat(request).await.expect("it answers");
    let dial = beat.metadata().get(placement::DIAL_METADATA);
    let dial = dial.expect("it is told").to_str().expect("digits");
    let (balance, repair) = placement::BalanceSettings::default().snapshot_rates();
    assert_eq!(dial, format!("{balance} {repair}"));
    assert_eq!((balance, repair), (30 << 20, 50 << 20));
}

/// A store that says that it stops is known to, until another process registers as that store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stops_is_heard() {
    let group = Group::start(1, 1).await;
    let (mut client, header) = group.client().await;
    bootstrap(&mut client, &header).await;
    let mut beat = async |is_stopping: bool| {
        let request = pdpb::StoreHeartbeatRequest {
            header: header.clone(),
            stats: Some(pdpb::StoreStats {
                store_id: 1,
                is_stopping,
                ..Default::default()
            }),
            ..Default::default()
        };
        let beat = client.store_heartbeat(request).await.expect("it answers");
        ok(beat.into_inner().header);
        let request = pdpb::GetStoreRequest {
            header: header.clone(),
            store_id: 1,
        };
        let found = client.get_store(request).await.expect("it answers");
        found.into_inner().stats.expect("figures").is_stopping
    };
    assert!(!beat(false).await);
    assert!(beat(true).await);
    let request = pdpb::PutStoreRequest {
        header: header.clone(),
        store: Some(metapb::Store {
            start_timestamp: 7,
            ..store(1)
        }),
    };
    let (mut client, _) = group.client().await;
    let put = client.put_store(request).await.expect("it answers");
    ok(put.into_inner().header);
    let request = pdpb::GetStoreRequest {
        header: header.clone(),
        store_id: 1,
    };
    let found = client.get_store(request).await.expect("it answers");
    let stats = found.into_inner().stats.expect("figures");
    assert!(!stats.is_stopping, "it was started again");
    group.stop_all().await;
}
