//! Stores that stop, as in a rolling restart: nothing is brought there until they are back.

use super::*;
use crate::stores::STOPPING;

/// Asks for moves until none has come for a while, and carries them out. None goes to this store.
fn settle_without(cluster: &mut Cluster, away: StoreId) -> Vec<Decision> {
    let mut refusals = Vec::new();
    let mut quiet = 0;
    for _ in 0..1000 {
        let round = cluster.ask();
        quiet = match round.proposals.is_empty() {
            true => quiet + 1,
            false => 0,
        };
        for proposal in &round.proposals {
            let (Action::Move { to, .. } | Action::Transfer { to }) = proposal.action;
            assert_ne!(to, away, "{proposal:?}");
            cluster.carry_out(proposal);
        }
        refusals.extend(round.refusals);
        if quiet == 30 {
            return refusals;
        }
        cluster.pass(Duration::from_secs(601));
    }
    panic!("no end of moves");
}

/// Whether somebody says that nothing goes to this store because it stops.
fn told(refusals: &[Decision], who: Who, store: StoreId) -> bool {
    refusals.iter().any(|refusal| {
        let stops = matches!(&refusal.outcome, Outcome::Refused { reason } if reason == STOPPING);
        stops && refusal.who == who && refusal.stores.1 == Some(store)
    })
}

#[test]
fn a_store_that_stops_takes_no_peers() {
    let regions: Vec<_> = (0..60).map(|region| (region, 96, 0, 0)).collect();
    let mut cluster = Cluster::new(&alike(4), &regions, 1);
    cluster.add_store(9, 1000);
    let new = StoreId(5);
    assert!(cluster.stores.tell_stopping(new, true));
    let refusals = settle_without(&mut cluster, new);
    assert_eq!(cluster.peers()[4], 0);
    assert!(told(&refusals, Who::BalanceRegion, new));

    cluster.stores.tell_stopping(new, false);
    cluster.settle(100);
    assert!(spread(&cluster.peers()) <= 3, "{:?}", cluster.peers());
}

/// Another one that is empty takes what it can; then the one that stops is why it is not even.
#[test]
fn a_store_that_stops_does_not_hold_others_up() {
    let regions: Vec<_> = (0..60).map(|region| (region, 96, 0, 0)).collect();
    let mut cluster = Cluster::new(&alike(4), &regions, 1);
    cluster.add_store(9, 1000);
    cluster.add_store(10, 1000);
    let new = StoreId(6);
    cluster.stores.tell_stopping(new, true);
    let refusals = settle_without(&mut cluster, new);
    let peers = cluster.peers();
    assert!(peers[4] >= 33 && peers[5] == 0, "{peers:?}");
    assert!(told(&refusals, Who::BalanceRegion, new));
}

#[test]
fn a_store_that_stops_takes_no_leaders() {
    // All on the same three stores, led by the first.
    let regions: Vec<_> = (0..60).map(|_| (0, 96, 0, 0)).collect();
    let mut cluster = Cluster::new(&alike(3), &regions, 1);
    let away = StoreId(3);
    cluster.stores.tell_stopping(away, true);
    let refusals = settle_without(&mut cluster, away);
    let leaders = cluster.leaders();
    assert!(spread(&leaders[..2]) <= 3 && leaders[2] == 0, "{leaders:?}");
    assert!(told(&refusals, Who::BalanceLeader, away));

    cluster.stores.tell_stopping(away, false);
    cluster.settle(100);
    assert!(spread(&cluster.leaders()) <= 3, "{:?}", cluster.leaders());
}

/// Load is no reason either, neither for leadership nor for a peer that takes it along.
#[test]
fn a_store_that_stops_takes_no_load() {
    for (stores, away) in [(3, StoreId(3)), (5, StoreId(5))] {
        let mut cluster = Cluster::new(&alike(stores), &[], 1);
        for id in 1..=60 {
            // The hot ones are on stores 1 to 3.
            let (draw, written) = if id <= 10 { (0, 4000) } else { (id, 1) };
            cluster.add_region(id, &(draw, 96, written, 0));
        }
        cluster.stores.tell_stopping(away, true);
        let refusals = settle_without(&mut cluster, away);
        assert!(told(&refusals, Who::HotWrite, away), "{stores} stores");
    }
}

/// When a leader moves, it is not the store that stops that leads then; if nobody else could, that is told.
#[test]
fn a_store_that_stops_is_nobodys_heir() {
    let mut cluster = Cluster::new(&alike(4), &[(0, 96, 0, 0)], 1);
    let heir = |cluster: &Cluster| {
        let fit = cluster.fit();
        let view = cluster.view(&fit);
        let region = view.regions.get(RegionId(1)).expect("it was added");
        view.heir(region, StoreId(1))
    };
    assert_eq!(heir(&cluster), Ok(StoreId(2)));
    cluster.stores.tell_stopping(StoreId(2), true);
    assert_eq!(heir(&cluster), Ok(StoreId(3)));
    cluster.stores.tell_stopping(StoreId(3), true);
    let told = "who could lead it then is on a store that is stopping";
    assert_eq!(heir(&cluster), Err(told));
}
