//! Ordered reads over many regions, page by page.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use proto::kvrpcpb as kv;

use crate::{
    Client, Error,
    cause::{Cause, When},
    keys::KeySpace,
    raw::odd_boundary,
    retry::{Effect, Retry},
    router::{Place, Router},
};

/// Pairs asked for at first, and at most.
const PAGE_FIRST: u32 = 256;
const PAGE_MAX: u32 = 1024;
/// Bytes a page should have; stores refuse pages above 4 MiB.
const PAGE_BYTES: usize = 1 << 20;

/// What to read: `[start, end)`, where an empty `end` is unbounded.
///
/// A scan over several pages or regions is not one moment's picture: each page is read linearizably by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    start: Bytes,
    end: Bytes,
    limit: usize,
    keys_only: bool,
    reverse: bool,
}

impl Scan {
    /// Every pair of `[start, end)` in rising order.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self {
            start: start.into(),
            end: end.into(),
            limit: usize::MAX,
            keys_only: false,
            reverse: false,
        }
    }

    /// At most `limit` pairs. Default: no limit.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Leaves values out.
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// From the end of the range downwards.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }
}

/// A scan in progress.
pub struct Pages {
    client: Client,
    cursor: Cursor,
}

impl Client {
    /// All pairs of a scan at once; bound it by a limit, or use [`Client::scan_pages`].
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn scan(&self, scan: Scan) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let mut pages = self.scan_pages(scan)?;
        let mut pairs = Vec::new();
        while let Some(page) = pages.next().await? {
            pairs.extend(page);
        }
        Ok(pairs)
    }

    /// A scan whose pages are read as they are asked for, about 1 MiB each.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when a bound is.
    pub fn scan_pages(&self, scan: Scan) -> Result<Pages, Error> {
        Ok(Pages {
            client: self.clone(),
            cursor: Cursor::new(&self.router.keys, &scan)?,
        })
    }
}

impl Pages {
    /// The next page, which has at least one pair; `None` when there is no more.
    ///
    /// # Errors
    /// As [`Client::get`]. The scan may be continued.
    pub async fn next(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>, Error> {
        while !self.cursor.is_done() {
            let pairs = self.client.router.page(&mut self.cursor).await?;
            let keys = &self.client.router.keys;
            let page: Vec<_> = pairs
                .into_iter()
                .filter_map(|pair| Some((keys.user_key(pair.key)?, pair.value)))
                .collect();
            if !page.is_empty() {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }
}

impl Router {
    /// Reads one page and moves the cursor past it. A page may be empty.
    async fn page(&self, cursor: &mut Cursor) -> Result<Vec<kv::KvPair>, Error> {
        let mut retry = Retry::new(&self.options, Effect::None, Instant::now());
        loop {
            let (cause, when) = match self.locate(&cursor.place(&self.keys)).await {
                Ok(region) => match (
                    self.keys.unroute(&region.start),
                    self.keys.unroute(&region.end),
                ) {
                    (Some(start), Some(end)) => {
                        let asked = cursor.asked();
                        match self.attempt(&region, cursor.request(), retry.limit()).await {
                            Ok(answer) => {
                                cursor.advance(&start, &end, asked, &answer.kvs);
                                return Ok(answer.kvs);
                            }
                            Err(Cause::Refused { .. }) if asked > 1 => {
                                // More than fits into a page, most likely.
                                cursor.page = asked / 2;
                                continue;
                            }
                            Err(cause) => {
                                let when = self.learn(&region, &cause).await;
                                (cause, when)
                            }
                        }
                    }
                    _ => (odd_boundary(), When::Backoff),
                },
                Err(cause) => (cause, When::Backoff),
            };
            retry.pause(cause, when).await?;
        }
    }
}

/// What is left of a scan, in wire keys; pure.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    lower: Bytes,
    /// Empty is unbounded.
    upper: Bytes,
    /// Pairs still wanted.
    left: usize,
    /// Pairs to ask for at a time.
    page: u32,
    keys_only: bool,
    reverse: bool,
}

impl Cursor {
    fn new(keys: &KeySpace, scan: &Scan) -> Result<Self, Error> {
        let (lower, upper) = keys.range(&scan.start, &scan.end)?;
        let Scan {
            limit,
            keys_only,
            reverse,
            ..
        } = *scan;
        Ok(Self {
            lower,
            upper,
            left: limit,
            page: PAGE_FIRST,
            keys_only,
            reverse,
        })
    }

    fn is_done(&self) -> bool {
        self.left == 0 || !self.upper.is_empty() && self.lower >= self.upper
    }

    /// Where to read on.
    fn place(&self, keys: &KeySpace) -> Place {
        if self.reverse {
            Place::Below(keys.route(&self.upper))
        } else {
            Place::At(keys.route(&self.lower))
        }
    }

    /// Pairs to ask for now.
    fn asked(&self) -> u32 {
        self.page.min(u32::try_from(self.left).unwrap_or(u32::MAX))
    }

    /// The store cuts the range to its region. In reverse the bounds change places.
    fn request(&self) -> kv::RawScanRequest {
        let (start_key, end_key) = if self.reverse {
            (&self.upper, &self.lower)
        } else {
            (&self.lower, &self.upper)
        };
        kv::RawScanRequest {
            start_key: start_key.clone(),
            end_key: end_key.clone(),
            limit: self.asked(),
            key_only: self.keys_only,
            reverse: self.reverse,
            ..Default::default()
        }
    }

    /// Goes on behind a page of `asked` pairs from the region `[start, end)`. A page with fewer shows that the region has
    /// no more.
    fn advance(&mut self, start: &Bytes, end: &Bytes, asked: u32, pairs: &[kv::KvPair]) {
        self.left = self.left.saturating_sub(pairs.len());
        let full = pairs.len() >= asked as usize;
        match (pairs.last(), self.reverse) {
            (Some(last), false) if full => {
                let mut next = BytesMut::with_capacity(last.key.len() + 1);
                next.put_slice(&last.key);
                next.put_u8(0);
                self.lower = next.freeze();
            }
            (Some(last), true) if full => self.upper = last.key.clone(),
            // The end of the region, or the end of everything.
            (_, false) if end.is_empty() => self.left = 0,
            (_, false) => self.lower = end.clone(),
            (_, true) if start.is_empty() => self.left = 0,
            (_, true) => self.upper = start.clone(),
        }
        let bytes: usize = pairs
            .iter()
            .map(|pair| pair.key.len() + pair.value.len())
            .sum();
        if !pairs.is_empty() {
            let fitting = PAGE_BYTES / (bytes / pairs.len()).max(1);
            self.page = u32::try_from(fitting)
                .unwrap_or(PAGE_MAX)
                .clamp(1, PAGE_MAX);
        }
    }
}

#[cfg(test)]
mod tests;
