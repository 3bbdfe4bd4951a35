//! Keys as the caller, the stores and the placement group know them.
//!
//! The caller has user keys. Requests carry *wire keys*: with api version 2, `r`, three bytes of keyspace, then the user
//! key. Regions are cut by *route keys*: with version 2, the order-preserving encoding of wire keys. With version 1 all
//! three are the same.

use bytes::{BufMut, Bytes, BytesMut};
use proto::{kvrpcpb, memcomparable};

use crate::{
    error::{Error, Part},
    options::{ApiVersion, KEY_BYTES_MAX, VALUE_BYTES_MAX},
};

const PREFIX_BYTES: usize = 4;
const RAW: u32 = (b'r' as u32) << 24;
const KEYSPACE_MAX: u32 = (1 << 24) - 1;

/// Translates between the three kinds of keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeySpace {
    Plain,
    /// The prefix as a number; the next number begins the next keyspace.
    Prefixed(u32),
}

impl KeySpace {
    pub(crate) fn new(api: ApiVersion) -> Result<Self, Error> {
        match api {
            ApiVersion::V1 => Ok(Self::Plain),
            ApiVersion::V2 { keyspace } if keyspace <= KEYSPACE_MAX => {
                Ok(Self::Prefixed(RAW | keyspace))
            }
            ApiVersion::V2 { keyspace } => Err(Error::Keyspace { keyspace }),
        }
    }

    /// The version as requests name it.
    pub(crate) fn api_version(&self) -> kvrpcpb::ApiVersion {
        match self {
            Self::Plain => kvrpcpb::ApiVersion::V1,
            Self::Prefixed(_) => kvrpcpb::ApiVersion::V2,
        }
    }

    /// The wire key of a checked user key.
    pub(crate) fn key(&self, user: &Bytes) -> Result<Bytes, Error> {
        if user.is_empty() {
            return Err(Error::EmptyKey);
        }
        self.bound(user)
    }

    fn bound(&self, user: &Bytes) -> Result<Bytes, Error> {
        let wire = match self {
            Self::Plain => user.clone(),
            Self::Prefixed(prefix) => {
                let mut wire = BytesMut::with_capacity(PREFIX_BYTES + user.len());
                wire.put_u32(*prefix);
                wire.put_slice(user);
                wire.freeze()
            }
        };
        check(Part::Key, wire.len(), KEY_BYTES_MAX)?;
        Ok(wire)
    }

    /// The wire range of a user range, in which an empty `end` is unbounded. Empty on the wire means the same.
    pub(crate) fn range(&self, start: &Bytes, end: &Bytes) -> Result<(Bytes, Bytes), Error> {
        let lower = self.bound(start)?;
        let upper = match self {
            Self::Prefixed(prefix) if end.is_empty() => {
                Bytes::copy_from_slice(&(prefix + 1).to_be_bytes())
            }
            _ => self.bound(end)?,
        };
        Ok((lower, upper))
    }

    /// The user key of a wire key that a store sent; `None` when it is not of this keyspace.
    pub(crate) fn user_key(&self, wire: Bytes) -> Option<Bytes> {
        match self {
            Self::Plain => Some(wire),
            Self::Prefixed(prefix) => wire
                .starts_with(&prefix.to_be_bytes())
                .then(|| wire.slice(PREFIX_BYTES..)),
        }
    }

    /// The route key of a wire key; empty stays empty, the end of the key space.
    pub(crate) fn route(&self, wire: &Bytes) -> Bytes {
        match self {
            Self::Prefixed(_) if !wire.is_empty() => memcomparable::encode(wire),
            _ => wire.clone(),
        }
    }

    /// The wire key at a region boundary; `None` when the boundary is no encoded key.
    pub(crate) fn unroute(&self, boundary: &Bytes) -> Option<Bytes> {
        match self {
            Self::Prefixed(_) if !boundary.is_empty() => memcomparable::decode(boundary).ok(),
            _ => Some(boundary.clone()),
        }
    }
}

pub(crate) fn check_value(value: &Bytes) -> Result<(), Error> {
    check(Part::Value, value.len(), VALUE_BYTES_MAX)
}

