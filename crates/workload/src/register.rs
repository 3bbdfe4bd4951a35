//! What is under test: something that holds keys.

use bytes::Bytes;
use client::{Client, Error};

/// Why an operation has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It may have been done, may be later, or never.
    Unknown,
    /// It was not done and will not be.
    NotDone,
}

/// Linearizable keys. [`Client`] is one; tests of this crate have others, some of them broken on purpose.
pub trait Register: Clone + Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: Bytes) -> impl Future<Output = Result<Option<Bytes>, Failed>> + Send;

    /// Writes a key.
    fn put(&self, key: Bytes, value: Bytes) -> impl Future<Output = Result<(), Failed>> + Send;

    /// Removes a key, if it is there.
    fn delete(&self, key: Bytes) -> impl Future<Output = Result<(), Failed>> + Send;

    /// Writes a key if it has the value `expected`. Returns whether it did, and what it found.
    fn swap(
        &self,
        key: Bytes,
        expected: Option<Bytes>,
        value: Bytes,
    ) -> impl Future<Output = Result<(bool, Option<Bytes>), Failed>> + Send;
}

fn failed(error: &Error) -> Failed {
    if error.is_unknown() {
        Failed::Unknown
    } else {
        Failed::NotDone
    }
}

/// The client must report unknown outcomes of writes ([`client::UnknownWrites::Report`]).
impl Register for Client {
    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, Failed> {
        Client::get(self, key).await.map_err(|error| failed(&error))
    }

    async fn put(&self, key: Bytes, value: Bytes) -> Result<(), Failed> {
        let put = Client::put(self, key, value).await;
        put.map_err(|error| failed(&error))
    }

    async fn delete(&self, key: Bytes) -> Result<(), Failed> {
        let delete = Client::delete(self, key).await;
        delete.map_err(|error| failed(&error))
    }

    async fn swap(
        &self,
        key: Bytes,
        expected: Option<Bytes>,
        value: Bytes,
    ) -> Result<(bool, Option<Bytes>), Failed> {
        match self.compare_and_swap(key, expected, value).await {
            Ok(swap) => Ok((swap.swapped, swap.previous)),
            Err(error) => Err(failed(&error)),
        }
    }
}
