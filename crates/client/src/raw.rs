//! Operations on single keys, and on ranges as a whole.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::kvrpcpb as kv;

use crate::{
    Client, Error,
    cause::{Cause, When},
    keys::check_value,
    retry::{Effect, Retry},
    router::Place,
};

/// How long a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// It does not expire.
    Forever,
    /// It expires after so long, in whole seconds.
    Left(Duration),
}

/// What a compare-and-swap found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Whether the new value was written.
    pub swapped: bool,
    /// The value that was found.
    pub previous: Option<Bytes>,
}

impl Client {
    /// The value of a key, unless it is absent or expired. The read is linearizable (R23).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no peer served within the budget; [`Error::EmptyKey`], [`Error::TooLarge`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        let key = self.router.keys.key(&key.into())?;
        let request = kv::RawGetRequest {
            key: key.clone(),
            ..Default::default()
        };
        let answer = self.router.single(&key, request).await?;
        Ok((!answer.not_found).then_some(answer.value))
    }

    /// Writes a key.
    ///
    /// # Errors
    /// [`Error::Unknown`] when it may have been written, or may be later; after any other error it was not.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), Error> {
        self.put_for(key.into(), value.into(), 0).await
    }

    /// Writes a key that is gone after `ttl`, rounded up to whole seconds. Needs api version 2.
    ///
    /// # Errors
    /// As [`Client::put`]; [`Error::Refused`] with api version 1.
    pub async fn put_with_ttl(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<(), Error> {
        self.put_for(key.into(), value.into(), ttl_seconds(ttl))
            .await
    }

    async fn put_for(&self, key: Bytes, value: Bytes, ttl: u64) -> Result<(), Error> {
        let key = self.router.keys.key(&key)?;
        check_value(&value)?;
        let request = kv::RawPutRequest {
            key: key.clone(),
            value,
            ttl,
            ..Default::default()
        };
        self.router.single(&key, request).await.map(drop)
    }

    /// Removes a key; an absent one is fine.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<(), Error> {
        let key = self.router.keys.key(&key.into())?;
        let request = kv::RawDeleteRequest {
            key: key.clone(),
            ..Default::default()
        };
        self.router.single(&key, request).await.map(drop)
    }

    /// How long a key lives on; `None` when it is absent.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_ttl(&self, key: impl Into<Bytes>) -> Result<Option<Ttl>, Error> {
        let key = self.router.keys.key(&key.into())?;
        let request = kv::RawGetKeyTtlRequest {
            key: key.clone(),
            ..Default::default()
        };
        let answer = self.router.single(&key, request).await?;
        Ok(match answer {
            kv::RawGetKeyTtlResponse {
                not_found: true, ..
            } => None,
            kv::RawGetKeyTtlResponse { ttl: 0, .. } => Some(Ttl::Forever),
            kv::RawGetKeyTtlResponse { ttl, .. } => Some(Ttl::Left(Duration::from_secs(ttl))),
        })
    }

    /// Writes `value` if the key has the value `previous`, where `None` is absence. One atomic step; never repeated once
    /// it may have been done (R26).
    ///
    /// # Errors
    /// [`Error::Unknown`] when it may have been done, or may be later; after any other error it was not.
    pub async fn compare_and_swap(
        &self,
        key: impl Into<Bytes>,
        previous: Option<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Swap, Error> {
        self.swap(key.into(), previous, value.into(), 0).await
    }

    /// [`Client::compare_and_swap`] with a value that is gone after `ttl`.
    ///
    /// # Errors
    /// As there; [`Error::Refused`] with api version 1.
    pub async fn compare_and_swap_with_ttl(
        &self,
        key: impl Into<Bytes>,
        previous: Option<Bytes>,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Swap, Error> {
        self.swap(key.into(), previous, value.into(), ttl_seconds(ttl))
            .await
    }

    async fn swap(
        &self,
        key: Bytes,
        previous: Option<Bytes>,
        value: Bytes,
        ttl: u64,
    ) -> Result<Swap, Error> {
        let key = self.router.keys.key(&key)?;
        check_value(&value)?;
        let request = kv::RawCasRequest {
            key: key.clone(),
            value,
            previous_not_exist: previous.is_none(),
            previous_value: previous.unwrap_or_default(),
            ttl,
            ..Default::default()
        };
        let (answer, _) = self.router.single(&key, request).await?;
        Ok(Swap {
            swapped: answer.succeed,
            previous: (!answer.previous_not_exist).then_some(answer.previous_value),
        })
    }

    /// Removes every key of `[start, end)`; an empty `end` is unbounded. Atomic within a region, not over several.
    ///
    /// # Errors
    /// As [`Client::put`], for the first region that fails; those before it are done.
    pub async fn delete_range(
        &self,
        start: impl Into<Bytes>,
        end: impl Into<Bytes>,
    ) -> Result<(), Error> {
        let keys = &self.router.keys;
        let (mut lower, upper) = keys.range(&start.into(), &end.into())?;
        let mut retry = Retry::new(&self.router.options, Effect::Idempotent, Instant::now());
        while upper.is_empty() || lower < upper {
            let (cause, when) = match self.router.locate(&Place::At(keys.route(&lower))).await {
                Ok(region) => match keys.unroute(&region.end) {
                    Some(border) => {
                        let (end_key, last) = cut(&upper, &border);
                        let request = kv::RawDeleteRangeRequest {
                            start_key: lower.clone(),
                            end_key,
                            ..Default::default()
                        };
                        match self.router.attempt(&region, request, retry.limit()).await {
                            Ok(_) if last => return Ok(()),
                            Ok(_) => {
                                lower = border;
                                retry.progressed(Instant::now());
                                continue;
                            }
                            Err(cause) => {
                                let when = self.router.learn(&region, &cause).await;
                                (cause, when)
                            }
                        }
                    }
                    None => (odd_boundary(), When::Backoff),
                },
                Err(cause) => (cause, When::Backoff),
            };
            retry.pause(cause, when).await?;
        }
        Ok(())
    }
}

/// The end of a range cut to a region that ends at `border`, and whether the range ends there. Empty is unbounded.
fn cut(upper: &Bytes, border: &Bytes) -> (Bytes, bool) {
    if border.is_empty() || !upper.is_empty() && upper <= border {
        (upper.clone(), true)
    } else {
        (border.clone(), false)
    }
}

/// A region ends where no key of this cluster's version can be.
pub(crate) fn odd_boundary() -> Cause {
    Cause::Placement {
        why: "it sent a region with a boundary that is no encoded key".to_owned(),
    }
}

/// Whole seconds, rounded up: 0 would mean forever.
pub(crate) fn ttl_seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_never_shortened_to_forever() {
        assert_eq!(ttl_seconds(Duration::from_millis(1)), 1);
        assert_eq!(ttl_seconds(Duration::from_millis(1_500)), 2);
        assert_eq!(ttl_seconds(Duration::from_secs(3)), 3);
        assert_eq!(ttl_seconds(Duration::ZERO), 1);
    }

    #[test]
    fn ranges_are_cut_to_regions() {
        let bytes = Bytes::from_static;
        let table = [
            (b"m", b"z", b"m", true),
            (b"m", b"m", b"m", true),
            (b"z", b"m", b"m", false),
        ];
        for (upper, border, end, last) in table {
            assert_eq!(cut(&bytes(upper), &bytes(border)), (bytes(end), last));
        }
        assert_eq!(cut(&Bytes::new(), &bytes(b"m")), (bytes(b"m"), false));
        assert_eq!(cut(&bytes(b"m"), &Bytes::new()), (bytes(b"m"), true));
        assert_eq!(cut(&Bytes::new(), &Bytes::new()), (Bytes::new(), true));
    }
}
