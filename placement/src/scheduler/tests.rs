use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::decision::Outcome;
use crate::event::Space;
use crate::rules::{Layout, RuleSet};
use crate::stores::Stores;

mod ahead;
mod explained;
mod learners;
mod stopping;

/// A cluster whose moves are done at once.
struct Cluster {
    regions: Regions,
    stores: Stores,
    operators: Operators,
    rests: Rests,
    relief: Relief,
    dial: Dial,
    dice: Dice,
    settings: Settings,
    rules: RuleSet,
    labels: Vec<(StoreId, Vec<metapb::StoreLabel>)>,
    now: Now,
    next_peer: u64,
}

/// A store: its label and its capacity in GiB.
type StoreShape = (u64, u64);
/// A region: the draw of its stores, its MiB, KiB written and KiB read per second.
type RegionShape = (u64, u64, u64, u64);

impl Cluster {
    fn new(stores: &[StoreShape], regions: &[RegionShape], seed: u64) -> Self {
        let mut cluster = Self {
            regions: Regions::default(),
            stores: Stores::default(),
            operators: Operators::default(),
            rests: Rests::default(),
            relief: Relief::new(),
            dial: Dial::new(Duration::ZERO),
            dice: Dice::new(seed),
            settings: Settings::default(),
            rules: RuleSet::default(),
            labels: Vec::new(),
            now: Now {
                wall_ms: 0,
                monotonic: Duration::from_secs(1000),
            },
            next_peer: 1_000_000,
        };
        cluster.settings.balance.decisions_max = 1;
        for (zone, capacity) in stores {
            cluster.add_store(*zone, *capacity);
        }
        for (at, region) in regions.iter().enumerate() {
            cluster.add_region(at as u64 + 1, region);
        }
        cluster
    }

    fn add_store(&mut self, zone: u64, gib: u64) {
        let id = StoreId(self.labels.len() as u64 + 1);
        let labels = vec![metapb::StoreLabel {
            key: "zone".into(),
            value: format!("z{zone}"),
        }];
        let store = metapb::Store {
            id: id.0,
            address: format!("s{id}"),
            labels: labels.clone(),
            ..Default::default()
        };
        let _ = self
            .stores
            .put(store, Some(1), self.now, Duration::from_secs(30))
            .expect("it is new");
        let space = Space {
            capacity_bytes: gib << 30,
            available_bytes: gib << 30,
            ..Space::default()
        };
        self.stores
            .heard(id, Some(1), space, self.now)
            .expect("it registered");
        self.labels.push((id, labels));
    }

    fn add_region(&mut self, id: u64, (draw, mib, written, read): &RegionShape) {
        let stores = self.labels.len() as u64;
        let key = |id: u64| Bytes::from(format!("{id:08}"));
        let peer = |at: u64| metapb::Peer {
            id: id * 10 + at,
            store_id: (draw + at) % stores + 1,
            ..Default::default()
        };
        let peers: Vec<_> = (0..3.min(stores)).map(peer).collect();
        let report = RegionInfo {
            region: metapb::Region {
                id,
                start_key: key(id),
                end_key: key(id + 1),
                region_epoch: Some(metapb::RegionEpoch {
                    conf_ver: 1,
                    version: 1,
                }),
                peers: peers.clone(),
                ..Default::default()
            },
            leader: peers.first().copied(),
            term: 1,
            bytes: mib << 20,
            written_bytes: written << 10,
            written_keys: *written,
            read_bytes: read << 10,
            read_keys: *read,
            ..RegionInfo::default()
        };
        self.regions.report(report).expect("it is new");
    }

    fn fit(&self) -> Places {
        let labels = self.labels.iter().map(|(id, labels)| (*id, &labels[..]));
        let locations = &self.settings.balance.location_labels;
        Places::new(Layout::new(&self.rules, 3, locations), labels)
    }

    /// The potentials of all dimensions, and the fit.
    fn potentials(&self, fit: &Places) -> BTreeMap<Dimension, f64> {
        let view = self.view(fit);
        Dimension::ALL
            .map(|dimension| (dimension, view.scores.column(dimension).potential()))
            .into()
    }

    fn view<'a>(&'a self, fit: &'a Places) -> View<'a> {
        View::new(
            &self.regions,
            &self.stores,
            &self.operators,
            &self.rests,
            self.relief.clone(),
            fit,
            &self.settings,
            self.now,
        )
    }
}

impl Cluster {
    /// Asks for one move; does not do it.
    fn ask(&mut self) -> Round {
        let fit = self.fit();
        let mut view = View::new(
            &self.regions,
            &self.stores,
            &self.operators,
            &self.rests,
            std::mem::take(&mut self.relief),
            &fit,
            &self.settings,
            self.now,
        );
        let round = round(&mut view, &mut self.dial, &mut self.dice, |_| false);
        self.relief = view.into_relief();
        round
    }

