//! Which stores live: beats between pairs of stores, and the support that they give each other (LIVENESS §2, §3).
//!
//! A [`Liveness`] is a deterministic state machine of its own beside the [`crate::Store`], so that no disk and no region holds
//! it up. Nothing of it is durable: a restart forgets all, which is safe because every id carries the boot that drew it (S1).
//!
//! # Driving it
//!
//! One thread owns it, and its time is a [`Duration`] on a monotonic clock, since any moment. The driver
//!
//! 1. makes one with [`Liveness::new`] after the boot counter was raised, and tells it to [`Liveness::want`] support once the
//!    store serves (and again not to when the store stops or is unwell);
//! 2. hands over the stores that regions here are shared with, [`Liveness::share`], whenever they change;
//! 3. hands over each beat that arrives, [`Liveness::on_beat`]. The stream's hello proves the sender's store: it must be
//!    the beat's;
//! 4. calls [`Liveness::tick`] at [`Liveness::due`] or a little later, and *takes every beat that has arrived before it*, or
//!    it would take its own sleep for silence of the others (S5);
//! 5. after each of these, or after several, takes [`Liveness::take`]: first the changes, in order, for the store
//!    ([`crate::event::Event`]), then the beats, for the network. A beat that was not sent yet is replaced by the next one to the same
//!    store. One that cannot be sent is dropped: the next says all of it.
//!
//! A connection that was refused twice says that the process there is gone: the driver may [`Liveness::end`] its support (S7).
//! What carries beats, and that a second connection is tried when the first is silent (S8), is the driver's business.
//!
//! # Not here yet
//!
//! Counters of the Raft stream (G3), the roster (P9), barrier rounds (B2) and leases (§8).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proto::StoreId;
use proto::pontoon::v1::Beat;
use raft::SupportId;

/// Stores that a beat names as lost at the most.
const LOST_MAX: usize = 64;
/// Within this time ends of support add up (S6).
const DAMPING_WINDOW: Duration = Duration::from_secs(10);
/// Longest clean time that is asked for, in `T` (S6).
const DAMPING_MAX: u32 = 16;
/// Intervals between two beats whose round trip is measured: those are answered at once.
const MEASURE_EVERY: u32 = 10;
/// Beats to one store that are remembered until they are acknowledged. Those older than `2T` prove nothing.
const SENT_MAX: usize = 256;

/// Times that all stores of a cluster share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two beats, `H`. Default 100 ms.
    pub beat: Duration,
    /// Without a beat support ends after this time, `T`. Default 500 ms.
    pub silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            beat: Duration::from_millis(100),
            silence: Duration::from_millis(500),
        }
    }
}

/// Something that others rest on and that is different now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The other store is supported under this id from now on.
    Given(StoreId, SupportId),
    /// The support under this id has ended: no beat carries it any more (S4).
    Ended(StoreId, SupportId),
    /// The other store supports this one under this id; `None`: it does not, or is not linked, or none is wanted.
    Held(StoreId, Option<SupportId>),
    /// The other store is linked, and supports none of these; `None`: it is not linked (E1).
    Linked(StoreId, Option<Vec<StoreId>>),
}

/// What a pair of stores is to each other, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The other store.
    pub store: StoreId,
    /// Beats arrive, and show that ours do.
    pub linked: bool,
    /// The id given.
    pub gives: Option<SupportId>,
    /// The id held.
    pub holds: Option<SupportId>,
    /// From a beat to its answer, smoothed.
    pub round_trip: Option<Duration>,
}

/// A beat that is not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Sent {
    seq: u64,
    at: Duration,
    /// Whether it is answered at once.
    asks: bool,
}

/// What is known of one other store. Pairs stay as long as the process runs, so that a late beat is known to be late.
#[derive(Debug, Default)]
struct Pair {
    /// Whether a region here has a peer there.
    shared: bool,
    /// Whether the other store said the same of us.
    asked: bool,
    /// Its boot; 0 until known.
    boot: u64,
    /// Its newest beat, and when that came.
    newest: u64,
    heard_at: Option<Duration>,
    /// Beats to it that are not acknowledged, the newest last.
    sent: VecDeque<Sent>,
    /// When the newest acknowledged beat was sent.
    acked_at: Option<Duration>,
    measure_at: Duration,
    round_trip: Option<Duration>,
    /// The support given to it.
    gives: Option<SupportId>,
    /// When support ended lately, the newest last (S6).
    ends: VecDeque<Duration>,
    /// Since when beats have come without a break.
    clean_since: Option<Duration>,
    /// The support that it gives, and whom it does not support.
    gave: Option<SupportId>,
    lost: Vec<StoreId>,
    /// What was last told of these.
    holds: Option<SupportId>,
    told: Option<Vec<StoreId>>,
}

