//! What the commands of a merge do to an apply tier (REGIONS §5), entry by entry, without a store around it.

use bytes::Bytes;
use engine::{Engine, Family, MemoryEngine};
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::command::Structural;
use proto::{RegionId, metapb};
use raft::{Entry, Payload, PeerId};
use store::apply::Applier;
use store::event::{Applied, ApplyTask, RequestId, Waiting};
use store::{codec, identity, keys};

use crate::harness::{put, r, region, s};

/// A source `[a, m)`, region 1, and a target `[m, z)`, region 2, on store 1 of three.
struct Bench {
    engine: MemoryEngine,
    applier: Applier<MemoryEngine>,
    bug: Option<store::Bug>,
    next: [u64; 4],
}

impl Bench {
    fn new() -> Bench {
        let engine = MemoryEngine::default();
        identity::create(&engine, 7, s(1), 1).expect("the engine is empty");
        let regions = [
            region(1, "a", "m", &[1, 2, 3]),
            region(2, "m", "z", &[1, 2, 3]),
            region(3, "z", "", &[1, 2, 3]),
        ];
        identity::bootstrap(&engine, &regions).expect("nothing is there yet");
        let mut bench = Bench {
            applier: Applier::new(engine.clone(), &store::Options::default()),
            engine,
            bug: None,
            next: [0, 2, 2, 2],
        };
        bench.reopen();
        bench
    }

    /// As after a restart.
    fn reopen(&mut self) {
        let options = store::Options {
            bug: self.bug,
            ..Default::default()
        };
        self.applier = Applier::new(self.engine.clone(), &options);
        let open = (1..=3).map(|id| ApplyTask::Open(r(id))).collect();
        self.applier.run(open).expect("the regions are here");
    }

    fn state(&self, id: u64) -> wire::RegionState {
        let bytes = self.engine.get(Family::State, &keys::region_state(r(id)));
        let bytes = bytes.expect("the engine reads").expect("a state");
        codec::decode_record(&bytes).expect("a good state")
    }

    fn applied(&self, id: u64) -> Option<wire::AppliedState> {
        let bytes = self.engine.get(Family::State, &keys::applied_state(r(id)));
        codec::decode_record(&bytes.expect("the engine reads")?)
    }

    fn descriptor(&self, id: u64) -> metapb::Region {
        self.state(id).region.expect("a descriptor")
    }

    fn version(&self, id: u64) -> u64 {
        self.descriptor(id).region_epoch.expect("an epoch").version
    }

    fn try_apply(
        &mut self,
        id: u64,
        payload: Payload,
        waits: bool,
    ) -> Result<Applied, engine::Error> {
        let index = self.next[id as usize];
        self.next[id as usize] += 1;
        let entry = Entry {
            term: 5,
            index,
            payload,
        };
        let waiting = Waiting {
            index,
            requests: vec![(RequestId(9), 1)],
        };
        let task = ApplyTask::Entries {
            region: r(id),
            peer: PeerId(id * 10 + 1),
            entries: vec![entry],
            waiting: if waits { vec![waiting] } else { Vec::new() },
        };
        let mut applied = self.applier.run(vec![task])?;
        Ok(applied.pop().expect("one region"))
    }

    /// Applies a structural command made for the present epoch of the region, or for another.
    fn command(&mut self, id: u64, epoch: metapb::RegionEpoch, structural: Structural) -> Applied {
        let command = wire::Command {
            region_id: id,
            epoch: Some(epoch),
            structural: Some(structural),
            ..Default::default()
        };
        let payload = Payload::Structural(codec::seal(&command));
        self.try_apply(id, payload, false).expect("applying works")
    }

    fn now(&mut self, id: u64, structural: Structural) -> Applied {
        let epoch = self.descriptor(id).region_epoch.expect("an epoch");
        self.command(id, epoch, structural)
    }

    /// Whether a write has its effect; else whether the region was frozen.
    fn write(&mut self, id: u64, key: &str) -> Result<(), bool> {
        let command = wire::Command {
            region_id: id,
            epoch: self.descriptor(id).region_epoch,
            operations: vec![put(key, "value")],
            request_operations: vec![1],
            ..Default::default()
        };
        let payload = Payload::Command(codec::seal(&command));
        let applied = self.try_apply(id, payload, true).expect("applying works");
        match applied.misrouted.first() {
            Some(misrouted) => {
                assert!(applied.answers.is_empty(), "the store answers it");
                assert_eq!(misrouted.target.region, r(id));
                Err(misrouted.frozen)
            }
            None => {
                assert!(applied.answers[0].1.is_ok());
                Ok(())
            }
        }
    }

    fn holds(&self, key: &str) -> bool {
        let bytes = self.engine.get(Family::State, &keys::data(key.as_bytes()));
        bytes.expect("the engine reads").is_some()
    }

