//! The order-preserving encoding that the public interface uses for region boundaries of keyspaces.
//!
//! A client opened with a keyspace asks placement for regions by *encoded* keys and decodes the boundaries it gets back,
//! while its requests to stores carry plain keys. So in api-version 2 regions, and the data in them, live in encoded
//! space: stores encode at the edge. Groups of eight bytes, zero-padded, are each followed by `0xFF` minus the padding.

use bytes::{BufMut, Bytes, BytesMut};

const GROUP: usize = 8;
const MARKER: u8 = 0xFF;

/// Encodes `key`. `encode(a) < encode(b)` exactly when `a < b`.
pub fn encode(key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity((key.len() / GROUP + 1) * (GROUP + 1));
    let mut groups = key.chunks_exact(GROUP);
    for group in &mut groups {
        out.put_slice(group);
        out.put_u8(MARKER);
    }
    let rest = groups.remainder();
    let padding = GROUP - rest.len();
    out.put_slice(rest);
    out.put_bytes(0, padding);
    out.put_u8(MARKER - padding as u8);
    out.freeze()
}

/// Decodes what [`encode`] made, the whole of it.
///
/// # Errors
/// [`NotEncoded`] when the bytes are not such an encoding.
pub fn decode(encoded: &[u8]) -> Result<Bytes, NotEncoded> {
    let mut out = BytesMut::with_capacity(encoded.len());
    let mut groups = encoded.chunks_exact(GROUP + 1).peekable();
    if !encoded.len().is_multiple_of(GROUP + 1) {
        return Err(NotEncoded);
    }
    while let Some(group) = groups.next() {
        let padding = usize::from(MARKER - group[GROUP]);
        if padding == 0 {
            out.put_slice(&group[..GROUP]);
            continue;
        }
        let whole = padding <= GROUP && groups.peek().is_none();
        if !whole || group[GROUP - padding..GROUP].iter().any(|byte| *byte != 0) {
            return Err(NotEncoded);
        }
        out.put_slice(&group[..GROUP - padding]);
        return Ok(out.freeze());
    }
    Err(NotEncoded)
}

/// The bytes are not an encoded key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEncoded;

impl std::fmt::Display for NotEncoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a memcomparable encoding")
    }
}

impl std::error::Error for NotEncoded {}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Vec<u8>> {
        let mut keys = vec![
            vec![],
            vec![0],
            vec![0, 0],
            vec![255; 8],
            vec![255; 9],
            b"r\0\0\0".to_vec(),
        ];
        for length in 0..20u8 {
            keys.push((0..length).collect());
            keys.push(vec![0; usize::from(length)]);
            keys.push((0..length).map(|byte| 255 - byte).collect());
        }
        keys
    }

    #[test]
    fn decode_reverses_encode() {
        for key in samples() {
            assert_eq!(decode(&encode(&key)).unwrap(), key);
        }
        assert_eq!(&encode(b"")[..], [0, 0, 0, 0, 0, 0, 0, 0, 247]);
        assert_eq!(&encode(b"r\0\0\0")[..], [b'r', 0, 0, 0, 0, 0, 0, 0, 251]);
    }

    #[test]
    fn order_is_kept() {
        let keys = samples();
        for a in &keys {
            for b in &keys {
                assert_eq!(
                    encode(a).cmp(&encode(b)),
                    a.as_slice().cmp(b.as_slice()),
                    "{a:?} {b:?}"
                );
            }
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = encode(b"0123456789");
        for cut in 0..good.len() {
            assert_eq!(decode(&good[..cut]), Err(NotEncoded));
        }
        assert_eq!(
            decode(&[1, 0, 0, 0, 0, 0, 0, 0, 247]),
            Err(NotEncoded),
            "padding is not zero"
        );
        assert_eq!(
            decode(&[0, 0, 0, 0, 0, 0, 0, 0, 3]),
            Err(NotEncoded),
            "marker out of range"
        );
    }
}
