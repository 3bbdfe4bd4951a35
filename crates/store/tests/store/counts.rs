//! How large a region is believed to be, and how it is counted when too little of that is certain (STORAGE §7, sizes).

use std::ops::Bound;

use bytes::Bytes;
use engine::{Direction, Engine, Family, MemoryEngine, View};
use proptest::prelude::*;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::operation::Kind;
use raft::{Entry, Payload, PeerId};
use store::apply::Applier;
use store::event::{Applied, ApplyTask, Count, Estimate, Event, Task, TaskDone};
use store::{Options, codec, identity, keys, task};

use crate::harness::*;

fn delete(key: &str) -> wire::Operation {
    let key = Bytes::copy_from_slice(key.as_bytes());
    wire::Operation {
        kind: Some(Kind::Delete(wire::Delete { key })),
    }
}

/// Bytes and keys of all users in an engine.
fn content(engine: &MemoryEngine) -> (u64, u64) {
    let (mut bytes, mut keys_found) = (0, 0);
    let (lower, upper) = (keys::data(b""), keys::data_end(b""));
    engine
        .view()
        .scan(
            Family::State,
            Bound::Included(&lower),
            Bound::Excluded(&upper),
            Direction::Forward,
            &mut |key, value| {
                bytes += (key.len() + value.len()) as u64;
                keys_found += 1;
                true
            },
        )
        .expect("memory reads");
    (bytes, keys_found)
}

/// Region 1, everything, on store 1, as its applier has it.
struct Bench {
    engine: MemoryEngine,
    applier: Applier<MemoryEngine>,
    next: u64,
    believed: Estimate,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(&Options::default())
    }

    fn with(options: &Options) -> Bench {
        let engine = MemoryEngine::default();
        identity::create(&engine, 7, s(1), 1).expect("the engine is empty");
        identity::bootstrap(&engine, &[region(1, "", "", &[1])]).expect("nothing is there yet");
        let mut bench = Bench {
            applier: Applier::new(engine.clone(), options),
            engine,
            next: 2,
            believed: Estimate::default(),
        };
        bench.open();
        bench
    }

    /// As after a restart, or after a snapshot.
    fn open(&mut self) {
        self.run(ApplyTask::Open(r(1)));
    }

    fn run(&mut self, task: ApplyTask) -> Option<Applied> {
        let applied = self.applier.run(vec![task]).expect("applying works").pop();
        if let Some(applied) = &applied {
            self.believed = applied.estimate;
        }
        applied
    }

    fn entry(&mut self, payload: Payload) -> Applied {
        let entry = Entry {
            term: 5,
            index: self.next,
            payload,
        };
        self.next += 1;
        self.run(ApplyTask::Entries {
            region: r(1),
            peer: PeerId(11),
            entries: vec![entry],
            waiting: Vec::new(),
        })
        .expect("an answer")
    }

    fn write(&mut self, operation: wire::Operation) {
        let command = wire::Command {
            region_id: 1,
            operations: vec![operation],
            request_operations: vec![1],
            ..Default::default()
        };
        self.entry(Payload::Command(codec::seal(&command)));
    }

    /// Counts what is there now.
    fn count(&self) -> Count {
        let counting = Task::Count {
            region: r(1),
            peer: PeerId(11),
            part_bytes: 100,
        };
        let done = task::run(&self.engine, counting, &mut || true).expect("memory reads");
        match done {
            Some(TaskDone::Counted {
                count: Some(count), ..
            }) => count,
            other => panic!("not counted: {other:?}"),
        }
    }

    /// Whether a count is taken over.
    fn takes(&mut self, count: Count) -> bool {
        let applied = self.run(ApplyTask::Counted {
            region: r(1),
            peer: PeerId(11),
            count: Box::new(count),
        });
        let answer = applied.and_then(|applied| applied.counted);
        answer.expect("an answer")
    }

    fn take_over(&mut self, count: Count) {
        assert!(self.takes(count), "it fits");
    }

    fn ensure_exact(&self) {
        let (bytes, keys) = content(&self.engine);
        let exact = Estimate {
            bytes,
            keys,
            uncertain_bytes: 0,
        };
        assert_eq!(self.believed, exact);
    }
}

