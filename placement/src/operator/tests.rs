use proptest::prelude::*;

use super::*;

/// Most steps look at their own region alone.
fn judge(step: &Step, expected: Epoch, region: &RegionInfo) -> Progress {
    super::judge(
        step,
        expected,
        region,
        (&Regions::default(), &Stores::default()),
    )
}

fn peer(id: u64, role: metapb::PeerRole) -> metapb::Peer {
    metapb::Peer {
        id,
        store_id: id,
        role: role.into(),
        ..Default::default()
    }
}

const V: metapb::PeerRole = metapb::PeerRole::Voter;
const L: metapb::PeerRole = metapb::PeerRole::Learner;
const I: metapb::PeerRole = metapb::PeerRole::IncomingVoter;
const D: metapb::PeerRole = metapb::PeerRole::DemotingVoter;

fn region(conf_ver: u64, version: u64, peers: &[(u64, metapb::PeerRole)]) -> RegionInfo {
    let peers: Vec<_> = peers.iter().map(|(id, role)| peer(*id, *role)).collect();
    RegionInfo {
        leader: peers.first().cloned(),
        term: 1,
        region: metapb::Region {
            id: 1,
            end_key: Bytes::from_static(b"m"),
            region_epoch: Some(metapb::RegionEpoch { conf_ver, version }),
            peers,
            ..Default::default()
        },
        ..Default::default()
    }
}

const E: Epoch = Epoch {
    conf_ver: 5,
    version: 3,
};

fn done(conf_ver: u64, version: u64) -> Progress {
    Progress::Done(Epoch { conf_ver, version })
}

fn cancels(progress: &Progress) -> bool {
    matches!(progress, Progress::Cancel(_))
}

/// Each step against what its region may show (REGIONS §9: precondition, effect).
#[test]
fn steps_are_judged_by_their_effect() {
    let new = peer(4, L);
    let add = Step::AddLearner(new);
    let three = [(1, V), (2, V), (3, V)];
    let four = [(1, V), (2, V), (3, V), (4, L)];
    assert_eq!(
        judge(&add, E, &region(5, 3, &three)),
        Progress::Send(OrderKind::AddLearner(new))
    );
    assert_eq!(judge(&add, E, &region(6, 3, &four)), done(6, 3));
    assert!(
        cancels(&judge(&add, E, &region(5, 3, &four))),
        "a peer is there already"
    );
    assert!(
        cancels(&judge(&add, E, &region(6, 3, &three))),
        "something else moved the epoch"
    );
    assert!(
        cancels(&judge(&add, E, &region(6, 4, &four))),
        "and a split besides"
    );

    let catch_up = Step::CatchUp(new);
    let mut lagging = region(5, 3, &four);
    lagging.pending = vec![new];
    assert_eq!(judge(&catch_up, E, &lagging), Progress::Wait);
    assert_eq!(judge(&catch_up, E, &region(5, 3, &four)), done(5, 3));
    assert!(cancels(&judge(&catch_up, E, &region(5, 3, &three))));

    let remove = Step::RemoveLearner(new);
    assert_eq!(
        judge(&remove, E, &region(5, 3, &four)),
        Progress::Send(OrderKind::RemoveLearner(new))
    );
    assert_eq!(judge(&remove, E, &region(6, 3, &three)), done(6, 3));
    assert!(
        cancels(&judge(&remove, E, &region(5, 3, &[(1, V), (4, V)]))),
        "a voter is never just removed"
    );

    let transfer = Step::TransferLeader(peer(2, V));
    assert_eq!(
        judge(&transfer, E, &region(5, 3, &three)),
        Progress::Send(OrderKind::TransferLeader(peer(2, V)))
    );
    assert_eq!(
        judge(&transfer, E, &region(5, 3, &[(2, V), (1, V)])),
        done(5, 3)
    );
    assert!(cancels(&judge(
        &transfer,
        E,
        &region(5, 3, &[(1, V), (2, L)])
    )));
    let mut lagging = region(5, 3, &three);
    lagging.pending = vec![peer(2, V)];
    assert_eq!(judge(&transfer, E, &lagging), Progress::Wait);

    let keys = vec![Bytes::from_static(b"c")];
    let split = Step::Split(keys.clone());
    let mut narrow = region(5, 4, &three);
    narrow.region.end_key = keys[0].clone();
    assert_eq!(
        judge(&split, E, &region(5, 3, &three)),
        Progress::Send(OrderKind::Split(keys))
    );
    assert_eq!(
        judge(&split, E, &region(5, 3, &[(1, V), (2, I)])),
        Progress::Wait
    );
    assert_eq!(judge(&split, E, &narrow), done(5, 4));
    assert!(
        cancels(&judge(&split, E, &region(5, 4, &three))),
        "split, but elsewhere"
    );
}

