//! Slots of snapshots: held by progress, on either side, and by nothing else (REGIONS §7).

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use engine::{Batch, Change, Engine, Family, Logging, MemoryEngine};
use proto::StoreId;
use proto::pontoon::v1 as wire;
use store::event::{Event, Order, OrderKind, Purpose, StepId, Task, TaskDone, Transfer};
use store::{Dial, Options, Store, identity, keys, task};

use crate::harness::*;

/// Three stores of which the third is so far behind that it needs a snapshot, which the first builds, but for what is held.
pub fn one_behind() -> Cluster {
    let options = Options {
        compact_entries: 20,
        compact_tail_entries: 0,
        ..options()
    };
    let mut cluster = Cluster::with(
        3,
        &[region(1, "", "", &[1, 2, 3])],
        options,
        Default::default(),
    );
    cluster.elect_at(r(1), 1);
    cluster.isolate(s(3));
    for number in 0..40 {
        cluster.put(r(1), &format!("k{number}"), "x");
    }
    cluster.heal();
    cluster
}

/// Lets time pass until a store has a task to do that its harness holds back, and takes it.
pub fn held_task(cluster: &mut Cluster, store: StoreId, what: TaskFilter) -> Task {
    cluster.hold_task = Some((store, what));
    cluster.until("the task waits", |cluster| {
        cluster.nodes[&store].tasks.iter().any(what)
    });
    let tasks = &mut cluster.nodes.get_mut(&store).expect("it runs").tasks;
    let at = tasks.iter().position(what).expect("it waits");
    tasks.remove(at).expect("it waits")
}

fn is_build(task: &Task) -> bool {
    matches!(task, Task::BuildSnapshot { .. })
}

fn is_send(task: &Task) -> bool {
    matches!(task, Task::SendSnapshot { .. })
}

pub fn is_install(task: &Task) -> bool {
    matches!(task, Task::InstallSnapshot { .. })
}

/// Puts a task back and goes on.
fn give_back(cluster: &mut Cluster, store: StoreId, task: Task) {
    let node = cluster.nodes.get_mut(&store).expect("it runs");
    node.tasks.push_front(task);
    cluster.hold_task = None;
}

fn incoming(cluster: &Cluster) -> Vec<Transfer> {
    of(cluster, 3)
}

fn of(cluster: &Cluster, store: u64) -> Vec<Transfer> {
    cluster.nodes[&s(store)].transfers.iter().copied().collect()
}

/// Many times the life of a slot passes, with progress of one side alone, in each stage. Neither side gives up.
#[test]
fn progress_keeps_a_slot() {
    let mut cluster = one_behind();
    let build = held_task(&mut cluster, s(1), is_build);
    let outgoing = build.transfer().expect("it is one");
    let slot = incoming(&cluster);
    assert_eq!(of(&cluster, 1), [outgoing]);
    assert_eq!(slot.len(), 1);
    for _ in 0..10 {
        cluster.ticks(40);
        cluster.step(s(1), Event::Progress(outgoing));
        cluster.settle();
    }
    assert_eq!(of(&cluster, 1), [outgoing], "the build is under way");
    assert_eq!(incoming(&cluster), slot, "the receiver heard of it");

    give_back(&mut cluster, s(1), build);
    let send = held_task(&mut cluster, s(1), is_send);
    assert_eq!(send.transfer(), Some(outgoing));
    for _ in 0..10 {
        cluster.ticks(40);
        cluster.step(s(1), Event::Progress(outgoing));
        cluster.step(s(3), Event::Progress(slot[0]));
        cluster.settle();
    }
    assert_eq!(of(&cluster, 1), [outgoing], "chunks leave");
    assert_eq!(incoming(&cluster), slot, "chunks arrive");

    give_back(&mut cluster, s(1), send);
    let install = held_task(&mut cluster, s(3), is_install);
    for _ in 0..10 {
        cluster.ticks(40);
        cluster.step(s(3), Event::Progress(slot[0]));
        cluster.settle();
    }
    assert_eq!(of(&cluster, 1), [outgoing], "the sender heard of it");
    assert_eq!(incoming(&cluster), slot, "it is being put in place");

    give_back(&mut cluster, s(3), install);
    cluster.until("it is back", |cluster| {
        cluster.local_get(3, "k39").is_some()
    });
    assert_eq!(of(&cluster, 1), []);
    assert_eq!(incoming(&cluster), []);
    assert_eq!(cluster.happened.installs, 1);
    cluster.assert_same_data(&[1, 2, 3]);
}