    /// Freezes region `source` for `target`; the index of the freeze.
    fn freeze(&mut self, source: u64, target: u64) -> u64 {
        let index = self.next[source as usize];
        let target = Some(self.descriptor(target));
        let operator_id = 0;
        self.now(
            source,
            Structural::PrepareMerge(wire::PrepareMerge {
                target,
                operator_id,
            }),
        );
        index
    }

    /// The commit of what `source` froze for, as it stands there.
    fn commit_of(&self, source: u64) -> Structural {
        let freeze = self.state(source).freeze.expect("it is frozen");
        Structural::CommitMerge(wire::CommitMerge {
            sources: vec![wire::MergeSource {
                region: Some(self.descriptor(source)),
                freeze_term: freeze.term,
                freeze_index: freeze.index,
                digest: self.applied(source).expect("it lives").digest,
            }],
        })
    }
}

fn merge_id(source: u64, freeze_index: u64) -> Option<wire::MergeId> {
    Some(wire::MergeId {
        source_id: source,
        freeze_index,
    })
}

fn rollback(source: u64, freeze_index: u64) -> Structural {
    Structural::RollbackMerge(wire::RollbackMerge {
        merge: merge_id(source, freeze_index),
    })
}

fn abort(source: u64, freeze_index: u64) -> Structural {
    Structural::AbortMerge(wire::AbortMerge {
        merge: merge_id(source, freeze_index),
    })
}

fn drop_record(source: u64, freeze_index: u64) -> Structural {
    Structural::DropRecord(wire::DropRecord {
        merge: merge_id(source, freeze_index),
    })
}

fn split(key: &str, child: u64) -> Structural {
    Structural::Split(wire::Split {
        keys: vec![Bytes::copy_from_slice(key.as_bytes())],
        children: vec![wire::SplitChild {
            region_id: child,
            peer_ids: vec![child * 10 + 1, child * 10 + 2, child * 10 + 3],
            first_leader: child * 10 + 1,
        }],
        operator_id: 0,
    })
}

/// R18: a split has its effect at the epoch that it was made for, whatever the log says before it: not a second time, and not
/// before a change that its proposer saw.
#[test]
fn a_split_has_its_effect_at_its_own_epoch() {
    for bug in [None, Some(store::Bug::SplitWithoutEpoch)] {
        let mut bench = Bench::new();
        bench.bug = bug;
        bench.reopen();
        let before = bench.descriptor(1).region_epoch.expect("an epoch");
        let applied = bench.command(1, before, split("f", 50));
        let after = bench.descriptor(1).region_epoch.expect("an epoch");
        assert_eq!(after.version, before.version + 1);
        let [child] = &applied.children[..] else {
            panic!("one child, found {:?}", applied.children);
        };
        assert_eq!(
            child.region.region_epoch,
            Some(after),
            "the parent's new one"
        );

        let whole = bench.descriptor(1);
        let to_come = metapb::RegionEpoch {
            version: after.version + 1,
            ..after
        };
        let other_members = metapb::RegionEpoch {
            conf_ver: after.conf_ver + 1,
            ..after
        };
        for (epoch, child) in [(before, 51), (to_come, 52), (other_members, 53)] {
            let applied = bench.command(1, epoch, split("c", child));
            let took = applied.changed.is_some() || !applied.children.is_empty();
            assert_eq!(took, bug.is_some() && child == 51, "for {epoch:?}");
        }
        assert_eq!(bench.descriptor(1) == whole, bug.is_none());
    }
}

/// R21: a frozen source accepts no write; nothing but the rollback of this merge moves it, restarts included.
#[test]
fn a_frozen_source_denies_by_default() {
    let mut bench = Bench::new();
    bench.write(1, "b").expect("it is not frozen yet");
    let freeze = bench.freeze(1, 2);
    assert_eq!(bench.version(1), 2, "freezing moves the version");
    let state = bench.state(1);
    let record = state.freeze.expect("it is frozen");
    assert_eq!((record.term, record.index), (5, freeze));
    assert_eq!(&record.witness_key[..], b"m");

    bench.reopen();
    let own_target = Some(bench.descriptor(2));
    for denied in [
        split("f", 50),
        abort(1, freeze),
        drop_record(1, freeze),
        rollback(1, freeze + 1),
        rollback(2, freeze),
        Structural::PrepareMerge(wire::PrepareMerge {
            target: own_target,
            operator_id: 0,
        }),
    ] {
        let applied = bench.now(1, denied.clone());
        assert!(applied.changed.is_none(), "{denied:?} has an effect");
        assert!(applied.children.is_empty(), "{denied:?} has an effect");
    }
    assert_eq!(bench.write(1, "c"), Err(true));
    assert!(!bench.holds("c"), "a frozen source applied a write");

    bench.now(1, rollback(1, freeze));
    assert_eq!(bench.version(1), 3, "thawing moves the version");
    assert_eq!(bench.state(1).freeze, None);
    bench.write(1, "c").expect("it is thawed");
    // The same again comes too late, like all that was made for the freeze.
    let late = bench.command(
        1,
        metapb::RegionEpoch {
            conf_ver: 1,
            version: 2,
        },
        rollback(1, freeze),
    );
    assert!(late.changed.is_none());
}

