//! Raw scans.
//!
//! Clients send the range they want, not cut to the region: the part of it inside the region is scanned. A client goes on
//! at the end of the region *it* knows, and takes a short answer to mean that there is no more before that. So a scan is
//! served at the exact version only, and an answer is never cut at the page limit: the request is refused instead, with
//! advice.

use bytes::Bytes;
use engine::{Direction, Engine, View};
use proto::RegionId;
use proto::kvrpcpb as kv;
use store::event::{Keys, RegionView};
use store::read::Scan;

use super::TikvService;
use super::check::{PAGE_BYTES_MAX, Rules, now_seconds};
use super::errors::Reject;
use super::raw::blocking;

/// What is wanted from one range: `[lower, upper)` in the region space, where an empty `upper` is unbounded.
#[derive(Clone, Debug)]
struct Wanted {
    lower: Bytes,
    upper: Bytes,
    limit: usize,
    key_only: bool,
    direction: Direction,
}

impl Wanted {
    /// The key at which it begins.
    fn begin(&self) -> Bytes {
        match self.direction {
            Direction::Forward => self.lower.clone(),
            Direction::Backward => self.upper.clone(),
        }
    }
}

impl<E: Engine> TikvService<E> {
    pub(super) async fn scan(
        &self,
        request: kv::RawScanRequest,
    ) -> Result<kv::RawScanResponse, Reject> {
        let context = request.context.unwrap_or_default();
        self.rules().check(&context, &request.cf)?;
        let range = kv::KeyRange {
            start_key: request.start_key,
            end_key: request.end_key,
        };
        let wanted = self.wanted(
            &context,
            &range,
            request.limit,
            request.key_only,
            request.reverse,
        )?;
        let kvs = self.scan_ranges(&context, vec![wanted]).await?;
        Ok(kv::RawScanResponse {
            kvs,
            ..Default::default()
        })
    }

    pub(super) async fn batch_scan(
        &self,
        request: kv::RawBatchScanRequest,
    ) -> Result<kv::RawBatchScanResponse, Reject> {
        let context = request.context.unwrap_or_default();
        self.rules().check(&context, &request.cf)?;
        let wanted = request
            .ranges
            .iter()
            .map(|range| {
                self.wanted(
                    &context,
                    range,
                    request.each_limit,
                    request.key_only,
                    request.reverse,
                )
            })
            .collect::<Result<Vec<_>, _>>()?;
        let kvs = self.scan_ranges(&context, wanted).await?;
        Ok(kv::RawBatchScanResponse {
            kvs,
            ..Default::default()
        })
    }

    /// In reverse `start_key` is the upper, exclusive bound and `end_key` the lower, inclusive one.
    fn wanted(
        &self,
        context: &kv::Context,
        range: &kv::KeyRange,
        limit: u32,
        key_only: bool,
        reverse: bool,
    ) -> Result<Wanted, Reject> {
        let start = self.rules().bound(context, &range.start_key)?;
        let end = self.rules().bound(context, &range.end_key)?;
        let (lower, upper, direction) = if reverse {
            (end, start, Direction::Backward)
        } else {
            (start, end, Direction::Forward)
        };
        Ok(Wanted {
            lower,
            upper,
            limit: limit as usize,
            key_only,
            direction,
        })
    }

    async fn scan_ranges(
        &self,
        context: &kv::Context,
        wanted: Vec<Wanted>,
    ) -> Result<Vec<kv::KvPair>, Reject> {
        self.leader_here(context.region_id).await?;
        let begin = wanted.first().map_or_else(Bytes::new, Wanted::begin);
        let (view, region) = self
            .node()
            .read(self.rules().target(context, Keys::Clamped(begin)))
            .await?;
        let rules = *self.rules();
        let service = self.clone();
        blocking(move || {
            let mut page = Page {
                rules,
                now: now_seconds(),
                pairs: Vec::new(),
                bytes: 0,
            };
            for wanted in wanted {
                match page.add(&view, &region, &wanted) {
                    Ok(added) => added?,
                    Err(error) => return Err(service.unreadable(region.region.id, error)),
                }
            }
            let node = service.node();
            node.count_read(RegionId(region.region.id), page.pairs.len(), page.bytes);
            Ok(page.pairs)
        })
        .await?
    }
}

/// The answer as it grows.
struct Page {
    rules: Rules,
    now: u64,
    pairs: Vec<kv::KvPair>,
    bytes: usize,
}

impl Page {
    /// Adds what the region holds of a range, up to its limit. The outer error is one of the engine.
    fn add<V: View>(
        &mut self,
        view: &V,
        region: &RegionView,
        wanted: &Wanted,
    ) -> Result<Result<(), Reject>, engine::Error> {
        let (start_key, end_key) = (&region.region.start_key, &region.region.end_key);
        let Some((start, end)) =
            store::read::clamp(&wanted.lower, &wanted.upper, start_key, end_key)
        else {
            return Ok(Ok(()));
        };
        let scan = Scan {
            start,
            end,
            direction: wanted.direction,
            limit: wanted.limit,
            bytes_max: PAGE_BYTES_MAX.saturating_sub(self.bytes),
            key_only: wanted.key_only,
            now: self.now,
        };
        let found = store::read::scan(view, &scan)?;
        let cut = found.next.is_some() && found.pairs.len() < wanted.limit;
        for (key, value) in found.pairs {
            self.bytes += key.len() + value.len();
            self.pairs.push(kv::KvPair {
                key: self.rules.client_key(&key),
                value,
                ..Default::default()
            });
        }
        if cut || self.bytes > PAGE_BYTES_MAX && self.pairs.len() > 1 {
            return Ok(Err(Reject::Text(format!(
                "the pairs asked for have more than {PAGE_BYTES_MAX} bytes: ask for fewer at a time ({} fitted), or for \
                 keys only",
                self.pairs.len()
            ))));
        }
        Ok(Ok(()))
    }
}