/// A build that hangs, a receiver that hangs: both sides end by themselves, the log is let go, the next attempt works,
/// and what the hung one does later has no effect.
#[test]
fn a_slot_without_progress_ends_on_both_sides() {
    let mut cluster = one_behind();
    let hung = held_task(&mut cluster, s(1), is_build);
    let outgoing = hung.transfer().expect("it is one");
    let first = incoming(&cluster);
    // Nothing gets through, so that neither side learns from the other.
    cluster.isolate(s(3));
    cluster.ticks(70);
    assert_eq!(of(&cluster, 1), []);
    assert_eq!(incoming(&cluster), []);
    let before = cluster.store(1).raft(r(1)).expect("it leads").compacted();
    for number in 0..60 {
        cluster.put(r(1), &format!("n{number}"), "x");
    }
    let after = cluster.store(1).raft(r(1)).expect("it leads").compacted();
    assert!(
        after.index > before.index + 30,
        "the log is not kept for it"
    );

    cluster.heal();
    let second = held_task(&mut cluster, s(1), is_build);
    assert_ne!(second.transfer(), Some(outgoing));
    let again = incoming(&cluster);
    assert_ne!(again, first);
    // The hung one comes to life: it is not wanted, and its end is not that of the other.
    let node = cluster.nodes.get_mut(&s(1)).expect("it runs");
    let wanted = node.transfers.contains(&outgoing);
    let done = task::run(&node.engine, hung, &mut || wanted).expect("it runs");
    assert!(matches!(
        done,
        Some(TaskDone::SnapshotBuilt { head: None, .. })
    ));
    assert_eq!(node.engine.stage_list().expect("a list"), [""; 0]);
    cluster.step(s(1), Event::TaskDone(done.expect("it tells")));
    cluster.step(s(1), Event::Progress(outgoing));
    cluster.step(s(3), Event::Progress(first[0]));
    assert_eq!(of(&cluster, 1), [second.transfer().expect("it is one")]);

    give_back(&mut cluster, s(1), second);
    let send = held_task(&mut cluster, s(1), is_send);
    // The receiver takes nothing.
    cluster.ticks(70);
    assert!(!of(&cluster, 1).contains(&send.transfer().expect("it is one")));
    let Task::SendSnapshot { head, .. } = send else {
        panic!("{send:?}")
    };
    let names: Vec<String> = head.files.into_iter().map(|file| file.name).collect();
    cluster.nodes[&s(1)]
        .engine
        .stage_remove(&names)
        .expect("the driver removes them");
    cluster.hold_task = None;
    cluster.until("it is back", |cluster| {
        cluster.local_get(3, "n59").is_some()
    });
    cluster.assert_same_data(&[1, 2, 3]);
}

/// What arrives whole belongs to a slot that is held: for that peer, from that peer, on that store. Else it is removed.
#[test]
fn a_snapshot_without_slot_is_not_taken() {
    let mut cluster = one_behind();
    let send = held_task(&mut cluster, s(1), is_send);
    let Task::SendSnapshot { head, .. } = &send else {
        panic!("{send:?}")
    };
    let source = cluster.nodes[&s(1)].engine.clone();
    let target = cluster.nodes[&s(3)].engine.clone();
    for wrong in 0..4 {
        let mut head = head.clone();
        let mut from = s(1);
        match wrong {
            0 => head.slot += 1,
            1 => head.from_peer = 12,
            2 => (from, head.from_store) = (s(2), 2),
            _ => head.region = Some(region(7, "", "", &[1, 3])),
        }
        for file in &mut head.files {
            let bytes = source
                .stage_read(&file.name, 0, usize::MAX)
                .expect("it is staged");
            target.stage_append(&file.name, &bytes).expect("it stages");
            target.stage_finish(&file.name).expect("it is whole");
        }
        cluster.step(s(3), Event::SnapshotReceived { from, head });
        cluster.settle();
        assert_eq!(target.stage_list().expect("a list"), [""; 0], "{wrong}");
        assert_eq!(cluster.happened.installs, 0);
    }
    give_back(&mut cluster, s(1), send);
    cluster.until("the right one comes", |cluster| {
        cluster.local_get(3, "k39").is_some()
    });
}