/// A joint change is sent once its precondition holds, waited for while joint, and done when left.
#[test]
fn swaps_are_judged_by_roles() {
    let swap = Step::Swap {
        promote: vec![peer(4, L)],
        demote: vec![peer(3, V)],
    };
    let before = [(1, V), (2, V), (3, V), (4, L)];
    let order = OrderKind::Swap {
        promote: vec![peer(4, L)],
        demote: vec![peer(3, V)],
    };
    assert_eq!(
        judge(&swap, E, &region(5, 3, &before)),
        Progress::Send(order)
    );
    assert_eq!(
        judge(&swap, E, &region(6, 3, &[(1, V), (2, V), (3, D), (4, I)])),
        Progress::Wait
    );
    assert_eq!(
        judge(&swap, E, &region(7, 3, &[(1, V), (2, V), (3, L), (4, V)])),
        done(7, 3)
    );
    assert!(cancels(&judge(&swap, E, &region(7, 3, &before))));
    assert!(cancels(&judge(
        &swap,
        E,
        &region(5, 3, &[(1, V), (3, V), (4, V)])
    )));

    let mut lagging = region(5, 3, &before);
    lagging.pending = vec![peer(4, L)];
    assert_eq!(
        judge(&swap, E, &lagging),
        Progress::Wait,
        "promoted before it caught up"
    );

    let leads = region(5, 3, &[(3, V), (1, V), (2, V), (4, L)]);
    assert_eq!(
        judge(&swap, E, &leads),
        Progress::Send(OrderKind::TransferLeader(peer(1, V)))
    );
}

