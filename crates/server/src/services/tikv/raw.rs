//! Raw operations on keys.

// As in the runtime: a refusal is large, and rare.
#![allow(clippy::result_large_err)]

use bytes::Bytes;
use engine::Engine;
use proto::RegionId;
use proto::kvrpcpb as kv;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::operation;
use store::event::{Keys, OperationResult, Refusal};
use store::value::Stored;

use super::TikvService;
use super::check::{REQUEST_BYTES_MAX, now_seconds};
use super::errors::{Reject, SWAP_UNKNOWN};

/// Keys above which a batch is read on a thread that may wait for the disk.
const INLINE_KEYS_MAX: usize = 64;

impl<E: Engine> TikvService<E> {
    pub(super) async fn get(
        &self,
        request: kv::RawGetRequest,
    ) -> Result<kv::RawGetResponse, Reject> {
        let context = request.context.unwrap_or_default();
        Ok(
            match self.get_live(&context, &request.key, &request.cf).await? {
                Some((stored, _)) => kv::RawGetResponse {
                    value: stored.value,
                    ..Default::default()
                },
                None => kv::RawGetResponse {
                    not_found: true,
                    ..Default::default()
                },
            },
        )
    }

    pub(super) async fn get_key_ttl(
        &self,
        request: kv::RawGetKeyTtlRequest,
    ) -> Result<kv::RawGetKeyTtlResponse, Reject> {
        let context = request.context.unwrap_or_default();
        Ok(
            match self.get_live(&context, &request.key, &request.cf).await? {
                // A live value that expires does so after `now`, so its time left is not 0, which means "never".
                Some((stored, now)) => kv::RawGetKeyTtlResponse {
                    ttl: stored.expires_at.saturating_sub(now),
                    ..Default::default()
                },
                None => kv::RawGetKeyTtlResponse {
                    not_found: true,
                    ..Default::default()
                },
            },
        )
    }

    /// The value of a key that has not expired, and the second by which that was judged.
    async fn get_live(
        &self,
        context: &kv::Context,
        key: &Bytes,
        cf: &str,
    ) -> Result<Option<(Stored, u64)>, Reject> {
        self.rules().check(context, cf)?;
        let key = self.rules().key(context, key)?;
        self.leader_here(context.region_id).await?;
        let data_key = store::keys::data(&key);
        let permit = self
            .node()
            .permit(self.rules().target(context, Keys::Points(vec![key])))
            .await?;
        let unreadable = |error| self.unreadable(context.region_id, error);
        let value = permit.get(&data_key)?.map_err(unreadable)?;
        let Some(value) = value else { return Ok(None) };
        let stored = store::value::decode(value).map_err(unreadable)?;
        let now = now_seconds();
        Ok(stored.is_live(now).then_some((stored, now)))
    }

    pub(super) async fn batch_get(
        &self,
        request: kv::RawBatchGetRequest,
    ) -> Result<kv::RawBatchGetResponse, Reject> {
        let context = request.context.unwrap_or_default();
        self.rules().check(&context, &request.cf)?;
        let keys = self.keys(&context, &request.keys)?;
        if keys.is_empty() {
            return Ok(kv::RawBatchGetResponse::default());
        }
        self.leader_here(context.region_id).await?;
        let data_keys: Vec<Bytes> = keys.iter().map(|key| store::keys::data(key)).collect();
        let permit = self
            .node()
            .permit(self.rules().target(&context, Keys::Points(keys)))
            .await?;
        let read = move || permit.get_many(&data_keys, REQUEST_BYTES_MAX);
        let values = if request.keys.len() > INLINE_KEYS_MAX {
            blocking(read).await?
        } else {
            read()
        };
        let unreadable = |error| self.unreadable(context.region_id, error);
        let values = values?.map_err(unreadable)?;
        let too_many = || {
            Reject::Text(format!(
                "the values asked for have more than {REQUEST_BYTES_MAX} bytes: ask for fewer keys at a time"
            ))
        };
        if values.len() < request.keys.len() {
            return Err(too_many());
        }
        let now = now_seconds();
        let mut pairs = Vec::with_capacity(request.keys.len());
        let mut bytes = 0;
        for (key, value) in request.keys.into_iter().zip(values) {
            let Some(value) = value else { continue };
            let stored = store::value::decode(value).map_err(unreadable)?;
            if stored.is_live(now) {
                bytes += key.len() + stored.value.len();
                if bytes > REQUEST_BYTES_MAX && !pairs.is_empty() {
                    return Err(too_many());
                }
                pairs.push(kv::KvPair {
                    key,
                    value: stored.value,
                    ..Default::default()
                });
            }
        }
        Ok(kv::RawBatchGetResponse {
            pairs,
            ..Default::default()
        })
    }

