//! Power loss and kill between any two effects.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::{Batch, Change, CrashMode, Engine, Family, Keep, Logging, MemoryOptions};
use proto::metapb::{Peer, PeerRole};
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId};
use raft::PeerId;
use store::event::{OrderKind, Refusal};
use store::{codec, keys};

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

/// What happened in a batch of runs. A zero means that the schedules do not reach what they are for.
#[derive(Clone, Copy, Debug, Default)]
struct Happened {
    acknowledged: usize,
    stale: usize,
    splits: usize,
    moves: usize,
    transfers: usize,
    crashes: usize,
    installs: usize,
    destroyed: usize,
    compactions: usize,
}

/// A write that took effect, or may have.
#[derive(Debug)]
struct Write {
    value: String,
    began: u64,
    ended: Option<u64>,
    acknowledged: bool,
}

/// Whether what is found under a key is a possible outcome.
fn check_key(key: &str, writes: &[Write], found: Option<String>) {
    let Some(found) = found else {
        assert!(
            writes.iter().all(|write| !write.acknowledged),
            "{key} is lost: {writes:?}"
        );
        return;
    };
    let write = writes.iter().find(|write| write.value == found);
    let write = write
        .unwrap_or_else(|| panic!("{key} is {found}, which nobody may have written: {writes:?}"));
    let after =
        |later: &&Write| later.acknowledged && write.ended.is_some_and(|ended| later.began > ended);
    if let Some(later) = writes.iter().find(after) {
        panic!("{key} is {found}, although {later:?} was acknowledged after {write:?}");
    }
}

/// The next step of moving a replica, whatever fits the present configuration.
fn fitting_change(
    cluster: &Cluster,
    leader: StoreId,
    region: RegionId,
    random: &mut Random,
    next_peer: &mut u64,
) -> Option<OrderKind> {
    let view = cluster.view(leader.0, region);
    let peers = &view.region.peers;
    let learner = peers.iter().find(|peer| peer.role() == PeerRole::Learner);
    let missing = (1..=4).find(|store| peers.iter().all(|peer| peer.store_id != *store));
    let mut voters = peers
        .iter()
        .filter(|peer| peer.role() == PeerRole::Voter && peer.store_id != leader.0);
    let victim = voters.nth(random.below(2) as usize);
    match (learner, missing, victim) {
        (None, Some(store_id), _) => {
            *next_peer += 1;
            let role = PeerRole::Learner as i32;
            Some(OrderKind::AddLearner(Peer {
                id: *next_peer,
                store_id,
                role,
                is_witness: false,
            }))
        }
        (Some(learner), _, Some(victim)) if random.below(3) > 0 => Some(OrderKind::EnterJoint {
            promote: vec![PeerId(learner.id)],
            demote: vec![PeerId(victim.id)],
        }),
        (Some(learner), ..) => Some(OrderKind::RemoveLearner(PeerId(learner.id))),
        (None, None, _) => None,
    }
}

