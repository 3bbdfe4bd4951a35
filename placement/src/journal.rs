//! The journal: what was decided, refused and done, from what, and what came of it (REGIONS §9).
//!
//! Entries are keys of the placement region, written with the change they tell of, so every leader has them. An entry is
//! written once; a refusal that repeats is one entry with a count, written when it is new, after a minute, and then after
//! twice the time up to five minutes, so a cluster that waits for a store does not write for it. The oldest entries go when there are too many bytes or days.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proto::pontoon::v1::journal_entry::Kind;
use proto::pontoon::v1::{JournalCandidate, JournalEntry, JournalNumber};
use proto::{RegionId, StoreId};

use crate::decision::{Decision, Number, Outcome};
use crate::event::Now;
use crate::outbox::Outbox;
use crate::state;

/// Refusals that are told apart by region; more are folded over all regions.
const REFUSALS_MAX: usize = 4096;
/// Bytes of a text at the most.
const TEXT_BYTES_MAX: usize = 1024;
/// Old entries that go in one write at the most.
const DROPPED_MAX: usize = 256;

/// How much is kept, and how often it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// Bytes of all entries at the most.
    pub bytes_max: usize,
    /// Entries older than this go.
    pub age_max: Duration,
    /// A refusal that repeats is written again after this at the earliest, then after twice the time each time, up to half of
    /// `refusal_ends`.
    pub refusal_every: Duration,
    /// A refusal that was not repeated for so long is over: the next is another entry.
    pub refusal_ends: Duration,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            age_max: Duration::from_secs(7 * 24 * 3600),
            refusal_every: Duration::from_secs(60),
            refusal_ends: Duration::from_secs(600),
        }
    }
}

/// What is asked of the journal; `None` is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalQuery {
    /// About this region.
    pub region: Option<RegionId>,
    /// From, to, or considering this store.
    pub store: Option<StoreId>,
    /// About this operator.
    pub operator: Option<u64>,
    /// At most so many, the newest first.
    pub limit: usize,
}

/// An entry as it is written, with what it is found by.
#[derive(Debug)]
struct Kept {
    value: Bytes,
    last_ms: u64,
    region: u64,
    operator: u64,
    stores: Box<[u64]>,
}

/// What makes two refusals the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fold {
    who: String,
    region: u64,
    stores: (u64, u64),
    reason: String,
}

#[derive(Debug)]
struct Refusal {
    entry: JournalEntry,
    /// When it was written last, and whether it was repeated since.
    written: Option<Duration>,
    repeated: bool,
    /// It is written again after this at the earliest.
    every: Duration,
}

/// All entries.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    settings: JournalSettings,
    term: u64,
    next: u64,
    kept: BTreeMap<u64, Kept>,
    bytes: usize,
    refusals: BTreeMap<Fold, Refusal>,
    flushed: Option<Duration>,
}

impl Journal {
    /// Goes on with the entries of earlier leaders, with the refusals that are not over.
    pub fn load(
        entries: BTreeMap<u64, (JournalEntry, Bytes)>,
        settings: JournalSettings,
        term: u64,
        now: Now,
    ) -> Self {
        let mut journal = Self {
            settings,
            term,
            next: entries.last_key_value().map_or(1, |(seq, _)| seq + 1),
            ..Self::default()
        };
        for (seq, (entry, value)) in entries {
            journal.keep(seq, &entry, value);
            let goes_on = entry.last_ms + millis(settings.refusal_ends) > now.wall_ms;
            if entry.kind() == Kind::Refused && goes_on {
                let refusal = Refusal {
                    written: Some(now.monotonic),
                    repeated: false,
                    every: settings.refusal_every,
                    entry,
                };
                journal.refusals.insert(Fold::of(&refusal.entry), refusal);
            }
        }
        journal
    }

    /// Writes an entry down; number, term and time are filled in.
    pub fn write(&mut self, mut entry: JournalEntry, now: Now, outbox: &mut Outbox) {
        self.begin(&mut entry, now);
        self.put(&entry, outbox);
    }