impl Pair {
    /// Whether beats are exchanged with it.
    fn is_active(&self) -> bool {
        self.shared || self.asked
    }

    /// Until when it counts as linked, without another beat: beats come, and one of ours of the last `2T` is acknowledged.
    fn linked_until(&self, timing: &Timing) -> Option<Duration> {
        let heard = self.heard_at? + timing.silence;
        let acked = self.acked_at? + 2 * timing.silence;
        Some(heard.min(acked))
    }

    fn is_linked(&self, now: Duration, timing: &Timing) -> bool {
        self.linked_until(timing).is_some_and(|until| now < until)
    }

    /// How long beats must have come without a break before support begins (S6).
    fn clean_wanted(&self, now: Duration, timing: &Timing) -> Duration {
        let ends = self.ends.iter();
        let recent = ends.filter(|at| now < **at + DAMPING_WINDOW).count() as u32;
        match recent {
            0 => Duration::ZERO,
            count => timing.silence * DAMPING_MAX.min(1 << count.min(8)),
        }
    }

    /// Nothing is known any more but what tells late beats, and what was told.
    fn forget(&mut self) {
        *self = Pair {
            shared: self.shared,
            asked: self.asked,
            boot: self.boot,
            newest: self.newest,
            holds: self.holds,
            told: self.told.take(),
            ..Pair::default()
        };
    }

    /// Takes what the newest beat acknowledges.
    fn on_ack(&mut self, ack: u64, now: Duration) {
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.seq <= ack) {
            self.acked_at = Some(sent.at);
            if sent.seq == ack && sent.asks {
                let sample = now.saturating_sub(sent.at);
                let smoothed = self.round_trip.map_or(sample, |old| (old * 7 + sample) / 8);
                self.round_trip = Some(smoothed);
            }
        }
    }
}

/// The store's part of all its pairs.
#[derive(Debug)]
pub struct Liveness {
    me: StoreId,
    boot: u64,
    timing: Timing,
    /// Number of the newest beat.
    seq: u64,
    /// Ids drawn in this boot (S1).
    drawn: u32,
    pairs: BTreeMap<StoreId, Pair>,
    /// Whether support is wanted.
    wants: bool,
    now: Duration,
    /// Until then nothing ends for silence: this store slept itself (S5).
    calm_until: Duration,
    beat_due: Duration,
    /// Stores that are told at once.
    urgent: BTreeSet<StoreId>,
    changes: Vec<Change>,
}

impl Liveness {
    /// The part of store `me` in its restart `boot`, which is not 0 and fits 32 bits. It asks for support once it is told to
    /// ([`Liveness::want`]).
    pub fn new(me: StoreId, boot: u64, timing: Timing, now: Duration) -> Self {
        assert!(
            boot > 0 && boot <= u64::from(u32::MAX),
            "boot {boot} of store {me} is no part of an id"
        );
        Self {
            me,
            boot,
            timing,
            seq: 0,
            drawn: 0,
            pairs: BTreeMap::new(),
            wants: false,
            now,
            calm_until: now,
            beat_due: now,
            urgent: BTreeSet::new(),
            changes: Vec::new(),
        }
    }

    /// The stores that have a region in common with this one, all of them. With others beats go on only as long as they ask.
    pub fn share(&mut self, stores: &BTreeSet<StoreId>) {
        for store in stores.iter().filter(|store| **store != self.me) {
            self.pairs.entry(*store).or_default();
        }
        let mut idle = Vec::new();
        for (&store, pair) in &mut self.pairs {
            let shared = stores.contains(&store);
            if pair.shared != shared {
                pair.shared = shared;
                self.urgent.insert(store);
                if !pair.is_active() {
                    idle.push(store);
                }
            }
        }
        idle.into_iter().for_each(|store| self.part(store));
    }