/// Adds a learner on the third store, for this purpose.
fn add_learner(cluster: &mut Cluster, region: u64, purpose: Purpose) {
    let learner = proto::metapb::Peer {
        id: region * 10 + 3,
        store_id: 3,
        role: proto::metapb::PeerRole::Learner as i32,
        is_witness: false,
    };
    let epoch = cluster.view(1, r(region)).region.region_epoch;
    let order = Order {
        region: r(region),
        epoch: epoch.expect("an epoch"),
        id: StepId::default(),
        kind: OrderKind::AddLearner(learner),
        purpose,
    };
    cluster.step(s(1), Event::Order(order));
    let answer = cluster.nodes.get_mut(&s(1)).expect("it runs").orders.pop();
    assert_eq!(answer.expect("an answer").result, Ok(()));
}

/// Lets ticks pass in which the snapshots that arrive at the third store make progress.
fn ticks_with_progress(cluster: &mut Cluster, ticks: usize) {
    for _ in 0..ticks {
        for transfer in incoming(cluster) {
            cluster.step(s(3), Event::Progress(transfer));
        }
        cluster.ticks(1);
    }
}

/// A slot is free again, and three wait for it: a voter that fell behind, though it came first; a region that is moved; one
/// that is repaired, though it came last.
#[test]
fn repair_goes_before_catch_up() {
    let options = Options {
        compact_entries: 20,
        compact_tail_entries: 0,
        snapshot_slots: 1,
        ..options()
    };
    let regions = [
        region(1, "", "b", &[1, 2, 3]),
        region(2, "b", "c", &[1, 2]),
        region(3, "c", "d", &[1, 2]),
        region(4, "d", "", &[1, 2]),
    ];
    let mut cluster = Cluster::with(3, &regions, options, Default::default());
    for id in 1..=4 {
        cluster.elect_at(r(id), 1);
    }
    add_learner(&mut cluster, 4, Purpose::Balance);
    let first = held_task(&mut cluster, s(3), is_install);
    cluster.filter(|_, to, frame| {
        if to == s(3) {
            frame.messages.retain(|message| message.region_id != 1);
        }
    });
    for number in 0..40 {
        cluster.put(r(1), &format!("a{number}"), "x");
        ticks_with_progress(&mut cluster, 1);
    }
    cluster.clear_filter();
    ticks_with_progress(&mut cluster, 20);
    add_learner(&mut cluster, 3, Purpose::Balance);
    ticks_with_progress(&mut cluster, 20);
    add_learner(&mut cluster, 2, Purpose::Repair);
    ticks_with_progress(&mut cluster, 20);
    // The regions in the order in which the third store let them in.
    let order = |cluster: &Cluster| {
        let region = |transfer: &Transfer| match transfer {
            Transfer::Incoming { region, .. } | Transfer::Outgoing { region, .. } => region.0,
        };
        let begun = &cluster.nodes[&s(3)].begun;
        begun.iter().map(region).collect::<Vec<_>>()
    };
    assert_eq!(order(&cluster), [4], "the others wait");

    give_back(&mut cluster, s(3), first);
    cluster.until("all have arrived", |cluster| {
        cluster.local_get(3, "a39").is_some() && (2..=4).all(|id| cluster.owns(3, r(id)))
    });
    assert_eq!(order(&cluster), [4, 2, 3, 1]);
}