    /// Writes a decision down, or counts a refusal.
    pub fn decided(
        &mut self,
        decision: Decision,
        text: String,
        about: JournalEntry,
        now: Now,
        outbox: &mut Outbox,
    ) {
        let (from, to) = decision.stores;
        let id = |store: Option<StoreId>| store.map_or(0, |store| store.0);
        let mut entry = JournalEntry {
            who: decision.who.name().into(),
            region_id: decision.region.map_or(0, |region| region.0),
            from_store: id(from),
            to_store: id(to),
            inputs: numbers(decision.inputs),
            expected: numbers(decision.expected),
            candidates: decision
                .candidates
                .into_iter()
                .map(|candidate| JournalCandidate {
                    store_id: candidate.store.0,
                    region_id: candidate.region.map_or(0, |region| region.0),
                    score: candidate.score,
                    verdict: candidate.verdict.into_owned(),
                })
                .collect(),
            ..about
        };
        match decision.outcome {
            Outcome::Created { operator } => {
                entry.set_kind(Kind::Created);
                entry.operator_id = operator;
                entry.text = text;
                self.write(entry, now, outbox);
            }
            Outcome::Refused { reason } => {
                entry.set_kind(Kind::Refused);
                entry.text = reason.into_owned();
                self.refused(entry, now);
            }
        }
    }

    fn refused(&mut self, mut entry: JournalEntry, now: Now) {
        let mut fold = Fold::of(&entry);
        if self.refusals.len() >= REFUSALS_MAX && !self.refusals.contains_key(&fold) {
            fold.region = 0;
            entry.region_id = 0;
            if self.refusals.len() >= 2 * REFUSALS_MAX {
                self.refusals.pop_first();
            }
        }
        if let Some(known) = self.refusals.get_mut(&fold) {
            known.entry.count += 1;
            known.entry.last_ms = now.wall_ms;
            // The newest tell most.
            known.entry.inputs = entry.inputs;
            known.entry.candidates = entry.candidates;
            known.repeated = true;
            return;
        }
        self.begin(&mut entry, now);
        entry.count = 1;
        let refusal = Refusal {
            entry,
            written: None,
            repeated: true,
            every: Duration::ZERO,
        };
        self.refusals.insert(fold, refusal);
    }

    /// Once a second: writes refusals that are due, and drops what is too old or too much.
    pub fn on_tick(&mut self, now: Now, outbox: &mut Outbox) {
        let since = |then: Duration| now.monotonic.saturating_sub(then);
        if self
            .flushed
            .is_some_and(|flushed| since(flushed) < Duration::from_secs(1))
        {
            return;
        }
        self.flushed = Some(now.monotonic);
        let mut due = Vec::new();
        for refusal in self.refusals.values_mut() {
            if refusal.repeated
                && refusal
                    .written
                    .is_none_or(|written| since(written) >= refusal.every)
            {
                let (least, most) = (self.settings.refusal_every, self.settings.refusal_ends / 2);
                refusal.every = (refusal.every * 2).min(most).max(least);
                refusal.written = Some(now.monotonic);
                refusal.repeated = false;
                due.push(refusal.entry.clone());
            }
        }
        for entry in due {
            self.put(&entry, outbox);
        }
        let ends = millis(self.settings.refusal_ends);
        self.refusals.retain(|_, refusal| {
            refusal.repeated || refusal.entry.last_ms.saturating_add(ends) > now.wall_ms
        });
        let oldest = now.wall_ms.saturating_sub(millis(self.settings.age_max));
        for _ in 0..DROPPED_MAX {
            let Some(first) = self.kept.first_entry() else {
                break;
            };
            if self.bytes <= self.settings.bytes_max && first.get().last_ms >= oldest {
                break;
            }
            let (seq, dropped) = first.remove_entry();
            self.bytes -= dropped.value.len();
            self.refusals.retain(|_, refusal| refusal.entry.seq != seq);
            let _ = outbox.stage(state::delete_journal(seq));
        }
    }

