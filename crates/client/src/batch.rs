//! Operations on many keys. They are grouped by region and carried out side by side; a batch is not atomic.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use proto::kvrpcpb as kv;

use crate::{
    Client, Error,
    cache::Region,
    cause::{Cause, Executed, Next, When},
    keys::check_value,
    request::Request,
    retry::{Effect, Retry},
    router::{Place, Router},
};

/// Largest group: keys, and bytes up to which more are added. One log entry comes of each, so they are kept moderate.
const GROUP_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 256 << 10;
/// Groups under way at a time.
const GROUPS_MAX: usize = 16;

/// Something with a wire key.
trait Item: Clone {
    fn key(&self) -> &Bytes;
    fn bytes(&self) -> usize;
}

impl Item for Bytes {
    fn key(&self) -> &Bytes {
        self
    }

    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Item for (Bytes, Bytes) {
    fn key(&self) -> &Bytes {
        &self.0
    }

    fn bytes(&self) -> usize {
        self.0.len() + self.1.len()
    }
}

impl Client {
    /// The values of those keys that exist, in the order asked. Each is read linearizably, not all at one moment.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn batch_get(
        &self,
        keys: impl IntoIterator<Item = Bytes>,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let user_keys: Vec<Bytes> = keys.into_iter().collect();
        let wire_keys = user_keys
            .iter()
            .map(|key| self.router.keys.key(key))
            .collect::<Result<Vec<_>, _>>()?;
        let mut distinct = wire_keys.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let mut found = BTreeMap::new();
        let request = |keys: &[Bytes]| kv::RawBatchGetRequest {
            keys: keys.to_vec(),
            ..Default::default()
        };
        let collect = |answer: kv::RawBatchGetResponse| {
            found.extend(answer.pairs.into_iter().map(|pair| (pair.key, pair.value)));
        };
        self.router.in_groups(distinct, request, collect).await?;
        let pairs = user_keys.into_iter().zip(wire_keys);
        Ok(pairs
            .filter_map(|(user, wire)| Some((user, found.get(&wire)?.clone())))
            .collect())
    }