/// Who waited in front of another and asks no more holds it up no longer.
#[test]
fn a_sender_that_is_gone_holds_nobody_up() {
    let options = Options {
        snapshot_slots: 1,
        ..options()
    };
    let regions = [
        region(1, "", "b", &[1, 2]),
        region(2, "b", "c", &[1, 2]),
        region(3, "c", "", &[2, 4]),
    ];
    let mut cluster = Cluster::with(4, &regions, options, Default::default());
    for (id, leader) in [(1, 1), (2, 1), (3, 2)] {
        cluster.elect_at(r(id), leader);
    }
    add_learner(&mut cluster, 1, Purpose::Balance);
    let _held = held_task(&mut cluster, s(1), is_send);
    add_learner(&mut cluster, 2, Purpose::Repair);
    ticks_with_progress(&mut cluster, 20);
    let learner = proto::metapb::Peer {
        id: 33,
        store_id: 3,
        role: proto::metapb::PeerRole::Learner as i32,
        is_witness: false,
    };
    cluster
        .order(r(3), OrderKind::AddLearner(learner))
        .expect("it is added");
    ticks_with_progress(&mut cluster, 20);
    assert_eq!(incoming(&cluster).len(), 1, "the others wait");
    cluster.hold_task = None;
    cluster.crash(s(1), KILL);
    cluster.until("it arrives", |cluster| cluster.owns(3, r(3)));
}

/// The receiver's share comes with its grant, divided by the slots in use, and a sender goes no faster than its own. Both may
/// change while the snapshot is on its way.
#[test]
fn a_grant_says_how_fast() {
    const MIB: u64 = 1 << 20;
    let dial = |balance, repair| {
        Event::Dial(Dial {
            balance_bytes: balance * MIB,
            repair_bytes: repair * MIB,
        })
    };
    let regions = [region(1, "", "b", &[1, 2]), region(2, "b", "", &[1, 2])];
    let mut cluster = Cluster::new(3, &regions);
    for id in [1, 2] {
        cluster.elect_at(r(id), 1);
    }
    cluster.step(s(1), dial(100, 200));
    cluster.step(s(3), dial(30, 80));
    cluster.hold_tasks.insert(s(1));
    let paces = |cluster: &Cluster| {
        let node = &cluster.nodes[&s(1)];
        let pace = |transfer: &Transfer| node.paces[transfer] / MIB;
        node.transfers.iter().map(pace).collect::<Vec<_>>()
    };
    add_learner(&mut cluster, 1, Purpose::Balance);
    ticks_with_progress(&mut cluster, 5);
    assert_eq!(paces(&cluster), [30]);
    add_learner(&mut cluster, 2, Purpose::Repair);
    ticks_with_progress(&mut cluster, 5);
    assert_eq!(paces(&cluster), [15, 40], "each has half of its share");

    cluster.step(s(3), dial(10, 80));
    ticks_with_progress(&mut cluster, 5);
    assert_eq!(paces(&cluster), [5, 40], "the receiver's dial was turned");
    cluster.step(s(1), dial(100, 8));
    ticks_with_progress(&mut cluster, 5);
    assert_eq!(paces(&cluster), [5, 4], "the sender's was");
    // Built, and under way.
    cluster.hold_tasks.clear();
    cluster.hold_task = Some((s(1), is_send));
    ticks_with_progress(&mut cluster, 5);
    cluster.step(s(3), dial(20, 80));
    ticks_with_progress(&mut cluster, 5);
    assert_eq!(paces(&cluster), [10, 4], "turned again");
    cluster.hold_task = None;
    cluster.until("both arrive", |cluster| {
        cluster.owns(3, r(1)) && cluster.owns(3, r(2))
    });
}

/// Tells store 3 that a store offers a snapshot of region 1 to its peer 13.
fn offer(cluster: &mut Cluster, from: u64, reason: wire::SnapshotReason) {
    let offer = wire::SnapshotOffer {
        region: Some(region(1, "", "", &[1, 2, 3])),
        from_peer: 10 + from,
        to_peer: 13,
        from_store: from,
        term: 6,
        index: 50,
        reason: reason as i32,
        ..Default::default()
    };
    let frame = wire::Frame {
        offers: vec![offer],
        ..Default::default()
    };
    cluster.step(
        s(3),
        Event::Frame {
            from: s(from),
            frame,
        },
    );
}

