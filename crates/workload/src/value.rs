//! Values whose bytes follow from their number.

use bytes::Bytes;

/// Digits of the number at the beginning.
const DIGITS: usize = 16;
/// One value in so many is large.
const LARGE_ONE_IN: u64 = 64;

/// The bytes of a value: its number, then filling that only this number has.
pub(crate) fn bytes(number: u64) -> Bytes {
    let mut state = mixed(number);
    let size = match state % LARGE_ONE_IN {
        0 => 1_000 + state / LARGE_ONE_IN % 3_000,
        _ => state / LARGE_ONE_IN % 200,
    };
    let mut value = format!("{number:0DIGITS$x}").into_bytes();
    while value.len() < DIGITS + size as usize {
        state = mixed(state);
        value.extend_from_slice(&state.to_be_bytes());
    }
    value.truncate(DIGITS + size as usize);
    value.into()
}

/// The number of a value; `None` if these are not its bytes.
pub(crate) fn number(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value.get(..DIGITS)?).ok()?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (bytes(number) == value).then_some(number)
}

/// SplitMix64.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_its_number_and_what_was_done_to_it() {
        for value in 1..2_000 {
            let whole = bytes(value);
            assert_eq!(number(&whole), Some(value));
            assert_eq!(number(&whole[..whole.len() - 1]), None);
            let mut altered = whole.to_vec();
            let place = value as usize % altered.len();
            altered[place] ^= 1;
            assert_eq!(number(&altered), None);
        }
        assert_eq!(number(b""), None);
    }
}
