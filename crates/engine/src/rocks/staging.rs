//! The staging area: sorted files on their way from or to another store.
//!
//! A finished file bears its name. While it is received it is `NAME+part`, while it is built `NAME+new`, and the extra
//! link that is given to RocksDB is `NAME+link…`; names have no `+`, so these never meet one. A file gets its name by a
//! rename after it was synced, so a name is proof of a whole file.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rocksdb::{IngestExternalFileOptions, SstFileWriter};

use super::open::sync_directory;
use super::read::RocksView;
use super::{Shared, convert, damage, table};
use crate::staging::{check_name, exists, missing};
use crate::{Direction, Error, Family, StagedFile};

/// Where staged files are, below the engine's directory.
const DIRECTORY: &str = "staging";
const PART: &str = "+part";
const NEW: &str = "+new";
const LINK: &str = "+link";
/// Bytes read at once for a checksum.
const CHUNK_BYTES: usize = 256 << 10;

/// Creates the staging area of an engine, and removes what a stopped process left unfinished in it. Received parts
/// stay: only their receiver knows whether they are of use.
pub(super) fn prepare(engine: &Path) -> Result<(), Error> {
    let directory = engine.join(DIRECTORY);
    let io = |source| Error::io("prepare the staging area", source);
    fs::create_dir_all(&directory).map_err(io)?;
    for entry in fs::read_dir(&directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        if name
            .to_str()
            .is_some_and(|name| name.ends_with(NEW) || name.contains(LINK))
        {
            fs::remove_file(entry.path()).map_err(io)?;
        }
    }
    sync_directory(&directory)
}

fn directory(shared: &Shared) -> PathBuf {
    shared.path.join(DIRECTORY)
}

fn path(shared: &Shared, name: &str, suffix: &str) -> PathBuf {
    directory(shared).join(format!("{name}{suffix}"))
}

/// Builds a file from a range of a view; see [`crate::Engine::stage_range`].
pub(super) fn stage_range(
    shared: &Shared,
    view: &RocksView,
    family: Family,
    start: &[u8],
    end: &[u8],
    bytes_max: u64,
    name: &str,
) -> Result<(Option<StagedFile>, Option<Bytes>), Error> {
    const OPERATION: &str = "build staged file";
    check_name(name)?;
    let new = path(shared, name, NEW);
    if path(shared, name, "").exists() || path(shared, name, PART).exists() {
        return Err(exists(name));
    }
    let mut writer = SstFileWriter::create(&shared.staged_options);
    let (mut bytes, mut keys) = (0_u64, 0_u64);
    let mut next = None;
    let mut failure = None;
    let scanned = view.scan_with(
        family,
        Bound::Included(start),
        Bound::Excluded(end),
        Direction::Forward,
        false,
        &mut |key, value| {
            let with_this = bytes + (key.len() + value.len()) as u64;
            if keys > 0 && with_this > bytes_max {
                next = Some(Bytes::copy_from_slice(key));
                return false;
            }
            let opened = if keys == 0 { writer.open(&new) } else { Ok(()) };
            failure = opened.and_then(|()| writer.put(key, value)).err();
            bytes = with_this;
            keys += 1;
            failure.is_none()
        },
    );
    if keys == 0 {
        scanned?;
        return Ok((None, None));
    }
    let finished = scanned.and_then(|()| {
        let written = match failure {
            Some(source) => Err(source),
            None => writer.finish(),
        };
        written.map_err(|source| convert(OPERATION, source))?;
        let described = describe(name, &new)?;
        if described.keys != keys {
            return Err(Error::Corrupt {
                what: format!("staged file {name}"),
                source: None,
            });
        }
        publish(shared, &new, name)?;
        Ok(described)
    });
    match finished {
        Ok(described) => Ok((Some(described), next)),
        Err(error) => {
            // The failure is what matters; what stays for lack of a disk goes when the engine opens.
            let _kept = remove_if_there(&new);
            Err(error)
        }
    }
}

/// Appends to a file that is being received.
pub(super) fn append(shared: &Shared, name: &str, bytes: &[u8]) -> Result<(), Error> {
    check_name(name)?;
    if path(shared, name, "").exists() {
        return Err(exists(name));
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path(shared, name, PART))
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|source| Error::io("append to staged file", source))
}

/// Checks a received file, and gives it its name once it is durable.
pub(super) fn finish(shared: &Shared, name: &str) -> Result<StagedFile, Error> {
    check_name(name)?;
    let finished = path(shared, name, "");
    if finished.exists() {
        return describe(name, &finished);
    }
    let part = path(shared, name, PART);
    let described = describe(name, &part)?;
    publish(shared, &part, name)?;
    Ok(described)
}