/// A region takes one slot at the most, so the one that an earlier leader has is free for the next.
#[test]
fn the_slot_of_a_region_is_free_for_its_next_leader() {
    let options = Options {
        snapshot_slots: 1,
        ..options()
    };
    let mut cluster = Cluster::with(3, &[], options, Default::default());
    offer(&mut cluster, 1, wire::SnapshotReason::Move);
    let first = incoming(&cluster);
    assert_eq!(first.len(), 1);
    offer(&mut cluster, 2, wire::SnapshotReason::Move);
    let second = incoming(&cluster);
    assert_eq!(second.len(), 1);
    assert_ne!(first, second);
}

/// A learner that was moved may be wanted for repair by now, and goes as fast from then on.
#[test]
fn a_slot_has_the_reason_that_was_given_last() {
    let mut cluster = Cluster::new(3, &[]);
    let rates = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&rates);
    cluster.filter(move |_, _, frame| {
        for answer in &frame.answers {
            if let Some(wire::snapshot_answer::Kind::Grant(grant)) = &answer.kind {
                seen.borrow_mut().push(grant.rate);
            }
        }
    });
    let Dial {
        balance_bytes,
        repair_bytes,
    } = cluster.options.dial;
    for reason in [wire::SnapshotReason::Move, wire::SnapshotReason::Repair] {
        offer(&mut cluster, 1, reason);
        cluster.settle();
    }
    assert_eq!(rates.take(), [balance_bytes, repair_bytes]);
}

/// What a learner is for is known to the leader that was told, as long as it leads; later nobody can say whether that still holds.
#[test]
fn a_leader_forgets_what_learners_are_for() {
    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1, 2])]);
    cluster.elect_at(r(1), 1);
    cluster.hold_tasks.insert(s(1));
    cluster.hold_tasks.insert(s(2));
    add_learner(&mut cluster, 1, Purpose::Repair);
    ticks_with_progress(&mut cluster, 5);
    let pace = |cluster: &Cluster| {
        let node = &cluster.nodes[&s(1)];
        let paces = node.transfers.iter().map(|transfer| node.paces[transfer]);
        paces.collect::<Vec<_>>()
    };
    let dial = cluster.options.dial;
    assert_eq!(pace(&cluster), [dial.repair_bytes]);
    cluster.elect_at(r(1), 2);
    cluster.elect_at(r(1), 1);
    cluster.until("it is offered again", |cluster| !pace(cluster).is_empty());
    assert_eq!(pace(&cluster), [dial.balance_bytes]);
}

/// What a learner was ordered for an earlier leader knew. Beside a member that is down it is for repair.
#[test]
fn a_learner_beside_a_dead_member_is_for_repair() {
    const MIB: u64 = 1 << 20;
    let mut cluster = Cluster::new(4, &[region(1, "", "", &[1, 2, 4])]);
    cluster.elect_at(r(1), 1);
    for store in [1, 3] {
        let dial = Dial {
            balance_bytes: 30 * MIB,
            repair_bytes: 80 * MIB,
        };
        cluster.step(s(store), Event::Dial(dial));
    }
    cluster.crash(s(4), KILL);
    cluster.ticks(cluster.options.down_ticks as usize + 100);
    cluster.hold_tasks.insert(s(1));
    add_learner(&mut cluster, 1, Purpose::Balance);
    ticks_with_progress(&mut cluster, 5);
    let paces: Vec<_> = cluster.nodes[&s(1)].paces.values().collect();
    assert_eq!(paces, [&(80 * MIB)]);
}