/// One batch moves range, epoch, sizes and records, and kills the source; no data moves.
#[test]
fn a_commit_absorbs_in_one_batch() {
    let mut bench = Bench::new();
    bench.write(1, "b").expect("a write of the source");
    bench.write(2, "n").expect("a write of the target");
    let freeze = bench.freeze(1, 2);
    let (source, target) = (bench.applied(1), bench.applied(2));
    let bytes = source.expect("it lives").bytes + target.expect("it lives").bytes;
    let commit = bench.commit_of(1);
    let applied = bench.now(2, commit);
    let absorbed = applied.absorbed.expect("it absorbs");
    assert_eq!((absorbed.region, absorbed.peer), (r(1), PeerId(11)));

    let united = bench.descriptor(2);
    assert_eq!(
        (&united.start_key[..], &united.end_key[..]),
        (&b"a"[..], &b"z"[..])
    );
    // max(2, 1) + 1
    assert_eq!(bench.version(2), 3);
    let dead = bench.state(1);
    assert_eq!(dead.state(), wire::region_state::State::Tombstone);
    assert_eq!(dead.absorber_id, 2);
    assert_eq!(bench.applied(1), None);
    assert_eq!(bench.applied(2).expect("it lives").bytes, bytes);
    let [record] = &bench.state(2).records[..] else {
        panic!("one record, found {:?}", bench.state(2).records);
    };
    assert_eq!((record.freeze_index, record.version), (freeze, 3));
    let absorber = record.absorber.as_ref().expect("an absorber");
    assert_eq!((absorber.id, &absorber.start_key[..]), (2, &b"m"[..]));
    assert_eq!(record.source, dead.region);

    bench.reopen();
    assert!(bench.holds("b"));
    bench
        .write(2, "c")
        .expect("what was the source's is the target's");
}

/// REGIONS §10, 26, as the log sees it: commit and abort are made for the same epoch, the first moves it.
#[test]
fn the_first_decision_wins() {
    for commit_first in [true, false] {
        let mut bench = Bench::new();
        let freeze = bench.freeze(1, 2);
        let epoch = bench.descriptor(2).region_epoch.expect("an epoch");
        let (commit, abort) = (bench.commit_of(1), abort(1, freeze));
        let (first, second) = if commit_first {
            (commit, abort)
        } else {
            (abort, commit)
        };
        bench.command(2, epoch, first);
        let decided = bench.state(2);
        bench.command(2, epoch, second);
        assert_eq!(bench.state(2), decided, "the second had an effect");
        assert_eq!(decided.records.len(), usize::from(commit_first));
        let source = bench.state(1).state();
        let absorbed = source == wire::region_state::State::Tombstone;
        assert_eq!(absorbed, commit_first);
    }
}

/// REGIONS §10, 27: an older freeze of the same source is not this one's. The store waits for the right one; should it
/// hand the commit out all the same, this node must stop rather than take in something else.
#[test]
fn only_the_freeze_of_this_merge_is_absorbed() {
    let mut bench = Bench::new();
    let first = bench.freeze(1, 2);
    let stale = bench.commit_of(1);
    bench.now(1, rollback(1, first));
    bench.freeze(1, 2);
    let Structural::CommitMerge(mut commit) = bench.commit_of(1) else {
        panic!("a commit");
    };
    for wrong in [stale, {
        commit.sources[0].freeze_index += 1;
        Structural::CommitMerge(commit)
    }] {
        let before = bench.state(2);
        let command = wire::Command {
            region_id: 2,
            epoch: bench.descriptor(2).region_epoch,
            structural: Some(wrong),
            ..Default::default()
        };
        let payload = Payload::Structural(codec::seal(&command));
        bench
            .try_apply(2, payload, false)
            .expect_err("the source is not as it froze");
        assert_eq!(bench.state(2), before);
        bench.next[2] -= 1;
        bench.reopen();
    }
}

