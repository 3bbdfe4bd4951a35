//! Power loss and kill between any two effects.

use engine::{CrashMode, Keep, MemoryOptions};
use raft::PeerId;
use store::event::{OrderKind, Refusal};

use crate::harness::*;

#[test]
fn everything_comes_back_after_every_store_is_killed() {
    let mut cluster = Cluster::new(
        3,
        &[
            region(1, "", "m", &[1, 2, 3]),
            region(2, "m", "", &[1, 2, 3]),
        ],
    );
    for number in 0..20 {
        cluster.put(r(1), &format!("a{number}"), "1");
        cluster.put(r(2), &format!("z{number}"), "2");
    }
    for mode in [KILL, POWER] {
        for store in [1, 2, 3] {
            cluster.crash(s(store), mode);
        }
        for store in [1, 2, 3] {
            cluster.restart(s(store));
        }
        for number in 0..20 {
            assert_eq!(
                cluster.get(r(1), &format!("a{number}")).as_deref(),
                Some("1")
            );
            assert_eq!(
                cluster.get(r(2), &format!("z{number}")).as_deref(),
                Some("2")
            );
        }
    }
    cluster.assert_same_data(&[1, 2, 3]);
}

/// Small numbers from a seed, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Writes, splits, moves and crashes in random order with random steps in between; every acknowledged write is read back.
fn torture(seed: u64, power: bool) {
    let mut random = Random(seed);
    let mut options = options();
    options.compact_entries = 5 + random.below(40);
    options.compact_tail_entries = random.below(10);
    let memory = MemoryOptions {
        memtable_bytes_max: [0, 2_000, 20_000, 8 << 20][random.below(4) as usize],
    };
    let mut cluster = Cluster::with(4, &[region(1, "", "", &[1, 2, 3])], options, memory);
    let mut written = std::collections::BTreeMap::new();
    let mut next_peer = 900_000;
    let mut down: Option<proto::StoreId> = None;
    for round in 0..120 {
        let regions: Vec<_> = (1..=4)
            .flat_map(|store| {
                cluster.nodes[&s(store)]
                    .views
                    .keys()
                    .copied()
                    .collect::<Vec<_>>()
            })
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let region = regions[random.below(regions.len() as u64) as usize];
        match random.below(12) {
            0..=4 => {
                if let Some(leader) = cluster.leader(region) {
                    let key = format!("{:03}", random.below(200));
                    let value = format!("{round}");
                    let request = cluster.propose_at(leader, region, vec![put(&key, &value)]);
                    written.insert(request, (key, value));
                }
            }
            5 => {
                if let Some(leader) = cluster.leader(region) {
                    let key = format!("{:03}", random.below(200));
                    let _maybe =
                        cluster.order_at(leader, region, OrderKind::Split(vec![key.into()]));
                }
            }
            6 => {
                // Move: whatever step fits the present configuration.
                if let Some(leader) = cluster.leader(region) {
                    let view = cluster.view(leader.0, region);
                    let peers = &view.region.peers;
                    let learner = peers
                        .iter()
                        .find(|peer| peer.role() == proto::metapb::PeerRole::Learner);
                    let missing =
                        (1..=4).find(|store| peers.iter().all(|peer| peer.store_id != *store));
                    let voters = peers
                        .iter()
                        .filter(|peer| peer.role() == proto::metapb::PeerRole::Voter);
                    let victim = voters
                        .filter(|peer| peer.store_id != leader.0)
                        .nth(random.below(2) as usize);
                    let kind = match (learner, missing, victim) {
                        (None, Some(store_id), _) => {
                            next_peer += 1;
                            let role = proto::metapb::PeerRole::Learner as i32;
                            let peer = proto::metapb::Peer {
                                id: next_peer,
                                store_id,
                                role,
                                is_witness: false,
                            };
                            Some(OrderKind::AddLearner(peer))
                        }
                        (Some(learner), _, Some(victim)) if random.below(2) == 0 => {
                            Some(OrderKind::EnterJoint {
                                promote: vec![PeerId(learner.id)],
                                demote: vec![PeerId(victim.id)],
                            })
                        }
                        (Some(learner), ..) => Some(OrderKind::RemoveLearner(PeerId(learner.id))),
                        _ => None,
                    };
                    if let Some(kind) = kind {
                        let _maybe = cluster.order_at(leader, region, kind);
                    }
                }
            }
            7 => {
                if let Some(leader) = cluster.leader(region) {
                    let view = cluster.view(leader.0, region);
                    let target =
                        view.region.peers[random.below(view.region.peers.len() as u64) as usize].id;
                    let _maybe =
                        cluster.order_at(leader, region, OrderKind::TransferLeader(PeerId(target)));
                }
            }
            8 => {
                if let Some(store) = down.take() {
                    cluster.restart(store);
                } else {
                    let store = s(1 + random.below(4));
                    let keep = Keep::Seeded(random.below(1 << 30));
                    let mode = if power {
                        CrashMode::PowerLoss { keep }
                    } else {
                        KILL
                    };
                    cluster.crash(store, mode);
                    down = Some(store);
                }
            }
            9 => {
                let store = s(1 + random.below(4));
                let held = [
                    &mut cluster.hold_log,
                    &mut cluster.hold_apply,
                    &mut cluster.hold_tasks,
                ];
                let [log, apply, tasks] = held;
                let set = [log, apply, tasks]
                    .into_iter()
                    .nth(random.below(3) as usize)
                    .expect("one of three");
                if !set.remove(&store) {
                    set.insert(store);
                }
            }
            10 => {
                let (from, to) = (s(1 + random.below(4)), s(1 + random.below(4)));
                if !cluster.cut.remove(&(from, to)) && random.below(2) == 0 {
                    cluster.cut.insert((from, to));
                }
            }
            _ => {
                for store in [1, 2, 3, 4] {
                    cluster.step(s(store), store::event::Event::Tick);
                }
            }
        }
        for _ in 0..random.below(30) {
            cluster.deliver();
            let store = s(1 + random.below(4));
            match random.below(3) {
                0 => cluster.write_log(store),
                1 => cluster.apply(store),
                _ => cluster.run_task(store),
            };
        }
        if random.below(8) == 0 {
            cluster.ticks(1 + random.below(12) as usize);
        }
    }
    // Healed, everything converges.
    cluster.heal();
    cluster.hold_log.clear();
    cluster.hold_apply.clear();
    cluster.hold_tasks.clear();
    if let Some(store) = down {
        cluster.restart(store);
    }
    cluster.ticks(100);
    // The last acknowledged write of a key wins; later ones whose fate is unknown may have won instead.
    let mut expected: std::collections::BTreeMap<String, Vec<String>> = Default::default();
    for (request, (key, value)) in written {
        let values = expected.entry(key).or_default();
        match cluster.answers.get(&request) {
            Some(Ok(_)) => *values = vec![value],
            Some(Err(Refusal::Unknown)) | None => values.push(value),
            Some(Err(_)) => {}
        }
    }
    let regions: std::collections::BTreeSet<_> = cluster
        .nodes
        .values()
        .flat_map(|node| node.views.keys().copied().collect::<Vec<_>>())
        .collect();
    let mut covered = Vec::new();
    for region in regions {
        let leader = cluster.elect(region);
        let view = cluster.view(leader.0, region);
        covered.push((view.region.start_key.clone(), view.region.end_key.clone()));
        let stores: Vec<u64> = view.region.peers.iter().map(|peer| peer.store_id).collect();
        cluster.until("every replica has its data", |cluster| {
            stores.iter().all(|store| cluster.owns(*store, region))
        });
        cluster.assert_same_child(region, &stores);
        for (key, values) in &expected {
            if store::keys::contains(&view.region.start_key, &view.region.end_key, key.as_bytes()) {
                let found = cluster.local_get(leader.0, key);
                let fits =
                    found.as_ref().is_some_and(|found| values.contains(found)) || values.is_empty();
                let never =
                    found.is_none() && !cluster.answers.values().any(|answer| answer.is_ok());
                let unknown_only = found.is_none();
                assert!(
                    fits || never || unknown_only && !values.is_empty(),
                    "{key} is {found:?}, not one of {values:?}"
                );
            }
        }
    }
    covered.sort();
    assert!(
        covered[0].0.is_empty() && covered[covered.len() - 1].1.is_empty(),
        "{covered:?}"
    );
    for pair in covered.windows(2) {
        assert_eq!(pair[0].1, pair[1].0, "the regions tile the key space");
    }
}

fn seeds() -> u64 {
    std::env::var("STORE_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(60)
}

#[test]
fn random_schedules_with_kills() {
    for seed in 0..seeds() {
        torture(seed, false);
    }
}

#[test]
fn random_schedules_with_power_losses() {
    for seed in 0..seeds() {
        torture(1_000_000 + seed, true);
    }
}