/// Two builds for the same slot have files of their own, and one that finds a file of its name there takes nothing for
/// damage and removes nothing.
#[test]
fn builds_do_not_meet() {
    let mut cluster = one_behind();
    let build = held_task(&mut cluster, s(1), is_build);
    let engine = cluster.nodes[&s(1)].engine.clone();
    let run = |task: &Task| match task::run(&engine, task.clone(), &mut || true) {
        Ok(Some(TaskDone::SnapshotBuilt { head, .. })) => head,
        other => panic!("{other:?}"),
    };
    let first = run(&build).expect("it is built");
    assert_eq!(run(&build), None, "its files are there");
    let staged = engine.stage_list().expect("a list");
    assert_eq!(staged.len(), first.files.len());
    let mut again = build.clone();
    let Task::BuildSnapshot { build: number, .. } = &mut again else {
        panic!("{again:?}")
    };
    *number += 1;
    let second = run(&again).expect("it is built");
    assert_ne!(second.files[0].name, first.files[0].name);
    assert_eq!(second.slot, first.slot);
}

/// A store builds and streams no more snapshots at a time than it has threads for.
#[test]
fn sends_are_limited() {
    let options = Options {
        snapshot_sends: 1,
        ..options()
    };
    let regions: Vec<_> = (1..=4u64)
        .map(|id| {
            let bound = |id: u64| match id {
                0 | 4 => String::new(),
                id => id.to_string(),
            };
            region(id, &bound(id - 1), &bound(id), &[1, 2, 3])
        })
        .collect();
    let mut cluster = Cluster::with(5, &regions, options, Default::default());
    for id in 1..=4 {
        cluster.elect_at(r(id), 1);
    }
    cluster.hold_tasks.insert(s(1));
    for id in 1..=4 {
        let learner = proto::metapb::Peer {
            id: id * 10 + 4,
            store_id: 4 + id % 2,
            role: proto::metapb::PeerRole::Learner as i32,
            is_witness: false,
        };
        cluster
            .order(r(id), OrderKind::AddLearner(learner))
            .expect("it is added");
    }
    cluster.ticks(30);
    assert_eq!(of(&cluster, 1).len(), 1);
    cluster.hold_tasks.clear();
    cluster.until("all arrive in the end", |cluster| {
        (1..=4).all(|id| cluster.owns(4 + id % 2, r(id)))
    });
}

/// A removal that a stop interrupted after its tombstone, whose range another region took meanwhile: what the other holds
/// stays, and the tombstone keeps its epoch, by which it answers late messages.
#[test]
fn a_resumed_removal_keeps_the_tombstone() {
    let engine = MemoryEngine::new();
    identity::create(&engine, 7, s(1), 1).expect("the engine is empty");
    identity::bootstrap(&engine, &[region(1, "", "", &[1])]).expect("nothing is there");
    identity::bump_boot(&engine).expect("it is there");
    let dead = region(5, "a", "b", &[1, 2]);
    let tombstone = wire::RegionState {
        state: wire::region_state::State::Tombstone as i32,
        region: Some(dead.clone()),
        peer_id: 51,
        reason: "removed by its own log".to_owned(),
        ..Default::default()
    };
    let raft = wire::RaftState {
        term: 3,
        peer_id: 51,
        ..Default::default()
    };
    let write = |family, key: &[u8], value: Bytes| {
        let changes = vec![Change::Put(Bytes::copy_from_slice(key), value)];
        engine
            .write(Batch { family, changes }, Logging::On)
            .expect("it writes");
    };
    let record = store::codec::encode_record(&tombstone);
    write(Family::State, &keys::region_state(r(5)), record);
    let record = store::codec::encode_record(&raft);
    write(Family::Log, &keys::raft_state(r(5)), record);
    let value = store::value::encode(b"x", 0);
    write(Family::State, &keys::data(b"aa"), value);

    let mut store = Store::open(engine.clone(), options()).expect("it opens");
    loop {
        let effects = store.take_effects();
        assert!(effects.failure.is_none());
        if effects.log.is_none() && effects.tasks.is_empty() {
            break;
        }
        if let Some(log) = effects.log {
            engine.write(log.batch, Logging::On).expect("it writes");
            store.step(Event::LogWritten(log.sequence));
        }
        for task in effects.tasks {
            let done = task::run(&engine, task, &mut || true).expect("it runs");
            done.into_iter()
                .for_each(|done| store.step(Event::TaskDone(done)));
        }
    }
    let get = |family, key: &[u8]| engine.get(family, key).expect("readable");
    assert_eq!(
        get(Family::Log, &keys::raft_state(r(5))),
        None,
        "it is gone"
    );
    assert!(get(Family::State, &keys::data(b"aa")).is_some());
    let kept = get(Family::State, &keys::region_state(r(5))).expect("a tombstone");
    let kept: wire::RegionState = store::codec::decode_record(&kept).expect("a record");
    assert_eq!(kept.region, Some(dead));
}

