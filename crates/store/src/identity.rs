//! Who a store is, and its first regions (D11, RELIABILITY R30).
//!
//! The identity is read before anything else and the boot counter is raised and synced before the first message of a
//! start, so that a directory used twice, cloned or restored shows itself.

use bytes::Bytes;
use engine::{Batch, Change, Engine, Family, Logging};
use proto::pontoon::v1::{PeerMark, RaftState, RegionState, StoreIdentity, region_state};
use proto::{RegionId, StoreId, metapb};
use raft::LogPosition;

use crate::digest::Digest;
use crate::event::Estimate;
use crate::{Error, codec, keys};

/// Version of the disk layout and of the messages between stores. Since 2 these carry checksums; on disk nothing changed with
/// it, so a directory of version 1 becomes one of 2 when it is next started.
pub const FORMAT: u32 = 2;

/// Where the log of a region that did not come by snapshot begins: everything up to here counts as committed and applied.
/// Not 0, so that a peer without data always lacks something and gets a snapshot.
pub const BASE: LogPosition = LogPosition { term: 1, index: 1 };

/// Reads the identity; `None` in an empty directory.
///
/// # Errors
/// [`Error::Format`] for a newer layout, [`Error::CorruptIdentity`] for a record that cannot be read.
pub fn read<E: Engine>(engine: &E) -> Result<Option<StoreIdentity>, Error> {
    let Some(bytes) = engine.get(Family::Log, keys::IDENTITY)? else {
        return Ok(None);
    };
    let identity: StoreIdentity = codec::decode_record(&bytes).ok_or(Error::CorruptIdentity)?;
    if identity.format > FORMAT {
        return Err(Error::Format {
            found: identity.format,
            supported: FORMAT,
        });
    }
    if identity.format == 0 || identity.cluster_id == 0 || identity.store_id == 0 {
        return Err(Error::CorruptIdentity);
    }
    Ok(Some(identity))
}

/// Makes an empty directory a store's, durably. Its boot counter is 0 until [`bump_boot`].
///
/// # Errors
/// [`Error::IdentityExists`] when it is one already.
pub fn create<E: Engine>(
    engine: &E,
    cluster_id: u64,
    store_id: StoreId,
    api_version: u32,
) -> Result<StoreIdentity, Error> {
    if let Some(identity) = read(engine)? {
        return Err(Error::IdentityExists {
            cluster: identity.cluster_id,
            store: identity.store_id,
        });
    }
    let identity = StoreIdentity {
        cluster_id,
        store_id: store_id.0,
        boot: 0,
        format: FORMAT,
        api_version,
        first_members: Vec::new(),
    };
    write(engine, &identity)?;
    Ok(identity)
}

/// Raises the boot counter by one and the format to [`FORMAT`], durably. Once per start, before anything is sent.
///
/// # Errors
/// [`Error::NoIdentity`] in an empty directory; else as [`read`].
pub fn bump_boot<E: Engine>(engine: &E) -> Result<StoreIdentity, Error> {
    let mut identity = read(engine)?.ok_or(Error::NoIdentity)?;
    identity.boot += 1;
    identity.format = FORMAT;
    write(engine, &identity)?;
    Ok(identity)
}

/// Notes, durably, with whom the group of a placement member began, or is to begin.
///
/// # Errors
/// [`Error::NoIdentity`] in an empty directory; else as [`read`].
pub fn note_first_members<E: Engine>(engine: &E, first: Vec<u64>) -> Result<StoreIdentity, Error> {
    let mut identity = read(engine)?.ok_or(Error::NoIdentity)?;
    identity.first_members = first;
    write(engine, &identity)?;
    Ok(identity)
}

/// The state of a region in this directory; `None` when it was never here.
///
/// # Errors
/// [`Error::Corrupt`] for a record that cannot be read.
pub fn region_state<E: Engine>(engine: &E, region: RegionId) -> Result<Option<RegionState>, Error> {
    let Some(bytes) = engine.get(Family::State, &keys::region_state(region))? else {
        return Ok(None);
    };
    let state = codec::decode_record(&bytes).ok_or(Error::Corrupt {
        region,
        what: "the region state",
    })?;
    Ok(Some(state))
}

fn write<E: Engine>(engine: &E, identity: &StoreIdentity) -> Result<(), Error> {
    let change = Change::Put(
        Bytes::from_static(keys::IDENTITY),
        codec::encode_record(identity),
    );
    engine.write(
        Batch {
            family: Family::Log,
            changes: vec![change],
        },
        Logging::On,
    )?;
    engine.sync()?;
    Ok(())
}

/// Writes the first regions of a cluster, durably, before the store is opened. Every store that a descriptor names does the
/// same; regions that name other stores are skipped, and those that are there already stay as they are.
///
/// The raft tier is synced first: a region state without a log would be taken for damage, a log without a region state
/// only waits to be filled.
///
/// # Errors
/// [`Error::NoIdentity`] in an empty directory.
pub fn bootstrap<E: Engine>(engine: &E, regions: &[metapb::Region]) -> Result<(), Error> {
    let store = read(engine)?.ok_or(Error::NoIdentity)?.store_id;
    let mut log = Vec::new();
    let mut state = Vec::new();
    for region in regions {
        let id = RegionId(region.id);
        let Some(peer) = region.peers.iter().find(|peer| peer.store_id == store) else {
            continue;
        };
        if engine
            .get(Family::State, &keys::region_state(id))?
            .is_some()
        {
            continue;
        }
        let raft_state = RaftState {
            term: BASE.term,
            vote: 0,
            commit: BASE.index,
            compacted_term: BASE.term,
            compacted_index: BASE.index,
            peer_id: peer.id,
        };
        let mark = PeerMark {
            peer_id: peer.id,
            ..Default::default()
        };
        log.push(put(&keys::raft_state(id), &raft_state));
        log.push(put(&keys::peer_mark(id), &mark));
        let region_state = RegionState {
            state: region_state::State::Normal as i32,
            region: Some(region.clone()),
            peer_id: peer.id,
            ..Default::default()
        };
        let applied = Estimate::default().record(BASE, Some(Digest::starting(BASE.index)));
        state.push(put(&keys::region_state(id), &region_state));
        state.push(put(&keys::applied_state(id), &applied));
    }
    if state.is_empty() {
        return Ok(());
    }
    engine.write(
        Batch {
            family: Family::Log,
            changes: log,
        },
        Logging::On,
    )?;
    engine.sync()?;
    engine.write(
        Batch {
            family: Family::State,
            changes: state,
        },
        Logging::On,
    )?;
    engine.sync()?;
    Ok(())
}

fn put(key: &[u8], record: &impl codec::Record) -> Change {
    Change::Put(Bytes::copy_from_slice(key), codec::encode_record(record))
}
