//! Scattering over real sockets.

use super::*;

/// `SplitAndScatterRegions` cuts, waits until the pieces report, and sends one of them to the store that has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_of_a_split_go_apart() {
    let group = Group::start(1, 1).await;
    let (mut client, header) = group.client().await;
    bootstrap(&mut client, &header).await;
    let registered = pdpb::PutStoreRequest {
        header: header.clone(),
        store: Some(store(2)),
    };
    ok(client
        .put_store(registered)
        .await
        .expect("it answers")
        .into_inner()
        .header);
    let admin_header = Some(AdminHeader {
        cluster_id: header.as_ref().map_or(0, |header| header.cluster_id),
    });
    // A single voter is too few, which is not what this is about.
    let paused = AdminClient::new(group.channel(group.leader().await).await)
        .pause_scheduler(PauseSchedulerRequest {
            header: admin_header,
            name: "repair".into(),
            duration_ms: 600_000,
        })
        .await
        .expect("it answers");
    assert_eq!(paused.into_inner().error, None);
    let region = first_region(1);
    let mut reports = Reports::open(&mut client, &header).await;
    reports.report(&region).await;

    let request = pdpb::SplitAndScatterRegionsRequest {
        header: header.clone(),
        split_keys: vec!["m".into(), "t".into()],
        retry_limit: 10,
        ..Default::default()
    };
    let mut asking = client.clone();
    let answer = tokio::spawn(async move { asking.split_and_scatter_regions(request).await });
    let split = reports.order().await.split_region.expect("a split");
    assert_eq!(split.keys, ["m", "t"]);
    let piece = |id: u64, start: &'static str, end: &'static str| {
        let mut piece = first_region(1);
        piece.start_key = start.into();
        piece.end_key = end.into();
        piece.region_epoch = Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 3,
        });
        if id != piece.id {
            piece.id = id;
            piece.peers[0].id = id + 100;
        }
        piece
    };
    let pieces = vec![
        piece(region.id, "", "m"),
        piece(101, "m", "t"),
        piece(102, "t", ""),
    ];
    let told = pdpb::ReportBatchSplitRequest {
        header: header.clone(),
        regions: pieces.clone(),
    };
    ok(client
        .report_batch_split(told)
        .await
        .expect("it answers")
        .into_inner()
        .header);
    // Until their leaders report, nothing can be begun with them.
    for piece in &pieces {
        reports.report(piece).await;
    }
    let (moved, to) = loop {
        let order = reports.order().await;
        if let Some(peer) = order.change_peer.and_then(|change| change.peer) {
            break (order.region_id, peer.store_id);
        }
    };
    assert!([101, 102].contains(&moved), "{moved} was not asked for");
    assert_eq!(to, 2);
    let answer = tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("an answer in time")
        .expect("no panic")
        .expect("it answers")
        .into_inner();
    ok(answer.header);
    assert_eq!(
        (
            answer.split_finished_percentage,
            answer.scatter_finished_percentage,
            answer.regions_id
        ),
        (100, 100, vec![101, 102])
    );

    // A region with an operator fails, and is named; nothing is asked for without regions.
    let request = |regions: &[u64]| pdpb::ScatterRegionRequest {
        header: header.clone(),
        regions_id: regions.to_vec(),
        ..Default::default()
    };
    let answer = client
        .scatter_region(request(&[moved]))
        .await
        .expect("it answers")
        .into_inner();
    ok(answer.header);
    assert_eq!(
        (answer.finished_percentage, answer.failed_regions_id),
        (0, vec![moved])
    );
    let answer = client
        .scatter_region(request(&[]))
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(refused(answer.header), pdpb::ErrorType::InvalidValue);
    group.stop_all().await;
}
