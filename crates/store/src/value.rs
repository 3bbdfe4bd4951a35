//! A user's value on disk: a format byte, an expiry if it has one, then the value (STORAGE §1).

use bytes::{BufMut, Bytes, BytesMut};
use engine::Error;

const PLAIN: u8 = 0x00;
const EXPIRING: u8 = 0x01;
/// Not a value: what should be here could not be told, because what was here could not be read (R13).
const LOST: u8 = 0xFF;

/// A value with the Unix time in seconds at which it ends; 0 never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub value: Bytes,
    /// When it ends.
    pub expires_at: u64,
}

impl Stored {
    /// Whether it is still there at `now`.
    pub fn is_live(&self, now: u64) -> bool {
        self.expires_at == 0 || self.expires_at > now
    }
}

/// Bytes that precede a value with this expiry.
pub fn header_bytes(expires_at: u64) -> usize {
    if expires_at == 0 { 1 } else { 9 }
}

/// Encodes a value.
pub fn encode(value: &[u8], expires_at: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(header_bytes(expires_at) + value.len());
    if expires_at == 0 {
        bytes.put_u8(PLAIN);
    } else {
        bytes.put_u8(EXPIRING);
        bytes.put_u64(expires_at);
    }
    bytes.put_slice(value);
    bytes.freeze()
}

/// What is written where a value cannot be told: [`header`] and [`decode`] find it damaged, until something is written over it.
pub fn lost() -> Bytes {
    Bytes::from_static(&[LOST])
}

/// The expiry of an encoded value and where the value begins.
///
/// # Errors
/// [`Error::Corrupt`] when it is not what [`encode`] makes.
pub fn header(bytes: &[u8]) -> Result<(u64, usize), Error> {
    match bytes {
        [PLAIN, ..] => Ok((0, 1)),
        [EXPIRING, rest @ ..] => match rest.first_chunk::<8>() {
            Some(expires_at) if *expires_at != [0; 8] => Ok((u64::from_be_bytes(*expires_at), 9)),
            _ => Err(damaged()),
        },
        _ => Err(damaged()),
    }
}

/// Decodes a value without copying it.
///
/// # Errors
/// [`Error::Corrupt`] as [`header`].
pub fn decode(bytes: Bytes) -> Result<Stored, Error> {
    let (expires_at, at) = header(&bytes)?;
    Ok(Stored {
        value: bytes.slice(at..),
        expires_at,
    })
}

fn damaged() -> Error {
    Error::Corrupt {
        what: "a stored value".to_owned(),
        source: None,
    }
}
