//! Merges over several stores (REGIONS §5); the names of races are those of §10.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use engine::MemoryOptions;
use proto::metapb;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::merge_message::Kind;
use proto::pontoon::v1::raft_message::Body;
use raft::PeerId;
use store::Options;
use store::event::{Event, Order, OrderKind, OrderRefusal, ReadVolume, Refusal, StepId};

use crate::harness::*;

/// A source `["", m)`, region 1, and a target `[m, "")`, region 2, both led by store 1.
pub fn pair() -> Cluster {
    pair_with(options())
}

pub fn pair_with(options: Options) -> Cluster {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::with(3, &regions, options, MemoryOptions::default());
    for id in [1, 2] {
        cluster.elect_at(r(id), 1);
    }
    cluster.put(r(1), "a", "1");
    cluster.put(r(2), "z", "2");
    cluster
}

pub fn order(cluster: &mut Cluster) {
    let target = r(2);
    cluster
        .order(r(1), OrderKind::Merge { target })
        .expect("nothing is in the way");
}

/// Whether a store has taken region 1 into region 2.
pub fn is_merged_at(cluster: &Cluster, store: u64) -> bool {
    !cluster.has_view(store, r(1))
        && cluster.owns(store, r(2))
        && cluster.view(store, r(2)).region.start_key.is_empty()
}

pub fn is_merged(cluster: &Cluster) -> bool {
    (1..=3).all(|store| is_merged_at(cluster, store))
}

fn version(cluster: &Cluster, store: u64, id: u64) -> u64 {
    let region: metapb::Region = cluster.view(store, r(id)).region.clone();
    region.region_epoch.expect("an epoch").version
}

#[test]
fn a_source_becomes_a_part_of_its_neighbour() {
    let mut cluster = pair();
    order(&mut cluster);
    cluster.until("every store has merged", is_merged);
    assert_eq!(version(&cluster, 1, 2), 3);
    assert_eq!(cluster.get(r(2), "a"), Some("1".into()));
    cluster.put(r(2), "b", "3");
    cluster.assert_same_data(&[1, 2, 3]);
    // What is left of the source goes, and then the record of it.
    cluster.until("the source is gone", |cluster| {
        (1..=3).all(|store| cluster.store(store).peer_count() == 1)
    });
    assert_eq!(cluster.happened.destroyed, 3);
    cluster.until("the record is dropped", |cluster| {
        (1..=3).all(|store| cluster.records(store, r(2)) == 0)
    });
    // Who asks for the old region is told of the new one.
    let request = cluster.propose_as(s(1), r(1), None, vec![put("a", "4")]);
    let Err(Refusal::EpochNotMatch { current }) = &cluster.answers[&request] else {
        panic!("told {:?}", cluster.answers[&request]);
    };
    assert_eq!(current[0].id, 2);
}

/// Lets nothing be appended to these regions' logs anywhere but at their leaders, on all links or those to some stores.
fn mute(cluster: &mut Cluster, regions: &'static [u64], to_stores: &'static [u64]) {
    cluster.filter(move |_, to, frame| {
        let muted = |region: u64| regions.contains(&region) && to_stores.contains(&to.0);
        frame.messages.retain(|message| {
            !(muted(message.region_id) && matches!(message.body, Some(Body::Append(_))))
        });
    });
}

pub const ALL: &[u64] = &[1, 2, 3];

/// Freezes region 1 for region 2, whose log then stands still: no decision is made.
fn frozen() -> Cluster {
    frozen_with(options())
}

pub fn frozen_with(options: Options) -> Cluster {
    let mut cluster = pair_with(options);
    mute(&mut cluster, &[2], ALL);
    order(&mut cluster);
    cluster.until("region 1 is frozen everywhere", |cluster| {
        (1..=3).all(|store| is_frozen_at(cluster, store))
    });
    cluster
}

pub fn is_frozen_at(cluster: &Cluster, store: u64) -> bool {
    cluster.has_view(store, r(1)) && cluster.merge_state(store, r(1)).freeze.is_some()
}

/// Whether region 1 lives on as it was.
fn is_thawed_at(cluster: &Cluster, store: u64) -> bool {
    cluster.owns(store, r(1))
        && !cluster.view(store, r(1)).frozen
        && cluster.merge_state(store, r(1)).freeze.is_none()
}