/// Makes a file durable under its name.
fn publish(shared: &Shared, from: &Path, name: &str) -> Result<(), Error> {
    let io = |source| Error::io("sync staged file", source);
    File::open(from)
        .and_then(|file| file.sync_all())
        .map_err(io)?;
    fs::rename(from, path(shared, name, "")).map_err(io)?;
    sync_directory(&directory(shared))
}

/// Opens a file for reading; with its length.
fn open(name: &str, path: &Path) -> Result<(File, u64), Error> {
    let opened = File::open(path).and_then(|file| {
        let length = file.metadata()?.len();
        Ok((file, length))
    });
    opened.map_err(|source| match source.kind() {
        ErrorKind::NotFound => missing(name),
        _ => Error::io("open staged file", source),
    })
}

/// Reads a file for its checksum, and for its keys.
fn describe(name: &str, path: &Path) -> Result<StagedFile, Error> {
    let (mut file, bytes) = open(name, path)?;
    let keys = table::read_keys(name, &file, bytes)?;
    let mut crc32c = 0;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file
            .read(&mut chunk)
            .map_err(|source| Error::io("read staged file", source))?
        {
            0 => {
                return Ok(StagedFile {
                    name: name.to_owned(),
                    bytes,
                    keys: keys.count,
                    content_bytes: keys.content_bytes,
                    crc32c,
                    first: keys.first.into(),
                    last: keys.last.into(),
                });
            }
            read => crc32c = crc32c::crc32c_append(crc32c, &chunk[..read]),
        }
    }
}

/// Part of a file, finished or not.
pub(super) fn read(
    shared: &Shared,
    name: &str,
    offset: u64,
    bytes_max: usize,
) -> Result<Bytes, Error> {
    check_name(name)?;
    let (file, length) = match open(name, &path(shared, name, "")) {
        Err(Error::Staging { .. }) => open(name, &path(shared, name, PART))?,
        opened => opened?,
    };
    let left = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut content = vec![0; left.min(bytes_max)];
    file.read_exact_at(&mut content, offset)
        .map_err(|source| Error::io("read staged file", source))?;
    Ok(content.into())
}

/// Names of all files, in order.
pub(super) fn list(shared: &Shared) -> Result<Vec<String>, Error> {
    let io = |source| Error::io("list the staging area", source);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory(shared)).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let name = name.strip_suffix(PART).unwrap_or(name);
        if check_name(name).is_ok() {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Removes files under each of their names.
pub(super) fn remove(shared: &Shared, names: &[String]) -> Result<(), Error> {
    for name in names.iter().filter(|name| check_name(name).is_ok()) {
        for suffix in ["", PART] {
            remove_if_there(&path(shared, name, suffix))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(Error::io("remove staged file", source))
        }
        _ => Ok(()),
    }
}

/// Takes finished files into a family.
///
/// RocksDB copies files, or moves them, which is a link and a removal. A repeat after a crash must find them, and a copy
/// writes everything once more; so it is given a second link to move.
///
/// Where the files share keys with a memtable that is flushed first, RocksDB would hold up every writer of both families
/// until the flush ends, seconds on a busy disk. So it is flushed here before, which holds up nobody.
pub(super) fn ingest(shared: &Shared, family: Family, names: &[String]) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let mut links = Vec::with_capacity(names.len());
    let linked = names.iter().try_for_each(|name| {
        check_name(name)?;
        let number = shared.links.fetch_add(1, Ordering::Relaxed);
        let link = path(shared, name, &format!("{LINK}{number}"));
        fs::hard_link(path(shared, name, ""), &link).map_err(|source| match source.kind() {
            ErrorKind::NotFound => missing(name),
            _ => Error::io("link staged file", source),
        })?;
        links.push(link);
        Ok(())
    });
    let outcome = linked.and_then(|()| {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        options.set_allow_blocking_flush(false);
        let database = &shared.database;
        let handle = database.family(family);
        let mut result =
            (database.db).ingest_external_file_cf_opts(handle, &options, links.clone());
        if result.as_ref().is_err_and(wants_flush) {
            shared.flush(family)?;
            // What was written since is little.
            options.set_allow_blocking_flush(true);
            result = (database.db).ingest_external_file_cf_opts(handle, &options, links.clone());
        }
        result.map_err(|source| match damage::unreadable_file(&source) {
            // RocksDB looks at the files before it changes anything; damaged ones leave it as it was.
            None if source.kind() == rocksdb::ErrorKind::Corruption => convert("ingest", source),
            _ => shared.fail("ingest", source),
        })
    });
    for link in &links {
        remove_if_there(link)?;
    }
    outcome
}

/// Whether files were not taken in because a memtable must be flushed first. RocksDB has no code of its own for that.
fn wants_flush(error: &rocksdb::Error) -> bool {
    error.kind() == rocksdb::ErrorKind::InvalidArgument && error.as_ref().contains("requires flush")
}