fn key(number: u64) -> String {
    format!("k{number:03}")
}

proptest! {
    /// Whatever was applied before, a count makes the estimate right; whatever is applied between the count and its arrival
    /// is kept, and new keys are counted exactly.
    #[test]
    fn a_count_is_paired_with_what_was_believed_then(
        before in prop::collection::vec((0u64..60, 0usize..300, any::<bool>()), 1..120),
        between in 0u64..40,
        restarts in any::<bool>(),
        again in any::<bool>(),
    ) {
        let mut bench = Bench::new();
        let change = |bench: &mut Bench, changes: &[(u64, usize, bool)]| for (number, bytes, puts) in changes {
            let key = key(*number);
            let operation = if *puts { put(&key, &"v".repeat(*bytes)) } else { delete(&key) };
            bench.write(operation);
        };
        change(&mut bench, &before);
        if restarts {
            bench.open();
        }
        let count = bench.count();
        bench.take_over(count);
        bench.ensure_exact();
        if again {
            // At the same index: the record still tells what was believed before the first.
            let count = bench.count();
            bench.take_over(count);
            bench.ensure_exact();
        }
        let count = bench.count();
        let (then, _) = content(&bench.engine);
        for number in 0..between {
            bench.write(put(&key(100 + number), "new"));
        }
        let believed = bench.believed;
        bench.take_over(count);
        prop_assert_eq!(bench.believed.bytes.abs_diff(believed.bytes), 0, "nothing was wrong");
        prop_assert!(bench.believed.bytes >= then);
        // And with deletes between, which are not looked up: only those are uncertain afterwards.
        change(&mut bench, &before);
        let count = bench.count();
        let doubted = bench.believed.uncertain_bytes;
        bench.write(delete(&key(0)));
        let last = bench.believed.uncertain_bytes - doubted;
        bench.take_over(count);
        prop_assert_eq!(bench.believed.uncertain_bytes, last);
    }
}

/// New keys are counted exactly without a look, so what is wrong by a pair of another index shows in full.
#[test]
fn what_is_applied_since_a_count_is_added() {
    let mut bench = Bench::new();
    for number in 0..40 {
        bench.write(put(&key(number), &"v".repeat(10 + number as usize)));
    }
    for number in 20..40 {
        bench.write(delete(&key(number)));
    }
    let believed = bench.believed;
    let (bytes, _) = content(&bench.engine);
    assert!(believed.bytes > bytes, "large ones went: {believed:?}");
    assert!(believed.uncertain_bytes >= believed.bytes - bytes);
    let count = bench.count();
    for number in 50..70 {
        bench.write(put(&key(number), "later"));
    }
    bench.take_over(count);
    bench.ensure_exact();
    // It lasts from the next entry on.
    bench.write(put(&key(70), "later"));
    bench.open();
    bench.write(put(&key(71), "later"));
    bench.ensure_exact();
}

#[test]
fn a_count_of_another_range_or_of_replaced_data_is_refused() {
    let mut bench = Bench::new();
    for number in 0..40 {
        bench.write(put(&key(number), "value"));
    }
    let count = bench.count();
    let earlier = Count {
        version: 0,
        bytes: 0,
        ..count.clone()
    };
    assert!(!bench.takes(earlier));
    bench.ensure_exact();
    // A snapshot brings a later index.
    bench.write(put(&key(40), "value"));
    bench.open();
    assert!(!bench.takes(Count { bytes: 0, ..count }));
    bench.ensure_exact();
}

#[test]
fn a_count_of_another_peer_is_refused() {
    let mut bench = Bench::new();
    bench.write(put(&key(0), "value"));
    let counting = Task::Count {
        region: r(1),
        peer: PeerId(12),
        part_bytes: 100,
    };
    let done = task::run(&bench.engine, counting, &mut || true).expect("memory reads");
    assert!(matches!(done, Some(TaskDone::Counted { count: None, .. })));
    let mut count = bench.count();
    count.bytes = 0;
    let applied = bench.run(ApplyTask::Counted {
        region: r(1),
        peer: PeerId(12),
        count: Box::new(count),
    });
    assert_eq!(applied.and_then(|applied| applied.counted), Some(false));
    bench.write(put(&key(1), "value"));
    bench.ensure_exact();
}

