//! Regions of a group go apart: as many peers, and as many leaders, of them on every store.
//!
//! Pieces of a bulk split are all where their parent was. Each exchange lowers the sum of squares of what stores have of the
//! group, so they end, and none makes anything worse by the rules.

use std::collections::BTreeMap;

use proto::{StoreId, metapb};

use crate::regions::RegionInfo;
use crate::rules::Places;

/// What is to be done with a region of the group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aim {
    /// Its position in the group.
    pub region: usize,
    /// Voters that go, and where to.
    pub moves: Vec<(metapb::Peer, StoreId)>,
    /// Who leads then, if not who would by itself.
    pub leader: Option<StoreId>,
}

/// Chooses for a group of regions. `takes` is whether a store may take a peer of a region, `leads` whether one may be given
/// a leader.
pub(crate) fn choose(
    group: &[RegionInfo],
    stores: &[StoreId],
    takes: impl Fn(&RegionInfo, StoreId) -> bool,
    leads: impl Fn(StoreId) -> bool,
    places: &Places,
) -> Vec<Aim> {
    let mut peers: BTreeMap<StoreId, u32> = BTreeMap::new();
    let mut leaders: BTreeMap<StoreId, u32> = BTreeMap::new();
    for region in group {
        for peer in region.voters() {
            *peers.entry(StoreId(peer.store_id)).or_default() += 1;
        }
        if let Some(leader) = &region.leader {
            *leaders.entry(StoreId(leader.store_id)).or_default() += 1;
        }
    }
    let (mut after, mut all_moves) = (Vec::new(), Vec::new());
    for region in group {
        let mut moved = region.clone();
        let mut moves = Vec::new();
        // Each peer goes once at the most.
        for _ in 0..region.voters().count() {
            let Some((from, to)) = best_move(&moved, &moves, stores, &peers, &takes, places) else {
                break;
            };
            shift(&mut peers, StoreId(from.store_id), to);
            for peer in &mut moved.region.peers {
                if peer.id == from.id {
                    peer.store_id = to.0;
                }
            }
            moves.push((from, to));
        }
        after.push(moved);
        all_moves.push(moves);
    }
    let first = |region: &RegionInfo| region.leader.map(|leader| StoreId(leader.store_id));
    let mut led: Vec<_> = group.iter().map(first).collect();
    // Each change lowers the sum of squares, or gives a region whose leader goes one that stays, which happens once.
    let mut changed = true;
    while changed {
        changed = false;
        for (moved, leader) in after.iter().zip(&mut led) {
            let Some(old) = *leader else { continue };
            if let Some(new) = best_leader(moved, old, &leaders, &leads, places) {
                shift(&mut leaders, old, new);
                *leader = Some(new);
                changed = true;
            }
        }
    }
    let aims = all_moves.into_iter().zip(led).zip(group).enumerate();
    aims.filter_map(|(at, ((moves, leader), region))| {
        let leader = leader.filter(|leader| Some(*leader) != first(region));
        (!moves.is_empty() || leader.is_some()).then_some(Aim {
            region: at,
            moves,
            leader,
        })
    })
    .collect()
}

/// The exchange that evens out most.
fn best_move(
    region: &RegionInfo,
    moves: &[(metapb::Peer, StoreId)],
    stores: &[StoreId],
    peers: &BTreeMap<StoreId, u32>,
    takes: &impl Fn(&RegionInfo, StoreId) -> bool,
    places: &Places,
) -> Option<(metapb::Peer, StoreId)> {
    let before = places.cost(region, None, None);
    let mut best: Option<(u32, metapb::Peer, StoreId)> = None;
    for from in region.voters() {
        if moves.iter().any(|(moved, _)| moved.id == from.id) {
            continue;
        }
        let store = StoreId(from.store_id);
        for &to in stores {
            let fall = count(peers, store).saturating_sub(count(peers, to));
            if fall >= 2
                && best.as_ref().is_none_or(|best| fall > best.0)
                && takes(region, to)
                && places.cost(region, Some(store), Some(to)) <= before
            {
                best = Some((fall, *from, to));
            }
        }
    }
    best.map(|(_, from, to)| (from, to))
}

/// Who leads a region after its moves: whose store leads fewest, if that is fewer by two or if the leader goes.
fn best_leader(
    moved: &RegionInfo,
    old: StoreId,
    leaders: &BTreeMap<StoreId, u32>,
    leads: &impl Fn(StoreId) -> bool,
    places: &Places,
) -> Option<StoreId> {
    let stays = moved.peer_on(old).is_some();
    let may = |store: &StoreId| leads(*store) && places.may_lead(moved, *store);
    let stores: Vec<_> = moved.voters().map(|peer| StoreId(peer.store_id)).collect();
    let right = stores.iter().copied().filter(may);
    let least = |store: &StoreId| (count(leaders, *store), *store);
    let best = right.min_by_key(least);
    let better = |to: &StoreId| !stays || count(leaders, old) >= count(leaders, *to) + 2;
    best.filter(|to| *to != old).filter(better)
}

fn count(counts: &BTreeMap<StoreId, u32>, store: StoreId) -> u32 {
    counts.get(&store).copied().unwrap_or(0)
}

