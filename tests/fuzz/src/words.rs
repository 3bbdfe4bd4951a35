//! Messages and records of small numbers, as inputs spell them: what is numbered from the same few numbers meets.

use ::store::codec;
use bytes::Bytes;
use proto::metapb;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::operation::Kind;

use crate::Input;

/// Ids of peers, regions and the like: few.
pub fn id(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        255 => input.number(),
        small => u64::from(small % 16),
    }
}

/// Some of what the input holds next, at most so many.
pub fn several<'a, T>(
    input: &mut Input<'a>,
    count_max: usize,
    mut one: impl FnMut(&mut Input<'a>) -> T,
) -> Vec<T> {
    let count = input.pick(count_max + 1);
    (0..count).map(|_| one(input)).collect()
}

/// A key of few letters, which sorts among a dozen others.
pub fn key(input: &mut Input<'_>) -> Bytes {
    match input.byte() {
        0..=15 => Bytes::new(),
        255 => Bytes::copy_from_slice(input.bytes()),
        letter => Bytes::copy_from_slice(&[b'a' + letter % 16]),
    }
}

pub fn epoch(input: &mut Input<'_>) -> metapb::RegionEpoch {
    metapb::RegionEpoch {
        conf_ver: input.number(),
        version: input.number(),
    }
}

pub fn peer(input: &mut Input<'_>) -> metapb::Peer {
    metapb::Peer {
        id: id(input),
        store_id: u64::from(input.byte() % 5),
        role: i32::from(input.byte() % 6),
        is_witness: false,
    }
}

pub fn region(input: &mut Input<'_>) -> metapb::Region {
    metapb::Region {
        id: id(input),
        start_key: key(input),
        end_key: key(input),
        region_epoch: (input.byte() != 255).then(|| epoch(input)),
        peers: several(input, 5, peer),
        ..Default::default()
    }
}

pub fn freeze(input: &mut Input<'_>) -> wire::Freeze {
    wire::Freeze {
        term: input.number(),
        index: input.number(),
        target: input.flag().then(|| region(input)),
        witness_key: key(input),
    }
}

pub fn record(input: &mut Input<'_>) -> wire::MergeRecord {
    wire::MergeRecord {
        source: input.flag().then(|| region(input)),
        freeze_index: input.number(),
        absorber: input.flag().then(|| region(input)),
        version: input.number(),
    }
}

pub fn digest(input: &mut Input<'_>) -> wire::Digest {
    wire::Digest {
        since: input.number(),
        value: input.number(),
    }
}

pub fn merge_id(input: &mut Input<'_>) -> wire::MergeId {
    wire::MergeId {
        source_id: id(input),
        freeze_index: input.number(),
    }
}

pub fn change(input: &mut Input<'_>) -> wire::MembershipChange {
    wire::MembershipChange {
        kind: i32::from(input.byte() % 5),
        peer: id(input),
        promote: several(input, 3, id),
        demote: several(input, 3, id),
    }
}

pub fn operation(input: &mut Input<'_>) -> wire::Operation {
    let kind = match input.pick(5) {
        0 => Some(Kind::Put(wire::Put {
            key: key(input),
            value: Bytes::copy_from_slice(input.bytes()),
            expires_at: input.number(),
        })),
        1 => Some(Kind::Delete(wire::Delete { key: key(input) })),
        2 => Some(Kind::DeleteRange(wire::DeleteRange {
            start_key: key(input),
            end_key: key(input),
        })),
        3 => Some(Kind::CompareAndSwap(wire::CompareAndSwap {
            key: key(input),
            value: key(input),
            expires_at: input.number(),
            previous: input.flag().then(|| key(input)),
            now: input.number(),
        })),
        _ => None,
    };
    wire::Operation { kind }
}

fn structural(input: &mut Input<'_>) -> Option<wire::command::Structural> {
    use wire::command::Structural;
    Some(match input.pick(8) {
        0 => Structural::Split(wire::Split {
            keys: several(input, 3, key),
            children: several(input, 3, |input| wire::SplitChild {
                region_id: id(input),
                peer_ids: several(input, 4, id),
                first_leader: id(input),
            }),
            operator_id: 0,
        }),
        1 => Structural::ChangePeers(wire::ChangePeers {
            change: input.flag().then(|| change(input)),
            store_id: id(input),
            operator_id: 0,
        }),
        2 => Structural::PrepareMerge(wire::PrepareMerge {
            target: input.flag().then(|| region(input)),
            operator_id: 0,
        }),
        3 => Structural::CommitMerge(wire::CommitMerge {
            sources: several(input, 2, |input| wire::MergeSource {
                region: input.flag().then(|| region(input)),
                freeze_term: input.number(),
                freeze_index: input.number(),
                digest: input.flag().then(|| digest(input)),
            }),
        }),
        4 => Structural::AbortMerge(wire::AbortMerge {
            merge: input.flag().then(|| merge_id(input)),
        }),
        5 => Structural::RollbackMerge(wire::RollbackMerge {
            merge: input.flag().then(|| merge_id(input)),
        }),
        6 => Structural::DropRecord(wire::DropRecord {
            merge: input.flag().then(|| merge_id(input)),
        }),
        _ => return None,
    })
}

pub fn command(input: &mut Input<'_>) -> wire::Command {
    let operations = several(input, 4, operation);
    wire::Command {
        region_id: id(input),
        epoch: (input.byte() != 255).then(|| epoch(input)),
        request_operations: match input.byte() {
            255 => several(input, 4, |input| u32::from(input.byte())),
            _ => vec![1; operations.len()],
        },
        operations,
        structural: structural(input),
        verify: (input.byte() == 255).then_some(wire::VerifyData {}),
    }
}

/// A log entry with the payload that its kind wants, sealed; or with another.
pub fn entry(input: &mut Input<'_>, term: u64, index: u64) -> wire::Entry {
    let kind = i32::from(input.byte() % 5);
    let payload = match input.byte() {
        0..=31 => Bytes::new(),
        255 => Bytes::copy_from_slice(input.bytes()),
        _ => codec::seal(&command(input)),
    };
    let seal = payload.first_chunk::<4>().copied();
    wire::Entry {
        term,
        index,
        kind,
        payload,
        change: (kind == wire::entry::Kind::Membership as i32).then(|| change(input)),
        crc32c: seal.map_or(0, u32::from_be_bytes),
    }
}

pub fn head(input: &mut Input<'_>) -> wire::SnapshotHead {
    wire::SnapshotHead {
        slot: input.number(),
        from_peer: id(input),
        to_peer: id(input),
        from_store: u64::from(input.byte() % 5),
        leader_term: input.number(),
        term: input.number(),
        index: input.number(),
        region: (input.byte() != 255).then(|| region(input)),
        files: several(input, 2, |input| wire::SnapshotFile {
            name: format!("file-{}", input.byte() % 4),
            bytes: input.number(),
            keys: input.number(),
            crc32c: u32::from(input.byte()),
        }),
        freeze: (input.byte() % 4 == 3).then(|| freeze(input)),
        records: several(input, 2, record),
        digest: input.flag().then(|| digest(input)),
    }
}