/// Every store decided alike, the data is whole and both keys can be written.
pub fn assert_whole(cluster: &mut Cluster) {
    let merged = is_merged_at(cluster, 1);
    cluster.until("every store decides alike", |cluster| {
        (1..=3).all(|store| {
            if merged {
                is_merged_at(cluster, store)
            } else {
                is_thawed_at(cluster, store)
            }
        })
    });
    let left = if merged { r(2) } else { r(1) };
    assert_eq!(cluster.get(left, "a"), Some("1".into()));
    assert_eq!(cluster.get(r(2), "z"), Some("2".into()));
    cluster.put(left, "a", "1");
    cluster.put(r(2), "z", "2");
    cluster.assert_same_data(ALL);
}

/// What became of the merge is known everywhere.
fn is_decided(cluster: &Cluster) -> bool {
    is_merged(cluster) || (1..=3).all(|store| is_thawed_at(cluster, store))
}

/// It was decided once: whoever took the source in twice, or thawed twice, would be at a later version.
fn assert_once(cluster: &Cluster) {
    for store in 1..=3 {
        if is_merged_at(cluster, store) {
            assert_eq!(version(cluster, store, 2), 3);
        } else {
            let versions = [1, 2].map(|id| version(cluster, store, id));
            assert_eq!(versions, [3, 2]);
        }
    }
}

/// Where leadership of source and target was when it was lost or moved.
#[derive(Clone, Copy, Debug)]
enum Loses {
    /// One store leads both and dies.
    Both,
    /// The source's leader moves.
    MovesSource,
    /// The source's leader dies on a store of its own.
    Source,
    /// The target's leader dies on a store of its own, with the decision in its log alone.
    Target,
    /// The target's leader moves before it is asked.
    MovesTarget,
}

fn lose_leader(case: Loses) -> Cluster {
    let mut cluster = match case {
        Loses::MovesTarget => {
            let mut cluster = pair();
            mute(&mut cluster, &[1], &[3]);
            order(&mut cluster);
            cluster.until("the region is frozen where it can be", |cluster| {
                [1, 2].into_iter().all(|store| is_frozen_at(cluster, store))
            });
            cluster
        }
        _ => frozen(),
    };
    let move_leader = |cluster: &mut Cluster, region, to: u64| {
        let target = PeerId(10 * region + to);
        cluster
            .order(r(region), OrderKind::TransferLeader(target))
            .expect("leadership may move");
        cluster.until("leadership moves", |cluster| {
            cluster.leader(r(region)) == Some(s(to))
        });
    };
    match case {
        Loses::Both => cluster.crash(s(1), KILL),
        Loses::MovesSource => move_leader(&mut cluster, 1, 2),
        Loses::Source => {
            move_leader(&mut cluster, 1, 2);
            cluster.crash(s(2), KILL);
        }
        Loses::Target => {
            move_leader(&mut cluster, 1, 2);
            cluster.crash(s(1), KILL);
        }
        Loses::MovesTarget => move_leader(&mut cluster, 2, 2),
    }
    cluster
}

#[test]
fn merge_leader_lost() {
    for case in [
        Loses::Both,
        Loses::MovesSource,
        Loses::Source,
        Loses::Target,
        Loses::MovesTarget,
    ] {
        let mut cluster = lose_leader(case);
        let down: Vec<u64> = ALL
            .iter()
            .copied()
            .filter(|store| cluster.nodes[&s(*store)].store.is_none())
            .collect();
        cluster.clear_filter();
        // Whoever leads now goes on with what is frozen.
        cluster.until("the others have decided", |cluster| {
            let up = || ALL.iter().filter(|store| !down.contains(store));
            up().all(|store| is_merged_at(cluster, *store))
                || up().all(|store| is_thawed_at(cluster, *store))
        });
        for store in down {
            cluster.restart(s(store));
        }
        cluster.until("every store has decided", is_decided);
        // With the target's leader the decision is lost that only its log has. Whoever asks then does not know that the store which
        // is away has the freeze, and gives the merge up.
        let is_complete = !matches!(case, Loses::Both | Loses::Target);
        assert_eq!(is_merged(&cluster), is_complete, "{case:?}");
        assert_once(&cluster);
        assert_whole(&mut cluster);
        assert_once(&cluster);
    }
}

