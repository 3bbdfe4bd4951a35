//! What the cluster has promised: every acknowledged write, kept outside of it.

use std::{path::PathBuf, sync::Mutex};

use bytes::{BufMut, Bytes, BytesMut};

/// A record of the loading phase. Its content is made again, or read from disk again, when it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A generated value; all there is to know is its number.
    Made {
        /// The number.
        number: u64,
    },
    /// A file.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its length when it was read and acknowledged.
        bytes: u64,
        /// The checksum of what was acknowledged.
        checksum: u32,
    },
}

/// One key of a writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Version that was last acknowledged; 0 is none.
    pub acknowledged: u32,
    /// Version that was last sent, acknowledged or not.
    pub sent: u32,
    /// How many writes to this key were acknowledged.
    pub acknowledgements: u32,
}

impl Slot {
    /// Whether a version found in the cluster is one that it may hold: not older than the acknowledged one, and one that
    /// was sent at all. A write without an answer may have happened or not.
    pub fn allows(&self, found: Option<u32>) -> bool {
        match found {
            None => self.acknowledged == 0,
            Some(version) => self.acknowledged <= version && version <= self.sent,
        }
    }
}

/// All keys of one writer, by their number.
#[derive(Default)]
pub struct Book {
    slots: Mutex<Vec<Slot>>,
}

impl Book {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Adds a key and notes that its first version is sent. Returns its number and the version.
    pub fn begin_new(&self) -> (usize, u32) {
        let mut slots = self.lock();
        slots.push(Slot {
            sent: 1,
            ..Slot::default()
        });
        (slots.len() - 1, 1)
    }

    /// Notes that the next version of a key is sent. Returns the version; `None` if an earlier one had no answer: it may
    /// still happen, even after a later one, so that nothing could be said about the key any more.
    pub fn begin_again(&self, number: usize) -> Option<u32> {
        let slot = &mut self.lock()[number];
        if slot.acknowledged != slot.sent {
            return None;
        }
        slot.sent += 1;
        Some(slot.sent)
    }

    /// Notes that a version was acknowledged.
    pub fn acknowledge(&self, number: usize, version: u32) {
        let slot = &mut self.lock()[number];
        slot.acknowledged = slot.acknowledged.max(version);
        slot.acknowledgements += 1;
    }

    /// A key as it stands.
    pub fn slot(&self, number: usize) -> Slot {
        self.lock()[number]
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().expect("no holder of this lock panics")
    }
}

/// Length of a writer's values.
const WRITTEN_BYTES: usize = 128;

/// The value that a writer gives a key: its version, then bytes that follow from key and version.
pub fn written_value(key: &[u8], version: u32) -> Bytes {
    let mut value = BytesMut::with_capacity(WRITTEN_BYTES);
    value.put_u32(version);
    fill(
        &mut value,
        u64::from(crc32c::crc32c(key)) << 32 | u64::from(version),
        WRITTEN_BYTES,
    );
    value.freeze()
}

/// The version in a writer's value, if the whole value is what that version should be.
pub fn written_version(key: &[u8], value: &[u8]) -> Option<u32> {
    let version = u32::from_be_bytes(value.get(..4)?.try_into().ok()?);
    (written_value(key, version) == value).then_some(version)
}

/// The value of a generated record: 100 to 1000 bytes that follow from its number.
pub fn made_value(number: u64) -> Bytes {
    let length = 100 + (mix(number) % 901) as usize;
    let mut value = BytesMut::with_capacity(length);
    fill(&mut value, number, length);
    value.freeze()
}

/// The key of a generated record. Consecutive numbers lie far apart, so that every region gets its share.
pub fn made_key(number: u64) -> Bytes {
    Bytes::from(format!("record/{:016x}", mix(number)))
}

fn fill(value: &mut BytesMut, seed: u64, length: usize) {
    let mut state = mix(seed ^ 0x5eed);
    while value.len() < length {
        state = mix(state);
        let word = state.to_be_bytes();
        let part = word.len().min(length - value.len());
        value.put_slice(&word[..part]);
    }
}

/// The finalizer of SplitMix64: a permutation of the 64-bit numbers that looks random.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_value_tells_its_version_and_nothing_else_passes() {
        let value = written_value(b"k", 7);
        assert_eq!(value.len(), WRITTEN_BYTES);
        assert_eq!(written_version(b"k", &value), Some(7));
        assert_eq!(written_version(b"other", &value), None);
        assert_eq!(written_version(b"k", &value[..100]), None);
        assert_eq!(written_version(b"k", b""), None);
        let mut rotten = value.to_vec();
        rotten[90] ^= 1;
        assert_eq!(written_version(b"k", &rotten), None);
    }

    #[test]
    fn a_slot_allows_what_may_have_happened() {
        let slot = Slot {
            acknowledged: 3,
            sent: 5,
            acknowledgements: 3,
        };
        assert!(slot.allows(Some(3)) && slot.allows(Some(5)));
        assert!(!slot.allows(None) && !slot.allows(Some(2)) && !slot.allows(Some(6)));
        let unanswered = Slot {
            sent: 1,
            ..Slot::default()
        };
        assert!(unanswered.allows(None) && unanswered.allows(Some(1)));
    }

    #[test]
    fn a_book_keeps_the_newest_acknowledgement() {
        let book = Book::default();
        let (number, version) = book.begin_new();
        assert_eq!((number, version), (0, 1));
        assert_eq!(
            book.begin_again(number),
            None,
            "the first version has no answer yet"
        );
        book.acknowledge(number, version);
        let second = book.begin_again(number).unwrap();
        book.acknowledge(number, second);
        assert_eq!(
            book.slot(number),
            Slot {
                acknowledged: 2,
                sent: 2,
                acknowledgements: 2
            }
        );
    }

    #[test]
    fn generated_records_differ() {
        assert_ne!(made_key(1), made_key(2));
        assert_ne!(made_value(1), made_value(2));
        assert!((100..=1000).contains(&made_value(9).len()));
        assert_eq!(made_value(9), made_value(9));
    }
}
