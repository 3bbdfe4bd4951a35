//! Where the children of splits ahead of appends go.

use super::*;

const FULL: u64 = 96 << 20;

/// Puts an empty region beside the others and places it, as if it had its full size from then on. Returns whether it moved.
fn place(cluster: &mut Cluster, draw: u64) -> bool {
    let id = RegionId(500);
    cluster.add_region(id.0, &(draw, 0, 0, 0));
    let mut region = cluster.regions.get(id).expect("it is there").clone();
    let found = {
        let fit = cluster.fit();
        let mut view = cluster.view(&fit);
        view.grow(&region, FULL);
        crate::scheduler::spread(&mut view, &cluster.dial, &region, FULL)
    };
    let moves = found.map_or(Vec::new(), |found| found.moves);
    for (from, to) in &moves {
        let there = |peer: &metapb::Peer| StoreId(peer.store_id) == *to;
        assert!(!region.region.peers.iter().any(there), "two on one store");
        let peers = &mut region.region.peers;
        let peer = peers.iter_mut().find(|peer| peer.id == from.id);
        peer.expect("it is there").store_id = to.0;
    }
    region.region.region_epoch = Some(metapb::RegionEpoch {
        conf_ver: 2,
        version: 1,
    });
    region.bytes = FULL;
    cluster.regions.report(region).expect("it is newer");
    !moves.is_empty()
}

/// Whether balance would move the region somewhere.
fn would_move(cluster: &Cluster) -> bool {
    let fit = cluster.fit();
    let view = cluster.view(&fit);
    let region = view.regions.get(RegionId(500)).expect("it is there");
    let burden = Burden::of(region);
    let before = view.violations(region);
    region.voters().any(|peer| {
        let from = StoreId(peer.store_id);
        let source = view.scores.position(from).expect("all are up");
        (0..view.members.len()).any(|target| {
            let to = view.store(target);
            let shifts = Shifts::default().peer(&burden, source, target);
            region.peer_on(to).is_none()
                && view.after_move(region, before, from, to).is_ok()
                && view.scores.judge(Dimension::Size, &shifts).accepted
        })
    })
}

proptest! {
    #[test]
    fn a_child_stays_where_it_was_placed_when_it_is_full(
        stores in prop::collection::vec((0u64..4, 10u64..1000), 3..9),
        regions in prop::collection::vec((0u64..9, 0u64..96, Just(0u64), Just(0u64)), 1..60),
        draw in 0u64..9,
    ) {
        let mut cluster = Cluster::new(&stores, &regions, 7);
        place(&mut cluster, draw);
        prop_assert!(!would_move(&cluster));
    }
}

/// Loads on three of five stores; the child begins on the first three of them.
#[test]
fn a_child_goes_only_where_it_is_worth_it() {
    let five = [(0, 500); 5];
    let moved = |regions: &[RegionShape]| place(&mut Cluster::new(&five, regions, 7), 0);
    assert!(moved(&[(0, 90, 0, 0); 3]), "two stores are empty");
    let even = [
        (0, 90, 0, 0),
        (2, 90, 0, 0),
        (4, 90, 0, 0),
        (1, 90, 0, 0),
        (3, 90, 0, 0),
    ];
    assert!(!moved(&even), "all have three");
}

/// Room for what it is does not do: it must have room for what it will be.
#[test]
fn a_store_without_room_for_a_full_region_takes_no_child() {
    let moved = |available_bytes: u64| {
        let mut cluster = Cluster::new(&[(0, 500); 4], &[(0, 90, 0, 0); 3], 7);
        let space = Space {
            capacity_bytes: 500 << 30,
            used_bytes: 499 << 30,
            available_bytes,
            ..Space::default()
        };
        let now = cluster.now;
        let heard = cluster.stores.heard(StoreId(4), Some(1), space, now);
        heard.expect("it registered");
        place(&mut cluster, 0)
    };
    assert!(
        !moved(150 << 20),
        "a full one is staged before it is taken in"
    );
    assert!(moved(300 << 20));
}