/// REGIONS §10, 13 and 25, as the log sees them: of two commands made for one epoch the second has no effect, be it a split or a
/// freeze.
#[test]
fn of_two_commands_for_one_epoch_the_first_counts() {
    let prepare = |bench: &Bench| {
        Structural::PrepareMerge(wire::PrepareMerge {
            target: Some(bench.descriptor(2)),
            operator_id: 0,
        })
    };
    for freeze_first in [false, true] {
        for second_splits in [false, true] {
            let mut bench = Bench::new();
            let epoch = bench.descriptor(1).region_epoch.expect("an epoch");
            let first = if freeze_first {
                prepare(&bench)
            } else {
                split("f", 50)
            };
            let second = if second_splits {
                split("c", 60)
            } else {
                prepare(&bench)
            };
            assert!(bench.command(1, epoch, first).changed.is_some());
            let decided = bench.state(1);
            assert_eq!(decided.freeze.is_some(), freeze_first);
            let applied = bench.command(1, epoch, second);
            assert!(applied.changed.is_none() && applied.children.is_empty());
            assert_eq!(bench.state(1), decided, "the second had an effect");
            assert_eq!(bench.applied(60), None);
        }
    }
}

/// Regions that do not touch, or lie on other stores, do not merge: the command has no effect, on every peer alike.
#[test]
fn strangers_do_not_merge() {
    let mut bench = Bench::new();
    let far = region(3, "z", "", &[1, 2, 3]);
    let elsewhere = region(2, "m", "z", &[1, 2, 4]);
    let mut other_roles = bench.descriptor(2);
    other_roles.peers[2].set_role(metapb::PeerRole::Learner);
    for target in [far, elsewhere, other_roles] {
        let applied = bench.now(
            1,
            Structural::PrepareMerge(wire::PrepareMerge {
                target: Some(target.clone()),
                operator_id: 0,
            }),
        );
        assert!(applied.changed.is_none(), "froze for {target:?}");
    }
}

/// Records go to every child of a split and to the absorber, and only a drop of exactly this merge ends them.
#[test]
fn records_are_inherited_until_dropped() {
    let mut bench = Bench::new();
    let first = bench.freeze(1, 2);
    let commit = bench.commit_of(1);
    bench.now(2, commit);
    bench.now(2, split("f", 50));
    for heir in [2, 50] {
        assert_eq!(bench.state(heir).records.len(), 1, "region {heir}");
    }
    assert_eq!(bench.descriptor(50).start_key, Bytes::from_static(b"f"));
    // The child that holds `[f, z)` goes into its right neighbour.
    bench
        .applier
        .run(vec![ApplyTask::Open(RegionId(50))])
        .expect("it is here");
    let target = Some(bench.descriptor(3));
    let command = wire::Command {
        region_id: 50,
        epoch: bench.descriptor(50).region_epoch,
        structural: Some(Structural::PrepareMerge(wire::PrepareMerge {
            target,
            operator_id: 0,
        })),
        ..Default::default()
    };
    let entry = Entry {
        term: 5,
        index: 2,
        payload: Payload::Structural(codec::seal(&command)),
    };
    let task = ApplyTask::Entries {
        region: r(50),
        peer: PeerId(501),
        entries: vec![entry],
        waiting: Vec::new(),
    };
    bench.applier.run(vec![task]).expect("applying works");
    let commit = bench.commit_of(50);
    bench.now(3, commit);
    let sources: Vec<u64> = bench
        .state(3)
        .records
        .iter()
        .map(|record| record.source.as_ref().expect("a source").id)
        .collect();
    assert_eq!(sources, [1, 50]);

    let epoch = bench.version(3);
    assert!(bench.now(3, drop_record(1, first + 1)).changed.is_none());
    bench.now(3, drop_record(1, first));
    assert_eq!(bench.state(3).records.len(), 1);
    assert_eq!(bench.version(3), epoch, "dropping a record moves no epoch");
}

/// A state without merge fields is written as before them; one with them is refused by who does not know of merging.
#[test]
fn older_states_are_read_and_newer_ones_refused() {
    let mut bench = Bench::new();
    let raw = |bench: &Bench, id: u64| {
        let bytes = bench.engine.get(Family::State, &keys::region_state(r(id)));
        bytes.expect("the engine reads").expect("a state")
    };
    assert_eq!(raw(&bench, 1)[0], 0x01);
    let freeze = bench.freeze(1, 2);
    assert_eq!(
        raw(&bench, 1)[0],
        0x02,
        "an older version must not take it for alive"
    );
    bench.now(1, rollback(1, freeze));
    assert_eq!(raw(&bench, 1)[0], 0x01);
    // State, descriptor and peer: all that a version without merging wrote.
    let old = wire::RegionState {
        region: Some(region(1, "a", "m", &[1])),
        peer_id: 11,
        ..Default::default()
    };
    let bytes = codec::encode_record(&old);
    assert_eq!(codec::decode_record::<wire::RegionState>(&bytes), Some(old));
}
