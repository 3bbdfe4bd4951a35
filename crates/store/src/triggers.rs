//! When a region is split by its leader's own decision, and where (REGIONS §4, triggers).
//!
//! Three reasons. *Size*: the applier counts more than the limit, and names the keys. *Load*: requests or bytes per second
//! are above their limit in three of five seconds, and the sample of keys shows where it halves. *Appends*: inserts go
//! above the last key and will fill the region soon; it is split where they will be in a moment, and another store leads
//! the empty piece. Everything counted here is the leader's, volatile, and starts anew with each leader and each split.

mod appends;
mod extrapolate;

use bytes::Bytes;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::operation::Kind;

use self::appends::Appends;
use crate::event::Keys;
use crate::keys;
use crate::options::SplitOptions;
use crate::sample::{NoKey, Sample};

/// Seconds looked back on.
const SECONDS: usize = 5;

/// How many of them must be above the limit.
const SECONDS_OVER: usize = 3;

/// Sampled requests without which nobody can tell where the load halves.
const SAMPLED_MIN: usize = 16;

/// Why a region is to be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SplitCause {
    /// It has more bytes or keys than it should.
    Size,
    /// It does more work than it should.
    Load,
    /// It grows at its end and will be full soon.
    Appends,
}

impl SplitCause {
    /// All of them.
    pub const ALL: [SplitCause; 3] = [SplitCause::Size, SplitCause::Load, SplitCause::Appends];

    /// A word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            SplitCause::Size => "size",
            SplitCause::Load => "load",
            SplitCause::Appends => "appends",
        }
    }
}

/// Numbers that a decision rests on, by what they are.
pub(crate) type Inputs = Vec<(&'static str, f64)>;

/// A split that the leader wants.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wish {
    pub cause: SplitCause,
    pub keys: Vec<Bytes>,
    /// What it rests on.
    pub inputs: Inputs,
}

/// What is known of the region when it is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now<'a> {
    pub tick: u64,
    pub start: &'a [u8],
    pub end: &'a [u8],
    pub bytes: u64,
    pub keys: u64,
    /// The largest key ever applied, if known.
    pub last_key: Option<&'a [u8]>,
    /// Where the applier would split what is too large.
    pub split_keys: &'a [Bytes],
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    requests: u64,
    bytes: u64,
}

/// What the leader of a region counts to decide.
#[derive(Clone, Debug)]
pub(crate) struct Triggers {
    second: Second,
    /// The last full one.
    last: Second,
    second_ends_tick: u64,
    /// The last full seconds, by number.
    over: [bool; SECONDS],
    passed: usize,
    sample: Sample,
    appends: Appends,
    /// Nothing is wanted before.
    rest_until_tick: u64,
    /// Ticks of the last pause after a refusal.
    pause_ticks: u64,
    /// What there was to tell of load that no split divides.
    hot: Option<Inputs>,
    /// It is not told again before.
    hot_until_tick: u64,
}

impl Triggers {
    pub fn new(tick: u64, seed: u64, options: &SplitOptions) -> Triggers {
        Triggers {
            second: Second::default(),
            last: Second::default(),
            second_ends_tick: tick + options.second_ticks,
            over: [false; SECONDS],
            passed: 0,
            sample: Sample::new(seed),
            appends: Appends::default(),
            rest_until_tick: 0,
            pause_ticks: 0,
            hot: None,
            hot_until_tick: 0,
        }
    }

    /// What there is to tell of load that is too much and that no split divides, since most of it is of one key. Once in a
    /// while, as refusals are.
    pub fn take_hot(&mut self) -> Option<Inputs> {
        self.hot.take()
    }

    /// Counts a read that was accepted.
    pub fn count_read(&mut self, keys: &Keys, range: (&[u8], &[u8]), options: &SplitOptions) {
        self.second.requests += 1;
        self.offer(keys, range, options);
    }

    /// Counts a write that was accepted.
    pub fn count_write(
        &mut self,
        keys: &Keys,
        operations: &[wire::Operation],
        range: (&[u8], &[u8]),
        options: &SplitOptions,
    ) {
        self.second.requests += 1;
        self.offer(keys, range, options);
        if !options.ahead {
            return;
        }
        for operation in operations {
            match &operation.kind {
                Some(Kind::Put(put)) => self.appends.count(&put.key, put.value.len()),
                Some(Kind::CompareAndSwap(swap)) => {
                    self.appends.count(&swap.key, swap.value.len());
                }
                Some(Kind::Delete(_) | Kind::DeleteRange(_)) | None => {}
            }
        }
    }

    /// Counts bytes that were written or read.
    pub fn count_bytes(&mut self, bytes: u64) {
        self.second.bytes += bytes;
    }

    /// Time passed. Returns what is wanted now.
    pub fn tick(&mut self, now: Now<'_>, options: &SplitOptions) -> Option<Wish> {
        let mut wish = None;
        if now.tick >= self.second_ends_tick {
            self.second_ends_tick = now.tick + options.second_ticks;
            self.end_second(now, options);
            wish = self.ahead(now, options);
            wish = wish.or_else(|| self.load(now, options));
        }
        if !now.split_keys.is_empty() && wish.is_none() {
            wish = Some(Wish {
                cause: SplitCause::Size,
                keys: now.split_keys.to_vec(),
                inputs: sizes(now, options),
            });
        }
        wish.filter(|_| now.tick >= self.rest_until_tick)
    }

