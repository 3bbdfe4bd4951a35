//! The replicated state: keys of the placement region, their values, and loading them.
//!
//! Each value is a format byte followed by an encoded message of `pontoon.v1`. Nothing else is stored in the region.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use proto::StoreId;
use proto::pontoon::v1 as wire;

use crate::decision::Who;
use crate::operator::Operator;
use crate::rules::{RuleSet, group_from_wire, group_to_wire};

/// Format of all values written today.
const FORMAT: u8 = 1;

/// The key under which [`wire::PlacementCluster`] is found, on followers as well.
pub const CLUSTER_KEY: &[u8] = b"cluster";
const IDS_KEY: &[u8] = b"id";
const TIMESTAMP_KEY: &[u8] = b"timestamp";
const RULES_KEY: &[u8] = b"rules";
const STORE_PREFIX: &[u8] = b"store/";
const OPERATOR_PREFIX: &[u8] = b"operator/";
const JOURNAL_PREFIX: &[u8] = b"journal/";
const PAUSE_PREFIX: &[u8] = b"pause/";

/// The state of the region cannot be used: it was written by a newer version, or is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The first byte of a value names a format that this version does not know.
    #[error(
        "placement state {key}: format {format} is newer than this version, which reads format {FORMAT}"
    )]
    Format {
        /// The key.
        key: String,
        /// What was found.
        format: u8,
    },
    /// A value does not decode.
    #[error("placement state {key} is damaged")]
    Damaged {
        /// The key.
        key: String,
    },
    /// A key that this version does not know.
    #[error("placement state {key} is not known to this version")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A message decodes but contradicts itself.
    #[error("placement state {key}: {problem}")]
    Invalid {
        /// The key.
        key: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Everything that is replicated, decoded.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pub cluster: Option<wire::PlacementCluster>,
    pub high_water: u64,
    pub bound_ms: u64,
    pub stores: BTreeMap<StoreId, wire::PlacementStore>,
    pub operators: BTreeMap<u64, Operator>,
    /// With their values as they stand.
    pub journal: BTreeMap<u64, (wire::JournalEntry, Bytes)>,
    /// When the pauses of schedulers end, in Unix milliseconds.
    pub pauses: BTreeMap<Who, u64>,
    pub rules: RuleSet,
}

impl Image {
    /// Decodes all pairs of the region.
    pub fn load<'a>(
        pairs: impl IntoIterator<Item = (&'a Bytes, &'a Bytes)>,
    ) -> Result<Self, LoadError> {
        let mut image = Self::default();
        for (key, value) in pairs {
            image.load_pair(key, value)?;
        }
        Ok(image)
    }

    fn load_pair(&mut self, key: &[u8], value: &Bytes) -> Result<(), LoadError> {
        if key == CLUSTER_KEY {
            self.cluster = Some(decode(key, value)?);
        } else if key == IDS_KEY {
            self.high_water = decode::<wire::PlacementIds>(key, value)?.high_water;
        } else if key == TIMESTAMP_KEY {
            self.bound_ms = decode::<wire::PlacementTimestamp>(key, value)?.bound_ms;
        } else if key == RULES_KEY {
            let rules = decode::<wire::PlacementRules>(key, value)?;
            let groups = rules.groups.into_iter().map(group_from_wire);
            let groups = groups.collect::<Result<_, _>>();
            self.rules = RuleSet {
                version: rules.version,
                groups: groups.map_err(|problem| invalid(key, problem))?,
            };
        } else if let Some(id) = suffix(key, STORE_PREFIX) {
            let store: wire::PlacementStore = decode(key, value)?;
            if store.store.as_ref().is_none_or(|store| store.id != id) {
                return Err(invalid(key, "the store has another id"));
            }
            self.stores.insert(StoreId(id), store);
        } else if let Some(id) = suffix(key, OPERATOR_PREFIX) {
            let operator = Operator::from_wire(decode(key, value)?)
                .map_err(|problem| invalid(key, problem))?;
            if operator.id != id {
                return Err(invalid(key, "the operator has another id"));
            }
            self.operators.insert(id, operator);
        } else if let Some(seq) = suffix(key, JOURNAL_PREFIX) {
            let entry: wire::JournalEntry = decode(key, value)?;
            if entry.seq != seq {
                return Err(invalid(key, "the entry has another number"));
            }
            self.journal.insert(seq, (entry, value.clone()));
        } else if let Some(name) = key.strip_prefix(PAUSE_PREFIX) {
            let who = std::str::from_utf8(name).ok().and_then(Who::from_name);
            let who = who.ok_or_else(|| invalid(key, "there is no such scheduler"))?;
            let pause: wire::PlacementPause = decode(key, value)?;
            self.pauses.insert(who, pause.until_ms);
        } else {
            return Err(LoadError::UnknownKey { key: name(key) });
        }
        Ok(())
    }
}

/// Reads the cluster record, for members that do not lead.
///
/// # Errors
/// When the value is damaged or of a newer format.
pub fn decode_cluster(value: &[u8]) -> Result<wire::PlacementCluster, LoadError> {
    decode(CLUSTER_KEY, value)
}

/// A key and its new value; `None` deletes.
pub(crate) type Pair = (Bytes, Option<Bytes>);

