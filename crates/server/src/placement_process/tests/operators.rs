//! Operators, the journal and splits over real sockets.

use super::*;

/// A drain and what the journal tells outlive the placement leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_and_the_journal_outlive_the_placement_leader() {
    let mut group = Group::start(3, 1).await;
    let (mut client, header) = group.client().await;
    bootstrap(&mut client, &header).await;
    let request = pdpb::PutStoreRequest {
        header: header.clone(),
        store: Some(store(2)),
    };
    ok(client
        .put_store(request)
        .await
        .expect("it answers")
        .into_inner()
        .header);
    let mut region = first_region(1);
    region.peers.push(learner(5, 2));
    region.peers[1].set_role(metapb::PeerRole::Voter);
    let reports = Reports::open(&mut client, &header).await;
    reports.report(&region).await;

    let cluster_id = header.as_ref().map_or(0, |header| header.cluster_id);
    let admin_header = Some(AdminHeader { cluster_id });
    let request = StoreCommandRequest {
        header: admin_header,
        store_id: 2,
    };
    let leader = group.leader().await;
    let mut admin = AdminClient::new(group.channel(leader).await);
    // Its only peer has no other place.
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        let answer = admin.drain_store(request).await.expect("it answers");
        let error = answer.into_inner().error.expect("a refusal");
        // The report may still be on its way.
        if error.kind() != admin_error::Kind::Busy {
            break error;
        }
        assert!(Instant::now() < deadline, "{error:?}");
    };
    assert_eq!(refused.kind(), admin_error::Kind::Invalid);
    assert!(refused.message.contains("store 1"), "{}", refused.message);
    let request = StoreCommandRequest {
        header: admin_header,
        store_id: 3,
    };
    let registered = pdpb::PutStoreRequest {
        header: header.clone(),
        store: Some(store(3)),
    };
    ok(client
        .put_store(registered)
        .await
        .expect("it answers")
        .into_inner()
        .header);
    let drained = admin.drain_store(request).await.expect("it answers");
    assert_eq!(drained.into_inner().error, None);
    let paused = admin
        .pause_scheduler(PauseSchedulerRequest {
            header: admin_header,
            name: "repair".into(),
            duration_ms: 600_000,
        })
        .await
        .expect("it answers");
    assert_eq!(paused.into_inner().error, None);

    group.stop(leader).await;
    let mut admin = AdminClient::new(group.channel(group.leader().await).await);
    let stores = admin
        .list_stores(ListStoresRequest {
            header: admin_header,
        })
        .await
        .expect("it answers")
        .into_inner()
        .stores;
    let drains: Vec<_> = stores.iter().map(|store| store.drain.is_some()).collect();
    assert_eq!(drains, [false, false, true]);
    let schedulers = admin
        .list_schedulers(ListSchedulersRequest {
            header: admin_header,
        })
        .await
        .expect("it answers")
        .into_inner()
        .schedulers;
    let paused = schedulers.iter().filter(|found| found.paused_ms > 0);
    let paused: Vec<_> = paused.map(|found| found.name.as_str()).collect();
    assert_eq!(paused, ["repair"]);
    let entries = admin
        .read_journal(ReadJournalRequest {
            header: admin_header,
            store_id: 3,
            ..Default::default()
        })
        .await
        .expect("it answers")
        .into_inner()
        .entries;
    assert!(
        entries
            .iter()
            .any(|entry| entry.kind() == journal_entry::Kind::Command
                && entry.text.contains("store 3 is drained")),
        "{entries:?}"
    );
    group.stop_all().await;
}

