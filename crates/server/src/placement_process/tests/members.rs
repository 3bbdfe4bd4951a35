//! How a group is formed, and what becomes of a member whose directory was emptied.

use futures::future::select_all;
use futures::stream;
use proto::pontoon::v1::peer_client::PeerClient;
use proto::pontoon::v1::{Frame, HeartbeatBatch, Hello, RaftStream, raft_stream};
use store::event::RegionView;
use tonic::Code;

use super::directory::Known;
use super::member::REGION;
use super::succession::{Step, next_step};
use super::*;

impl Group {
    /// A new disk for a member that does not run.
    fn empty(&mut self, number: usize) -> tempfile::TempDir {
        assert!(self.members[number].is_none(), "it runs");
        let fresh = tempfile::tempdir().expect("a temporary directory");
        self.configs[number].data_dir = fresh.path().to_owned();
        std::mem::replace(&mut self.directories[number], fresh)
    }

    fn id(&self, number: usize) -> StoreId {
        let member = self.members[number].as_ref().expect("it runs");
        member.placement.standing().members[number]
    }

    fn has_region(&self, number: usize) -> bool {
        let member = self.members[number].as_ref().expect("it runs");
        member.node.handle().region(REGION).is_some()
    }

    /// Waits until the three members that run now are the voters of the group, as each of them has applied.
    async fn whole(&self) {
        self.agrees(&[0, 1, 2], |views| {
            let whole = |region: &metapb::Region| {
                let mut ids = views.iter().map(|view| StoreId(view.peer.0));
                region.peers.len() == 3 && ids.all(|id| next_step(region, id) == Step::Done)
            };
            views.iter().all(|view| whole(&view.region))
        })
        .await;
    }

    /// Waits until what these members have applied of the group is so.
    async fn agrees(&self, numbers: &[usize], accept: impl Fn(&[Arc<RegionView>]) -> bool) {
        let node = |number: &usize| {
            let member = self.members[*number].as_ref().expect("it runs");
            member.node.handle()
        };
        let nodes: Vec<_> = numbers.iter().map(node).collect();
        let views = || -> Vec<_> {
            nodes
                .iter()
                .filter_map(|node| node.region(REGION))
                .collect()
        };
        let waiting = async {
            loop {
                // Made before the look, so that no change is missed.
                let changes: Vec<_> = nodes
                    .iter()
                    .map(|node| Box::pin(node.views().changed()))
                    .collect();
                let seen = views();
                if seen.len() == nodes.len() && accept(&seen) {
                    return;
                }
                select_all(changes).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "the members are {:?}", views());
    }

    async fn allocate(&self) -> u64 {
        let (mut client, header) = self.client().await;
        let request = pdpb::AllocIdRequest { header, count: 1 };
        let answer = client.alloc_id(request).await.expect("it answers");
        let answer = answer.into_inner();
        ok(answer.header);
        answer.id
    }
}

/// R7: a member whose directory was emptied is nobody's voter until the group took it in under its new id. Then it is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_member_joins_under_a_new_id_and_votes() {
    let mut group = Group::start(3, 1).await;
    let before = group.allocate().await;
    let leader = group.leader().await;
    let (emptied, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let old = group.id(emptied);
    group.stop(emptied).await;
    group.empty(emptied);
    group.restart(emptied).await;
    group.whole().await;
    let new = group.id(emptied);
    assert!(new != old && group.configs[emptied].members.len() == 3);
    assert_eq!(member::position(new), Some(emptied));

    // Without its vote there is no quorum now.
    group.stop(other).await;
    let after = group.allocate().await;
    assert!(after > before, "{after} after {before}");
    group.stop(group.leader().await).await;
    group.restart(other).await;
    let last = group.allocate().await;
    assert!(last > after, "{last} after {after}");
    group.stop_all().await;
}

/// R7, R13: what two of three acknowledged is safe when one of them is emptied and the other is away. The third and the
/// emptied one wait, for a message to the one that was there creates nothing and its place gives no vote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_member_does_not_count() {
    let mut group = Group::start(3, 1).await;
    group.allocate().await;
    let first: Vec<_> = (0..3).map(|number| group.id(number)).collect();
    let leader = group.leader().await;
    let (emptied, late) = ((leader + 1) % 3, (leader + 2) % 3);
    group.stop(late).await;
    let mut acknowledged = 0;
    for _ in 0..20 {
        acknowledged = group.allocate().await;
    }
    group.stop(emptied).await;
    group.empty(emptied);
    group.stop(leader).await;
    group.restart(late).await;
    group.restart(emptied).await;

    // As the leader would speak to the member that was there.
    let members = check(&group.configs[emptied]).expect("a sound configuration");
    let hello = Hello {
        cluster_id: members.handshake_id(&first),
        from_store: first[leader].0,
        to_store: first[emptied].0,
        boot: 1000,
        format: store::identity::FORMAT,
    };
    let heartbeats = HeartbeatBatch {
        region_ids: vec![REGION.0],
        from_peers: vec![first[leader].0],
        to_peers: vec![first[emptied].0],
        terms: vec![100],
        commits: vec![0],
        rounds: vec![1],
        conf_vers: vec![1],
        ..Default::default()
    };
    let frame = Frame {
        heartbeats: Some(heartbeats),
        ..Default::default()
    };
    let messages = [
        raft_stream::Kind::Hello(hello),
        raft_stream::Kind::Frame(frame),
    ];
    let messages = messages.map(|kind| RaftStream { kind: Some(kind) });
    let mut peer = PeerClient::new(group.channel(emptied).await);
    let refused = peer.raft(stream::iter(messages)).await;
    let refused = refused.expect_err("it is for another member");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("store"), "{refused}");

    for number in [emptied, late] {
        let member = group.members[number].as_ref().expect("it runs");
        let standing = member.placement.settled(Duration::from_secs(3)).await;
        assert_eq!((standing.leader, standing.serving), (None, None));
    }
    assert!(!group.has_region(emptied), "nobody may have spoken to it");

    group.restart(leader).await;
    group.whole().await;
    let next = group.allocate().await;
    assert!(next > acknowledged, "{next} after {acknowledged}");
    group.stop_all().await;
}

