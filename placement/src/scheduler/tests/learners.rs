//! Regions that have learners.

use super::*;
use crate::rules::{Group, Role, Rule};

/// Thirty regions whose voters are on stores 1 to 3, each with a learner on store 4. Store 5 is empty.
fn cluster() -> Cluster {
    let regions = [(0, 96, 200, 0); 30];
    let mut cluster = Cluster::new(&alike(5), &regions, 3);
    for id in 1..=30 {
        let known = cluster.regions.get(RegionId(id)).expect("it was added");
        let mut region = known.clone();
        region.region.peers.push(metapb::Peer {
            id: id * 10 + 3,
            store_id: 4,
            role: metapb::PeerRole::Learner.into(),
            ..Default::default()
        });
        let epoch = region.region.region_epoch.as_mut().expect("it has one");
        epoch.conf_ver += 1;
        cluster.regions.report(region).expect("it is newer");
    }
    cluster
}

fn rule(id: &str, role: Role, count: u32) -> Rule {
    Rule {
        id: id.into(),
        start: Bytes::new(),
        end: Bytes::new(),
        role,
        count,
        constraints: Vec::new(),
        location_labels: Vec::new(),
    }
}

#[test]
fn voters_move_beside_learners_that_rules_ask_for() {
    let mut cluster = cluster();
    cluster.rules.groups.push(Group {
        name: "copies".into(),
        index: 1,
        rules: vec![rule("vote", Role::Voter, 3), rule("copy", Role::Learner, 1)],
    });
    assert!(cluster.settle(200) > 20);
    let peers = cluster.peers();
    assert_eq!(
        peers[3], 30,
        "store 4 has most, but none that votes: {peers:?}"
    );
    for store in [0, 1, 2, 4] {
        assert!((20..=25).contains(&peers[store]), "{peers:?}");
    }
    for region in cluster.regions.after(RegionId(0)) {
        let learners = region.region.peers.iter();
        let learners = learners.filter(|peer| peer.role() == metapb::PeerRole::Learner);
        let stores: Vec<_> = learners.map(|peer| peer.store_id).collect();
        assert_eq!((stores, region.voters().count()), (vec![4], 3));
    }
}

#[test]
fn regions_with_other_learners_stay() {
    assert_eq!(cluster().settle(0), 0, "no rule asks for them");
    let mut fewer = cluster();
    fewer.rules.groups.push(Group {
        name: "votes".into(),
        index: 1,
        rules: vec![rule("vote", Role::Voter, 4)],
    });
    assert_eq!(fewer.settle(0), 0, "it is to vote");
}