    pub(super) async fn put(
        &self,
        request: kv::RawPutRequest,
    ) -> Result<kv::RawPutResponse, Reject> {
        let context = request.context.unwrap_or_default();
        self.rules().check(&context, &request.cf)?;
        let key = self.rules().key(&context, &request.key)?;
        let value = self.rules().value(&context, &request.value)?;
        let expires_at = self.rules().expires_at(request.ttl, now_seconds())?;
        let put = wire::Put {
            key: key.clone(),
            value,
            expires_at,
        };
        self.write(&context, vec![key], vec![operation::Kind::Put(put)])
            .await?;
        Ok(kv::RawPutResponse::default())
    }

    pub(super) async fn batch_put(
        &self,
        request: kv::RawBatchPutRequest,
    ) -> Result<kv::RawBatchPutResponse, Reject> {
        let context = request.context.unwrap_or_default();
        self.rules().check(&context, &request.cf)?;
        let ttls = TimesToLive::new(request.ttl, request.ttls, request.pairs.len())?;
        let now = now_seconds();
        let mut keys = Vec::with_capacity(request.pairs.len());
        let mut operations = Vec::with_capacity(request.pairs.len());
        for (position, pair) in request.pairs.iter().enumerate() {
            let key = self.rules().key(&context, &pair.key)?;
            let value = self.rules().value(&context, &pair.value)?;
            let expires_at = self.rules().expires_at(ttls.of(position), now)?;
            keys.push(key.clone());
            operations.push(operation::Kind::Put(wire::Put {
                key,
                value,
                expires_at,
            }));
        }
        self.write(&context, keys, operations).await?;
        Ok(kv::RawBatchPutResponse::default())
    }

    pub(super) async fn delete(
        &self,
        request: kv::RawDeleteRequest,
    ) -> Result<kv::RawDeleteResponse, Reject> {
        let context = request.context.unwrap_or_default();
        self.rules().check(&context, &request.cf)?;
        let key = self.rules().key(&context, &request.key)?;
        let delete = wire::Delete { key: key.clone() };
        self.write(&context, vec![key], vec![operation::Kind::Delete(delete)])
            .await?;
        Ok(kv::RawDeleteResponse::default())
    }

    pub(super) async fn batch_delete(
        &self,
        request: kv::RawBatchDeleteRequest,
    ) -> Result<kv::RawBatchDeleteResponse, Reject> {
        let context = request.context.unwrap_or_default();
        self.rules().check(&context, &request.cf)?;
        let keys = self.keys(&context, &request.keys)?;
        let operations = keys
            .iter()
            .map(|key| operation::Kind::Delete(wire::Delete { key: key.clone() }))
            .collect();
        self.write(&context, keys, operations).await?;
        Ok(kv::RawBatchDeleteResponse::default())
    }

    pub(super) async fn delete_range(
        &self,
        request: kv::RawDeleteRangeRequest,
    ) -> Result<kv::RawDeleteRangeResponse, Reject> {
        let context = request.context.unwrap_or_default();
        self.rules().check(&context, &request.cf)?;
        let start = self.rules().bound(&context, &request.start_key)?;
        let end = self.rules().bound(&context, &request.end_key)?;
        if !end.is_empty() && start >= end {
            return Ok(kv::RawDeleteRangeResponse::default());
        }
        self.leader_here(context.region_id).await?;
        let target = self
            .rules()
            .target(&context, Keys::Range(start.clone(), end.clone()));
        self.propose_delete_range(target, start, end).await?;
        Ok(kv::RawDeleteRangeResponse::default())
    }

    pub(super) async fn propose_delete_range(
        &self,
        target: store::event::Target,
        start_key: Bytes,
        end_key: Bytes,
    ) -> Result<(), Refusal> {
        let range = operation::Kind::DeleteRange(wire::DeleteRange { start_key, end_key });
        self.node()
            .propose(target, vec![wire::Operation { kind: Some(range) }])
            .await
            .map(drop)
    }