    /// Wants nothing for so long: it was just split, say.
    pub fn rest(&mut self, until_tick: u64) {
        self.rest_until_tick = self.rest_until_tick.max(until_tick);
    }

    /// What was wanted was refused: each time the pause doubles. What cannot wait is tried again after the rest at the latest:
    /// load is answered within ten seconds of when it can be (issue 3).
    pub fn on_refused(&mut self, cause: SplitCause, tick: u64, options: &SplitOptions) {
        let most = match cause {
            SplitCause::Size => options.retry_ticks_max,
            SplitCause::Load | SplitCause::Appends => {
                options.retry_ticks_max.min(options.rest_ticks)
            }
        };
        let most = most.max(options.second_ticks);
        self.pause_ticks = (self.pause_ticks * 2).clamp(options.second_ticks, most);
        self.rest(tick + self.pause_ticks);
    }

    /// What was wanted was proposed.
    pub fn on_proposed(&mut self) {
        self.pause_ticks = 0;
    }

    /// Lets one key of a request into the sample.
    fn offer(&mut self, keys: &Keys, (start, end): (&[u8], &[u8]), options: &SplitOptions) {
        if options.requests_per_second == 0 && options.bytes_per_second == 0 {
            return;
        }
        let key = match keys {
            Keys::Points(keys) if keys.is_empty() => return,
            // Another one each time, so that a batch stands for all its keys.
            Keys::Points(keys) => &keys[self.second.requests as usize % keys.len()][..],
            Keys::Range(from, _) | Keys::Clamped(from) => &from[..],
        };
        if keys::contains(start, end, key) {
            self.sample.offer(key);
        } else if key < start {
            self.sample.offer(start);
        }
    }

    fn end_second(&mut self, now: Now<'_>, options: &SplitOptions) {
        let second = std::mem::take(&mut self.second);
        let over = |count: u64, limit: u64| limit > 0 && count > limit;
        let is_over = over(second.requests, options.requests_per_second)
            || over(second.bytes, options.bytes_per_second);
        self.last = second;
        self.over[self.passed % SECONDS] = is_over;
        self.passed += 1;
        if !is_over {
            // The sample shall show the load that is too much, not what was before.
            self.sample.clear();
        }
        self.appends.end_second(now.last_key);
    }

    /// A split where the load halves.
    fn load(&mut self, now: Now<'_>, options: &SplitOptions) -> Option<Wish> {
        let over = self.over.iter().filter(|over| **over).count();
        let newest = self.over[(self.passed + SECONDS - 1) % SECONDS];
        if over < SECONDS_OVER || !newest {
            return None;
        }
        let mut inputs = vec![
            ("requests per second", self.last.requests as f64),
            ("requests allowed", options.requests_per_second as f64),
            ("bytes per second", self.last.bytes as f64),
            ("bytes allowed", options.bytes_per_second as f64),
            ("seconds above of 5", over as f64),
        ];
        let inside = |key: &[u8]| keys::contains(now.start, now.end, key);
        match self.sample.halving_key(now.start, inside, SAMPLED_MIN) {
            Ok(halving) if is_boundary(halving.key, options) => {
                inputs.push(("percent below the key", halving.percent as f64));
                Some(Wish {
                    cause: SplitCause::Load,
                    keys: vec![Bytes::copy_from_slice(halving.key)],
                    inputs,
                })
            }
            Err(NoKey::Hot { percent }) if now.tick >= self.hot_until_tick => {
                inputs.push(("percent of one key", percent as f64));
                self.hot = Some(inputs);
                self.hot_until_tick = now.tick + options.retry_ticks_max.max(1);
                None
            }
            Ok(_) | Err(NoKey::TooFew | NoKey::Hot { .. }) => None,
        }
    }

    /// A split ahead of inserts. A region that is less than half full would leave a piece that merging takes back.
    fn ahead(&self, now: Now<'_>, options: &SplitOptions) -> Option<Wish> {
        let growth = self.appends.growth()?;
        let soon = |is: u64, per_second: u64, limit: u64| {
            limit > 0 && 2 * is >= limit && is + per_second * appends::SOON_SECONDS >= limit
        };
        if !(soon(now.bytes, growth.bytes, options.bytes)
            || soon(now.keys, growth.keys, options.keys))
        {
            return None;
        }
        let inside = |key: &[u8]| keys::contains(now.start, now.end, key) && key > now.start;
        let key = extrapolate::split_key(&growth, options.encoded_keys, inside)?;
        let mut inputs = sizes(now, options);
        inputs.push(("bytes appended per second", growth.bytes as f64));
        inputs.push(("keys appended per second", growth.keys as f64));
        Some(Wish {
            cause: SplitCause::Appends,
            keys: vec![key],
            inputs,
        })
    }
}

/// How large a region is, and may be.
fn sizes(now: Now<'_>, options: &SplitOptions) -> Inputs {
    vec![
        ("bytes", now.bytes as f64),
        ("bytes allowed", options.bytes as f64),
        ("keys", now.keys as f64),
        ("keys allowed", options.keys as f64),
    ]
}

/// Whether a key may be the edge of a region: in api-version 2 clients decode those.
fn is_boundary(key: &[u8], options: &SplitOptions) -> bool {
    !options.encoded_keys || proto::memcomparable::decode(key).is_ok()
}

#[cfg(test)]
mod tests;