    /// Whether support is asked for: not while the store starts, stops, or is unwell (G2). Whoever wants none holds none.
    pub fn want(&mut self, wants: bool) {
        if self.wants != wants {
            self.wants = wants;
            self.hasten();
            self.look();
        }
    }

    /// Ends the support given to a store, for whatever reason; that is always safe (P5).
    pub fn end(&mut self, store: StoreId) {
        let Some(pair) = self.pairs.get_mut(&store) else {
            return;
        };
        let Some(id) = pair.gives.take() else {
            return;
        };
        if pair.ends.len() > DAMPING_MAX as usize {
            pair.ends.pop_front();
        }
        pair.ends.push_back(self.now);
        pair.clean_since = None;
        self.changes.push(Change::Ended(store, id));
        // All hear that one more is lost.
        self.hasten();
    }

    /// Takes a beat of another store.
    pub fn on_beat(&mut self, beat: &Beat, now: Duration) {
        self.pass(now);
        let (now, timing) = (self.now, self.timing);
        let from = StoreId(beat.from_store);
        if beat.to_store != self.me.0 || from == self.me || beat.from_boot == 0 {
            return;
        }
        let known = self.pairs.get(&from).map_or(0, |pair| pair.boot);
        if beat.from_boot < known {
            return;
        }
        if beat.from_boot > known {
            // Its old process is dead (S4); what was known of that says nothing about this one.
            self.end(from);
            let pair = self.pairs.entry(from).or_default();
            pair.forget();
            (pair.boot, pair.newest) = (beat.from_boot, 0);
            self.urgent.insert(from);
            self.look_at(from);
        }
        let pair = self.pairs.get_mut(&from).expect("made above if need be");
        // Meant for a process that is no more, it only taught the boot. What is acknowledged was sent.
        if beat.to_boot != self.boot || beat.seq <= pair.newest || beat.ack > self.seq {
            return;
        }
        pair.newest = beat.seq;
        pair.asked = beat.shares;
        if !pair.is_active() {
            return self.part(from);
        }
        let broken = pair.heard_at.is_none_or(|at| now >= at + timing.silence);
        if broken || pair.clean_since.is_none() {
            pair.clean_since = Some(now);
        }
        pair.heard_at = Some(now);
        pair.on_ack(beat.ack, now);
        pair.gave = SupportId::new(beat.gives);
        pair.lost.clear();
        pair.lost
            .extend(beat.lost.iter().take(LOST_MAX).copied().map(StoreId));
        if beat.answer {
            self.urgent.insert(from);
        }
        if !beat.wants {
            self.end(from);
        } else if pair.gives.is_none() && pair.is_linked(now, &timing) {
            let clean = pair.clean_since.map_or(Duration::ZERO, |since| now - since);
            if clean >= pair.clean_wanted(now, &timing) {
                self.begin(from);
            }
        }
        self.look_at(from);
    }

    /// Time passes. Every beat that has come until now must have been taken before (S5).
    pub fn tick(&mut self, now: Duration) {
        self.pass(now);
        let (now, timing) = (self.now, self.timing);
        if now >= self.calm_until {
            let silent = |pair: &Pair| pair.gives.is_some() && !pair.is_linked(now, &timing);
            for store in self.stores(silent) {
                self.end(store);
            }
            let forgotten = |pair: &Pair| {
                let heard = pair
                    .heard_at
                    .is_some_and(|at| now < at + 4 * timing.silence);
                pair.asked && !pair.shared && !heard
            };
            for store in self.stores(forgotten) {
                self.part(store);
            }
        }
        self.look();
        if now >= self.beat_due {
            self.beat_due = now + timing.beat;
            self.hasten();
        }
    }

    /// When [`Liveness::tick`] has something to do next.
    pub fn due(&self) -> Duration {
        let linked = self.pairs.values().filter(|pair| pair.told.is_some());
        let silence = linked.filter_map(|pair| pair.linked_until(&self.timing));
        let silence = silence.min().map(|until| until.max(self.calm_until));
        silence.map_or(self.beat_due, |until| until.min(self.beat_due))
    }