#[test]
fn merge_epoch_moves() {
    // The target splits while the freeze is on its way: at E_T it does not decide any more.
    let mut cluster = pair();
    mute(&mut cluster, &[1], ALL);
    order(&mut cluster);
    cluster.settle();
    let request = cluster.propose_at(s(1), r(1), vec![put("b", "parked")]);
    cluster.split(r(2), &["zz"]);
    cluster.clear_filter();
    cluster.until("the source thaws", |cluster| {
        version(cluster, 1, 1) == 3 && (1..=3).all(|store| is_thawed_at(cluster, store))
    });
    cluster.until("what was parked is answered", |cluster| {
        cluster.answers.contains_key(&request)
    });
    assert!(
        cluster.answers[&request].is_ok(),
        "{:?}",
        cluster.answers[&request]
    );
    assert_eq!(cluster.records(1, r(2)), 0);
    assert_whole(&mut cluster);
    the_source_thaws_when_its_target_changes_peers();
    the_source_thaws_when_its_target_freezes();
    // The source splits or changes peers first: the order is for another epoch, or the lane is taken. (What it would do if it
    // got into the log all the same is `of_two_commands_for_one_epoch_the_first_counts`.)
    let split = OrderKind::Split(vec![Bytes::from_static(b"f")]);
    for first in [split, OrderKind::AddLearner(learner(14, 4))] {
        the_source_does_not_freeze_after(first);
    }
}

fn learner(id: u64, store_id: u64) -> metapb::Peer {
    metapb::Peer {
        id,
        store_id,
        role: metapb::PeerRole::Learner as i32,
        is_witness: false,
    }
}

/// A membership change takes the target away from `E_T` as well: its version is the same, its `conf_ver` is not.
fn the_source_thaws_when_its_target_changes_peers() {
    let mut cluster = pair();
    mute(&mut cluster, &[1], ALL);
    order(&mut cluster);
    cluster.settle();
    cluster
        .order(r(2), OrderKind::AddLearner(learner(24, 4)))
        .expect("the target is not frozen");
    cluster.settle();
    assert_eq!(version(&cluster, 1, 2), 1);
    cluster.clear_filter();
    cluster.until("the source thaws", |cluster| {
        version(cluster, 1, 1) == 3 && (1..=3).all(|store| is_thawed_at(cluster, store))
    });
    assert_eq!(cluster.records(1, r(2)), 0);
    assert_whole(&mut cluster);
}

