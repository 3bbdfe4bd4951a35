//! LZ4 blocks, unpacked without trust in what they say.

/// Shortest match; what a token says of a length comes on top.
const MATCH_MIN: usize = 4;
/// A length that goes on in the bytes behind its token.
const LENGTH_GOES_ON: usize = 15;

/// Unpacks a block of exactly `bytes` bytes; `None` when it is no such block.
pub(super) fn unpack(mut packed: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let mut unpacked = Vec::with_capacity(bytes);
    while let Some((token, rest)) = packed.split_first() {
        packed = rest;
        let literals = length(usize::from(token >> 4), &mut packed)?;
        let (literal, rest) = packed.split_at_checked(literals)?;
        if literals > bytes - unpacked.len() {
            return None;
        }
        unpacked.extend_from_slice(literal);
        packed = rest;
        if packed.is_empty() {
            // The last sequence has no match.
            break;
        }
        let (distance, rest) = packed.split_first_chunk::<2>()?;
        packed = rest;
        let from = unpacked
            .len()
            .checked_sub(usize::from(u16::from_le_bytes(*distance)))
            .filter(|from| *from < unpacked.len())?;
        let matched = length(usize::from(token & 0x0F), &mut packed)?.checked_add(MATCH_MIN)?;
        if matched > bytes - unpacked.len() {
            return None;
        }
        // A match may reach into what it makes.
        let end = unpacked.len() + matched;
        while unpacked.len() < end {
            let there = (end - unpacked.len()).min(unpacked.len() - from);
            unpacked.extend_from_within(from..from + there);
        }
    }
    (unpacked.len() == bytes).then_some(unpacked)
}

/// A length of which the token said this much.
fn length(told: usize, packed: &mut &[u8]) -> Option<usize> {
    let mut length = told;
    if told == LENGTH_GOES_ON {
        loop {
            let (byte, rest) = packed.split_first()?;
            *packed = rest;
            length = length.checked_add(usize::from(*byte))?;
            if *byte != u8::MAX {
                break;
            }
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, from the description of the format.
    #[test]
    fn blocks_are_unpacked() {
        assert_eq!(unpack(&[0x30, b'a', b'b', b'c'], 3), Some(b"abc".to_vec()));
        // "ab", then five bytes from two bytes before, then "x".
        let packed = [0x21, b'a', b'b', 2, 0, 0x10, b'x'];
        assert_eq!(unpack(&packed, 8), Some(b"abababax".to_vec()));
        // Both lengths go on behind the token: 15 + 1 literals, 4 + 15 + 255 + 0 from one byte before.
        let mut packed = vec![0xFF, 1];
        packed.extend_from_slice(b"0123456789abcdef");
        packed.extend_from_slice(&[1, 0, 255, 0, 0x10, b'x']);
        let mut expected = b"0123456789abcdef".to_vec();
        expected.resize(16 + 274, b'f');
        expected.push(b'x');
        assert_eq!(unpack(&packed, expected.len()), Some(expected));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let good = [0x21, b'a', b'b', 2, 0, 0x10, b'x'];
        for end in 1..good.len() {
            assert_eq!(unpack(&good[..end], 8), None, "cut at {end}");
        }
        for bytes in [0, 2, 7, 9] {
            assert_eq!(unpack(&good, bytes), None, "of {bytes} bytes");
        }
        // Matches from before the beginning, and from nowhere.
        assert_eq!(unpack(&[0x21, b'a', b'b', 3, 0, 0x10, b'x'], 8), None);
        assert_eq!(unpack(&[0x21, b'a', b'b', 0, 0, 0x10, b'x'], 8), None);
        // Lengths without end.
        assert_eq!(unpack(&[0xF0, 255, 255, 255], 1000), None);
    }
}
