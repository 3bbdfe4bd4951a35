//! Why does nothing move to store 5: whatever it is, the refusal names the store and the reason.

use super::*;
use crate::decision::CANDIDATES_MAX;
use crate::operator::{Kind, Priority};
use crate::operators::Plan;
use crate::outbox::Outbox;
use crate::stores::STOPPING;

const FIVE: StoreId = StoreId(5);

/// Four stores with 45 peers each, and an empty fifth.
fn cluster() -> Cluster {
    let regions: Vec<_> = (0..60).map(|region| (region, 96, 0, 0)).collect();
    let mut cluster = Cluster::new(&alike(4), &regions, 1);
    cluster.add_store(9, 1000);
    cluster
}

fn fill(cluster: &mut Cluster, store: StoreId) {
    let full = Space {
        capacity_bytes: 1000 << 30,
        available_bytes: 100 << 20,
        ..Space::default()
    };
    let now = cluster.now;
    let heard = cluster.stores.heard(store, Some(1), full, now);
    heard.expect("it registered");
}

/// Repairs bring eight peers there.
fn occupy(cluster: &mut Cluster, store: StoreId) {
    let mut outbox = Outbox::new(BTreeMap::new());
    let count = cluster.settings.store_operators_max as u64;
    for id in 1..=count {
        let region = cluster.regions.get(RegionId(id)).expect("it was added");
        let learner = metapb::Peer {
            id: 5000 + id,
            store_id: store.0,
            role: metapb::PeerRole::Learner.into(),
            ..Default::default()
        };
        let plan = Plan {
            kind: Kind::AddReplica,
            priority: Priority::Repair,
            steps: commands::add_steps(&learner),
            cause: String::new(),
        };
        let (operators, now) = (&mut cluster.operators, cluster.now);
        operators.start(id, plan, region, now, &mut outbox);
    }
}

/// Silence of one store; the others were heard a moment ago.
fn silence(cluster: &mut Cluster, store: StoreId) {
    cluster.now.monotonic += cluster.settings.store_down_after;
    let others = cluster.stores.ids().filter(|id| *id != store);
    for id in others.collect::<Vec<_>>() {
        cluster.stores.seen(id, cluster.now);
    }
}

fn reason(refusal: &Decision) -> &str {
    match &refusal.outcome {
        Outcome::Refused { reason } => reason,
        Outcome::Created { .. } => panic!("a refusal: {refusal:?}"),
    }
}

/// What a decision says of a store.
fn verdict(decision: &Decision, store: StoreId) -> Option<&str> {
    let mut candidates = decision.candidates.iter();
    let found = candidates.find(|candidate| candidate.store == store);
    found.map(|found| &found.verdict[..])
}

