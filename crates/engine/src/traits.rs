//! The interface of an engine.

use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;

use crate::{Batch, Direction, Error, Family, Logging, StagedFile, Statistics};

/// A consistent picture of all families at one moment.
pub trait View: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Calls `each` with keys and values within the bounds, in order, until it returns `false`.
    fn scan(
        &self,
        family: Family,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error>;

    /// Like [`View::scan`], of what nobody is likely to read again soon: nothing else leaves a cache for it.
    fn scan_once(
        &self,
        family: Family,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        self.scan(family, lower, upper, direction, each)
    }
}

/// The engine. Cheap to clone; clones share the data.
pub trait Engine: Clone + Send + Sync + 'static {
    /// Its point-in-time read.
    type View: View;

    /// A view of everything written so far.
    fn view(&self) -> Self::View;

    /// The current value of a key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// The current values of keys, in their order.
    fn get_many(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error>;

    /// The value that flushed files hold, whatever the memory and the log hold beyond them (persisted tier, D3).
    ///
    /// A power loss right now would leave this value or a later one.
    fn get_flushed(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Applies a batch atomically. Visible to reads when it returns; durable after [`Engine::sync`] or a flush.
    fn write(&self, batch: Batch, logging: Logging) -> Result<(), Error>;

    /// Makes everything logged so far survive a power loss; those that wait share one. A failure is final (R14).
    fn sync(&self) -> Result<(), Error>;

    /// Writes the memory of a family to files; when it returns they are durable. If there was anything to write, all
    /// that was logged before is synced first, of the other family, too: neither gets ahead of the other.
    fn flush(&self, family: Family) -> Result<(), Error>;

    /// Copies `[start, end)` of a family in a view into a new staged file and makes it durable. `None` when empty.
    /// Stops before the entry whose key and value would pass `bytes_max` in sum, but takes at least one; the second
    /// value is the key to go on from, if any is left.
    ///
    /// # Errors
    /// [`Error::Staging`] when a file of this name exists, finished or not.
    fn stage_range(
        &self,
        view: &Self::View,
        family: Family,
        start: &[u8],
        end: &[u8],
        bytes_max: u64,
        name: &str,
    ) -> Result<(Option<StagedFile>, Option<Bytes>), Error>;

    /// Appends bytes to a staged file that is being received, creating it.
    ///
    /// # Errors
    /// [`Error::Staging`] when the file is finished.
    fn stage_append(&self, name: &str, bytes: &[u8]) -> Result<(), Error>;

    /// Makes a received file durable and describes it by what is in it: every key is read, the whole checksum computed.
    /// Finishing a finished file describes it again.
    ///
    /// # Errors
    /// [`Error::Staging`] when there is no such file; [`Error::Corrupt`] when it is not a sorted file as
    /// [`Engine::stage_range`] makes them, in which case it stays as it was and is to be removed.
    fn stage_finish(&self, name: &str) -> Result<StagedFile, Error>;

    /// Reads part of a staged file; shorter at its end.
    fn stage_read(&self, name: &str, offset: u64, bytes_max: usize) -> Result<Bytes, Error>;

    /// Names of all staged files in order, unfinished ones included.
    fn stage_list(&self) -> Result<Vec<String>, Error>;

    /// Removes staged files; unknown names are ignored.
    fn stage_remove(&self, names: &[String]) -> Result<(), Error>;

    /// Takes finished staged files into a family, all or none, above everything written before; durable when it returns.
    /// They are copied or linked, so a repeat after a crash finds them. Keys they share with unflushed changes make the
    /// engine flush the family first.
    fn ingest(&self, family: Family, names: &[String]) -> Result<(), Error>;

    /// Removes `[start, end)`: whole files at once where no live view needs them, the rest by a range delete.
    ///
    /// Whole files go for good at once, the range delete only as `logging` says. So a stop before it is durable leaves
    /// an arbitrary part of the range behind, older values of overwritten keys included; whoever clears must know after
    /// a restart that it was clearing, and clear again.
    ///
    /// With [`Logging::On`] a range that reads as empty is left alone. A range delete there would remove nothing, but every
    /// later [`Engine::ingest`] into the range would have to flush it first and put the files above it. So everything in the
    /// range must have been written with logging: then what made it empty is durable before anything that is written later.
    fn clear_range(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        logging: Logging,
    ) -> Result<(), Error>;

    /// Ranges of [`Family::State`], half-open and ascending, in which nobody can tell any more what there was: reads of them fail
    /// with [`Error::Corrupt`] until they are cleared (STORAGE §9).
    fn lost_ranges(&self) -> Vec<(Bytes, Bytes)>;

    /// Approximate bytes in `[start, end)`.
    fn approximate_bytes(&self, family: Family, start: &[u8], end: &[u8]) -> Result<u64, Error>;

    /// A copy of the whole engine on disk, linked where possible, at a path that does not exist. Flushes all families;
    /// staged files are not part of it.
    fn checkpoint(&self, path: &Path) -> Result<(), Error>;

    /// The sequence of the newest change. It grows by at least one with every change, and orders changes as reads see
    /// them; what was synced before it was read is synced up to it (R15). After a stop it continues from the newest
    /// change that survived, so numbers of lost changes are used again.
    fn sequence(&self) -> u64;

    /// Counters and sizes.
    fn statistics(&self) -> Statistics;
}

/// Whether nothing is found in `[start, end)`. A range that cannot be read is not empty.
pub(crate) fn reads_empty(view: &impl View, family: Family, start: &[u8], end: &[u8]) -> bool {
    let mut empty = true;
    let scanned = view.scan(
        family,
        Bound::Included(start),
        Bound::Excluded(end),
        Direction::Forward,
        &mut |_, _| {
            empty = false;
            false
        },
    );
    scanned.is_ok() && empty
}
