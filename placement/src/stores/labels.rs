//! Labels: what a store tells of its place, and what an administrator says instead.

use prost::Message;
use proto::pontoon::v1 as wire;
use proto::{StoreId, metapb};

use super::{STORE_BYTES_MAX, Stores};
use crate::event::Refusal;

impl Stores {
    /// Sets labels over those that the store tells; an empty value takes a label away. Returns the record.
    pub fn label(
        &mut self,
        id: StoreId,
        labels: Vec<metapb::StoreLabel>,
    ) -> Result<wire::PlacementStore, Refusal> {
        let entry = self.present(id)?;
        let mut record = entry.record.clone();
        if record.labels.is_empty()
            && let Some(store) = &mut record.store
        {
            record.told_labels = std::mem::take(&mut store.labels);
        }
        for label in labels {
            if label.key.is_empty() {
                return Err(Refusal::Invalid("a label has no name".into()));
            }
            record.labels.retain(|known| known.key != label.key);
            let told = record.told_labels.iter().any(|told| told.key == label.key);
            if told || !label.value.is_empty() {
                record.labels.push(label);
            }
        }
        record
            .labels
            .sort_unstable_by(|one, other| one.key.cmp(&other.key));
        hold(&mut record);
        let bytes = record.encoded_len();
        if bytes > 2 * STORE_BYTES_MAX {
            return Err(Refusal::Invalid(format!(
                "the record of store {id} would have {bytes} bytes, {} are allowed",
                2 * STORE_BYTES_MAX
            )));
        }
        entry.record = record.clone();
        Ok(record)
    }
}

/// Makes the labels of the store those that hold: the administrator's over its own.
pub(super) fn hold(record: &mut wire::PlacementStore) {
    let mut told = std::mem::take(&mut record.told_labels);
    let hidden =
        |label: &metapb::StoreLabel| record.labels.iter().any(|over| over.key == label.key);
    let over = record.labels.iter().filter(|over| !over.value.is_empty());
    let held = told
        .iter()
        .filter(|label| !hidden(label))
        .chain(over)
        .cloned()
        .collect();
    if record.labels.is_empty() {
        told.clear();
    }
    record.told_labels = told;
    if let Some(store) = &mut record.store {
        store.labels = held;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Now;

    fn label(text: &str) -> metapb::StoreLabel {
        let (key, value) = text.split_once('=').expect("a label");
        metapb::StoreLabel {
            key: key.into(),
            value: value.into(),
        }
    }

    fn held(record: &wire::PlacementStore) -> Vec<String> {
        let store = record.store.as_ref().expect("a store");
        store
            .labels
            .iter()
            .map(|label| format!("{}={}", label.key, label.value))
            .collect()
    }

    /// What an administrator says holds across restarts of the store, and what it told comes back.
    #[test]
    fn an_administrators_labels_hold() {
        let mut stores = Stores::default();
        let now = Now {
            wall_ms: 0,
            monotonic: Duration::ZERO,
        };
        let down = Duration::from_secs(10);
        let store = metapb::Store {
            id: 1,
            address: "a".into(),
            labels: vec![label("zone=a"), label("disk=ssd")],
            ..Default::default()
        };
        let put = |stores: &mut Stores, boot| {
            stores
                .put(store.clone(), Some(boot), now, down)
                .expect("it registers")
                .remove(0)
                .1
        };
        assert_eq!(held(&put(&mut stores, 1)), ["zone=a", "disk=ssd"]);
        let record = stores.label(StoreId(1), vec![label("zone=b"), label("disk=")]);
        assert_eq!(held(&record.expect("a record")), ["zone=b"]);
        assert_eq!(held(&put(&mut stores, 2)), ["zone=b"], "after a restart");
        let record = stores.label(StoreId(1), vec![label("zone=")]);
        assert!(held(&record.expect("a record")).is_empty());
        assert!(stores.label(StoreId(1), vec![label("=b")]).is_err());
        assert_eq!(
            stores.label(StoreId(2), vec![label("zone=b")]),
            Err(Refusal::StoreNotFound(StoreId(2)))
        );
    }
}
