//! Reads the properties of a sorted file that came from another store.
//!
//! RocksDB offers no way to look into a file before it is ingested. This follows its block-based table format, version 5:
//! a footer names the metaindex block, which names the properties block. Everything read is outside bytes (R34): bounds
//! and checksums are checked, and lengths are limited before memory is taken.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::Error;

/// The version of the table format that staged files are written in.
pub(super) const FORMAT_VERSION: i32 = 5;

const FOOTER_BYTES: u64 = 53;
const MAGIC: u64 = 0x88E2_41B7_85F4_CFF7;
/// The checksum type of the footer that means masked CRC-32C.
const CHECKSUM_CRC32C: u8 = 1;
/// Compression type and checksum after each block.
const BLOCK_TRAILER_BYTES: u64 = 5;
/// Properties take a few kilobytes; more is not one of our files.
const META_BLOCK_BYTES_MAX: u64 = 1 << 20;

/// Number of keys in a sorted file, if it holds only plain keys.
///
/// # Errors
/// [`Error::Corrupt`] naming `name` when it is no such file.
pub(super) fn count_keys(name: &str, file: &File, length: u64) -> Result<u64, Error> {
    let damaged = |why: &'static str| Error::Corrupt {
        what: format!("staged file {name}"),
        source: Some(why.into()),
    };
    let read = |offset: u64, bytes: u64| -> Result<Vec<u8>, Error> {
        if offset.checked_add(bytes).is_none_or(|end| end > length) || bytes > META_BLOCK_BYTES_MAX
        {
            return Err(damaged("a block lies outside the file"));
        }
        let mut content = vec![0; bytes as usize];
        file.read_exact_at(&mut content, offset)
            .map_err(|source| Error::io("read staged file", source))?;
        Ok(content)
    };
    let block = |(offset, bytes): (u64, u64)| -> Result<Vec<u8>, Error> {
        let mut content = read(offset, bytes.saturating_add(BLOCK_TRAILER_BYTES))?;
        check_block(&mut content).ok_or_else(|| damaged("a block has a wrong checksum"))?;
        Ok(content)
    };

    let footer_at = length
        .checked_sub(FOOTER_BYTES)
        .ok_or_else(|| damaged("it is too short"))?;
    let footer = read(footer_at, FOOTER_BYTES)?;
    let metaindex = parse_footer(&footer).ok_or_else(|| damaged("it has no footer of ours"))?;
    let mut properties_at = None;
    let metaindex = block(metaindex)?;
    each_entry(&metaindex, |key, mut value| {
        if key == b"rocksdb.properties" {
            properties_at = varint(&mut value).zip(varint(&mut value));
        }
    })
    .ok_or_else(|| damaged("its metaindex cannot be parsed"))?;
    let properties = block(properties_at.ok_or_else(|| damaged("it names no properties"))?)?;

    let (mut keys, mut others) = (None, 0_u64);
    each_entry(&properties, |key, mut value| match key {
        b"rocksdb.num.entries" => keys = varint(&mut value),
        b"rocksdb.deleted.keys" | b"rocksdb.merge.operands" | b"rocksdb.num.range-deletions" => {
            others = others.saturating_add(varint(&mut value).unwrap_or(u64::MAX));
        }
        _ => (),
    })
    .ok_or_else(|| damaged("its properties cannot be parsed"))?;
    match keys {
        Some(keys) if keys > 0 && others == 0 => Ok(keys),
        Some(_) => Err(damaged("it holds something other than plain keys")),
        None => Err(damaged("it does not say how many keys it holds")),
    }
}

/// The position of the metaindex block.
fn parse_footer(footer: &[u8]) -> Option<(u64, u64)> {
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
    varint(&mut handles).zip(varint(&mut handles))
}

/// Checks a block with its trailer and cuts the trailer off. Meta blocks are never compressed.
fn check_block(block: &mut Vec<u8>) -> Option<()> {
    let checksum_at = block.len().checked_sub(4)?;
    let (covered, checksum) = block.split_at(checksum_at);
    let checksum = u32::from_le_bytes(checksum.try_into().ok()?);
    if covered.last() != Some(&0) || mask(crc32c::crc32c(covered)) != checksum {
        return None;
    }
    block.truncate(checksum_at - 1);
    Some(())
}

/// How RocksDB stores a CRC-32C, so that checksums of data with checksums in it stay good.
pub(super) fn mask(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// Calls `each` with keys and values of a block; `None` when it cannot be parsed.
fn each_entry(block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Option<()> {
    let restarts =
        u32::from_le_bytes(block.get(block.len().checked_sub(4)?..)?.try_into().ok()?) as usize;
    let entries_end = block
        .len()
        .checked_sub(4)?
        .checked_sub(restarts.checked_mul(4)?)?;
    let mut rest = &block[..entries_end];
    let mut key = Vec::new();
    while !rest.is_empty() {
        let shared = usize::try_from(varint(&mut rest)?).ok()?;
        let unshared = usize::try_from(varint(&mut rest)?).ok()?;
        let value_bytes = usize::try_from(varint(&mut rest)?).ok()?;
        let (suffix, after) = rest.split_at_checked(unshared)?;
        let (value, after) = after.split_at_checked(value_bytes)?;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        key.extend_from_slice(suffix);
        each(&key, value);
        rest = after;
    }
    Some(())
}

/// Takes a variable-length number off the front.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