/// One request of plain HTTP/1.1.
/// `SplitRegions` answers once regions begin at its keys, whoever cut them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn split_regions_waits_for_the_pieces() {
    let group = Group::start(1, 1).await;
    let (mut client, header) = group.client().await;
    bootstrap(&mut client, &header).await;
    let region = first_region(1);
    let mut reports = Reports::open(&mut client, &header).await;
    reports.report(&region).await;
    let request = |keys: &[&'static str]| pdpb::SplitRegionsRequest {
        header: header.clone(),
        split_keys: keys.iter().map(|key| (*key).into()).collect(),
        retry_limit: 0,
    };
    let refused = client
        .split_regions(request(&[]))
        .await
        .expect("it answers")
        .into_inner();
    let error = refused.header.and_then(|header| header.error);
    assert_eq!(
        error.map(|error| error.r#type()),
        Some(pdpb::ErrorType::InvalidValue)
    );

    let (mut asking, asked) = (client.clone(), request(&["t", "m"]));
    let answer = tokio::spawn(async move { asking.split_regions(asked).await });
    let order = reports.order().await;
    let split = order.split_region.expect("a split");
    assert_eq!(split.keys, ["m", "t"]);
    let piece = |id: u64, start: &'static str, end: &'static str| metapb::Region {
        id,
        start_key: start.into(),
        end_key: end.into(),
        region_epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 3,
        }),
        peers: region
            .peers
            .iter()
            .map(|peer| metapb::Peer {
                id: peer.id + id,
                ..*peer
            })
            .collect(),
        ..Default::default()
    };
    let mut parent = piece(region.id, "", "m");
    parent.peers = region.peers.clone();
    let told = pdpb::ReportBatchSplitRequest {
        header: header.clone(),
        regions: vec![parent, piece(101, "m", "t"), piece(102, "t", "")],
    };
    ok(client
        .report_batch_split(told)
        .await
        .expect("it answers")
        .into_inner()
        .header);
    let answer = tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("an answer in time")
        .expect("no panic")
        .expect("it answers")
        .into_inner();
    assert_eq!(
        (answer.finished_percentage, answer.regions_id),
        (100, vec![101, 102])
    );
    group.stop_all().await;
}

/// A step that the leader of a region refuses ends its operator at the second time, with the reason, long before its
/// deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_step_ends_its_operator() {
    let group = Group::start(1, 1).await;
    let (mut client, header) = group.client().await;
    bootstrap(&mut client, &header).await;
    let channel = group.channel(group.leader().await).await;
    let (sender, stream) = mpsc::channel(8);
    let region = first_region(1);
    let report = pdpb::RegionHeartbeatRequest {
        header: header.clone(),
        region: Some(region.clone()),
        leader: region.peers.first().copied(),
        term: 5,
        ..Default::default()
    };
    let told = |kind| RegionNews { kind: Some(kind) };
    let report = told(region_news::Kind::Report(report));
    sender.send(report).await.expect("the stream is open");
    let mut steps = StepsClient::new(channel.clone())
        .exchange(ReceiverStream::new(stream))
        .await
        .expect("it opens")
        .into_inner();
    let mut admin = AdminClient::new(channel);
    let cluster_id = header.as_ref().map_or(0, |header| header.cluster_id);
    let admin_header = Some(AdminHeader { cluster_id });
    let asked = Instant::now();
    let operator_id = loop {
        let request = SplitRegionRequest {
            header: admin_header,
            region_id: region.id,
            keys: vec!["m".into()],
        };
        let answer = admin.split_region(request).await.expect("it answers");
        let answer = answer.into_inner();
        match answer.error {
            None => break answer.operator_id,
            // The report is on its way.
            Some(error) => assert!(asked.elapsed() < PATIENCE, "{error:?}"),
        }
    };
    let step = tokio::time::timeout(PATIENCE, steps.message())
        .await
        .expect("a step in time")
        .expect("no failure")
        .expect("a step");
    let id = step.id.expect("it names its operator");
    assert_eq!((id.operator_id, id.position), (operator_id, 0));
    for _ in 0..2 {
        let refusal = StepRefusal {
            header: header.clone(),
            id: Some(id),
            region_id: region.id,
            epoch: region.region_epoch,
            term: 5,
            kind: step_refusal::Kind::Invalid.into(),
            text: "a test refuses it".into(),
        };
        let refusal = told(region_news::Kind::Refusal(refusal));
        sender.send(refusal).await.expect("the stream is open");
    }
    let operator = loop {
        let request = ListOperatorsRequest {
            header: admin_header,
            operator_id,
            region_id: 0,
        };
        let answer = admin.list_operators(request).await.expect("it answers");
        let operator = answer.into_inner().operators.remove(0);
        if operator.state() != operator_status::State::Running {
            break operator;
        }
        assert!(asked.elapsed() < PATIENCE, "{operator:?}");
    };
    assert_eq!(operator.state(), operator_status::State::Cancelled);
    assert_eq!(
        operator.reason,
        "refused by the leader: a test refuses it: split into 2"
    );
    group.stop_all().await;
}
