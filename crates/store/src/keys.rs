//! The layout of keys on disk (STORAGE §1). Numbers are big-endian, so keys sort as regions and indexes do.

use bytes::{BufMut, Bytes, BytesMut};
use proto::RegionId;
use raft::Index;

const ENTRY: u8 = 0x01;
const RAFT_STATE: u8 = 0x02;
const PEER_MARK: u8 = 0x03;

const REGION_STATE: u8 = 0x01;
const APPLIED_STATE: u8 = 0x02;
const DATA: u8 = 0x10;

/// Raft tier: identity, format and boot counter of the store. No region has the id that the first eight bytes spell.
pub const IDENTITY: &[u8] = &[0xFF; 9];

/// A key of the raft tier that belongs to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKey {
    /// An entry.
    Entry(RegionId, Index),
    /// Hard state and compacted position.
    RaftState(RegionId),
    /// Highest peer id, and a snapshot past its point of no return.
    PeerMark(RegionId),
}

impl LogKey {
    /// Reads a key; `None` for the identity and for what no version of this layout writes.
    pub fn parse(key: &[u8]) -> Option<LogKey> {
        let (region, rest) = key.split_first_chunk::<8>()?;
        let region = RegionId(u64::from_be_bytes(*region));
        match rest {
            [ENTRY, index @ ..] => Some(LogKey::Entry(
                region,
                u64::from_be_bytes(index.try_into().ok()?),
            )),
            [RAFT_STATE] => Some(LogKey::RaftState(region)),
            [PEER_MARK] => Some(LogKey::PeerMark(region)),
            _ => None,
        }
    }
}

/// Raft tier: an entry of the log.
pub fn entry(region: RegionId, index: Index) -> [u8; 17] {
    let mut key = [0; 17];
    key[..8].copy_from_slice(&region.0.to_be_bytes());
    key[8] = ENTRY;
    key[9..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Raft tier: hard state and compacted position. Sorts right after the region's entries.
pub fn raft_state(region: RegionId) -> [u8; 9] {
    of_region_first(region, RAFT_STATE)
}

/// Raft tier: the peer mark.
pub fn peer_mark(region: RegionId) -> [u8; 9] {
    of_region_first(region, PEER_MARK)
}

/// Apply tier: descriptor or tombstone.
pub fn region_state(region: RegionId) -> [u8; 9] {
    of_kind_first(REGION_STATE, region)
}

/// Apply tier: applied position and sizes.
pub fn applied_state(region: RegionId) -> [u8; 9] {
    of_kind_first(APPLIED_STATE, region)
}

/// The region whose state is at a key of the apply tier.
pub fn parse_region_state(key: &[u8]) -> Option<RegionId> {
    match key.split_first_chunk::<1>()? {
        ([REGION_STATE], region) => Some(RegionId(u64::from_be_bytes(region.try_into().ok()?))),
        _ => None,
    }
}

/// Bounds of all region states, half-open.
pub fn region_states() -> ([u8; 1], [u8; 1]) {
    ([REGION_STATE], [REGION_STATE + 1])
}

/// Apply tier: users' keys are at and above this one, all else below it.
pub const FIRST_DATA: &[u8] = &[DATA];

/// Apply tier: a user's key.
pub fn data(key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(key.len() + 1);
    bytes.put_u8(DATA);
    bytes.put_slice(key);
    bytes.freeze()
}

/// Apply tier: the exclusive end of a range of users' keys; the empty key stands for the end of all keys.
pub fn data_end(end: &[u8]) -> Bytes {
    if end.is_empty() {
        Bytes::from_static(&[DATA + 1])
    } else {
        data(end)
    }
}

/// The user's key in a data key.
pub fn user_key(key: &[u8]) -> Option<&[u8]> {
    match key.split_first()? {
        (&DATA, user) => Some(user),
        _ => None,
    }
}

fn of_region_first(region: RegionId, kind: u8) -> [u8; 9] {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&region.0.to_be_bytes());
    key[8] = kind;
    key
}

fn of_kind_first(kind: u8, region: RegionId) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = kind;
    key[1..].copy_from_slice(&region.0.to_be_bytes());
    key
}

/// Whether `key` lies in `[start, end)`, where an empty end is the end of all keys.
pub fn contains(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    key >= start && (end.is_empty() || key < end)
}

/// Whether `[start, end)` and `[other_start, other_end)` share a key; empty ends are the end of all keys.
pub fn overlap(start: &[u8], end: &[u8], other_start: &[u8], other_end: &[u8]) -> bool {
    (other_end.is_empty() || start < other_end) && (end.is_empty() || other_start < end)
}

/// Whether `[start, end)` holds all of `[inner_start, inner_end)`; empty ends are the end of all keys.
pub fn covers(start: &[u8], end: &[u8], inner_start: &[u8], inner_end: &[u8]) -> bool {
    inner_start >= start && (end.is_empty() || (!inner_end.is_empty() && inner_end <= end))
}
