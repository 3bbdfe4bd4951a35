//! What background work reports as done survives a power loss (REGIONS §2, §7).

use engine::{CrashMode, Engine, Family, Fault, Keep, MemoryEngine};
use prost::Message;
use proto::pontoon::v1 as wire;
use raft::PeerId;
use store::event::{Task, TaskDone};
use store::{codec, keys, task};

use crate::harness::*;
use crate::slots::{held_task, is_install, one_behind};

/// Carries a task out and takes the power away: what was not synced is gone.
fn survives(engine: &MemoryEngine, task: Task) -> (TaskDone, MemoryEngine) {
    let done = task::run(engine, task, &mut || true).expect("it runs");
    let left = engine.crash(CrashMode::PowerLoss {
        keep: Keep::Nothing,
    });
    (done.expect("it tells"), left)
}

fn record<R: Message + Default>(engine: &MemoryEngine, key: &[u8]) -> R {
    let stored = engine.get(Family::State, key).expect("readable");
    codec::decode_record(&stored.expect("it is there")).expect("a record")
}

/// And nobody's memory is flushed for it: here a flush would fail.
#[test]
fn a_destroyed_peer_stays_dead() {
    let engine = MemoryEngine::new();
    engine.fail_next(Fault::Flush);
    let tombstone = wire::RegionState {
        state: wire::region_state::State::Tombstone as i32,
        region: Some(region(5, "a", "b", &[1, 2])),
        peer_id: 51,
        ..Default::default()
    };
    let destroy = Task::Destroy {
        region: r(5),
        peer: PeerId(51),
        tombstone: tombstone.clone(),
        merged: Vec::new(),
        clear: Default::default(),
    };
    let (done, left) = survives(&engine, destroy);
    assert!(matches!(done, TaskDone::Destroyed { region, .. } if region == r(5)));
    let kept: wire::RegionState = record(&left, &keys::region_state(r(5)));
    assert_eq!(kept, tombstone);
}

#[test]
fn an_installed_snapshot_stays() {
    let mut cluster = one_behind();
    let install = held_task(&mut cluster, s(3), is_install);
    let engine = cluster.nodes[&s(3)].engine.clone();
    let (done, left) = survives(&engine, install);
    let TaskDone::SnapshotInstalled { region, index, .. } = done else {
        panic!("{done:?}")
    };
    let applied: wire::AppliedState = record(&left, &keys::applied_state(region));
    assert_eq!(applied.index, index);
    let data = left.get(Family::State, &keys::data(b"k39"));
    assert!(data.expect("readable").is_some());
}