/// Writes, splits, moves and crashes in random order with random steps in between; every acknowledged write is read back.
fn torture(seed: u64, power: bool, happened: &mut Happened) {
    let mut random = Random(seed);
    let mut options = options();
    options.compact_entries = 5 + random.below(40);
    options.compact_tail_entries = random.below(10);
    let memory = MemoryOptions {
        memtable_bytes_max: [0, 2_000, 20_000, 8 << 20][random.below(4) as usize],
    };
    let mut cluster = Cluster::with(4, &[region(1, "", "", &[1, 2, 3])], options, memory);
    let mut written = BTreeMap::new();
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
                    let order = OrderKind::Split(vec![key.into()]);
                    happened.splits += cluster.order_at(leader, region, order).is_ok() as usize;
                }
            }
            6 => {
                // Move: whatever step fits the present configuration.
                if let Some(leader) = cluster.leader(region)
                    && let Some(kind) =
                        fitting_change(&cluster, leader, region, &mut random, &mut next_peer)
                {
                    happened.moves += cluster.order_at(leader, region, kind).is_ok() as usize;
                }
            }
            7 => {
                if let Some(leader) = cluster.leader(region) {
                    let view = cluster.view(leader.0, region);
                    let target =
                        view.region.peers[random.below(view.region.peers.len() as u64) as usize].id;
                    let order = OrderKind::TransferLeader(PeerId(target));
                    happened.transfers += cluster.order_at(leader, region, order).is_ok() as usize;
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
                    happened.crashes += 1;
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
    happened.installs += cluster.happened.installs;
    happened.destroyed += cluster.happened.destroyed;
    let logs = cluster
        .nodes
        .values()
        .filter_map(|node| node.store.as_ref());
    let logs = logs.flat_map(|store| {
        store
            .views()
            .map(move |view| (store, RegionId(view.region.id)))
    });
    let compacted = logs.filter(|(store, region)| {
        store
            .raft(*region)
            .is_some_and(|raft| raft.compacted().index > 1)
    });
    happened.compactions += compacted.count();
    for answer in cluster.answers.values() {
        happened.acknowledged += answer.is_ok() as usize;
        happened.stale += matches!(answer, Err(Refusal::StaleCommand)) as usize;
    }
    // A write may be what is found unless an acknowledged one began after it was answered.
    let mut writes: BTreeMap<String, Vec<Write>> = BTreeMap::new();
    for (request, (key, value)) in written {
        let answer = cluster.answers.get(&request);
        let acknowledged = answer.is_some_and(|answer| answer.is_ok());
        if acknowledged || matches!(answer, None | Some(Err(Refusal::Unknown))) {
            let (began, answered) = cluster.spans[&request];
            // What is unknown may happen at any later time.
            let ended = answered.filter(|_| acknowledged);
            writes.entry(key).or_default().push(Write {
                value,
                began,
                ended,
                acknowledged,
            });
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
        for (key, writes) in &writes {
            if keys::contains(&view.region.start_key, &view.region.end_key, key.as_bytes()) {
                check_key(key, writes, cluster.local_get(leader.0, key));
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

fn run(seeds: std::ops::Range<u64>, power: bool) {
    let mut happened = Happened::default();
    for seed in seeds {
        torture(seed, power, &mut happened);
    }
    println!("{happened:?}");
    let Happened {
        acknowledged,
        stale: _,
        splits,
        moves,
        transfers,
        crashes,
        installs,
        destroyed,
        compactions,
    } = happened;
    for (count, what) in [
        (acknowledged, "acknowledged writes"),
        (splits, "splits"),
        (moves, "membership changes"),
        (transfers, "transfers"),
        (crashes, "crashes"),
        (installs, "snapshots"),
        (destroyed, "removed peers"),
        (compactions, "compactions"),
    ] {
        assert!(count > 0, "no {what} in all of these runs");
    }
}

#[test]
fn random_schedules_with_kills() {
    run(0..seeds(), false);
}

#[test]
fn random_schedules_with_power_losses() {
    run(1_000_000..1_000_000 + seeds(), true);
}

/// A peer died without data over the tombstone of an earlier one, whose range another region has taken since. The store stopped
/// before the remains were gone, and claims nothing for them.
#[test]
fn remains_over_an_earlier_tombstone_claim_no_range() {
    remains_claim_no_range(51);
}

/// The same, and the store stopped again when its own tombstone, with the range of the earlier one, was written already.
#[test]
fn remains_under_their_own_tombstone_claim_no_range() {
    remains_claim_no_range(52);
}

fn remains_claim_no_range(dead: u64) {
    let mut cluster = Cluster::new(1, &[region(6, "", "", &[1])]);
    cluster.elect(r(6));
    cluster.put(r(6), "a", "1");
    let engine = cluster.nodes[&s(1)].engine.clone();
    let write = |family, key: &[u8], value| {
        let changes = vec![Change::Put(Bytes::copy_from_slice(key), value)];
        let batch = Batch { family, changes };
        engine.write(batch, Logging::On).expect("written");
    };
    let tombstone = wire::RegionState {
        state: wire::region_state::State::Tombstone as i32,
        region: Some(region(5, "", "m", &[1])),
        peer_id: dead,
        ..Default::default()
    };
    let mark = wire::PeerMark {
        peer_id: 52,
        dead_peer_id: 52,
        ..Default::default()
    };
    let raft = wire::RaftState {
        peer_id: 52,
        term: 3,
        ..Default::default()
    };
    let (state_key, mark_key) = (keys::region_state(r(5)), keys::peer_mark(r(5)));
    write(Family::State, &state_key, codec::encode_record(&tombstone));
    write(Family::Log, &mark_key, codec::encode_record(&mark));
    let raft_key = keys::raft_state(r(5));
    write(Family::Log, &raft_key, codec::encode_record(&raft));
    cluster.crash(s(1), KILL);
    cluster.restart(s(1));
    cluster.until("the remains are gone", |cluster| {
        cluster.store(1).peer_count() == 1
    });
    let engine = &cluster.nodes[&s(1)].engine;
    let left = engine.get(Family::Log, &raft_key).expect("readable");
    assert_eq!(left, None);
    assert_eq!(cluster.get(r(6), "a"), Some("1".into()));
}