    /// Does what was proposed.
    fn carry_out(&mut self, proposal: &Proposal) {
        let mut region = self
            .regions
            .get(proposal.region)
            .expect("it is of the view")
            .clone();
        let burden = Burden::of(&region);
        match proposal.action {
            Action::Move { from, to, leads } => {
                let old = *region.peer_on(from).expect("it has a peer there");
                assert!(region.peer_on(to).is_none(), "two peers on one store");
                self.next_peer += 1;
                let new = metapb::Peer {
                    id: self.next_peer,
                    store_id: to.0,
                    ..old
                };
                let heir = region.voters().find(|peer| peer.id != old.id).copied();
                if region.leader.is_some_and(|leader| leader.id == old.id) {
                    region.leader = if leads { Some(new) } else { heir };
                }
                region.region.peers.retain(|peer| peer.id != old.id);
                region.region.peers.push(new);
            }
            Action::Transfer { to } => region.leader = region.peer_on(to).copied(),
        }
        assert!(region.leader.is_some());
        region.term += 1;
        let epoch = region.region.region_epoch.as_mut().expect("it has one");
        epoch.conf_ver += 1;
        let (id, rest) = (region.id(), self.settings.balance.rest);
        let part = match proposal.action {
            Action::Move { .. } => Part::Replicas,
            Action::Transfer { .. } => Part::Leadership,
        };
        self.rests
            .begin(id, part, &burden, self.now.monotonic, rest);
        self.regions.report(region).expect("it is newer");
    }

    fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.rests.expire(self.now.monotonic);
        let ids: Vec<_> = self.stores.ids().collect();
        for id in ids {
            self.stores.seen(id, self.now);
        }
    }

    /// Moves until nothing is proposed for a while; how many it took.
    fn settle(&mut self, most: usize) -> usize {
        let mut moves = 0;
        let mut quiet = 0;
        while quiet < 30 {
            let round = self.ask();
            quiet = if round.proposals.is_empty() {
                quiet + 1
            } else {
                0
            };
            for proposal in &round.proposals {
                self.carry_out(proposal);
                moves += 1;
            }
            assert!(moves <= most, "{moves} moves and no end");
            // Beyond the rest, so that it is not what ends it.
            self.pass(Duration::from_secs(601));
        }
        moves
    }

    fn violations(&self) -> u64 {
        let fit = self.fit();
        let of = |region: &RegionInfo| fit.cost(region, None, None).shared;
        self.regions.after(RegionId(0)).map(of).sum()
    }

    fn peers(&self) -> Vec<u32> {
        let counts = |store| self.regions.counts(store);
        self.stores.ids().map(|store| counts(store).0).collect()
    }

    fn leaders(&self) -> Vec<u32> {
        let counts = |store| self.regions.counts(store);
        self.stores.ids().map(|store| counts(store).1).collect()
    }
}

fn spread(values: &[u32]) -> u32 {
    values.iter().max().unwrap() - values.iter().min().unwrap()
}

/// Stores of one size in one zone each.
fn alike(count: u64) -> Vec<StoreShape> {
    (0..count).map(|zone| (zone, 1000)).collect()
}

#[test]
fn a_new_store_fills_and_leads() {
    let regions: Vec<_> = (0..120).map(|region| (region, 96, 0, 0)).collect();
    let mut cluster = Cluster::new(&alike(5), &regions, 1);
    assert_eq!(cluster.settle(50), 0, "it is even from the start");
    cluster.add_store(9, 1000);
    let moves = cluster.settle(200);
    assert!(spread(&cluster.peers()) <= 3, "{:?}", cluster.peers());
    assert!(spread(&cluster.leaders()) <= 3, "{:?}", cluster.leaders());
    // A sixth of 360 peers and of 120 leaders is missing.
    assert!(moves <= 60 + 20 + 10, "{moves}");
    assert_eq!(cluster.settle(0), 0, "and then it is silent");
}

/// Nearly all replicas of a small cluster may move when a store joins; its leaders do not stay uneven for the rest of those.
#[test]
fn regions_that_moved_may_be_led_elsewhere() {
    let regions: Vec<_> = (0..24).map(|_| (0, 2, 0, 0)).collect();
    let mut cluster = Cluster::new(&alike(3), &regions, 1);
    cluster.add_store(9, 1000);
    for _ in 0..300 {
        for proposal in cluster.ask().proposals {
            cluster.carry_out(&proposal);
        }
        cluster.pass(Duration::from_secs(1));
    }
    assert!(spread(&cluster.peers()) <= 3, "{:?}", cluster.peers());
    assert!(spread(&cluster.leaders()) <= 2, "{:?}", cluster.leaders());
}

