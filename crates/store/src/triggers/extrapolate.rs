//! Where inserts that grow will be in a moment.

use bytes::Bytes;
use proto::memcomparable;

use super::appends::Growth;

/// A split ahead leaves room for so many seconds of inserts, in which the pieces get ready.
const AHEAD_SECONDS: u64 = 3;

/// The key at which to split ahead of inserts: where they will be, if that is `inside` the region, else just above the
/// last. `None` when neither is.
pub(super) fn split_key(
    growth: &Growth<'_>,
    encoded: bool,
    inside: impl Fn(&[u8]) -> bool,
) -> Option<Bytes> {
    let plain = |key: &[u8]| {
        if encoded {
            memcomparable::decode(key).ok()
        } else {
            Some(Bytes::copy_from_slice(key))
        }
    };
    let (older, newest) = (plain(growth.older)?, plain(growth.newest)?);
    let encode = |key: Vec<u8>| {
        if encoded {
            memcomparable::encode(&key)
        } else {
            key.into()
        }
    };
    let just_above = || {
        let mut key = newest.to_vec();
        key.push(0);
        key
    };
    let ahead = extrapolate(&older, &newest, growth.seconds, AHEAD_SECONDS).map(encode);
    ahead
        .filter(|key| inside(key) && &key[..] > growth.newest)
        .or_else(|| Some(encode(just_above())))
        .filter(|key| inside(key))
}

/// The key that is as far above `newest` as it would be after `ahead` seconds, having come from `older` in `seconds`.
/// `None` where the bytes that change do not read as a number that grows.
fn extrapolate(older: &[u8], newest: &[u8], seconds: u64, ahead: u64) -> Option<Vec<u8>> {
    let common = older.iter().zip(newest).take_while(|(a, b)| a == b).count();
    let counts = |key: &[u8]| key.get(common).is_some_and(u8::is_ascii_digit);
    let key = if counts(older) && counts(newest) {
        digits(older, newest, common, seconds, ahead)
    } else {
        binary(older, newest, common, seconds, ahead)
    }?;
    (&key[..] > newest).then_some(key)
}

/// Decimal digits of the same width, as of counters in text.
fn digits(older: &[u8], newest: &[u8], common: usize, seconds: u64, ahead: u64) -> Option<Vec<u8>> {
    let run = |key: &[u8]| {
        key[common..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let before = newest[..common]
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let changing = run(newest);
    let first = common - before;
    let width = before + changing;
    if changing == 0 || changing != run(older) || width > 18 {
        return None;
    }
    let number = |key: &[u8]| {
        let text = std::str::from_utf8(&key[first..first + width]).expect("digits are text");
        text.parse::<u64>().expect("at most 18 digits")
    };
    let (from, to) = (number(older), number(newest));
    let next = u64::try_from(step(from, to, seconds, ahead)?).ok()?;
    let digits = format!("{next:0width$}");
    if digits.len() > width {
        return None;
    }
    Some([&newest[..first], digits.as_bytes()].concat())
}

/// Eight bytes from the first that changes on.
fn binary(older: &[u8], newest: &[u8], common: usize, seconds: u64, ahead: u64) -> Option<Vec<u8>> {
    let number = |key: &[u8]| {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(&key[common..]) {
            *to = *from;
        }
        u64::from_be_bytes(bytes)
    };
    let next = u64::try_from(step(number(older), number(newest), seconds, ahead)?).ok()?;
    Some([&newest[..common], &next.to_be_bytes()].concat())
}

fn step(from: u64, to: u64, seconds: u64, ahead: u64) -> Option<u128> {
    let grown = u128::from(to.checked_sub(from).filter(|grown| *grown > 0)?);
    (grown * u128::from(ahead))
        .checked_div(u128::from(seconds))
        .map(|more| u128::from(to) + more)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn growth<'a>(older: &'a [u8], newest: &'a [u8]) -> Growth<'a> {
        Growth {
            older,
            newest,
            seconds: 4,
            bytes: 0,
            keys: 0,
        }
    }

    #[test]
    fn counters_in_text_and_in_bytes_go_on() {
        let found = |older: &[u8], newest: &[u8]| extrapolate(older, newest, 4, 3);
        assert_eq!(found(b"user0100", b"user0500"), Some(b"user0800".to_vec()));
        // The digits before those that changed take the carry.
        assert_eq!(found(b"k0190/a", b"k0198/b"), Some(b"k0204".to_vec()));
        let of = |number: u64| [b"t".as_slice(), &number.to_be_bytes()].concat();
        let next = found(&of(1_000), &of(5_000)).expect("it grows");
        assert!(next > of(7_500) && next < of(9_000), "{next:?}");
        assert_eq!(
            found(b"z9990", b"z9998"),
            None,
            "no such number of four digits"
        );
        assert_eq!(found(b"k1", b"k1"), None, "nothing grew");
    }

    #[test]
    fn without_a_number_it_is_just_above() {
        let found =
            |inside: &dyn Fn(&[u8]) -> bool| split_key(&growth(b"k0100", b"k0500"), false, inside);
        assert_eq!(found(&|_| true), Some(b"k0800".as_slice().into()));
        assert_eq!(
            found(&|key| key < b"k06".as_slice()),
            Some(b"k0500\0".as_slice().into())
        );
        assert_eq!(found(&|key| key < b"k05".as_slice()), None);
    }

    #[test]
    fn encoded_keys_stay_encoded() {
        let (older, newest) = (
            memcomparable::encode(b"rabcuser00000100"),
            memcomparable::encode(b"rabcuser00000500"),
        );
        let key = split_key(&growth(&older, &newest), true, |_| true).expect("a key");
        assert_eq!(key, memcomparable::encode(b"rabcuser00000800"));
        assert_eq!(split_key(&growth(b"bad", &newest), true, |_| true), None);
    }

    proptest! {
        /// Whatever the keys are, the split lies above the newest.
        #[test]
        fn a_split_ahead_is_ahead(older in prop::collection::vec(any::<u8>(), 1..20), newest in prop::collection::vec(any::<u8>(), 1..20)) {
            let key = split_key(&growth(&older, &newest), false, |_| true).expect("nothing is outside");
            prop_assert!(key[..] > newest[..]);
        }

        /// A counter in text is told exactly.
        #[test]
        fn a_counter_is_extrapolated_exactly(from in 0u64..400_000, each in 1u64..10_000) {
            let text = |number: u64| format!("a{number:09}").into_bytes();
            let found = extrapolate(&text(from), &text(from + 4 * each), 4, 3);
            prop_assert_eq!(found, Some(text(from + 7 * each)));
        }
    }
}