    /// The operators whose effect was written down since then.
    pub fn effects(&self, since_ms: u64) -> BTreeSet<u64> {
        let recent = self.kept.iter().rev();
        recent
            .take_while(|(_, kept)| kept.last_ms >= since_ms)
            .filter(|(_, kept)| kept.operator != 0)
            .filter_map(|(seq, kept)| state::decode_journal(*seq, &kept.value).ok())
            .filter(|entry| entry.kind() == Kind::Effect)
            .map(|entry| entry.operator_id)
            .collect()
    }

    /// The newest entries that match. Refusals are as they were written, with the counts of now.
    pub fn read(&self, query: JournalQuery) -> Vec<JournalEntry> {
        let counted: BTreeMap<u64, &JournalEntry> = self
            .refusals
            .values()
            .map(|refusal| (refusal.entry.seq, &refusal.entry))
            .collect();
        let matches = |seq: &u64, kept: &Kept| {
            // A refusal may have come to be about other stores since it was written.
            let names = |store: u64| match counted.get(seq) {
                Some(entry) => stores(entry).any(|named| named == store),
                None => kept.stores.contains(&store),
            };
            query.region.is_none_or(|region| region.0 == kept.region)
                && query.store.is_none_or(|store| names(store.0))
                && query
                    .operator
                    .is_none_or(|operator| operator == kept.operator)
        };
        let entry = |(seq, kept): (&u64, &Kept)| match counted.get(seq) {
            Some(entry) => Some((*entry).clone()),
            None => state::decode_journal(*seq, &kept.value).ok(),
        };
        self.kept
            .iter()
            .rev()
            .filter(|(seq, kept)| matches(seq, kept))
            .filter_map(entry)
            .take(query.limit)
            .collect()
    }

    fn begin(&mut self, entry: &mut JournalEntry, now: Now) {
        entry.seq = self.next;
        self.next += 1;
        entry.term = self.term;
        entry.at_ms = now.wall_ms;
        entry.last_ms = now.wall_ms;
        let mut end = entry.text.len().min(TEXT_BYTES_MAX);
        while !entry.text.is_char_boundary(end) {
            end -= 1;
        }
        entry.text.truncate(end);
    }

    fn put(&mut self, entry: &JournalEntry, outbox: &mut Outbox) {
        let (key, value) = state::put_journal(entry);
        if let Some(value) = value.clone() {
            self.keep(entry.seq, entry, value);
        }
        let _ = outbox.stage((key, value));
    }

    fn keep(&mut self, seq: u64, entry: &JournalEntry, value: Bytes) {
        let mut stores: Vec<_> = stores(entry).filter(|store| *store != 0).collect();
        stores.sort_unstable();
        stores.dedup();
        self.bytes += value.len();
        let kept = Kept {
            value,
            last_ms: entry.last_ms,
            region: entry.region_id,
            operator: entry.operator_id,
            stores: stores.into(),
        };
        if let Some(replaced) = self.kept.insert(seq, kept) {
            self.bytes -= replaced.value.len();
        }
    }
}

impl Fold {
    fn of(entry: &JournalEntry) -> Self {
        Self {
            who: entry.who.clone(),
            region: entry.region_id,
            stores: (entry.from_store, entry.to_store),
            reason: entry.text.clone(),
        }
    }
}

/// Stores that an entry names; 0 is none.
fn stores(entry: &JournalEntry) -> impl Iterator<Item = u64> {
    let candidates = entry.candidates.iter();
    let considered = candidates.map(|candidate| candidate.store_id);
    considered.chain([entry.from_store, entry.to_store])
}

fn numbers(numbers: Vec<Number>) -> Vec<JournalNumber> {
    let number = |(name, value): Number| JournalNumber {
        name: name.into_owned(),
        value,
    };
    numbers.into_iter().map(number).collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