#[test]
fn a_larger_store_takes_more() {
    let regions: Vec<_> = (0..150).map(|region| (region, 96, 0, 0)).collect();
    let mut stores = alike(5);
    stores[4].1 = 2000;
    let mut cluster = Cluster::new(&stores, &regions, 1);
    cluster.settle(300);
    let peers = cluster.peers();
    // Six shares of 75.
    assert!((147..=153).contains(&peers[4]), "{peers:?}");
    assert!(
        peers[..4].iter().all(|peers| (72..=78).contains(peers)),
        "{peers:?}"
    );
}

/// With a replica of each region in every zone, a new store of one zone may only relieve that zone.
#[test]
fn replicas_stay_apart() {
    let stores: Vec<_> = [0, 1, 2, 0, 1, 2].map(|zone| (zone, 1000)).into();
    let regions: Vec<_> = (0..60).map(|region| (region, 96, 0, 0)).collect();
    let mut cluster = Cluster::new(&stores, &regions, 1);
    assert_eq!(cluster.violations(), 0);
    cluster.add_store(0, 1000);
    cluster.settle(200);
    assert_eq!(cluster.violations(), 0);
    let peers = cluster.peers();
    assert!(
        (18..=22).contains(&peers[6]),
        "a third of its zone: {peers:?}"
    );
    assert_eq!(peers[1] + peers[4], 60, "{peers:?}");
}

/// Leaders of hot regions go apart; nothing else needs to move.
#[test]
fn hot_leaders_go_apart_first() {
    // All led by store 1; six of them are hot.
    let mut cluster = Cluster::new(&alike(3), &[], 1);
    for id in 1..=60 {
        let written = if id <= 6 { 4000 } else { 1 };
        cluster.add_region(id, &(if id <= 6 { 0 } else { id }, 96, written, 0));
    }
    let mut hot = Vec::new();
    for _ in 0..20 {
        let round = cluster.ask();
        for proposal in &round.proposals {
            if proposal.decision.who == Who::HotWrite {
                assert!(
                    matches!(proposal.action, Action::Transfer { .. }),
                    "{proposal:?}"
                );
                hot.push(proposal.region);
            }
            cluster.carry_out(proposal);
        }
        cluster.pass(Duration::from_secs(1));
    }
    assert_eq!(hot.len(), 4, "two stay: {hot:?}");
    let sums = |store| cluster.regions.of_store(StoreId(store)).unwrap().sums;
    for store in 1..=3 {
        let bytes = sums(store).proposals >> 20;
        assert!((9..=11).contains(&bytes), "store {store}: {bytes} MiB/s");
    }
}

/// With three replicas on the three busiest of five stores, transfers are not enough.
#[test]
fn hot_peers_move_when_transfers_are_not_enough() {
    let mut cluster = Cluster::new(&alike(5), &[], 1);
    for id in 1..=10 {
        cluster.add_region(id, &(0, 96, 4000, 0));
    }
    for id in 11..=100 {
        cluster.add_region(id, &(id, 96, 0, 0));
    }
    cluster.settle(200);
    for dimension in [Dimension::Proposals, Dimension::WrittenBytes] {
        let fit = cluster.fit();
        let view = cluster.view(&fit);
        let column = view.scores.column(dimension);
        for store in 0..5 {
            assert!(
                column.used(store) <= 1.5 * column.mean,
                "{}: store {store} has {} of {}",
                dimension.name(),
                column.used(store),
                column.mean
            );
        }
    }
}

/// Reads are of leaders, so is what helps.
#[test]
fn hot_reads_spread() {
    let mut cluster = Cluster::new(&alike(4), &[], 1);
    for id in 1..=40 {
        let read = if id % 4 == 0 { 4000 } else { 0 };
        cluster.add_region(id, &(id - 1, 96, 0, read));
    }
    assert!(cluster.settle(60) > 0);
    let fit = cluster.fit();
    let view = cluster.view(&fit);
    let column = view.scores.column(Dimension::Reads);
    for store in 0..4 {
        assert!(column.used(store) <= 1.5 * column.mean, "{store}");
    }
}

/// A store without room takes nothing, whatever it would even out.
#[test]
fn a_full_store_takes_nothing() {
    let regions: Vec<_> = (0..60).map(|region| (region, 96, 0, 0)).collect();
    let mut cluster = Cluster::new(&alike(4), &regions, 1);
    cluster.add_store(9, 1000);
    let full = Space {
        capacity_bytes: 1000 << 30,
        available_bytes: 100 << 20,
        used_bytes: 0,
        regions: 0,
    };
    let now = cluster.now;
    cluster
        .stores
        .heard(StoreId(5), Some(1), full, now)
        .unwrap();
    let round = cluster.ask();
    assert_eq!(round.proposals, []);
}