fn any_peer() -> impl Strategy<Value = metapb::Peer> {
    (1u64..9, 1u64..9, 0i32..4).prop_map(|(id, store_id, role)| metapb::Peer {
        id,
        store_id,
        role,
        is_witness: false,
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let peers = || prop::collection::vec(any_peer(), 0..3);
    prop_oneof![
        any_peer().prop_map(Step::AddLearner),
        any_peer().prop_map(Step::CatchUp),
        (peers(), peers()).prop_map(|(promote, demote)| Step::Swap { promote, demote }),
        any_peer().prop_map(Step::RemoveLearner),
        any_peer().prop_map(Step::TransferLeader),
        prop::collection::vec(any::<u8>(), 1..9).prop_map(|key| Step::Split(vec![key.into()])),
    ]
}

proptest! {
    /// The record survives writing and loading.
    #[test]
    fn operators_survive_their_encoding(steps in prop::collection::vec(any_step(), 1..6), step in 0usize..6, cause in ".*") {
        let step = step.min(steps.len() - 1);
        let operator = Operator {
            id: 7,
            kind: Kind::MoveReplica,
            priority: Priority::Admin,
            state: State::Running,
            region: RegionId(3),
            start_epoch: E,
            epoch: E,
            steps,
            step,
            cause,
            reason: String::new(),
            created_at_ms: 1,
            finished_at_ms: 0,
        };
        prop_assert_eq!(Operator::from_wire(operator.to_wire()), Ok(operator));
    }

    /// Whatever a region shows: an order is only ever sent at the exact epoch, and a voter is never removed.
    #[test]
    fn orders_are_bound_to_the_epoch(
        step in any_step(),
        peers in prop::collection::vec(any_peer(), 1..6),
        conf_ver in 4u64..9,
        version in 2u64..5,
    ) {
        let mut found = region(conf_ver, version, &[(1, V)]);
        found.region.peers = peers;
        match judge(&step, E, &found) {
            Progress::Send(kind) => {
                prop_assert_eq!(found.epoch(), E);
                if let OrderKind::RemoveLearner(peer) = kind {
                    prop_assert_eq!(peer.role(), L);
                }
            }
            Progress::Done(epoch) => prop_assert!(epoch == found.epoch() && !epoch.is_older(E)),
            Progress::Wait | Progress::Cancel(_) => {}
        }
    }
}

/// A merge: what the source and the target may show (REGIONS §9: same stores and leader store; T covers both; failed: S
/// at a higher version).
#[test]
fn a_merge_is_judged_by_both_regions() {
    let three = [(1, V), (2, V), (3, V)];
    let target = |conf_ver, version, start: &'static str, leader: u64| {
        let mut info = region(conf_ver, version, &three);
        info.region.id = 2;
        info.region.start_key = start.into();
        info.region.end_key = Bytes::new();
        info.leader = info.peer(leader).copied();
        info
    };
    let at = target(8, 9, "m", 1);
    let view = |target: &RegionInfo| {
        let mut regions = Regions::default();
        regions.report(target.clone()).expect("a region");
        regions
    };
    let source = region(5, 3, &three);
    let merge = Merge::new(&source.region, &at.region).expect("neighbours");
    let step = Step::Merge(merge.clone());
    let judged = |source: &RegionInfo, target: &RegionInfo| {
        super::judge(&step, E, source, (&view(target), &Stores::default()))
    };

    assert_eq!(
        judged(&source, &at),
        Progress::Send(OrderKind::Merge(at.region.clone()))
    );
    let elsewhere = target(8, 9, "m", 2);
    assert_eq!(
        judged(&source, &elsewhere),
        Progress::Send(OrderKind::TransferLeader(peer(2, V))),
        "both must be led on one store"
    );
    assert_eq!(judged(&region(5, 4, &three), &at), Progress::Wait, "frozen");
    assert!(cancels(&judged(&region(5, 5, &three), &at)), "thawed");
    assert!(cancels(&judged(&region(6, 3, &three), &at)));
    assert!(cancels(&judged(&source, &target(9, 9, "m", 1))));
    assert!(cancels(&judged(&source, &target(8, 10, "m", 1))));
    assert_eq!(
        super::judge(&step, E, &source, (&Regions::default(), &Stores::default())),
        Progress::Wait,
        "the target is hidden for a while"
    );

    assert_eq!(merge.judge_target(&at), Progress::Wait);
    assert_eq!(merge.judge_target(&target(8, 10, "", 1)), done(8, 10));
    assert!(
        cancels(&merge.judge_target(&target(8, 10, "m", 1))),
        "it aborted"
    );
    assert!(cancels(&merge.judge_target(&target(9, 9, "m", 1))));

    let far = target(8, 9, "n", 1);
    assert_eq!(Merge::new(&source.region, &far.region), None);
    let operator = Operator {
        id: 7,
        kind: Kind::Merge,
        priority: Priority::Merge,
        state: State::Running,
        region: source.id(),
        start_epoch: E,
        epoch: E,
        steps: vec![step.clone()],
        step: 0,
        cause: "both are small".into(),
        reason: String::new(),
        created_at_ms: 1,
        finished_at_ms: 0,
    };
    assert_eq!(
        Operator::from_wire(operator.to_wire()),
        Ok(operator.clone())
    );
    assert_eq!(
        operator.regions().collect::<Vec<_>>(),
        [RegionId(1), RegionId(2)]
    );
}