/// A newcomer that is gone for good after it was added is not spoken to for ever: it is removed. Whoever comes then is taken in, it too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_that_vanishes_is_given_up() {
    let lost_after = Span::secs(2);
    let adjust = |_, config: &mut PlacementConfig| config.newcomer_lost_after = lost_after;
    let mut group = Group::start_with(3, 1, adjust).await;
    let first: Vec<_> = (0..3).map(|number| group.id(number)).collect();
    let leader = group.leader().await;
    let (emptied, other) = ((leader + 1) % 3, (leader + 2) % 3);
    group.stop(emptied).await;
    group.empty(emptied);

    // As far as the leader can tell, somebody started over an empty disk, asked once, and was never heard of again.
    let members = Arc::new(check(&group.configs[emptied]).expect("a sound configuration"));
    let newcomer = members.born(u64::MAX);
    for conf_ver in [3, 5] {
        let (_told, known) = watch::channel(Known {
            member: newcomer,
            first: first.clone(),
            begun: true,
        });
        let (close, closing) = watch::channel(false);
        let waiting = server::waiting::<RocksEngine>(members.clone(), known);
        let current = Arc::new(ArcSwap::from_pointee(waiting));
        let address = group.configs[emptied].addr.clone();
        let listener = TcpListener::bind(&address).await.expect("it is free");
        let serving = tokio::spawn(server::serve(listener, address, current, closing));
        let asking = async {
            loop {
                let leader = group.leader().await;
                if let Ok(Some(step)) = service::join(&members, newcomer, leader).await {
                    return step;
                }
            }
        };
        let step = tokio::time::timeout(PATIENCE, asking).await;
        assert_eq!(step.as_deref(), Ok("it becomes a learner"));
        close.send_replace(true);
        let served = serving.await.expect("it does not panic");
        served.expect("it serves");

        // Added, and removed again.
        let accept = |region: &metapb::Region| {
            let peers = region.peers.iter().map(|peer| StoreId(peer.store_id));
            let epoch = region.region_epoch.expect("an epoch");
            epoch.conf_ver == conf_ver && peers.eq(first.iter().copied())
        };
        let all = |views: &[Arc<RegionView>]| views.iter().all(|view| accept(&view.region));
        group.agrees(&[leader, other], all).await;
    }
    group.restart(emptied).await;
    group.whole().await;
    group.allocate().await;
    group.stop_all().await;
}

/// R19: a directory whose place another one took never votes again, and its process says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_directory_stops_and_stays_stopped() {
    let mut group = Group::start(3, 1).await;
    let leader = group.leader().await;
    let number = (leader + 1) % 3;
    group.stop(number).await;
    let shelf = group.empty(number);
    group.restart(number).await;
    group.whole().await;
    group.stop(number).await;
    let config = PlacementConfig {
        data_dir: shelf.path().to_owned(),
        ..group.configs[number].clone()
    };
    let returned = start_again(&config).await.expect("it knows of nothing");
    let never = async || std::future::pending::<()>().await;
    let ended = tokio::time::timeout(PATIENCE, returned.run(Duration::ZERO, never)).await;
    let ended = ended.expect("it ends by itself").unwrap_err();
    assert!(matches!(ended, Error::Replaced), "{ended}");
    let again = start_again(&config).await;
    assert!(matches!(again, Err(Error::Replaced)));

    group.restart(number).await;
    group.whole().await;
    group.allocate().await;
    group.stop_all().await;
}

/// A group begins when all its members are there, not before, and waits for those that are when one is emptied meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_formed_by_all_its_members() {
    let (mut group, mut listeners) = Group::prepare(3, 1, |_, _| {}).await;
    // Nobody listens at the address of the third.
    listeners.truncate(2);
    let starting: Vec<_> = group
        .configs
        .iter()
        .cloned()
        .zip(listeners)
        .map(|(config, listener)| {
            tokio::spawn(async move {
                let members = Arc::new(check(&config).expect("a sound configuration"));
                Member::start(&config, members, listener).await
            })
        })
        .collect();
    let address = group.configs[0].addr.parse().expect("an address");
    let channel = Channel::from_shared(format!("http://{address}"))
        .expect("a URI")
        .connect()
        .await
        .expect("it listens");
    let asked = PdClient::new(channel)
        .get_members(pdpb::GetMembersRequest::default())
        .await;
    let refused = asked.expect_err("there is no group");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let (status, body) = get(address, "/health").await;
    assert!(
        status.contains("503") && body.contains("not formed"),
        "{status} {body}"
    );
    for task in starting {
        assert!(!task.is_finished(), "it waits for the third");
        task.abort();
        drop(task.await);
    }

    group.empty(1);
    let started = join_all(group.configs.iter().map(start_again)).await;
    group.members = started
        .into_iter()
        .map(|member| Some(member.expect("it starts")))
        .collect();
    group.whole().await;
    group.allocate().await;
    group.stop_all().await;
}
