//! Reads a sorted file that came from another store, from its footer to its last key.
//!
//! RocksDB's binding offers no way to look into a file before it is ingested, and afterwards it is too late: what its keys
//! cover is theirs then (R16). This follows the block-based table format, version 5: a footer names the metaindex block and
//! the index block, the one names the properties, the other the data blocks. Everything read is outside bytes (R34): bounds
//! and checksums are checked, lengths are limited before memory is taken, and only what staged files are made of is taken
//! for one ([`super::options::staged`]).

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::Error;

mod block;
mod lz4;

pub(super) use self::block::mask;
use self::block::{Place, TRAILER_BYTES, each_entry, varint};

/// The version of the table format that staged files are written in.
pub(super) const FORMAT_VERSION: i32 = 5;

const FOOTER_BYTES: u64 = 53;
const MAGIC: u64 = 0x88E2_41B7_85F4_CFF7;
/// The checksum type of the footer that means masked CRC-32C.
const CHECKSUM_CRC32C: u8 = 1;
/// Larger ones are not of our files. Properties take a few kilobytes, a data block one value and a little more.
const BLOCK_BYTES_MAX: u64 = 64 << 20;
/// What follows each user key: a value, of no sequence yet.
const KEY_TRAILER: [u8; 8] = 1_u64.to_le_bytes();

/// The keys of a sorted file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub count: u64,
    /// Bytes of keys and values.
    pub content_bytes: u64,
    pub first: Vec<u8>,
    pub last: Vec<u8>,
}

/// Reads every key of a file, which must be plain keys in ascending order.
///
/// # Errors
/// [`Error::Corrupt`] naming `name` when it is no such file.
pub(super) fn read_keys(name: &str, file: &File, length: u64) -> Result<Keys, Error> {
    let table = Table { name, file, length };
    let footer_at = length.checked_sub(FOOTER_BYTES);
    let footer = table.read((table.some(footer_at, "it is too short")?, FOOTER_BYTES))?;
    let (metaindex, index) = table.some(parse_footer(&footer), "it has no footer of ours")?;

    let mut properties = None;
    let metaindex = table.block(metaindex)?;
    let parsed = each_entry(&metaindex, |key, mut value| {
        if key == b"rocksdb.properties" {
            properties = varint(&mut value).zip(varint(&mut value));
        }
    });
    table.some(parsed, "its metaindex cannot be parsed")?;
    let properties = table.some(properties, "it names no properties")?;
    let announced = table.count(properties)?;

    let index = table.block(index)?;
    let places = table.some(block::index(&index), "its index cannot be parsed")?;
    let keys = table.keys(places)?;
    if keys.count != announced {
        return Err(table.damaged("it does not hold as many keys as it says"));
    }
    Ok(keys)
}

/// A file that is being read.
struct Table<'a> {
    name: &'a str,
    file: &'a File,
    length: u64,
}

impl Table<'_> {
    fn damaged(&self, why: &'static str) -> Error {
        Error::Corrupt {
            what: format!("staged file {}", self.name),
            source: Some(why.into()),
        }
    }

    fn some<T>(&self, found: Option<T>, why: &'static str) -> Result<T, Error> {
        found.ok_or_else(|| self.damaged(why))
    }

    fn read(&self, (offset, bytes): Place) -> Result<Vec<u8>, Error> {
        let end = offset.checked_add(bytes);
        if end.is_none_or(|end| end > self.length) || bytes > BLOCK_BYTES_MAX {
            return Err(self.damaged("a block lies outside the file"));
        }
        let mut content = vec![0; bytes as usize];
        self.file
            .read_exact_at(&mut content, offset)
            .map_err(|source| Error::io("read staged file", source))?;
        Ok(content)
    }

    fn block(&self, (offset, bytes): Place) -> Result<Vec<u8>, Error> {
        let content = self.read((offset, bytes.saturating_add(TRAILER_BYTES)))?;
        block::open(content).map_err(|why| self.damaged(why))
    }

    /// The number of keys that the properties tell, which must be of nothing but plain keys.
    fn count(&self, properties: Place) -> Result<u64, Error> {
        let properties = self.block(properties)?;
        let (mut keys, mut others) = (None, 0_u64);
        let parsed = each_entry(&properties, |key, mut value| match key {
            b"rocksdb.num.entries" => keys = varint(&mut value),
            b"rocksdb.deleted.keys"
            | b"rocksdb.merge.operands"
            | b"rocksdb.num.range-deletions" => {
                others = others.saturating_add(varint(&mut value).unwrap_or(u64::MAX));
            }
            _ => (),
        });
        self.some(parsed, "its properties cannot be parsed")?;
        match keys {
            Some(keys) if keys > 0 && others == 0 => Ok(keys),
            Some(_) => Err(self.damaged("it holds something other than plain keys")),
            None => Err(self.damaged("it does not say how many keys it holds")),
        }
    }

    fn keys(&self, places: Vec<Place>) -> Result<Keys, Error> {
        let (mut count, mut content_bytes) = (0, 0);
        let (mut first, mut last) = (None, Vec::new());
        let mut fits = true;
        for place in places {
            let data = self.block(place)?;
            let parsed = each_entry(&data, |key, value| {
                let Some(key) = key.strip_suffix(&KEY_TRAILER) else {
                    fits = false;
                    return;
                };
                fits &= first.is_none() || key > &last[..];
                first.get_or_insert_with(|| key.to_vec());
                last.clear();
                last.extend_from_slice(key);
                count += 1;
                content_bytes += (key.len() + value.len()) as u64;
            });
            self.some(parsed, "its data cannot be parsed")?;
            if !fits {
                return Err(self.damaged("it holds other than plain keys in ascending order"));
            }
        }
        let first = self.some(first, "it holds no key")?;
        Ok(Keys {
            count,
            content_bytes,
            first,
            last,
        })
    }
}

/// The places of the metaindex block and of the index block.
fn parse_footer(footer: &[u8]) -> Option<(Place, Place)> {
    let (checksum_type, rest) = footer.split_first()?;
    let (mut handles, tail) = rest.split_at_checked(40)?;
    let (version, magic) = tail.split_at_checked(4)?;
    let version = u32::from_le_bytes(version.try_into().ok()?);
    let magic = u64::from_le_bytes(magic.try_into().ok()?);
    if *checksum_type != CHECKSUM_CRC32C
        || version != FORMAT_VERSION.unsigned_abs()
        || magic != MAGIC
    {
        return None;
    }
    let metaindex = varint(&mut handles).zip(varint(&mut handles))?;
    let index = varint(&mut handles).zip(varint(&mut handles))?;
    Some((metaindex, index))
}

#[cfg(test)]
mod tests;
