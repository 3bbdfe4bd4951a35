//! Where the other stores listen.
//!
//! What placement told last is kept in a file, so that a store that starts while placement is away still finds the others
//! (R32). The file is a help, not a truth: every handshake checks whom it reached (R30).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::RwLock;

use futures::future::BoxFuture;
use proto::{StoreId, metapb};
use tokio::sync::Notify;
use transport::{BoxError, Resolve};

use crate::services::tikv::Addresses;

/// Addresses by store.
pub struct AddressBook {
    file: PathBuf,
    addresses: RwLock<BTreeMap<StoreId, String>>,
    missed: Notify,
}

impl AddressBook {
    /// Waits until somebody looks for a store that is not in the book.
    pub async fn wanted(&self) {
        self.missed.notified().await;
    }

    /// Opens the book of a directory. A file that cannot be read is an empty book: placement will fill it.
    pub fn open(file: PathBuf) -> Self {
        let read = || {
            let text = std::fs::read(&file).ok()?;
            let addresses: BTreeMap<u64, String> = serde_json::from_slice(&text).ok()?;
            Some(
                addresses
                    .into_iter()
                    .map(|(id, address)| (StoreId(id), address))
                    .collect(),
            )
        };
        let addresses = RwLock::new(read().unwrap_or_default());
        AddressBook {
            file,
            addresses,
            missed: Notify::new(),
        }
    }

    /// Takes over what placement knows.
    pub fn update(&self, stores: &[metapb::Store]) {
        let known: BTreeMap<StoreId, String> = stores
            .iter()
            .filter(|store| {
                store.state() != metapb::StoreState::Tombstone && !store.address.is_empty()
            })
            .map(|store| (StoreId(store.id), store.address.clone()))
            .collect();
        if *self.addresses.read().expect("no holder of the lock panics") == known {
            return;
        }
        let plain: BTreeMap<u64, &String> =
            known.iter().map(|(id, address)| (id.0, address)).collect();
        let text = serde_json::to_vec_pretty(&plain).expect("a map of strings is valid JSON");
        if let Err(error) = self.save(&text) {
            tracing::warn!(%error, file = %self.file.display(), "cannot keep the addresses of stores");
        }
        *self
            .addresses
            .write()
            .expect("no holder of the lock panics") = known;
    }

    /// Replaces the file in one step, so that it is never half written.
    fn save(&self, text: &[u8]) -> std::io::Result<()> {
        let next = self.file.with_extension("next");
        std::fs::write(&next, text)?;
        std::fs::rename(&next, &self.file)
    }
}

impl Addresses for AddressBook {
    fn address(&self, store: StoreId) -> Option<String> {
        self.addresses
            .read()
            .expect("no holder of the lock panics")
            .get(&store)
            .cloned()
    }
}

impl Resolve for AddressBook {
    fn resolve(&self, store: StoreId) -> BoxFuture<'static, Result<String, BoxError>> {
        let address = self.address(store).ok_or_else(|| {
            self.missed.notify_one();
            BoxError::from(format!("store {store} is not known yet"))
        });
        Box::pin(std::future::ready(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(id: u64, address: &str, state: metapb::StoreState) -> metapb::Store {
        metapb::Store {
            id,
            address: address.to_owned(),
            state: state.into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_book_survives_a_restart() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("stores.json");
        let book = AddressBook::open(file.clone());
        assert_eq!(book.address(StoreId(1)), None);
        book.update(&[
            store(1, "a:1", metapb::StoreState::Up),
            store(2, "b:2", metapb::StoreState::Offline),
            store(3, "c:3", metapb::StoreState::Tombstone),
        ]);
        let book = AddressBook::open(file.clone());
        assert_eq!(book.address(StoreId(1)).as_deref(), Some("a:1"));
        assert_eq!(book.address(StoreId(2)).as_deref(), Some("b:2"));
        assert_eq!(
            book.address(StoreId(3)),
            None,
            "a removed store does not come back"
        );

        std::fs::write(&file, b"{ torn").expect("the file is writable");
        assert_eq!(
            AddressBook::open(file).address(StoreId(1)),
            None,
            "a damaged file is an empty book"
        );
    }
}
