//! Background work, carried out by the driver's pool. Everything here may be repeated after a crash.

use std::ops::Bound;

use bytes::Bytes;
use engine::{Batch, Change, Direction, Engine, Error, Family, Logging, View};
use proto::RegionId;
use proto::pontoon::v1::{
    AppliedState, RaftState, RegionState, SnapshotFile, SnapshotHead, region_state,
};
use raft::{LogPosition, PeerId};

use crate::advance::read_entries;
use crate::apply::BUCKETS_MAX;
use crate::digest::Digest;
use crate::event::{Count, Estimate, StoredData, Sum, Task, TaskDone, VerifyPart};
use crate::snapshot::check_file;
use crate::{codec, keys};

/// Largest file of a snapshot (STORAGE §5).
const FILE_BYTES_MAX: u64 = 32 << 20;
/// Files of a snapshot taken in by one call of the engine.
const FILES_AT_ONCE: usize = 8;

/// Carries out a task. `None` when nothing is to be reported. [`Task::SendSnapshot`] is the driver's own and does nothing here.
///
/// `go_on` is asked after each piece of a snapshot, which is progress, and says whether to go on: not if the snapshot
/// was given up, or the driver stops. An install that does not go on is redone at the next start.
///
/// # Errors
/// What the engine says: the node must stop (R14).
pub fn run<E: Engine>(
    engine: &E,
    task: Task,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<TaskDone>, Error> {
    match task {
        Task::BuildSnapshot {
            region,
            from_peer,
            leader_term,
            to_peer,
            to_store: _,
            slot,
            build,
        } => {
            let wanted = Wanted {
                region,
                from_peer,
                leader_term,
                to_peer,
                slot,
                build,
            };
            match wanted.stage(engine, go_on) {
                Ok(head) => Ok(Some(TaskDone::SnapshotBuilt {
                    region,
                    to_peer,
                    build,
                    head,
                })),
                // Found by reading, so the engine goes on; it costs this peer alone.
                Err(error @ Error::Corrupt { .. }) => Ok(Some(TaskDone::Damaged {
                    region,
                    peer: from_peer,
                    error,
                })),
                Err(error) => Err(error),
            }
        }
        Task::SendSnapshot { .. } => Ok(None),
        Task::InstallSnapshot {
            head,
            clear,
            tombstones,
        } => install(engine, &head, &clear, &tombstones, go_on),
        Task::Destroy {
            region,
            peer,
            tombstone,
            merged,
            clear,
        } => {
            let tombstones = std::iter::once(tombstone).chain(merged);
            destroy(engine, region, peer, tombstones, &clear)?;
            Ok(Some(TaskDone::Destroyed { region, peer }))
        }
        Task::RemoveFiles(names) => {
            engine.stage_remove(&names)?;
            Ok(None)
        }
        Task::FetchEntries(fetch) => {
            let range = fetch.range.clone();
            let entries = read_entries(engine, fetch.region, range, fetch.bytes_max)?;
            Ok(Some(TaskDone::EntriesFetched { fetch, entries }))
        }
        Task::Count {
            region,
            peer,
            part_bytes,
        } => match count(engine, region, peer, part_bytes) {
            Ok(count) => Ok(Some(TaskDone::Counted {
                region,
                peer,
                count,
            })),
            Err(error @ Error::Corrupt { .. }) => Ok(Some(TaskDone::Damaged {
                region,
                peer,
                error,
            })),
            Err(error) => Err(error),
        },
        Task::Verify(part) => match verify(&part) {
            Ok((sum, next)) => Ok(Some(TaskDone::Verified {
                region: part.region,
                peer: part.peer,
                index: part.index,
                sum,
                next,
            })),
            Err(error @ Error::Corrupt { .. }) => Ok(Some(TaskDone::Damaged {
                region: part.region,
                peer: part.peer,
                error,
            })),
            Err(error) => Err(error),
        },
    }
}

/// A snapshot to build.
struct Wanted {
    region: RegionId,
    from_peer: PeerId,
    leader_term: u64,
    to_peer: PeerId,
    slot: u64,
    build: u64,
}

impl Wanted {
    /// Stages a region's data as of one view, with the descriptor and position of the same view. `None` when the peer is
    /// gone, or the snapshot is not wanted any more; then no file is left.
    fn stage<E: Engine>(
        &self,
        engine: &E,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<SnapshotHead>, Error> {
        // It may have waited for its turn for longer than it was wanted.
        if !go_on() {
            return Ok(None);
        }
        let mut files = Vec::new();
        let head = self.stage_files(engine, &mut files, go_on);
        if matches!(head, Ok(Some(_))) {
            return head;
        }
        let names: Vec<String> = files.into_iter().map(|file| file.name).collect();
        engine.stage_remove(&names)?;
        match head {
            // A file of that name is here, and not by this build. It says nothing of the region's data.
            Err(Error::Staging { exists: true, .. }) => Ok(None),
            head => head,
        }
    }

    fn stage_files<E: Engine>(
        &self,
        engine: &E,
        files: &mut Vec<SnapshotFile>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<SnapshotHead>, Error> {
        let Wanted {
            region,
            from_peer,
            leader_term,
            to_peer,
            slot,
            build,
        } = *self;
        let view = engine.view();
        let Some((state, applied)) = state_of(&view, region, from_peer)? else {
            return Ok(None);
        };
        // Its files could hold what is lost, of which a snapshot must not make more.
        if state.damaged {
            return Err(Error::Corrupt {
                what: format!("the data of region {region}"),
                source: None,
            });
        }
        let Some(descriptor) = state.region else {
            return Ok(None);
        };
        let (mut start, end) = (
            keys::data(&descriptor.start_key),
            keys::data_end(&descriptor.end_key),
        );
        loop {
            let name = format!(
                "snapshot-{region}-{to_peer}-{term}-{index}-{leader_term}-{slot}-{build}-{number}.sst",
                term = applied.term,
                index = applied.index,
                number = files.len()
            );
            let (file, next) =
                engine.stage_range(&view, Family::State, &start, &end, FILE_BYTES_MAX, &name)?;
            let Some(file) = file else { break };
            files.push(SnapshotFile {
                name: file.name,
                bytes: file.bytes,
                keys: file.keys,
                crc32c: file.crc32c,
            });
            match next {
                Some(next) => start = next,
                None => break,
            }
            if !go_on() {
                return Ok(None);
            }
        }
        Ok(Some(SnapshotHead {
            slot,
            from_peer: from_peer.0,
            to_peer: to_peer.0,
            from_store: 0,
            leader_term,
            term: applied.term,
            index: applied.index,
            region: Some(descriptor),
            files: std::mem::take(files),
            freeze: state.freeze,
            records: state.records,
            digest: applied.digest,
        }))
    }
}

/// The records of a region in a view; `None` when the peer has no data there.
fn state_of(
    view: &impl View,
    region: RegionId,
    peer: PeerId,
) -> Result<Option<(RegionState, AppliedState)>, Error> {
    let (state_key, applied_key) = (keys::region_state(region), keys::applied_state(region));
    let (Some(state), Some(applied)) = (
        view.get(Family::State, &state_key)?,
        view.get(Family::State, &applied_key)?,
    ) else {
        return Ok(None);
    };
    let (Some(state), Some(applied)) = (
        codec::decode_record::<RegionState>(&state),
        codec::decode_record::<AppliedState>(&applied),
    ) else {
        return Err(Error::Corrupt {
            what: format!("the state of region {region}"),
            source: None,
        });
    };
    let lives = state.state() == region_state::State::Normal && state.peer_id == peer.0;
    Ok(lives.then_some((state, applied)))
}

/// Counts what a region holds in one view, beside what its record in the same view believes.
fn count<E: Engine>(
    engine: &E,
    region: RegionId,
    peer: PeerId,
    part_bytes: u64,
) -> Result<Option<Count>, Error> {
    let view = engine.view();
    let Some((state, applied)) = state_of(&view, region, peer)? else {
        return Ok(None);
    };
    let Some(descriptor) = state.region else {
        return Ok(None);
    };
    let mut count = Count {
        version: descriptor.region_epoch.unwrap_or_default().version,
        index: applied.index,
        believed: Estimate::of(&applied),
        bytes: 0,
        keys: 0,
        edges: vec![(Bytes::new(), 0)],
    };
    let (lower, upper) = (
        keys::data(&descriptor.start_key),
        keys::data_end(&descriptor.end_key),
    );
    view.scan_once(
        Family::State,
        Bound::Included(&lower),
        Bound::Excluded(&upper),
        Direction::Forward,
        &mut |key, value| {
            let bytes = (key.len() + value.len()) as u64;
            count.bytes += bytes;
            count.keys += 1;
            let (parts, part) = (count.edges.len(), count.edges.last_mut());
            let part = part.expect("the first is there");
            match keys::user_key(key) {
                Some(user) if part.1 >= part_bytes && parts < BUCKETS_MAX => {
                    count.edges.push((Bytes::copy_from_slice(user), bytes));
                }
                Some(_) | None => part.1 += bytes,
            }
            true
        },
    )?;
    Ok(Some(count))
}

/// Digests what comes next, as it is stored; with the key to go on from, if any is left.
fn verify(part: &VerifyPart) -> Result<(Sum, Option<Bytes>), Error> {
    let StoredData { view, start, end } = &part.data;
    let (mut sum, mut next) = (part.sum, None);
    view.view().scan_once(
        Family::State,
        Bound::Included(start),
        Bound::Excluded(end),
        Direction::Forward,
        &mut |key, value| {
            let read = sum.bytes - part.sum.bytes;
            if read > 0 && read + (key.len() + value.len()) as u64 > part.bytes_max {
                next = Some(Bytes::copy_from_slice(key));
                return false;
            }
            sum.add(key, value);
            true
        },
    )?;
    Ok((sum, next))
}

/// Replaces what is in the ranges by the files, then writes the region's state, then syncs: only after that may the
/// install mark go (REGIONS §7). `None` when the driver stops meanwhile: the mark makes the next start begin anew.
fn install<E: Engine>(
    engine: &E,
    head: &SnapshotHead,
    clear: &[(Bytes, Bytes)],
    tombstones: &[RegionState],
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<TaskDone>, Error> {
    let descriptor = head.region.clone().unwrap_or_default();
    let (region, peer) = (RegionId(descriptor.id), PeerId(head.to_peer));
    let mut names = Vec::with_capacity(head.files.len());
    let mut estimate = Estimate::default();
    for file in &head.files {
        match engine.stage_finish(&file.name) {
            Ok(staged) if check_file(head, file, &staged).is_ok() => {
                estimate.bytes += staged.content_bytes;
                estimate.keys += staged.keys;
            }
            Ok(_)
            | Err(Error::Staging { .. } | Error::StagingName { .. } | Error::Corrupt { .. }) => {
                return Ok(Some(TaskDone::SnapshotUnusable { region, peer }));
            }
            Err(error) => return Err(error),
        }
        if !go_on() {
            return Ok(None);
        }
        names.push(file.name.clone());
    }
    for (start, end) in clear {
        engine.clear_range(
            Family::State,
            &keys::data(start),
            &keys::data_end(end),
            Logging::On,
        )?;
    }
    // A few at a time: the engine reads each file whole. The mark covers a stop in between.
    for names in names.chunks(FILES_AT_ONCE) {
        match engine.ingest(Family::State, names) {
            Ok(()) => {}
            Err(Error::Corrupt { .. }) => {
                return Ok(Some(TaskDone::SnapshotUnusable { region, peer }));
            }
            Err(error) => return Err(error),
        }
        if !go_on() {
            return Ok(None);
        }
    }
    let state = RegionState {
        state: region_state::State::Normal as i32,
        region: Some(descriptor),
        peer_id: peer.0,
        freeze: head.freeze.clone(),
        records: head.records.clone(),
        ..Default::default()
    };
    let position = LogPosition {
        term: head.term,
        index: head.index,
    };
    let applied = estimate.record(position, head.digest.and_then(Digest::of_wire));
    let mut changes = vec![
        put(&keys::region_state(region), &state),
        put(&keys::applied_state(region), &applied),
    ];
    changes.extend(tombstones.iter().flat_map(bury));
    engine.write(
        Batch {
            family: Family::State,
            changes,
        },
        Logging::On,
    )?;
    engine.sync()?;
    Ok(Some(TaskDone::SnapshotInstalled {
        region,
        peer,
        index: head.index,
        estimate,
    }))
}

/// The order of destroying (REGIONS §2): the tombstone survives a power loss before log and hard state go. The mark stays for
/// ever. Everything here goes through the engine's log, so that a sync is enough, and the engine shares it among all that wait.
fn destroy<E: Engine>(
    engine: &E,
    region: RegionId,
    peer: PeerId,
    tombstones: impl Iterator<Item = RegionState>,
    clear: &[(Bytes, Bytes)],
) -> Result<(), Error> {
    let changes = tombstones.flat_map(|tombstone| bury(&tombstone)).collect();
    engine.write(
        Batch {
            family: Family::State,
            changes,
        },
        Logging::On,
    )?;
    engine.sync()?;
    for (start, end) in clear {
        engine.clear_range(
            Family::State,
            &keys::data(start),
            &keys::data_end(end),
            Logging::On,
        )?;
    }
    let state = engine.get(Family::Log, &keys::raft_state(region))?;
    let state: Option<RaftState> = state.as_ref().and_then(codec::decode_record);
    if state.is_none_or(|state| state.peer_id <= peer.0) {
        let (first, raft_state) = (keys::entry(region, 0), keys::raft_state(region));
        let changes = vec![
            Change::DeleteRange(
                Bytes::copy_from_slice(&first),
                Bytes::copy_from_slice(&raft_state),
            ),
            Change::Delete(Bytes::copy_from_slice(&raft_state)),
        ];
        engine.write(
            Batch {
                family: Family::Log,
                changes,
            },
            Logging::On,
        )?;
    }
    Ok(())
}

/// What makes a peer dead in the apply tier.
fn bury(tombstone: &RegionState) -> [Change; 2] {
    let region = RegionId(tombstone.region.as_ref().map_or(0, |region| region.id));
    let applied_key = Bytes::copy_from_slice(&keys::applied_state(region));
    [
        put(&keys::region_state(region), tombstone),
        Change::Delete(applied_key),
    ]
}

fn put(key: &[u8], record: &impl codec::Record) -> Change {
    Change::Put(Bytes::copy_from_slice(key), codec::encode_record(record))
}
