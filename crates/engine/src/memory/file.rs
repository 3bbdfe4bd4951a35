//! The format of staged files of the memory engine, and what becomes of them in a crash.
//!
//! Entries `key length u32 ‖ value length u32 ‖ key ‖ value`, ascending, then `entries u64 ‖ crc32c u32` over all before.
//! Numbers are little-endian.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Error, StagedFile};

const TRAILER_BYTES: usize = 12;
const LENGTHS_BYTES: usize = 8;

/// A file of the staging area.
#[derive(Clone, Debug)]
pub(super) enum File {
    /// Being received; nothing of it is synced.
    Growing(BytesMut),
    /// Complete and synced.
    Finished(Bytes),
}

impl File {
    /// What is there now.
    pub(super) fn content(&self) -> &[u8] {
        match self {
            File::Growing(content) => content,
            File::Finished(content) => content,
        }
    }
}

/// Collects entries into a file.
pub(super) struct Writer {
    content: BytesMut,
    keys: u64,
}

impl Writer {
    pub(super) fn new() -> Writer {
        Writer {
            content: BytesMut::new(),
            keys: 0,
        }
    }

    /// Appends an entry; keys ascend.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        self.content
            .put_u32_le(u32::try_from(key.len()).expect("keys are shorter than 4 GiB"));
        self.content
            .put_u32_le(u32::try_from(value.len()).expect("values are shorter than 4 GiB"));
        self.content.put_slice(key);
        self.content.put_slice(value);
        self.keys += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// The file, or `None` when nothing was pushed.
    pub(super) fn finish(mut self) -> Option<Bytes> {
        if self.is_empty() {
            return None;
        }
        self.content.put_u64_le(self.keys);
        let checksum = crc32c::crc32c(&self.content);
        self.content.put_u32_le(checksum);
        Some(self.content.freeze())
    }
}

/// Checks a file and describes it.
pub(super) fn describe(name: &str, content: &Bytes) -> Result<StagedFile, Error> {
    let entries = entries(name, content)?;
    let key = |entry: Option<&(Bytes, Bytes)>| {
        let (key, _) = entry.expect("a file without entries is refused");
        key.clone()
    };
    Ok(StagedFile {
        name: name.to_owned(),
        bytes: content.len() as u64,
        keys: entries.len() as u64,
        content_bytes: entries
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum(),
        crc32c: crc32c::crc32c(content),
        first: key(entries.first()),
        last: key(entries.last()),
    })
}

/// The entries of a file, checked, ascending.
pub(super) fn entries(name: &str, content: &Bytes) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let damaged = || Error::Corrupt {
        what: format!("staged file {name}"),
        source: None,
    };
    let body_end = content
        .len()
        .checked_sub(TRAILER_BYTES)
        .ok_or_else(damaged)?;
    let checksum_at = body_end + 8;
    let count = u64::from_le_bytes(
        content[body_end..checksum_at]
            .try_into()
            .expect("eight bytes were sliced"),
    );
    let checksum = u32::from_le_bytes(
        content[checksum_at..]
            .try_into()
            .expect("the trailer ends with four bytes"),
    );
    if crc32c::crc32c(&content[..checksum_at]) != checksum {
        return Err(damaged());
    }
    let mut found: Vec<(Bytes, Bytes)> = Vec::new();
    let mut at = 0;
    while at < body_end {
        let lengths = content.get(at..at + LENGTHS_BYTES).ok_or_else(damaged)?;
        let (key_bytes, value_bytes) = lengths.split_at(4);
        let key_bytes = u32::from_le_bytes(key_bytes.try_into().expect("split at four")) as usize;
        let value_bytes =
            u32::from_le_bytes(value_bytes.try_into().expect("four of eight remain")) as usize;
        let key_at = at + LENGTHS_BYTES;
        let end = key_at.saturating_add(key_bytes).saturating_add(value_bytes);
        if end > body_end {
            return Err(damaged());
        }
        let key = content.slice(key_at..key_at + key_bytes);
        if found.last().is_some_and(|(before, _)| *before >= key) {
            return Err(damaged());
        }
        found.push((key, content.slice(key_at + key_bytes..end)));
        at = end;
    }
    if found.is_empty() || found.len() as u64 != count {
        return Err(damaged());
    }
    Ok(found)
}