    /// Writes many keys. Of a key that occurs twice the last value counts.
    ///
    /// # Errors
    /// As [`Client::put`]; whatever the error, any part of the batch may have been written.
    pub async fn batch_put(
        &self,
        pairs: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Result<(), Error> {
        self.batch_put_for(pairs, 0).await
    }

    /// [`Client::batch_put`] with values that are gone after `ttl`, rounded up to whole seconds.
    ///
    /// # Errors
    /// As there; [`Error::Refused`] with api version 1.
    pub async fn batch_put_with_ttl(
        &self,
        pairs: impl IntoIterator<Item = (Bytes, Bytes)>,
        ttl: Duration,
    ) -> Result<(), Error> {
        self.batch_put_for(pairs, crate::raw::ttl_seconds(ttl))
            .await
    }

    async fn batch_put_for(
        &self,
        pairs: impl IntoIterator<Item = (Bytes, Bytes)>,
        ttl: u64,
    ) -> Result<(), Error> {
        let mut distinct = BTreeMap::new();
        for (key, value) in pairs {
            check_value(&value)?;
            distinct.insert(self.router.keys.key(&key)?, value);
        }
        let request = |pairs: &[(Bytes, Bytes)]| kv::RawBatchPutRequest {
            pairs: pairs
                .iter()
                .map(|(key, value)| kv::KvPair {
                    key: key.clone(),
                    value: value.clone(),
                    ..Default::default()
                })
                .collect(),
            ttls: if ttl == 0 {
                Vec::new()
            } else {
                vec![ttl; pairs.len()]
            },
            ..Default::default()
        };
        self.router
            .in_groups(distinct.into_iter().collect(), request, drop)
            .await
    }

    /// Removes many keys; absent ones are fine.
    ///
    /// # Errors
    /// As [`Client::batch_put`].
    pub async fn batch_delete(&self, keys: impl IntoIterator<Item = Bytes>) -> Result<(), Error> {
        let mut distinct = keys
            .into_iter()
            .map(|key| self.router.keys.key(&key))
            .collect::<Result<Vec<_>, _>>()?;
        distinct.sort_unstable();
        distinct.dedup();
        let request = |keys: &[Bytes]| kv::RawBatchDeleteRequest {
            keys: keys.to_vec(),
            ..Default::default()
        };
        self.router.in_groups(distinct, request, drop).await
    }
}

/// Items for one region.
type Group<T> = (Arc<Region>, Vec<T>);

impl Router {
    /// Carries out `request` on `items`, which are sorted by key, in groups; goes round until none is left.
    async fn in_groups<T: Item, R: Request>(
        &self,
        mut items: Vec<T>,
        request: impl Fn(&[T]) -> R,
        mut collect: impl FnMut(R::Answer),
    ) -> Result<(), Error> {
        let mut retry = Retry::new(&self.options, R::EFFECT, Instant::now());
        let mut group_max = GROUP_MAX;
        while !items.is_empty() {
            let groups = match self.groups(&items, group_max).await {
                Ok(groups) => groups,
                Err(cause) => {
                    retry.pause(cause, When::Backoff).await?;
                    continue;
                }
            };
            let limit = retry.limit();
            let mut attempts = Vec::with_capacity(groups.len());
            for (region, group) in groups {
                let request = request(&group);
                attempts.push(async move {
                    let result = self.attempt(&region, request, limit).await;
                    (region, group, result)
                });
            }
            let mut attempts = stream::iter(attempts).buffer_unordered(GROUPS_MAX);
            items.clear();
            let mut worst: Option<(Cause, When)> = None;
            while let Some((region, group, result)) = attempts.next().await {
                let cause = match result {
                    Ok(answer) => {
                        collect(answer);
                        retry.progressed(Instant::now());
                        continue;
                    }
                    Err(cause) => cause,
                };
                if R::EFFECT == Effect::None
                    && matches!(cause, Cause::Refused { .. })
                    && group.len() > 1
                {
                    // More than fits into an answer, most likely.
                    group_max = group_max.min(group.len().div_ceil(2));
                } else {
                    let when = self.learn(&region, &cause).await;
                    if worst
                        .as_ref()
                        .is_none_or(|(other, when)| weight(other, *when) < weight(&cause, *when))
                    {
                        worst = Some((cause, when));
                    }
                }
                items.extend(group);
            }
            if let Some((cause, when)) = worst {
                retry.pause(cause, when).await?;
            }
            items.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        }
        Ok(())
    }

    /// Cuts sorted items where regions do, and where a group is large enough.
    async fn groups<T: Item>(&self, items: &[T], group_max: usize) -> Result<Vec<Group<T>>, Cause> {
        let mut groups: Vec<Group<T>> = Vec::new();
        let mut bytes = 0;
        for item in items {
            let route = self.keys.route(item.key());
            let size = item.bytes();
            if let Some((region, group)) = groups.last_mut()
                && region.contains(&route)
                && group.len() < group_max
                && bytes + size <= GROUP_BYTES_MAX
            {
                group.push(item.clone());
                bytes += size;
                continue;
            }
            let region = self.locate(&Place::At(route)).await?;
            groups.push((region, vec![item.clone()]));
            bytes = size;
        }
        Ok(groups)
    }
}

/// Which of several causes decides about the next round: the one that asks for most care.
fn weight(cause: &Cause, when: When) -> (bool, bool, Duration) {
    let pause = match when {
        When::Now => Duration::ZERO,
        When::Backoff => Duration::from_nanos(1),
        When::AtLeast(least) => least + Duration::from_nanos(2),
    };
    (
        cause.executed() == Executed::Perhaps,
        cause.next().0 == Next::Never,
        pause,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::StoreId;

    #[test]
    fn the_cause_that_asks_for_most_care_decides() {
        let in_order = [
            Cause::EpochNotMatch { current: vec![] },
            Cause::Route { what: "" },
            Cause::NotReady {
                what: "",
                pause: Duration::ZERO,
            },
            Cause::NotReady {
                what: "",
                pause: Duration::from_secs(1),
            },
            Cause::Refused {
                message: String::new(),
            },
            Cause::Lost {
                store: StoreId(1),
                why: String::new(),
            },
        ];
        for pair in in_order.windows(2) {
            assert!(
                weight(&pair[0], pair[0].next().1) < weight(&pair[1], pair[1].next().1),
                "{} {}",
                pair[0],
                pair[1]
            );
        }
    }
}
