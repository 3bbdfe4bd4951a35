//! Everything at once, from a seed.

use std::collections::BTreeMap;

use raft::{Bug, CampaignReason, Event, MembershipChange, Options, Role};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::common::{Cluster, Disk, change, command, peer, small_options, structural};

struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn of(&mut self, ids: &[u64]) -> u64 {
        ids[self.below(ids.len() as u64) as usize]
    }
}

fn compact(cluster: &mut Cluster, id: u64) {
    let applied = cluster.raft(id).applied();
    if cluster.raft(id).installing().is_none() {
        let _ = cluster.step(id, Event::Compact(applied));
        let compacted = cluster.raft(id).compacted();
        let disk = &mut cluster.node_mut(id).disk;
        disk.base = disk.membership_at(compacted.index);
        disk.entries.retain(|entry| entry.index > compacted.index);
        disk.compacted = compacted;
    }
}

/// A change that fits, mostly.
fn random_change(
    cluster: &Cluster,
    leader: u64,
    next: &mut u64,
    dice: &mut Dice,
) -> MembershipChange {
    let membership = cluster.raft(leader).membership();
    let learners: Vec<u64> = membership
        .members
        .keys()
        .filter(|id| !membership.votes(**id))
        .map(|id| id.0)
        .collect();
    let voters: Vec<u64> = membership
        .members
        .keys()
        .filter(|id| membership.votes(**id))
        .map(|id| id.0)
        .collect();
    match dice.below(3) {
        0 if learners.len() < 2 => {
            *next += 1;
            MembershipChange::AddLearner(peer(*next))
        }
        1 if !learners.is_empty() && voters.len() > 2 => {
            MembershipChange::RemoveLearner(peer(dice.of(&learners)))
        }
        _ => MembershipChange::EnterJoint {
            promote: learners
                .iter()
                .take(1 + dice.below(2) as usize)
                .map(|id| peer(*id))
                .collect(),
            demote: voters
                .iter()
                .rev()
                .take(if voters.len() > 2 {
                    dice.below(2) as usize
                } else {
                    0
                })
                .map(|id| peer(*id))
                .collect(),
        },
    }
}

fn play(seed: u64, steps: u64, counts: &mut BTreeMap<&'static str, u64>) {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
    let size = 3 + dice.below(3);
    let mut cluster = Cluster::with_options(
        size,
        Options {
            bug: planted(),
            ..small_options()
        },
    );
    let mut next = size;
    let mut acknowledged = 0;
    let mut texts = 0;
    let mut count = |what: &'static str| *counts.entry(what).or_insert(0) += 1;
    for _ in 0..steps {
        let ids = cluster.ids();
        let up: Vec<u64> = ids
            .iter()
            .copied()
            .filter(|id| cluster.is_up(*id))
            .collect();
        let id = dice.of(&ids);
        match dice.below(40) {
            0..=9 => {
                if let Some(place) =
                    (!cluster.network.is_empty()).then(|| dice.below(cluster.network.len() as u64))
                {
                    let message = cluster.network.remove(place as usize).expect("it is there");
                    if dice.below(20) == 0 {
                        cluster.network.push_back(message.clone());
                    }
                    cluster.arrive(message);
                }
            }
            10..=15 => {
                cluster.deliver(|_| true);
            }
            16 => {
                let lost = dice.below(3) + 1;
                for _ in 0..lost {
                    cluster.network.pop_back();
                }
            }
            17..=20 if cluster.is_up(id) => {
                cluster.persist(id, 1 + dice.below(3) as usize);
            }
            21..=23 if cluster.is_up(id) => {
                cluster.apply(id, 1 + dice.below(4) as usize);
            }
            24..=27 => {
                for id in up {
                    cluster.tick(id, 1);
                }
            }
            28..=30 => {
                if let Some(leader) = cluster.leader() {
                    texts += 1;
                    let payload = if dice.below(8) == 0 {
                        structural
                    } else {
                        command
                    };
                    let _ = cluster.propose(leader, payload(&format!("{texts}")));
                }
            }
            31 => {
                let down = ids.len() - up.len();
                if cluster.is_up(id) && 2 * (down as u64 + 1) < size {
                    count("crashes");
                    cluster.crash(id, None);
                }
            }
            32 | 33 if !cluster.is_up(id) => cluster.restart(id),
            34 if cluster.is_up(id) => {
                let _ = cluster.step(id, Event::Campaign(CampaignReason::Paced));
            }
            35 => {
                if let Some(leader) = cluster.leader()
                    && cluster.step(leader, Event::Transfer(None)).is_ok()
                {
                    count("transfers");
                }
            }
            36 if cluster.is_up(id) => compact(&mut cluster, id),
            37 => {
                while let Some(snapshot) = cluster.snapshots.pop_front() {
                    if cluster.deliver_snapshot(snapshot).is_ok() {
                        count("snapshots");
                    }
                }
            }
            38 => {
                if dice.below(2) == 0 {
                    cluster.settle();
                }
                if let Some(leader) = cluster.leader() {
                    let wanted = random_change(&cluster, leader, &mut next, &mut dice);
                    if let MembershipChange::AddLearner(id) = wanted {
                        cluster.add(id.0, Disk::default());
                    }
                    if cluster.propose(leader, change(wanted)).is_ok() {
                        count("changes");
                    }
                }
            }
            39 => match dice.below(3) {
                0 => cluster.isolate(id),
                _ => cluster.heal(),
            },
            _ => {}
        }
        // What any leader ever said to be committed stays.
        for node in cluster.nodes.values() {
            if node.view.role == Role::Leader {
                acknowledged = acknowledged.max(node.view.commit);
            }
        }
    }
    // Healed, the group must converge (R37).
    cluster.heal();
    for id in cluster.ids() {
        if !cluster.is_up(id) {
            cluster.restart(id);
        }
    }
    cluster.run(150);
    let leader = cluster
        .leader()
        .unwrap_or_else(|| panic!("seed {seed}: nobody leads"));
    cluster
        .propose(leader, command("end"))
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    cluster.run(10);
    let membership = cluster.raft(leader).membership().clone();
    assert!(!membership.is_joint(), "seed {seed}: still joint");
    assert!(
        cluster.raft(leader).applied() >= acknowledged,
        "seed {seed}: committed entries are gone"
    );
    let data = cluster.data(leader);
    assert_eq!(data.last().map(String::as_str), Some("end"), "seed {seed}");
    for id in membership.members.keys() {
        assert_eq!(cluster.data(id.0), data, "seed {seed}: peer {id} differs");
    }
    *counts.entry("terms").or_insert(0) += cluster.raft(leader).term();
}

/// A bug to play with, by name, to see it found.
fn planted() -> Option<Bug> {
    let name = std::env::var("BUG").ok()?;
    Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
}

/// R1, R3 to R5, R7, R8, R9 and R37 over many schedules. `SEEDS=100000` plays more, `SEED=7` one, `BUG=LearnerCounted` with a
/// planted bug.
#[test]
fn raft_5_4_3_over_random_schedules() {
    let seeds = std::env::var("SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(150);
    let first = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let mut counts = BTreeMap::new();
    match first {
        Some(seed) => play(seed, 2_000, &mut counts),
        None => {
            for seed in 0..seeds {
                println!("seed {seed}");
                play(seed, 2_000, &mut counts);
            }
            for what in ["crashes", "transfers", "snapshots", "changes", "terms"] {
                assert!(
                    counts.get(what).is_some_and(|count| *count > 0),
                    "no {what} in {seeds} seeds"
                );
            }
        }
    }
}