fn shift(counts: &mut BTreeMap<StoreId, u32>, from: StoreId, to: StoreId) {
    if let Some(count) = counts.get_mut(&from) {
        *count = count.saturating_sub(1);
    }
    *counts.entry(to).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::{Constraint, Group, Layout, Role, Rule, RuleSet, Test};

    /// Regions whose first peer leads.
    fn group(draws: &[u64], stores: u64) -> Vec<RegionInfo> {
        let region = |(at, draw): (usize, &u64)| {
            let peers: Vec<_> = (0..3)
                .map(|peer| metapb::Peer {
                    id: at as u64 * 10 + peer + 1,
                    store_id: (draw + peer) % stores + 1,
                    ..Default::default()
                })
                .collect();
            RegionInfo {
                leader: peers.first().copied(),
                region: metapb::Region {
                    id: at as u64 + 1,
                    peers,
                    ..Default::default()
                },
                ..RegionInfo::default()
            }
        };
        draws.iter().enumerate().map(region).collect()
    }

    fn places(set: &RuleSet, stores: u64) -> Places {
        let labels: Vec<_> = (1..=stores)
            .map(|id| {
                let zone = if id % 2 == 0 { "even" } else { "odd" };
                let label = metapb::StoreLabel {
                    key: "zone".into(),
                    value: zone.into(),
                };
                (StoreId(id), vec![label])
            })
            .collect();
        let labels = labels.iter().map(|(id, labels)| (*id, &labels[..]));
        Places::new(Layout::new(set, 3, &[]), labels)
    }

    /// Carries aims out, and counts peers and leaders by store.
    fn carried_out(group: &[RegionInfo], aims: &[Aim], stores: u64) -> (Vec<u32>, Vec<u32>) {
        let mut after = group.to_vec();
        for aim in aims {
            let region = &mut after[aim.region];
            for (from, to) in &aim.moves {
                assert!(region.peer_on(*to).is_none(), "two peers on one store");
                let peers = &mut region.region.peers;
                let peer = peers.iter_mut().find(|peer| peer.id == from.id);
                peer.expect("it is there").store_id = to.0;
            }
            let old = region.leader.map(|leader| StoreId(leader.store_id));
            let leader = aim.leader.or(old).expect("somebody leads");
            region.leader = region.peer_on(leader).copied();
            assert!(region.leader.is_some(), "the leader is a peer");
        }
        let mut counts = (vec![0; stores as usize], vec![0; stores as usize]);
        for region in &after {
            for peer in &region.region.peers {
                counts.0[peer.store_id as usize - 1] += 1;
            }
            let leader = region.leader.as_ref().expect("checked above");
            counts.1[leader.store_id as usize - 1] += 1;
        }
        counts
    }

    fn spread(counts: impl Iterator<Item = u32> + Clone) -> u32 {
        let most = counts.clone().max().unwrap_or(0);
        most - counts.min().unwrap_or(0)
    }

    fn scattered(group: &[RegionInfo], stores: u64, places: &Places) -> (Vec<u32>, Vec<u32>) {
        let ids: Vec<_> = (1..=stores).map(StoreId).collect();
        let takes = |region: &RegionInfo, store: StoreId| region.peer_on(store).is_none();
        let aims = choose(group, &ids, takes, |_| true, places);
        carried_out(group, &aims, stores)
    }

    proptest! {
        /// Pieces of one region, which are all in one place, end evenly everywhere; others never less even than they were.
        #[test]
        fn a_group_is_spread_evenly(draws in prop::collection::vec(0u64..8, 1..40), stores in 3u64..9, one in any::<bool>()) {
            let draws: Vec<_> = draws.iter().map(|draw| if one { 0 } else { *draw }).collect();
            let group = group(&draws, stores);
            let places = places(&RuleSet::default(), stores);
            let before = carried_out(&group, &[], stores);
            let after = scattered(&group, stores, &places);
            let squares = |counts: &[u32]| counts.iter().map(|count| count * count).sum::<u32>();
            prop_assert!(squares(&after.0) <= squares(&before.0));
            if one {
                prop_assert!(spread(after.0.iter().copied()) <= 1, "{:?}", after.0);
                prop_assert!(spread(after.1.iter().copied()) <= 2, "{:?}", after.1);
            }
        }
    }

    /// Who already leads elsewhere stays there.
    #[test]
    fn nobody_is_led_where_none_may_be_given() {
        let group = group(&[0; 20], 3);
        let ids: Vec<_> = (1..=3).map(StoreId).collect();
        let leads = |store| store != StoreId(3);
        let places = places(&RuleSet::default(), 3);
        let aims = choose(&group, &ids, |_, _| false, leads, &places);
        assert_eq!(carried_out(&group, &aims, 3).1, [10, 10, 0]);
        let aims = choose(&group, &ids, |_, _| false, |_| false, &places);
        assert_eq!(aims, []);
    }

    #[test]
    fn rules_hold_for_scattered_regions() {
        let rule = Rule {
            id: "even".into(),
            start: Default::default(),
            end: Default::default(),
            role: Role::Voter,
            count: 3,
            constraints: vec![Constraint {
                label: "zone".into(),
                test: Test::In(vec!["even".into()]),
            }],
            location_labels: Vec::new(),
        };
        let set = RuleSet {
            version: 1,
            groups: vec![Group {
                name: "pins".into(),
                index: 1,
                rules: vec![rule],
            }],
        };
        let mut group = group(&[0; 20], 10);
        for region in &mut group {
            for peer in &mut region.region.peers {
                peer.store_id *= 2;
            }
            region.leader = region.region.peers.first().copied();
        }
        let (peers, leaders) = scattered(&group, 10, &places(&set, 10));
        let even = |counts: &[u32]| {
            let even = counts.iter().skip(1).step_by(2).copied();
            (even.clone().sum::<u32>(), spread(even))
        };
        assert_eq!(even(&peers), (60, 0), "{peers:?}");
        assert_eq!(even(&leaders).0, 20, "{leaders:?}");
        assert!(even(&leaders).1 <= 2, "{leaders:?}");
    }
}