pub(crate) fn put_cluster(cluster: &wire::PlacementCluster) -> Pair {
    (Bytes::from_static(CLUSTER_KEY), Some(encode(cluster)))
}

pub(crate) fn put_ids(high_water: u64) -> Pair {
    let value = wire::PlacementIds { high_water };
    (Bytes::from_static(IDS_KEY), Some(encode(&value)))
}

pub(crate) fn put_bound(bound_ms: u64) -> Pair {
    let value = wire::PlacementTimestamp { bound_ms };
    (Bytes::from_static(TIMESTAMP_KEY), Some(encode(&value)))
}

pub(crate) fn put_store(id: StoreId, store: &wire::PlacementStore) -> Pair {
    (numbered(STORE_PREFIX, id.0), Some(encode(store)))
}

pub(crate) fn put_operator(operator: &Operator) -> Pair {
    (
        numbered(OPERATOR_PREFIX, operator.id),
        Some(encode(&operator.to_wire())),
    )
}

pub(crate) fn delete_operator(id: u64) -> Pair {
    (numbered(OPERATOR_PREFIX, id), None)
}

pub(crate) fn put_journal(entry: &wire::JournalEntry) -> Pair {
    (numbered(JOURNAL_PREFIX, entry.seq), Some(encode(entry)))
}

pub(crate) fn delete_journal(seq: u64) -> Pair {
    (numbered(JOURNAL_PREFIX, seq), None)
}

pub(crate) fn decode_journal(seq: u64, value: &[u8]) -> Result<wire::JournalEntry, LoadError> {
    decode(&numbered(JOURNAL_PREFIX, seq), value)
}

pub(crate) fn put_rules(rules: &RuleSet) -> Pair {
    let value = wire::PlacementRules {
        version: rules.version,
        groups: rules.groups.iter().map(group_to_wire).collect(),
    };
    (Bytes::from_static(RULES_KEY), Some(encode(&value)))
}

/// `None` ends a pause.
pub(crate) fn put_pause(who: Who, until_ms: Option<u64>) -> Pair {
    let mut key = BytesMut::from(PAUSE_PREFIX);
    key.put_slice(who.name().as_bytes());
    let value = until_ms.map(|until_ms| encode(&wire::PlacementPause { until_ms }));
    (key.freeze(), value)
}

fn numbered(prefix: &[u8], id: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(prefix.len() + 8);
    key.put_slice(prefix);
    key.put_u64(id);
    key.freeze()
}

fn suffix(key: &[u8], prefix: &[u8]) -> Option<u64> {
    let id = key.strip_prefix(prefix)?;
    Some(u64::from_be_bytes(id.try_into().ok()?))
}

fn encode(message: &impl Message) -> Bytes {
    let mut value = BytesMut::with_capacity(1 + message.encoded_len());
    value.put_u8(FORMAT);
    message.encode(&mut value).expect("a BytesMut grows");
    value.freeze()
}

fn decode<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<M, LoadError> {
    match value.split_first() {
        Some((&FORMAT, message)) => {
            M::decode(message).map_err(|_| LoadError::Damaged { key: name(key) })
        }
        Some((&format, _)) => Err(LoadError::Format {
            key: name(key),
            format,
        }),
        None => Err(LoadError::Damaged { key: name(key) }),
    }
}

fn invalid(key: &[u8], problem: &'static str) -> LoadError {
    LoadError::Invalid {
        key: name(key),
        problem,
    }
}

fn name(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_newer_format_is_named() {
        let error = Image::load([(
            &Bytes::from_static(CLUSTER_KEY),
            &Bytes::from_static(&[9, 0]),
        )])
        .unwrap_err();
        assert_eq!(
            error,
            LoadError::Format {
                key: "cluster".into(),
                format: 9
            }
        );
    }

    #[test]
    fn what_is_put_is_loaded() {
        let cluster = wire::PlacementCluster {
            cluster_id: 7,
            api_version: 2,
            ..Default::default()
        };
        let changes = [put_cluster(&cluster), put_ids(1000), put_bound(99)];
        let pairs = changes
            .iter()
            .map(|(key, value)| (key, value.as_ref().expect("all are puts")));
        let image = Image::load(pairs).unwrap();
        assert_eq!(image.cluster, Some(cluster));
        assert_eq!((image.high_water, image.bound_ms), (1000, 99));
    }

    proptest! {
        /// R34: any bytes give an error or a value, never a panic.
        #[test]
        fn random_bytes_are_refused_or_decoded(key in 0usize..8, value in prop::collection::vec(any::<u8>(), 0..60), good in any::<bool>()) {
            let key = match key {
                5 => numbered(JOURNAL_PREFIX, 3),
                6 => put_pause(Who::Repair, None).0,
                0 => Bytes::from_static(CLUSTER_KEY),
                1 => Bytes::from_static(IDS_KEY),
                2 => numbered(STORE_PREFIX, 3),
                3 => numbered(OPERATOR_PREFIX, 3),
                _ => Bytes::from_static(b"other"),
            };
            let mut value = value;
            if good {
                value.insert(0, FORMAT);
            }
            let _ = Image::load([(&key, &Bytes::from(value))]);
        }
    }
}
