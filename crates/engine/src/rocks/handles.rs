//! The open database with what must not outlive it: column family handles and snapshots.
//!
//! The binding ties their lifetimes to a borrow of the database, which an owner of both cannot express. This module
//! extends them and keeps the promise by the order of its fields; it is the only place of `unsafe` code here.

use std::mem;
use std::sync::Arc;

use rocksdb::{BoundColumnFamily, DB, ReadOptions, SnapshotWithThreadMode};

use crate::Family;

/// A column family of an open database.
pub(super) type Handle = Arc<BoundColumnFamily<'static>>;

/// An open database and its column families.
///
/// # Invariants
/// 1. `handles` are dropped before `db`: fields drop in the order of declaration.
/// 2. Handles are lent, never given away: [`Database::family`] returns a borrow, and nobody clones it.
pub(super) struct Database {
    handles: [Handle; 2],
    pub(super) db: DB,
}

impl Database {
    /// Names of the column families, in the order of [`Family`].
    pub(super) const NAMES: [&'static str; 2] = ["log", "state"];

    /// # Panics
    /// If `db` was opened without one of [`Database::NAMES`].
    pub(super) fn new(db: DB) -> Database {
        let handles = Database::NAMES
            .map(|name| extend_handle(db.cf_handle(name).expect("opened with this family")));
        Database { handles, db }
    }

    pub(super) fn family(&self, family: Family) -> &Handle {
        &self.handles[family as usize]
    }
}

#[allow(unsafe_code)]
fn extend_handle(handle: Arc<BoundColumnFamily<'_>>) -> Handle {
    // SAFETY: only the lifetime changes. It keeps a handle from outliving the database it points into. `Database` owns
    // both, drops its handles first (invariant 1) and lends them only for its own lifetime (invariant 2); moving the
    // `DB` does not move what handles point to, which RocksDB allocated.
    unsafe { mem::transmute::<Arc<BoundColumnFamily<'_>>, Handle>(handle) }
}

/// A snapshot that keeps its database open.
///
/// # Invariants
/// 1. `options` and `snapshot` are dropped before `owner`: fields drop in the order of declaration.
/// 2. `owner` is never replaced, so the database neither moves nor closes while `snapshot` borrows it.
pub(super) struct OwnedSnapshot<Owner> {
    /// Point reads of the snapshot.
    options: ReadOptions,
    snapshot: SnapshotWithThreadMode<'static, DB>,
    owner: Arc<Owner>,
}

impl<Owner: AsRef<Database>> OwnedSnapshot<Owner> {
    /// Takes a snapshot of everything written so far.
    pub(super) fn new(owner: &Arc<Owner>) -> OwnedSnapshot<Owner> {
        let snapshot = extend_snapshot(owner.as_ref().as_ref().db.snapshot());
        let mut options = ReadOptions::default();
        options.set_snapshot(&snapshot);
        OwnedSnapshot {
            options,
            snapshot,
            owner: Arc::clone(owner),
        }
    }

    /// The database.
    pub(super) fn database(&self) -> &Database {
        self.owner.as_ref().as_ref()
    }

    /// Who owns the database.
    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Options for point reads of the snapshot.
    pub(super) fn point_options(&self) -> &ReadOptions {
        &self.options
    }

    /// Makes `options` read the snapshot. They must be dropped before it.
    pub(super) fn bind(&self, options: &mut ReadOptions) {
        options.set_snapshot(&self.snapshot);
    }
}

#[allow(unsafe_code)]
fn extend_snapshot(
    snapshot: SnapshotWithThreadMode<'_, DB>,
) -> SnapshotWithThreadMode<'static, DB> {
    // SAFETY: only the lifetime changes. The snapshot borrows a `DB` that lies in an `Arc`, whose content does not move.
    // `OwnedSnapshot` holds a count of that `Arc` for as long as the snapshot lives (invariants 1 and 2).
    unsafe {
        mem::transmute::<SnapshotWithThreadMode<'_, DB>, SnapshotWithThreadMode<'static, DB>>(
            snapshot,
        )
    }
}