/// A build that meets damaged data costs the peer its leadership and nothing else: another leads, and sends the snapshot.
/// The damaged peer goes on applying what is written, and sends no snapshot while it leads for lack of another.
#[test]
fn damaged_data_costs_the_peer_its_leadership() {
    let mut cluster = one_behind();
    let build = held_task(&mut cluster, s(1), is_build);
    let engine = cluster.nodes[&s(1)].engine.clone();
    let key = keys::region_state(r(1));
    let good = engine
        .get(Family::State, &key)
        .expect("readable")
        .expect("there");
    let set = |value: Bytes| {
        let changes = vec![Change::Put(Bytes::copy_from_slice(&key), value)];
        let family = Family::State;
        engine
            .write(Batch { family, changes }, Logging::On)
            .expect("it writes");
    };
    set(Bytes::from_static(b"rot"));
    let found = task::run(&engine, build, &mut || true).expect("damage does not end the store");
    assert!(matches!(
        found,
        Some(TaskDone::Damaged { region, .. }) if region == r(1)
    ));
    set(good);
    // Nobody else can lead: the peer stays what it is, but does not try to send from damaged data again.
    cluster.isolate(s(2));
    cluster.step(s(1), Event::TaskDone(found.expect("it tells")));
    cluster.ticks(5);
    assert_eq!(of(&cluster, 1), []);
    assert_eq!(cluster.leader(r(1)), Some(s(1)));
    cluster.heal();
    cluster.hold_task = None;
    cluster.until("the healthy one leads", |cluster| {
        cluster.leader(r(1)) == Some(s(2))
    });
    cluster.until("it sent the snapshot", |cluster| {
        cluster.local_get(3, "k39").is_some()
    });
    cluster.put(r(1), "after", "x");
    cluster.ticks(5);
    assert_eq!(cluster.local_get(1, "after").as_deref(), Some("x"));
    // Chosen by its group or by an operator, it hands over again.
    cluster
        .order(r(1), OrderKind::TransferLeader(raft::PeerId(11)))
        .expect("it is asked for");
    cluster.until("it led", |cluster| cluster.leader(r(1)) == Some(s(1)));
    cluster.until("it leads no more", |cluster| {
        cluster.leader(r(1)).is_some_and(|leader| leader != s(1))
    });
}

/// R16: what is installed is looked at by the task itself, right before it is taken in.
#[test]
fn an_install_takes_no_keys_of_others_in() {
    let mut cluster = one_behind();
    let install = held_task(&mut cluster, s(3), is_install);
    let Task::InstallSnapshot {
        mut head,
        clear,
        tombstones,
    } = install
    else {
        panic!("an install");
    };
    // The file holds k0 to k9 and more; the region that it is said to be of ends before.
    let narrow = head.region.as_mut().expect("a region");
    narrow.end_key = Bytes::from_static(b"k5");
    let task = Task::InstallSnapshot {
        head: head.clone(),
        clear: clear.clone(),
        tombstones,
    };
    let engine = cluster.nodes[&s(3)].engine.clone();
    let before = engine.sequence();
    let done = task::run(&engine, task, &mut || true).expect("the store goes on");
    assert!(matches!(done, Some(TaskDone::SnapshotUnusable { .. })));
    assert_eq!(engine.sequence(), before, "nothing was changed");
}