    /// What is different, in order, and the beats to send after it: no beat carries an id that has ended (S4).
    #[must_use = "lost changes leave pledges standing, lost beats end them"]
    pub fn take(&mut self) -> (Vec<Change>, Vec<Beat>) {
        let changes = std::mem::take(&mut self.changes);
        let urgent = std::mem::take(&mut self.urgent);
        if urgent.is_empty() {
            return (changes, Vec::new());
        }
        self.seq += 1;
        let lost = self.stores(|pair| pair.shared && pair.gives.is_none());
        let lost: Vec<_> = lost
            .into_iter()
            .map(|store| store.0)
            .take(LOST_MAX)
            .collect();
        let mut beats = Vec::new();
        for store in urgent {
            let Some(pair) = self.pairs.get_mut(&store) else {
                continue;
            };
            let asks = pair.round_trip.is_none() || self.now >= pair.measure_at;
            if asks {
                pair.measure_at = self.now + MEASURE_EVERY * self.timing.beat;
            }
            let old = self.now.saturating_sub(2 * self.timing.silence);
            while pair.sent.len() >= SENT_MAX || pair.sent.front().is_some_and(|sent| sent.at < old)
            {
                pair.sent.pop_front();
            }
            pair.sent.push_back(Sent {
                seq: self.seq,
                at: self.now,
                asks,
            });
            beats.push(Beat {
                from_store: self.me.0,
                from_boot: self.boot,
                to_store: store.0,
                to_boot: pair.boot,
                seq: self.seq,
                ack: pair.newest,
                gives: pair.gives.map_or(0, SupportId::get),
                wants: self.wants,
                answer: asks,
                shares: pair.shared,
                lost: lost.clone(),
            });
        }
        (changes, beats)
    }

    /// What each pair is, for people and metrics.
    pub fn standings(&self) -> impl Iterator<Item = Standing> {
        let active = self.pairs.iter().filter(|(_, pair)| pair.is_active());
        active.map(|(&store, pair)| Standing {
            store,
            linked: pair.is_linked(self.now, &self.timing),
            gives: pair.gives,
            holds: pair.holds,
            round_trip: pair.round_trip,
        })
    }

    /// Takes the time. If that comes late, so may everything that is about to be taken (S5).
    fn pass(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.now > self.beat_due + self.timing.beat {
            self.calm_until = self.now + 2 * self.timing.beat;
        }
    }

    fn stores(&self, which: impl Fn(&Pair) -> bool) -> Vec<StoreId> {
        let pairs = self.pairs.iter().filter(|(_, pair)| which(pair));
        pairs.map(|(store, _)| *store).collect()
    }

    /// Tells everybody at once.
    fn hasten(&mut self) {
        let active = self.pairs.iter().filter(|(_, pair)| pair.is_active());
        self.urgent.extend(active.map(|(store, _)| *store));
    }

    /// Gives support under a fresh id (S1).
    fn begin(&mut self, store: StoreId) {
        // A store that drew all of them plays no part any more.
        let Some(drawn) = self.drawn.checked_add(1) else {
            return;
        };
        self.drawn = drawn;
        let id = SupportId::new(self.boot << 32 | u64::from(drawn));
        let id = id.expect("neither boot nor counter is 0");
        if let Some(pair) = self.pairs.get_mut(&store) {
            pair.gives = Some(id);
            self.changes.push(Change::Given(store, id));
            self.hasten();
        }
    }

    /// No region is shared with a store any more, as both say.
    fn part(&mut self, store: StoreId) {
        self.end(store);
        if let Some(pair) = self.pairs.get_mut(&store) {
            pair.asked = false;
            pair.forget();
            self.look_at(store);
        }
    }

    /// Tells what became of all others.
    fn look(&mut self) {
        for store in self.stores(|_| true) {
            self.look_at(store);
        }
    }

    /// Tells what became of another store, if that is new.
    fn look_at(&mut self, store: StoreId) {
        let Some(pair) = self.pairs.get_mut(&store) else {
            return;
        };
        let calm = self.now < self.calm_until && pair.told.is_some() && pair.heard_at.is_some();
        let linked = calm || pair.is_linked(self.now, &self.timing);
        let told = linked.then_some(&pair.lost);
        if pair.told.as_ref() != told {
            pair.told = told.cloned();
            self.changes.push(Change::Linked(store, pair.told.clone()));
        }
        let holds = pair.gave.filter(|_| self.wants && linked);
        if pair.holds != holds {
            pair.holds = holds;
            self.changes.push(Change::Held(store, holds));
        }
    }
}

#[cfg(test)]
mod tests;