/// What has a damaged peer is left to repair.
#[test]
fn regions_with_damaged_peers_are_not_balanced() {
    let regions: Vec<_> = (0..60).map(|region| (region, 96, 0, 0)).collect();
    let mut cluster = Cluster::new(&alike(4), &regions, 1);
    cluster.add_store(9, 1000);
    assert_eq!(cluster.ask().proposals.len(), 1);
    let ids: Vec<_> = cluster.regions.after(RegionId(0)).collect();
    let peers = ids
        .iter()
        .map(|region| (region.id(), region.region.peers[0]));
    for (id, peer) in peers.collect::<Vec<_>>() {
        assert!(
            cluster
                .regions
                .set_damaged(id, StoreId(peer.store_id), true)
        );
    }
    assert_eq!(cluster.ask().proposals, []);
}

/// Why nothing moves is told with what it rests on.
#[test]
fn decisions_say_what_they_rest_on() {
    let regions: Vec<_> = (0..60).map(|region| (region, 96, 0, 0)).collect();
    let mut cluster = Cluster::new(&alike(4), &regions, 1);
    let refused = cluster.ask().refusals;
    let who: Vec<_> = refused.iter().map(|refusal| refusal.who).collect();
    let all: Vec<_> = SCHEDULERS.iter().map(|(who, _)| *who).collect();
    assert_eq!(who, all);
    cluster.add_store(9, 1000);
    let round = cluster.ask();
    let [proposal] = &round.proposals[..] else {
        panic!("one decision: {round:?}");
    };
    let decision = &proposal.decision;
    assert_eq!(decision.who, Who::BalanceRegion);
    assert_eq!(decision.region, Some(proposal.region));
    assert_eq!(decision.stores.1, Some(StoreId(5)));
    let number = |name: &str| {
        let found = decision.inputs.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("{name}: {decision:?}")).1
    };
    assert!(number("from") > number("to"), "as it was before");
    assert_eq!(number("share"), 0.3);
    assert_eq!(decision.candidates[0].verdict, "chosen");
    assert!(decision.expected[0].1 > 0.0);
}

/// The dial at zero stops balance.
#[test]
fn nothing_moves_without_a_share() {
    let regions: Vec<_> = (0..60).map(|region| (region, 96, 0, 0)).collect();
    let mut cluster = Cluster::new(&alike(4), &regions, 1);
    cluster.add_store(9, 1000);
    cluster.settings.balance.share_percent = 0;
    assert_eq!(cluster.settle(0), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Every move lowers the Φ of its dimension by what REGIONS §9 asks for and the weighted sum by half of that; none adds
    /// a violation; they end, and then nothing moves any more.
    #[test]
    fn every_move_lowers_a_sum_and_they_end(
        stores in prop::collection::vec((0u64..4, 500u64..2000), 3..9),
        regions in prop::collection::vec((0u64..100, 0u64..200, 0u64..2000, 0u64..2000), 1..60),
        seed in any::<u64>(),
    ) {
        let mut cluster = Cluster::new(&stores, &regions, seed);
        let mut quiet = 0;
        let mut moves = 0;
        while quiet < 10 {
            let round = cluster.ask();
            prop_assert!(round.proposals.len() <= 1);
            let Some(proposal) = round.proposals.first() else {
                quiet += 1;
                continue;
            };
            quiet = 0;
            moves += 1;
            prop_assert!(moves <= 1000, "no end");
            let violations = cluster.violations();
            let fit = cluster.fit();
            let before = cluster.potentials(&fit);
            let own = match proposal.decision.who {
                Who::BalanceRegion => Some(Dimension::Size),
                Who::BalanceLeader => Some(Dimension::Leaders),
                _ => None,
            };
            let least = own.map(|own| {
                let region = cluster.regions.get(proposal.region).unwrap();
                cluster.view(&fit).scores.least(own, Burden::of(region).amount(own))
            });
            cluster.carry_out(proposal);
            let after = cluster.potentials(&fit);
            let sum = |potentials: &BTreeMap<Dimension, f64>| potentials.values().sum::<f64>();
            let fall = sum(&before) - sum(&after);
            prop_assert!(fall > 0.0, "{:?}", proposal);
            let promised = proposal.decision.expected[0].1;
            prop_assert!((fall - promised).abs() <= 1e-6 * promised.max(1e-3), "{fall} for {promised}");
            if let (Some(own), Some(least)) = (own, least) {
                let own_fall = before[&own] - after[&own];
                prop_assert!(own_fall >= least * (1.0 - 1e-6), "{own_fall} for {least}");
                prop_assert!(fall >= least / 2.0 * (1.0 - 1e-6));
            }
            prop_assert!(cluster.violations() <= violations);
            // The rest does not end it.
            cluster.pass(Duration::from_secs(601));
        }
    }
}