/// Three neighbours, all led by store 1.
fn trio() -> Cluster {
    let regions = [
        region(1, "", "g", &[1, 2, 3]),
        region(2, "g", "m", &[1, 2, 3]),
        region(3, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::new(3, &regions);
    for id in [1, 2, 3] {
        cluster.elect_at(r(id), 1);
    }
    for (id, key) in [(1, "a"), (2, "h"), (3, "z")] {
        cluster.put(r(id), key, "1");
    }
    cluster
}

/// The target's own freeze takes it away from `E_T`, before it is known what becomes of that.
fn the_source_thaws_when_its_target_freezes() {
    let mut cluster = trio();
    mute(&mut cluster, &[1, 3], ALL);
    order(&mut cluster);
    cluster.settle();
    let target = r(3);
    cluster
        .order(r(2), OrderKind::Merge { target })
        .expect("nothing is in the way");
    cluster.until("the target is frozen", |cluster| {
        cluster.merge_state(1, r(2)).freeze.is_some()
    });
    mute(&mut cluster, &[3], ALL);
    cluster.until("the source thaws", |cluster| {
        version(cluster, 1, 1) == 3 && (1..=3).all(|store| is_thawed_at(cluster, store))
    });
    assert!(cluster.merge_state(1, r(2)).freeze.is_some());
    cluster.put(r(1), "a", "2");
    cluster.clear_filter();
    cluster.until("the target's own merge is decided", |cluster| {
        (1..=3).all(|store| {
            !cluster.has_view(store, r(2)) || cluster.merge_state(store, r(2)).freeze.is_none()
        })
    });
    assert_eq!(cluster.get(r(1), "a"), Some("2".into()));
    cluster.assert_same_data(ALL);
}

/// Together they may have a quarter of the load at which one would be split again (REGIONS §5). Below it they merge.
#[test]
fn busy_regions_do_not_freeze() {
    let busy = Err(OrderRefusal::Invalid("the regions are too busy to merge"));
    let asked = |requests: u64, bytes: u64, written: usize| {
        let mut cluster = pair_with(Options {
            merge_requests_max: 10,
            merge_load_bytes_max: 1_000,
            ..options()
        });
        // Half of it in the source, half in the target, over the ten seconds that end with the order.
        for _ in 0..20 {
            cluster.ticks(10);
            for _ in 0..requests / 4 {
                cluster.read_at(s(1), r(1), "a");
                cluster.read_at(s(1), r(2), "z");
            }
            cluster.settle();
            let volume = |region, bytes| ReadVolume {
                region: r(region),
                keys: 1,
                bytes,
            };
            let volumes = vec![volume(1, bytes / 4), volume(2, bytes / 4)];
            cluster.step(s(1), Event::Reads(volumes));
            if written > 0 {
                cluster.put(r(1), "a", &"v".repeat(written / 4));
                cluster.put(r(2), "z", &"v".repeat(written / 4));
            }
        }
        let target = r(2);
        let result = cluster.order(r(1), OrderKind::Merge { target });
        assert_eq!(cluster.view(1, r(1)).frozen, result.is_ok());
        result
    };
    assert_eq!(asked(16, 0, 0), busy);
    assert_eq!(asked(0, 1_600, 0), busy);
    assert_eq!(asked(0, 0, 1_600), busy);
    assert_eq!(asked(8, 800, 0), Ok(()));
}

/// What is hardly anything merges into a neighbour that is nearly full: one of the two must be tiny, in bytes and in keys, and
/// together they may have twice as much then (REGIONS §5).
#[test]
fn tiny_regions_freeze_beside_large_ones() {
    let large = Err(OrderRefusal::Invalid("the regions are too large to merge"));
    // Keys, and the bytes of the value of each, in the source and in the target.
    let asked = |source: (usize, usize), target: (usize, usize)| {
        let mut cluster = pair_with(Options {
            merge_bytes_max: 16_000,
            merge_keys_max: 160,
            merge_requests_max: u64::MAX,
            merge_load_bytes_max: u64::MAX,
            ..options()
        });
        for (region, prefix, (keys, bytes)) in [(1, "b", source), (2, "y", target)] {
            for number in 0..keys {
                let key = format!("{prefix}{number:03}");
                cluster.put(r(region), &key, &"v".repeat(bytes));
            }
        }
        let target = r(2);
        let result = cluster.order(r(1), OrderKind::Merge { target });
        assert_eq!(cluster.view(1, r(1)).frozen, result.is_ok());
        result
    };
    let tiny = (1, 800);
    let (bytes, keys) = ((20, 1_000), (200, 1));
    assert_eq!(asked(tiny, bytes), Ok(()), "20 kB of 32");
    assert_eq!(asked(bytes, tiny), Ok(()), "either may be the tiny one");
    assert_eq!(asked(tiny, keys), Ok(()), "200 keys of 320");
    assert_eq!(asked(tiny, (35, 1_000)), large, "35 kB of 32");
    assert_eq!(asked(tiny, (330, 1)), large, "330 keys of 320");
    // Not tiny, in one way.
    assert_eq!(asked((1, 2_000), bytes), large, "2 kB, of 16 together");
    assert_eq!(asked((20, 1), bytes), large, "20 keys, of 160 together");
    assert_eq!(asked((1, 2_000), (1, 12_000)), Ok(()), "14 kB of 16");
}

fn the_source_does_not_freeze_after(first: OrderKind) {
    let mut cluster = pair();
    let epoch = cluster.view(1, r(1)).region.region_epoch.expect("an epoch");
    for kind in [first, OrderKind::Merge { target: r(2) }] {
        cluster.step_only(
            s(1),
            Event::Order(Order {
                region: r(1),
                epoch,
                id: StepId::default(),
                kind,
                purpose: Default::default(),
            }),
        );
    }
    cluster.take(s(1));
    let orders = std::mem::take(&mut cluster.nodes.get_mut(&s(1)).expect("it is there").orders);
    let results: Vec<_> = orders
        .into_iter()
        .map(|answer| (answer.region, answer.result))
        .collect();
    assert_eq!(
        results,
        [(r(1), Ok(())), (r(1), Err(OrderRefusal::LaneBusy))]
    );
    cluster.settle();
    assert!(!is_frozen_at(&cluster, 1));
}

#[test]
fn merge_commit_abort() {
    // The old leader has a commit in its log that nobody else has; the others abort. Then the old one comes back.
    let mut cluster = frozen();
    cluster.isolate(s(1));
    cluster.clear_filter();
    cluster.until("the others abort", |cluster| {
        [2, 3].into_iter().all(|store| is_thawed_at(cluster, store))
    });
    assert!(is_frozen_at(&cluster, 1));
    cluster.heal();
    cluster.until("the old leader thaws", |cluster| is_thawed_at(cluster, 1));
    assert_whole(&mut cluster);
    for store in ALL {
        assert_eq!(cluster.records(*store, r(2)), 0);
    }
}

/// Hands a store what was asked of it in an earlier attempt, late. It must change nothing.
fn ask_again(cluster: &mut Cluster, asked: &[wire::MergeMessage]) {
    assert!(!asked.is_empty(), "the target was asked");
    let leader = cluster.elect(r(2));
    let log = |cluster: &Cluster| {
        let raft = cluster.store(leader.0).raft(r(2)).expect("it leads");
        (raft.term(), raft.last())
    };
    let before = (cluster.merge_state(leader.0, r(2)), log(cluster));
    for message in asked {
        let frame = wire::Frame {
            merges: vec![message.clone()],
            ..Default::default()
        };
        cluster.step(leader, Event::Frame { from: s(1), frame });
        let after = (cluster.merge_state(leader.0, r(2)), log(cluster));
        assert_eq!(after, before, "an older request is refused");
    }
}

#[test]
fn merge_second_attempt() {
    let mut cluster = pair();
    // What the first attempt asks for is on its way for long.
    let asked = Rc::new(RefCell::new(Vec::new()));
    let keeps = Rc::clone(&asked);
    cluster.filter(move |_, _, frame| {
        frame.messages.retain(|message| {
            !(message.region_id == 2 && matches!(message.body, Some(Body::Append(_))))
        });
        keeps.borrow_mut().append(&mut frame.merges);
    });
    order(&mut cluster);
    cluster.until("region 1 is frozen everywhere", |cluster| {
        (1..=3).all(|store| is_frozen_at(cluster, store))
    });
    cluster.tick();
    let mut asked = std::mem::take(&mut *asked.borrow_mut());
    asked.retain(|message| matches!(message.kind, Some(Kind::Commit(_))));
    // Store 3 stays at the first freeze: what follows is in its log and not applied.
    cluster.hold_apply.insert(s(3));
    cluster.isolate(s(1));
    cluster.clear_filter();
    cluster.until("another leads", |cluster| {
        cluster.leader(r(1)).is_some_and(|store| store != s(1))
    });
    cluster.until("the first attempt is aborted", |cluster| {
        is_thawed_at(cluster, 2)
    });
    cluster.heal();
    cluster.until("the old leader thaws", |cluster| is_thawed_at(cluster, 1));
    let first = cluster
        .merge_state(3, r(1))
        .freeze
        .expect("it did not apply the thaw");
    for id in [1, 2] {
        cluster.elect_at(r(id), 2);
    }
    cluster.ticks(10);
    ask_again(&mut cluster, &asked);
    mute(&mut cluster, &[2], ALL);
    order(&mut cluster);
    cluster.until("the source is frozen again", |cluster| {
        [1, 2].into_iter().all(|store| is_frozen_at(cluster, store))
    });
    let second = cluster.merge_state(1, r(1)).freeze.expect("it is frozen");
    assert!(second.index > first.index);
    ask_again(&mut cluster, &asked);
    cluster.clear_filter();
    cluster.until("the second attempt commits", |cluster| {
        [1, 2].into_iter().all(|store| is_merged_at(cluster, store))
    });
    assert_eq!(cluster.merge_state(3, r(1)).freeze, Some(first));
    ask_again(&mut cluster, &asked);
    cluster.hold_apply.clear();
    cluster.until("store 3 merges what it should", |cluster| {
        is_merged_at(cluster, 3)
    });
    for store in ALL {
        let records = cluster.merge_state(*store, r(2)).records;
        assert!(
            records
                .iter()
                .all(|record| record.freeze_index == second.index)
        );
    }
    assert_whole(&mut cluster);
}

#[test]
fn merge_power_loss() {
    // All stores lose power after every single step of a merge: they decide alike, and nothing thaws but by a verdict.
    let mut outcomes = [0, 0];
    for stop_after in 0..70 {
        let mut cluster = pair();
        order(&mut cluster);
        for step in 0..stop_after {
            if step % 2 == 0 {
                cluster.deliver();
            }
            for store in ALL {
                cluster.work(s(*store));
            }
        }
        for store in ALL {
            cluster.crash(s(*store), POWER);
        }
        for store in ALL {
            cluster.restart(s(*store));
        }
        // A freeze that is in a log and not applied yet looks like none.
        cluster.ticks(60);
        cluster.until("every store has decided", |cluster| {
            is_merged(cluster) || (1..=3).all(|store| is_thawed_at(cluster, store))
        });
        outcomes[usize::from(is_merged(&cluster))] += 1;
        assert_whole(&mut cluster);
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

#[test]
fn merge_absorb_replay() {
    let mut cluster = pair();
    cluster.hold_tasks.extend([s(1), s(2), s(3)]);
    order(&mut cluster);
    cluster.until("every store has merged", is_merged);
    for store in ALL {
        cluster.crash(s(*store), POWER);
    }
    for store in ALL {
        cluster.restart(s(*store));
    }
    cluster.until("it is absorbed again", is_merged);
    assert_whole(&mut cluster);
    cluster.until("the source is gone", |cluster| {
        (1..=3).all(|store| cluster.store(store).peer_count() == 1)
    });
}

#[test]
fn merge_record_flushed() {
    let mut cluster = pair();
    cluster.hold_tasks.insert(s(3));
    order(&mut cluster);
    cluster.until("every store has merged", is_merged);
    cluster.ticks(100);
    for store in ALL {
        assert_eq!(
            cluster.records(*store, r(2)),
            1,
            "dropped before the source is flushed dead"
        );
    }
    cluster.hold_tasks.clear();
    cluster.until("the record is dropped", |cluster| {
        (1..=3).all(|store| cluster.records(store, r(2)) == 0)
    });
    assert_whole(&mut cluster);
}

#[test]
fn merge_frozen_serves_nothing() {
    let mut cluster = pair();
    let before = cluster.read_at(s(1), r(1), "a");
    let target = r(2);
    cluster
        .order(r(1), OrderKind::Merge { target })
        .expect("nothing is in the way");
    // Nothing has left yet, and the view is frozen already.
    assert!(cluster.view(1, r(1)).frozen);
    let (read, write) = (
        cluster.read_at(s(1), r(1), "a"),
        cluster.propose_at(s(1), r(1), vec![put("a", "9")]),
    );
    cluster.until("every store has merged", is_merged);
    cluster.settle();
    assert_eq!(cluster.reads[&before], Err(Refusal::Merging(r(1))));
    for refusal in [
        cluster.reads[&read].clone().expect_err("it was frozen"),
        cluster.answers[&write].clone().expect_err("it was frozen"),
    ] {
        let Refusal::EpochNotMatch { current } = &refusal else {
            panic!("told {refusal:?}");
        };
        assert_eq!(current[0].id, 2);
    }
    assert_eq!(cluster.get(r(2), "a"), Some("1".into()));
}

#[test]
fn merge_frozen_denies() {
    let mut cluster = frozen();
    for denied in [
        OrderKind::Split(vec![Bytes::from_static(b"f")]),
        OrderKind::AddLearner(learner(99, 4)),
        OrderKind::Merge { target: r(2) },
    ] {
        assert_eq!(cluster.order(r(1), denied), Err(OrderRefusal::Frozen));
    }
    // A client waits for a while, then it is told.
    let write = cluster.propose_at(s(1), r(1), vec![put("a", "9")]);
    cluster.ticks(8);
    assert_eq!(cluster.answers[&write], Err(Refusal::Merging(r(1))));
    cluster.clear_filter();
    cluster.until("it is decided", |cluster| {
        is_merged(cluster) || (1..=3).all(|store| is_thawed_at(cluster, store))
    });
    assert_whole(&mut cluster);
}

#[test]
fn merge_mutual() {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let unchecked = Options {
        merge_unchecked: true,
        ..options()
    };
    let mut cluster = Cluster::with(3, &regions, unchecked, MemoryOptions::default());
    for id in [1, 2] {
        cluster.elect_at(r(id), id);
    }
    cluster.put(r(1), "a", "1");
    cluster.put(r(2), "z", "2");
    for (region, target) in [(1, r(2)), (2, r(1))] {
        let epoch = cluster
            .view(region, r(region))
            .region
            .region_epoch
            .expect("an epoch");
        let kind = OrderKind::Merge { target };
        cluster.step_only(
            s(region),
            Event::Order(Order {
                region: r(region),
                epoch,
                id: StepId::default(),
                kind,
                purpose: Default::default(),
            }),
        );
    }
    cluster.take(s(1));
    cluster.take(s(2));
    cluster.until("both thaw", |cluster| {
        [1, 2].into_iter().all(|id| {
            (1..=3).all(|store| version(cluster, store, id) == 3)
                && cluster.merge_state(1, r(id)).freeze.is_none()
        })
    });
    assert_whole(&mut cluster);
}

#[test]
fn merge_chain() {
    let mut cluster = trio();
    // Store 3 is late with both.
    cluster.hold_apply.insert(s(3));
    for (source, target) in [(r(1), r(2)), (r(2), r(3))] {
        let mut taken = false;
        for _ in 0..100 {
            taken = taken || cluster.order(source, OrderKind::Merge { target }).is_ok();
            cluster.tick();
            if taken && !cluster.has_view(1, source) {
                break;
            }
        }
        assert!(!cluster.has_view(1, source), "{}", cluster.describe());
    }
    assert!(cluster.owns(3, r(1)) && cluster.owns(3, r(2)));
    cluster.hold_apply.clear();
    // It goes the same way, in the same order.
    while cluster.has_view(3, r(2)) {
        let mut busy = cluster.deliver();
        for store in ALL {
            busy |= cluster.work(s(*store));
            let is_missed = cluster.has_view(3, r(1)) && !cluster.has_view(3, r(2));
            assert!(!is_missed, "region 2 is gone and region 1 is not in it");
        }
        if !busy {
            for store in ALL {
                cluster.step(s(*store), Event::Tick);
            }
        }
    }
    cluster.until("everything is region 3", |cluster| {
        (1..=3).all(|store| {
            !cluster.has_view(store, r(1))
                && !cluster.has_view(store, r(2))
                && cluster.view(store, r(3)).region.start_key.is_empty()
        })
    });
    for (key, value) in [("a", "1"), ("h", "1"), ("z", "1")] {
        assert_eq!(cluster.get(r(3), key), Some(value.into()));
    }
    cluster.assert_same_data(ALL);
    cluster.until("the records are dropped", |cluster| {
        (1..=3).all(|store| cluster.records(store, r(3)) == 0)
    });
    the_verdict_comes_from_whom_the_target_became();
}

/// A source freezes for a target that is gone by then: it is a part of another region, which knows what became of the merge.
fn the_verdict_comes_from_whom_the_target_became() {
    let mut cluster = trio();
    mute(&mut cluster, &[1], ALL);
    order(&mut cluster);
    cluster.settle();
    let target = r(3);
    cluster
        .order(r(2), OrderKind::Merge { target })
        .expect("nothing is in the way");
    cluster.until("the target is a part of region 3", |cluster| {
        (1..=3).all(|store| !cluster.has_view(store, r(2)))
    });
    assert!(!is_frozen_at(&cluster, 1));
    cluster.clear_filter();
    cluster.until("the source thaws", |cluster| {
        version(cluster, 1, 1) == 3 && (1..=3).all(|store| is_thawed_at(cluster, store))
    });
    cluster.put(r(1), "a", "2");
    assert_eq!(cluster.get(r(3), "h"), Some("1".into()));
    cluster.assert_same_data(ALL);
}

#[test]
fn merge_isolated_store() {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::new(4, &regions);
    for id in [1, 2] {
        cluster.elect_at(r(id), 1);
    }
    cluster.put(r(1), "a", "1");
    cluster.put(r(2), "z", "2");
    cluster.ticks(5);
    mute(&mut cluster, &[2], &[3]);
    order(&mut cluster);
    cluster.until("the others have merged", |cluster| {
        [1, 2].into_iter().all(|store| is_merged_at(cluster, store))
    });
    cluster.isolate(s(3));
    cluster.clear_filter();
    // The target moves away from the store that is cut off.
    cluster.add_learner(r(2), 94, 4);
    cluster.swap_peers(r(2), 94, 23);
    cluster.remove_learner(r(2), 23);
    cluster.put(r(2), "b", "3");
    cluster.ticks(50);
    assert_eq!(cluster.records(1, r(2)), 1, "an orphan lives");
    cluster.heal();
    cluster.until("target and source die there", |cluster| {
        cluster.store(3).peer_count() == 0
    });
    cluster.until("the record is dropped", |cluster| {
        [1, 2, 4]
            .into_iter()
            .all(|store| cluster.records(store, r(2)) == 0)
    });
    assert_eq!(cluster.local_get(3, "a"), None);
    assert_eq!(cluster.get(r(2), "a"), Some("1".into()));
    cluster.assert_same_data(&[1, 2, 4]);
}

/// Without the checks before freezing a target may commit that has no data on a store, where the source waits for it. If the
/// target's peer there is removed, both die.
#[test]
fn a_source_dies_where_its_target_never_had_data() {
    merge_where_no_data_is(true);
}

/// The same where the target's peer was added and removed while its store heard nothing of it, so that nothing there knows it.
#[test]
fn a_source_dies_where_its_target_was_never_born() {
    merge_where_no_data_is(false);
}

fn merge_where_no_data_is(born: bool) {
    let unchecked = Options {
        merge_unchecked: true,
        ..options()
    };
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::with(4, &regions, unchecked, MemoryOptions::default());
    cluster.elect_at(r(2), 1);
    cluster.elect_at(r(1), 1);
    cluster.put(r(1), "a", "1");
    cluster.put(r(2), "z", "2");
    cluster.add_learner(r(1), 14, 4);
    cluster.elect_at(r(1), 1);
    // Heartbeats, if any, only make a peer of the target there.
    cluster.filter(move |_, to, frame| {
        if to == s(4) {
            frame.heartbeats.take_if(|_| !born);
            frame.messages.retain(|message| message.region_id != 2);
            let target = |offer: &metapb::Region| offer.id == 2;
            frame
                .offers
                .retain(|offer| !offer.region.as_ref().is_some_and(target));
        }
    });
    cluster
        .order(r(2), OrderKind::AddLearner(learner(24, 4)))
        .expect("it is added");
    if born {
        cluster.until("it is uninitialized", |cluster| cluster.has_view(4, r(2)));
    } else {
        cluster.settle();
    }
    order(&mut cluster);
    cluster.until("the others have merged", is_merged);
    assert_eq!(cluster.has_view(4, r(2)), born);
    assert!(!born || is_frozen_at(&cluster, 4));
    cluster.crash(s(4), POWER);
    cluster.remove_learner(r(2), 24);
    cluster.clear_filter();
    cluster.restart(s(4));
    cluster.until("target and source die there", |cluster| {
        cluster.store(4).peer_count() == 0
    });
    cluster.until("the record is dropped", |cluster| {
        (1..=3).all(|store| cluster.records(store, r(2)) == 0)
    });
    assert_whole(&mut cluster);
}

#[test]
fn merge_store_dies() {
    // A store dies before the freeze is everywhere: the merge is given up, and that within 5 s.
    let mut cluster = pair();
    mute(&mut cluster, &[1], &[3]);
    order(&mut cluster);
    cluster.settle();
    cluster.crash(s(3), KILL);
    let mut ticks = 0;
    while ![1, 2]
        .into_iter()
        .all(|store| is_thawed_at(&cluster, store))
    {
        cluster.tick();
        ticks += 1;
        assert!(ticks < 100, "frozen for 5 s\n{}", cluster.describe());
    }
    assert_eq!(version(&cluster, 1, 1), 3);
    cluster.clear_filter();
    cluster.restart(s(3));
    assert_whole(&mut cluster);
}