/// Whoever opens the region next has not become certain by that, nor by looking where its contents lie.
#[test]
fn what_is_uncertain_outlives_a_restart() {
    for bytes in [96 << 20, 200] {
        let mut options = Options::default();
        options.split.bytes = bytes;
        let mut bench = Bench::with(&options);
        for number in 0..10 {
            bench.write(put(&key(number), "value"));
        }
        bench.write(delete(&key(3)));
        let doubted = bench.believed.uncertain_bytes;
        assert!(doubted > 0);
        bench.open();
        bench.write(put(&key(10), "value"));
        assert_eq!(bench.believed.uncertain_bytes, doubted);
    }
}

/// One put in sixteen is looked up; what it was wrong by may be what the others are wrong by.
#[test]
fn puts_that_replace_leave_the_size_uncertain() {
    let mut bench = Bench::new();
    for _ in 0..17 {
        bench.write(put(&key(0), "value"));
    }
    let (bytes, _) = content(&bench.engine);
    assert_eq!(bench.believed.uncertain_bytes, 15 * bytes);
}

#[test]
fn parts_of_a_count_are_few_and_hold_everything() {
    let mut bench = Bench::new();
    for number in 0..400 {
        bench.write(put(&key(number), "value"));
    }
    let count = bench.count();
    assert_eq!(count.edges.len(), 32, "100 bytes each would be more");
    let parts: u64 = count.edges.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(parts, count.bytes);
    assert!(count.edges[0].0.is_empty());
    assert!(count.edges.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

fn counting(regions: &[proto::metapb::Region], bytes_per_second: u64) -> Cluster {
    let options = Options {
        count_bytes_min: 100,
        count_bytes_per_second: bytes_per_second,
        ..options()
    };
    Cluster::with(3, regions, options, engine::MemoryOptions::default())
}

/// Puts small and large values at keys that begin so, and deletes the large ones.
fn delete_large(cluster: &mut Cluster, region: proto::RegionId, prefix: &str) {
    let key = |number: u64| format!("{prefix}{number:02}");
    for number in 0..30 {
        let length = if number < 10 { 1 } else { 100 };
        cluster.put(region, &key(number), &"v".repeat(length));
    }
    let leader = cluster.elect(region);
    for number in 10..30 {
        cluster.propose_at(leader, region, vec![delete(&key(number))]);
    }
    cluster.settle();
}

fn reported(cluster: &Cluster, store: u64, region: u64) -> (u64, u64) {
    let mut reports = cluster.nodes[&s(store)].reports.iter().rev();
    let report = reports.find(|report| report.region.id == region);
    report.map_or((0, 0), |report| (report.bytes, report.keys))
}

#[test]
fn a_leader_has_its_region_counted_when_deletes_left_its_size_uncertain() {
    let mut cluster = counting(&[region(1, "", "", &[1, 2, 3])], 1 << 20);
    cluster.elect_at(r(1), 1);
    cluster.hold_tasks.extend([s(2), s(3)]);
    delete_large(&mut cluster, r(1), "k");
    let exact = content(&cluster.nodes[&s(1)].engine);
    cluster.ticks(5);
    assert_eq!(reported(&cluster, 1, 1), exact, "told at once");
    let counts = |node: &Node| {
        node.tasks
            .iter()
            .any(|task| matches!(task, Task::Count { .. }))
    };
    cluster.hold_tasks.insert(s(1));
    cluster.ticks(20);
    assert!(
        !cluster.nodes.values().any(counts),
        "once is enough, and followers tell nobody"
    );
}

#[test]
fn one_region_is_counted_at_a_time_and_no_more_than_the_share() {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    // 5 bytes per tick of 50 ms.
    let mut cluster = counting(&regions, 100);
    for id in [1, 2] {
        cluster.elect_at(r(id), 1);
    }
    cluster.hold_task = Some((s(1), |task| matches!(task, Task::Count { .. })));
    delete_large(&mut cluster, r(1), "a");
    delete_large(&mut cluster, r(2), "z");
    cluster.ticks(5);
    assert_eq!(waiting(&cluster).len(), 1);
    let first = waiting(&cluster)[0];
    cluster.hold_task = None;
    cluster.settle();
    let (bytes, _) = reported(&cluster, 1, first);
    let pause = bytes as usize / 5;
    assert!(pause > 10, "{bytes} bytes");
    cluster.hold_task = Some((s(1), |task| matches!(task, Task::Count { .. })));
    cluster.ticks(pause - 1);
    assert!(waiting(&cluster).is_empty());
    // Whoever was counted last is not the next, though it is uncertain again.
    delete_large(&mut cluster, r(first), if first == 1 { "a" } else { "z" });
    cluster.ticks(2);
    assert_eq!(waiting(&cluster), [3 - first]);
}

/// Regions that the first store is asked to count.
fn waiting(cluster: &Cluster) -> Vec<u64> {
    let tasks = cluster.nodes[&s(1)].tasks.iter();
    let counted = tasks.filter_map(|task| match task {
        Task::Count { region, .. } => Some(region.0),
        _ => None,
    });
    counted.collect()
}

/// A count is worth while only if enough is uncertain, and an administrator may switch counting off.
#[test]
fn what_is_certain_enough_is_not_counted() {
    let counted = |bytes_min: u64, bytes_per_second: u64| {
        let options = Options {
            count_bytes_min: bytes_min,
            count_bytes_per_second: bytes_per_second,
            ..options()
        };
        let regions = [region(1, "", "", &[1, 2, 3])];
        let mut cluster = Cluster::with(3, &regions, options, Default::default());
        cluster.elect_at(r(1), 1);
        cluster.hold_task = Some((s(1), |task| matches!(task, Task::Count { .. })));
        delete_large(&mut cluster, r(1), "a");
        cluster.ticks(5);
        !waiting(&cluster).is_empty()
    };
    assert!(counted(100, 1 << 20));
    assert!(!counted(1 << 20, 1 << 20), "it is next to nothing");
    assert!(!counted(100, 0), "it is off");
}

/// Much may be uncertain and yet little of what is there.
#[test]
fn what_is_uncertain_must_be_as_much_as_what_is_there() {
    let mut cluster = counting(&[region(1, "", "", &[1, 2, 3])], 1 << 20);
    cluster.elect_at(r(1), 1);
    let leader = s(1);
    cluster.hold_task = Some((leader, |task| matches!(task, Task::Count { .. })));
    for number in 0..20 {
        cluster.put(r(1), &key(number), &"v".repeat(100));
    }
    for number in 0..3 {
        cluster.propose_at(leader, r(1), vec![delete(&key(number))]);
    }
    cluster.settle();
    cluster.ticks(5);
    assert_eq!(waiting(&cluster), [0; 0], "300 of 1700 bytes");
    for number in 3..12 {
        cluster.propose_at(leader, r(1), vec![delete(&key(number))]);
    }
    cluster.settle();
    cluster.ticks(5);
    assert_eq!(waiting(&cluster), [1], "1200 of 800 bytes");
}

/// What an applier makes of a count is told late: more is applied by then, and what that left is not undone.
#[test]
fn a_count_that_is_told_late_does_not_take_back_what_is_applied_since() {
    let mut cluster = counting(&[region(1, "", "", &[1, 2, 3])], 1 << 20);
    cluster.elect_at(r(1), 1);
    let is_count: TaskFilter = |task| matches!(task, Task::Count { .. });
    cluster.hold_task = Some((s(1), is_count));
    delete_large(&mut cluster, r(1), "a");
    cluster.until("it is due", |cluster| !waiting(cluster).is_empty());
    cluster.hold_task = None;
    cluster.hold_apply.insert(s(1));
    while cluster.run_task(s(1)) {}
    let late = cluster.apply_unheard(s(1));
    assert!(late.iter().any(|applied| applied.counted == Some(true)));
    cluster.hold_apply.clear();
    cluster.put(r(1), "b", "as long as a value may be here");
    let exact = content(&cluster.nodes[&s(1)].engine);
    cluster.step(s(1), Event::Applied(late));
    cluster.ticks(cluster.options.report_ticks as usize + 1);
    assert_eq!(reported(&cluster, 1, 1), exact);
}

/// However a count ends, the next region has its turn; and damaged data is not counted.
#[test]
fn a_count_that_comes_to_nothing_makes_room() {
    for damaged in [false, true] {
        let regions = [
            region(1, "", "m", &[1, 2, 3]),
            region(2, "m", "", &[1, 2, 3]),
        ];
        let mut cluster = counting(&regions, 1 << 20);
        for id in [1, 2] {
            cluster.elect_at(r(id), 1);
        }
        cluster.hold_task = Some((s(1), |task| matches!(task, Task::Count { .. })));
        delete_large(&mut cluster, r(1), "a");
        delete_large(&mut cluster, r(2), "z");
        cluster.ticks(5);
        assert_eq!(waiting(&cluster), [1]);
        let none = |region, peer| TaskDone::Counted {
            region,
            peer,
            count: None,
        };
        let end = |cluster: &mut Cluster, done| {
            cluster.nodes.get_mut(&s(1)).expect("it runs").tasks.clear();
            cluster.step(s(1), Event::TaskDone(done));
            cluster.ticks(1);
        };
        let first = if damaged {
            TaskDone::Damaged {
                region: r(1),
                peer: PeerId(11),
                error: engine::Error::Corrupt {
                    what: "a block".into(),
                    source: None,
                },
            }
        } else {
            none(r(1), PeerId(11))
        };
        end(&mut cluster, first);
        assert_eq!(waiting(&cluster), [2]);
        end(&mut cluster, none(r(2), PeerId(21)));
        let next = if damaged { 2 } else { 1 };
        assert_eq!(waiting(&cluster), [next]);
    }
}

/// A snapshot is read whole by whoever takes it, so its size is certain.
#[test]
fn a_snapshot_brings_a_size_that_is_certain() {
    let mut cluster = Cluster::new(4, &[region(1, "", "", &[1, 2, 3])]);
    delete_large(&mut cluster, r(1), "k");
    cluster.add_learner(r(1), 14, 4);
    assert_eq!(cluster.happened.installs, 1);
    let engine = &cluster.nodes[&s(4)].engine;
    let record = engine.get(Family::State, &keys::applied_state(r(1)));
    let record = record.expect("memory reads").expect("a record");
    let record: wire::AppliedState = codec::decode_record(&record).expect("a good record");
    assert_eq!(
        (record.bytes, record.keys, record.uncertain_bytes),
        (content(engine).0, content(engine).1, 0)
    );
}

/// A piece above all that was ever applied is empty, whatever samples say, and nothing about that is uncertain.
#[test]
fn a_split_ahead_of_inserts_leaves_a_piece_that_is_known_to_be_empty() {
    let mut bench = Bench::new();
    for number in 0..10 {
        bench.write(put(&key(number), "value"));
    }
    let whole = bench.believed;
    let split = wire::Split {
        keys: vec!["k500".into()],
        children: vec![wire::SplitChild {
            region_id: 2,
            peer_ids: vec![21],
            first_leader: 21,
        }],
        operator_id: 0,
    };
    let command = wire::Command {
        region_id: 1,
        epoch: region(1, "", "", &[1]).region_epoch,
        structural: Some(wire::command::Structural::Split(split)),
        ..Default::default()
    };
    let applied = bench.entry(Payload::Structural(codec::seal(&command)));
    assert_eq!(applied.children[0].estimate, Estimate::default());
    assert_eq!(bench.believed, whole);
    bench.ensure_exact();
}
