//! Blocks of a sorted file: their trailers, their compression, their entries.

use super::lz4;

/// Compression type and checksum after each block.
pub(super) const TRAILER_BYTES: u64 = 5;
/// Compression types.
const PLAIN: u8 = 0;
const LZ4: u8 = 4;
/// The most that a block of a staged file unpacks to: a file has one entry at least and few of them are larger than a value
/// may be.
const UNPACKED_BYTES_MAX: u32 = 64 << 20;
/// The most that LZ4 makes of a byte.
const LZ4_RATIO_MAX: u32 = 255;

/// Where a block lies: offset and bytes without the trailer.
pub(super) type Place = (u64, u64);

/// A block without its trailer, unpacked; or why it is none.
pub(super) fn open(mut block: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    let checksum_at = block.len().checked_sub(4).ok_or("a block is too short")?;
    let (covered, checksum) = block.split_at(checksum_at);
    if mask(crc32c::crc32c(covered)).to_le_bytes() != checksum {
        return Err("a block has a wrong checksum");
    }
    let (compression, packed) = covered.split_last().ok_or("a block is too short")?;
    match *compression {
        PLAIN => {
            block.truncate(checksum_at - 1);
            Ok(block)
        }
        LZ4 => unpack(packed).ok_or("a block cannot be unpacked"),
        _ => Err("a block is compressed in a way that staged files are not"),
    }
}

fn unpack(mut packed: &[u8]) -> Option<Vec<u8>> {
    let bytes = u32::try_from(varint(&mut packed)?).ok()?;
    let possible = u32::try_from(packed.len())
        .ok()?
        .saturating_mul(LZ4_RATIO_MAX);
    if bytes > possible.min(UNPACKED_BYTES_MAX) {
        return None;
    }
    lz4::unpack(packed, bytes as usize)
}

/// How RocksDB stores a CRC-32C, so that checksums of data with checksums in it stay good.
pub(crate) fn mask(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// The entries of a block and its restarts.
fn parts(block: &[u8]) -> Option<(&[u8], Restarts<'_>)> {
    let (rest, count) = block.split_last_chunk::<4>()?;
    let bytes = usize::try_from(u32::from_le_bytes(*count))
        .ok()?
        .checked_mul(4)?;
    let (entries, restarts) = rest.split_at_checked(rest.len().checked_sub(bytes)?)?;
    Some((entries, Restarts(restarts)))
}

/// Where a search in a block may begin: at entries with whole keys. One that began elsewhere would see other entries than
/// those that are here.
struct Restarts<'a>(&'a [u8]);

impl Restarts<'_> {
    /// An entry begins here, with so many bytes of its key taken from the one before.
    fn pass(&mut self, at: usize, shared: u64) {
        if let Some((next, rest)) = self.0.split_first_chunk::<4>()
            && u32::from_le_bytes(*next) as usize == at
            && shared == 0
        {
            self.0 = rest;
        }
    }

    /// Whether entries began at all of them.
    fn are_passed(&self) -> bool {
        self.0.is_empty()
    }
}

/// Calls `each` with keys and values of a block of data or properties; `None` when it cannot be parsed.
pub(super) fn each_entry(block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Option<()> {
    let (entries, mut restarts) = parts(block)?;
    let mut rest = entries;
    let mut key = Vec::new();
    while !rest.is_empty() {
        let at = entries.len() - rest.len();
        let shared = varint(&mut rest)?;
        let unshared = usize::try_from(varint(&mut rest)?).ok()?;
        let value_bytes = usize::try_from(varint(&mut rest)?).ok()?;
        restarts.pass(at, shared);
        let shared = usize::try_from(shared).ok()?;
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
    restarts.are_passed().then_some(())
}

/// The places of data blocks that an index block names; `None` when it cannot be parsed. Its entries have no length of
/// their values, and where a key shares bytes with the one before, the block follows the one before.
pub(super) fn index(block: &[u8]) -> Option<Vec<Place>> {
    let (entries, mut restarts) = parts(block)?;
    let mut rest = entries;
    let mut places: Vec<Place> = Vec::new();
    while !rest.is_empty() {
        let at = entries.len() - rest.len();
        let shared = varint(&mut rest)?;
        restarts.pass(at, shared);
        let unshared = usize::try_from(varint(&mut rest)?).ok()?;
        rest = rest.split_at_checked(unshared)?.1;
        let place = if shared == 0 {
            (varint(&mut rest)?, varint(&mut rest)?)
        } else {
            let (offset, bytes) = *places.last()?;
            let begin = offset.checked_add(bytes)?.checked_add(TRAILER_BYTES)?;
            let zigzag = varint(&mut rest)?;
            let change = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
            (begin, bytes.checked_add_signed(change)?)
        };
        places.push(place);
    }
    restarts.are_passed().then_some(places)
}

/// Takes a variable-length number off the front.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
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