pub(crate) fn check(part: Part, bytes: usize, bytes_max: usize) -> Result<(), Error> {
    if bytes > bytes_max {
        Err(Error::TooLarge {
            part,
            bytes,
            bytes_max,
        })
    } else {
        Ok(())
    }
}

/// A key that lies below `upper` and above every region boundary that does: what to look up to find the region before a
/// boundary. `upper` may be empty, the end of the key space.
pub(crate) fn just_below(upper: &[u8]) -> Bytes {
    // An encoded key grows by an eighth, and one byte more puts this above all of them.
    const LONGEST: usize = KEY_BYTES_MAX / 8 * 9 + 10;
    let mut below = BytesMut::with_capacity(LONGEST.max(upper.len()));
    below.put_slice(upper);
    match below.last_mut() {
        Some(0) => {
            // Nothing lies between a key and the same with a zero appended.
            below.truncate(upper.len() - 1);
            return below.freeze();
        }
        Some(last) => *last -= 1,
        None => {}
    }
    let padding = LONGEST.saturating_sub(below.len());
    below.put_bytes(0xFF, padding);
    below.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(keyspace: u32) -> KeySpace {
        KeySpace::new(ApiVersion::V2 { keyspace }).unwrap()
    }

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn version_1_keeps_keys_as_they_are() {
        let plain = KeySpace::new(ApiVersion::V1).unwrap();
        let key = plain.key(&bytes("k")).unwrap();
        assert_eq!(key, "k");
        assert_eq!(plain.route(&key), "k");
        assert_eq!(plain.unroute(&key).unwrap(), "k");
        assert_eq!(plain.user_key(key).unwrap(), "k");
        assert_eq!(
            plain.range(&bytes("a"), &Bytes::new()).unwrap(),
            (bytes("a"), Bytes::new())
        );
    }

    #[test]
    fn version_2_prefixes_the_keyspace() {
        let keys = space(0x010203);
        let key = keys.key(&bytes("k")).unwrap();
        assert_eq!(key, &b"r\x01\x02\x03k"[..]);
        assert_eq!(keys.unroute(&keys.route(&key)).unwrap(), key);
        assert_eq!(keys.user_key(key.clone()).unwrap(), "k");
        assert_eq!(space(7).user_key(key), None);
        let (lower, upper) = keys.range(&Bytes::new(), &Bytes::new()).unwrap();
        assert_eq!(
            (&lower[..], &upper[..]),
            (&b"r\x01\x02\x03"[..], &b"r\x01\x02\x04"[..])
        );
        let (_, last) = space(KEYSPACE_MAX)
            .range(&Bytes::new(), &Bytes::new())
            .unwrap();
        assert_eq!(last, &b"s\0\0\0"[..]);
        assert!(matches!(
            KeySpace::new(ApiVersion::V2 { keyspace: 1 << 24 }),
            Err(Error::Keyspace { .. })
        ));
    }

    #[test]
    fn odd_keys_are_refused_here() {
        let plain = KeySpace::Plain;
        assert!(matches!(plain.key(&Bytes::new()), Err(Error::EmptyKey)));
        let long = Bytes::from(vec![1; KEY_BYTES_MAX]);
        assert!(plain.key(&long).is_ok());
        let prefixed = space(0).key(&long);
        assert!(matches!(
            prefixed,
            Err(Error::TooLarge {
                part: Part::Key,
                bytes: 8196,
                bytes_max: 8192
            })
        ));
        assert!(check_value(&Bytes::from(vec![0; VALUE_BYTES_MAX])).is_ok());
        assert!(check_value(&Bytes::from(vec![0; VALUE_BYTES_MAX + 1])).is_err());
    }

    #[test]
    fn just_below_is_above_every_lower_boundary() {
        for (upper, lower) in [
            ("b", "a"),
            ("b", "azzz"),
            ("b", "a\u{7f}"),
            ("", "zz"),
            ("a\0", "a"),
            ("a\u{1}", "a"),
        ] {
            let below = just_below(upper.as_bytes());
            assert!(&below[..] >= lower.as_bytes(), "{upper:?} {lower:?}");
            assert!(
                upper.is_empty() || &below[..] < upper.as_bytes(),
                "{upper:?}"
            );
        }
        let longest = memcomparable::encode(&[0xFF; KEY_BYTES_MAX]);
        assert!(just_below(b"") > longest);
    }
}