/// A state to bring store 5 into, with the reason that is told of it.
type State = (fn(&mut Cluster), &'static str);

const STATES: [State; 6] = [
    (|cluster| fill(cluster, FIVE), "it has no room"),
    (|cluster| occupy(cluster, FIVE), "it has operators enough"),
    (
        |cluster| {
            cluster.stores.tell_stopping(FIVE, true);
        },
        STOPPING,
    ),
    (|cluster| silence(cluster, FIVE), "it is not up"),
    (
        |cluster| {
            let drain = cluster.stores.begin_drain(FIVE, Default::default());
            let _ = drain.expect("it is up");
        },
        "it is leaving",
    ),
    (
        |cluster| cluster.settings.balance.share_percent = 0,
        "rebalance_share leaves it no bytes now",
    ),
];

#[test]
fn a_store_that_nothing_moves_to_is_named_with_the_reason() {
    for (bring, told) in STATES {
        let mut cluster = cluster();
        bring(&mut cluster);
        let round = cluster.ask();
        assert_eq!(round.proposals, [], "{told}");
        let refusal = round.refusals.iter();
        let mut refusal = refusal.filter(|refusal| refusal.who == Who::BalanceRegion);
        let refusal = refusal.next().expect("everyone tells why");
        assert_eq!(verdict(refusal, FIVE), Some(told), "{refusal:?}");
        // Those that take no part, or nothing ever, make no pair; and the others are even.
        let alone = ["it has no room", "it is not up", "it is leaving"];
        if alone.contains(&told) {
            assert_eq!(reason(refusal), EVEN);
        } else {
            assert_eq!(reason(refusal), told);
            assert_eq!(refusal.stores.1, Some(FIVE));
        }
    }
}

/// Another takes what store 5 would; why not store 5 is in each of these decisions.
#[test]
fn a_move_elsewhere_tells_why_not_there() {
    for (bring, told) in &STATES[..5] {
        let mut cluster = cluster();
        cluster.add_store(10, 1000);
        bring(&mut cluster);
        let round = cluster.ask();
        let [proposal] = &round.proposals[..] else {
            panic!("one decision: {round:?}");
        };
        let decision = &proposal.decision;
        assert_eq!(decision.stores.1, Some(StoreId(6)));
        assert_eq!(verdict(decision, StoreId(6)), Some("chosen"));
        assert_eq!(verdict(decision, FIVE), Some(*told), "{decision:?}");
    }
}

/// A small or full store that has nothing does not look like the one that all others are even with.
#[test]
fn a_small_store_does_not_hold_others_up() {
    for available in [100 << 20, 250 << 20] {
        let mut cluster = cluster();
        cluster.add_store(10, 1000);
        let space = Space {
            capacity_bytes: 1000 << 30,
            available_bytes: available,
            ..Space::default()
        };
        let now = cluster.now;
        let heard = cluster.stores.heard(FIVE, Some(1), space, now);
        heard.expect("it registered");
        cluster.settle(200);
        let peers = cluster.peers();
        assert!(peers[4] <= 1 && peers[5] >= 34, "{peers:?}");
    }
}

/// Everyone who finds nothing tells which stores were looked at.
#[test]
fn what_was_considered_is_told_when_nothing_is_found() {
    // Everything is led by store 1, and rests.
    let mut cluster = Cluster::new(&alike(3), &[], 1);
    for id in 1..=20 {
        cluster.add_region(id, &(0, 96, 4000, 4000));
    }
    cluster.stores.tell_stopping(StoreId(2), true);
    cluster.stores.tell_stopping(StoreId(3), true);
    let round = cluster.ask();
    assert_eq!(round.proposals, []);
    for who in [Who::HotWrite, Who::HotRead, Who::BalanceLeader] {
        let mut refusals = round.refusals.iter();
        let refusal = refusals.find(|refusal| refusal.who == who).expect("one");
        for store in [2, 3] {
            assert_eq!(verdict(refusal, StoreId(store)), Some(STOPPING), "{who}");
        }
    }
}

/// Of many stores a decision names a few, and counts all.
#[test]
fn many_stores_are_counted() {
    let regions: Vec<_> = (0..60).map(|region| (region, 96, 0, 0)).collect();
    let mut cluster = Cluster::new(&alike(4), &regions, 1);
    for zone in 10..60 {
        cluster.add_store(zone, 1000);
    }
    for store in 5..35 {
        fill(&mut cluster, StoreId(store));
    }
    for store in 35..45 {
        cluster.stores.tell_stopping(StoreId(store), true);
    }
    let round = cluster.ask();
    let decision = &round.proposals.first().expect("ten are left").decision;
    assert_eq!(decision.candidates.len(), CANDIDATES_MAX);
    let count = |reason: &str| {
        let name = format!("stores where {reason}");
        let number = decision.inputs.iter().find(|(known, _)| *known == name);
        number.map(|(_, count)| *count)
    };
    assert_eq!(count("it has no room"), Some(30.0), "{decision:?}");
    assert_eq!(count(STOPPING), Some(10.0), "{decision:?}");
    let closed = |reason: &str| {
        let candidates = decision.candidates.iter();
        candidates
            .filter(|candidate| candidate.verdict == reason)
            .count()
    };
    assert_eq!(
        closed("it has no room") + closed(STOPPING),
        CANDIDATES_MAX / 2
    );
}