    pub(super) async fn compare_and_swap(
        &self,
        request: kv::RawCasRequest,
    ) -> Result<kv::RawCasResponse, Reject> {
        let context = request.context.unwrap_or_default();
        self.rules().check(&context, &request.cf)?;
        if request.delete {
            return Err(Reject::Text(
                "compare-and-swap cannot delete: swap in a value, or use a plain delete".to_owned(),
            ));
        }
        let key = self.rules().key(&context, &request.key)?;
        let value = self.rules().value(&context, &request.value)?;
        let now = now_seconds();
        let swap = wire::CompareAndSwap {
            key: key.clone(),
            value,
            expires_at: self.rules().expires_at(request.ttl, now)?,
            previous: (!request.previous_not_exist).then_some(request.previous_value),
            now,
        };
        let results = match self
            .write(
                &context,
                vec![key],
                vec![operation::Kind::CompareAndSwap(swap)],
            )
            .await
        {
            Ok(results) => results,
            // A client repeats after any region error, and a swap that took effect would then report failure (R26). Only
            // a plain error reaches the caller.
            Err(Refusal::Unknown) => {
                return Err(Reject::Text(SWAP_UNKNOWN.to_owned()));
            }
            Err(refusal) => return Err(refusal.into()),
        };
        match results.into_iter().next() {
            Some(OperationResult::Swapped {
                succeeded,
                previous,
            }) => Ok(kv::RawCasResponse {
                succeed: succeeded,
                previous_not_exist: previous.is_none(),
                previous_value: previous.unwrap_or_default(),
                ..Default::default()
            }),
            result => unreachable!("a compare-and-swap is answered as such, not with {result:?}"),
        }
    }

    pub(super) async fn coprocessor(
        &self,
        _request: kv::RawCoprocessorRequest,
    ) -> Result<kv::RawCoprocessorResponse, Reject> {
        Err(Reject::Text(
            "coprocessor plugins are not supported".to_owned(),
        ))
    }

    /// The engine cannot read what was asked for. Another replica can, so the client is sent away.
    pub(super) fn unreadable(&self, region: u64, error: engine::Error) -> Reject {
        self.node().met_error(RegionId(region), &error);
        Reject::Region(Box::new(proto::errorpb::Error {
            message: format!("cannot read: {}", crate::exit::chain(&error)),
            ..Default::default()
        }))
    }

    /// Checks keys, all of them before any is used.
    fn keys(&self, context: &kv::Context, keys: &[Bytes]) -> Result<Vec<Bytes>, Reject> {
        keys.iter()
            .map(|key| self.rules().key(context, key))
            .collect()
    }

    /// Proposes operations on keys as one request.
    async fn write(
        &self,
        context: &kv::Context,
        keys: Vec<Bytes>,
        operations: Vec<operation::Kind>,
    ) -> Result<Vec<OperationResult>, Refusal> {
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        self.leader_here(context.region_id).await?;
        let operations = operations
            .into_iter()
            .map(|kind| wire::Operation { kind: Some(kind) })
            .collect();
        self.node()
            .propose(self.rules().target(context, Keys::Points(keys)), operations)
            .await
    }
}

/// The times to live of a batch: one for all, or one each.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TimesToLive {
    Same(u64),
    Each(Vec<u64>),
}

impl TimesToLive {
    /// From the two fields of a request; `each` replaces `all` when it is there.
    pub fn new(all: u64, each: Vec<u64>, pairs: usize) -> Result<Self, Reject> {
        match each.len() {
            0 => Ok(TimesToLive::Same(all)),
            1 => Ok(TimesToLive::Same(each[0])),
            given if given == pairs => Ok(TimesToLive::Each(each)),
            given => Err(Reject::Text(format!(
                "there are {given} times to live for {pairs} pairs: give one each, or one"
            ))),
        }
    }

    /// Of the pair at a position.
    pub fn of(&self, position: usize) -> u64 {
        match self {
            TimesToLive::Same(ttl) => *ttl,
            TimesToLive::Each(ttls) => ttls[position],
        }
    }
}

/// Runs work that may wait for the disk away from the threads that serve.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Reject> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Reject::Text("the store is stopping".to_owned()))
}
