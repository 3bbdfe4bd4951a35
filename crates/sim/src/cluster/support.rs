//! Stores that support each other, in worlds where followers pledge (LIVENESS §3, §4): beats have a network of their own.
//!
//! Beats are lost, late, doubled and come again across starts, and their links are cut apart from those of frames; support ends
//! for no reason, and is not wanted for a while. What stores learn of it, they learn late.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::StoreId;
use proto::pontoon::v1::Beat;
use raft::SupportId;
use store::event::Event;
use store::liveness::{Change, Liveness, Timing};

use super::settings::TICK;
use super::world::{Action, World};
use crate::random::{Purpose, Stream};
use crate::rule::{Violation, ensure};
use crate::schedule::Time;

/// Beats that may come again.
const OLD_MAX: usize = 64;

/// The network of beats, and what is remembered of support.
pub struct Beats {
    random: Stream,
    /// Whether the links of beats are cut where those of frames are, too.
    together: bool,
    loss_permille: u64,
    /// Until when links are cut, by sender and receiver.
    cut: BTreeMap<(StoreId, StoreId), Time>,
    old: Vec<Beat>,
    /// Every id that was given, with who gave it.
    ids: BTreeSet<(StoreId, SupportId)>,
    calm: bool,
}

impl Beats {
    pub fn new(seed: u64) -> Beats {
        let mut random = Stream::new(seed, Purpose::Support);
        Beats {
            together: random.chance(500),
            loss_permille: random.pick(&[0, 20, 100, 300]),
            random,
            cut: BTreeMap::new(),
            old: Vec::new(),
            ids: BTreeSet::new(),
            calm: false,
        }
    }
}

impl World {
    fn moment(&self) -> Duration {
        Duration::from_micros(self.schedule.now())
    }

    fn silence(&self) -> Time {
        Time::from(self.settings.options.raft.election_ticks) * TICK
    }

    /// A store that just started begins to breathe.
    pub(super) fn begin_breathing(&mut self, id: StoreId, boot: u64) {
        if !self.settings.options.pledges {
            return;
        }
        let beat = Time::from(self.settings.options.raft.heartbeat_ticks) * TICK;
        let timing = Timing {
            beat: Duration::from_micros(beat),
            silence: Duration::from_micros(self.silence()),
        };
        let mut live = Liveness::new(id, boot, timing, self.moment());
        live.want(true);
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        node.live = Some(live);
        let incarnation = node.incarnation;
        self.schedule.after(1, Action::Breathe(id, incarnation));
    }

    /// The stores that a store has regions in common with.
    pub(super) fn share(&mut self, id: StoreId, stores: &BTreeSet<StoreId>) {
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        if let Some(live) = &mut node.live {
            live.share(stores);
            self.tell_support(id);
        }
    }

    /// Time passes for the liveness of a store.
    pub(super) fn breathe(&mut self, id: StoreId, incarnation: u32) {
        let now = self.moment();
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        if !node.is_up(incarnation) {
            return;
        }
        if let Some(live) = &mut node.live {
            live.tick(now);
            let wait = live.due().saturating_sub(now).as_micros() as Time;
            let late = self.beats.random.below(TICK / 4);
            self.schedule
                .after(wait.max(1) + late, Action::Breathe(id, incarnation));
            self.tell_support(id);
        }
    }

    /// A beat arrives.
    pub(super) fn hear_beat(&mut self, id: StoreId, beat: &Beat) {
        let now = self.moment();
        let live = self.nodes.get_mut(&id).and_then(|node| node.live.as_mut());
        if let Some(live) = live {
            live.on_beat(beat, now);
            self.tell_support(id);
        }
    }

    /// Carries away what a store's liveness has to say: changes to the store, a little later, and beats to the others.
    fn tell_support(&mut self, id: StoreId) {
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        let Some(live) = &mut node.live else { return };
        let (changes, beats) = live.take();
        let incarnation = node.incarnation;
        if !changes.is_empty() && node.changes.is_empty() {
            let delay = self.beats.random.between(1, TICK / 2);
            self.schedule.after(delay, Action::Support(id, incarnation));
        }
        for change in &changes {
            match change {
                Change::Given(_, given) => {
                    let fresh = self.beats.ids.insert((id, *given));
                    node.repeated |= !fresh;
                    *self.happened.entry("support given").or_default() += 1;
                }
                Change::Ended(..) => *self.happened.entry("support ended").or_default() += 1,
                Change::Held(..) | Change::Linked(..) => {}
            }
        }
        node.changes.extend(changes);
        for beat in beats {
            self.send_beat(beat);
        }
    }

    fn send_beat(&mut self, beat: Beat) {
        let (from, to) = (StoreId(beat.from_store), StoreId(beat.to_store));
        let now = self.schedule.now();
        let away = self
            .exile
            .is_some_and(|exile| exile.store == from || exile.store == to);
        let cut = self
            .beats
            .cut
            .get(&(from, to))
            .is_some_and(|until| now < *until)
            || self.beats.together && self.is_cut(from, to)
            || away;
        let permille = if self.beats.calm { 0 } else { 1000 };
        let beats = &mut self.beats;
        if cut || beats.random.chance(beats.loss_permille * permille / 1000) {
            return;
        }
        if beats.random.chance(20 * permille / 1000) {
            if beats.old.len() == OLD_MAX {
                let forgotten = beats.random.below(OLD_MAX as u64) as usize;
                beats.old.swap_remove(forgotten);
            }
            beats.old.push(beat.clone());
        }
        let (low, high) = self.settings.delay;
        let slow = beats.random.chance(30 * permille / 1000);
        let delay = beats
            .random
            .between(low, if slow { 8 * high } else { high });
        if beats.random.chance(20 * permille / 1000) {
            let again = beats.random.between(low, 8 * high);
            self.schedule
                .after(again, Action::Beat(Box::new(beat.clone())));
        }
        self.schedule.after(delay, Action::Beat(Box::new(beat)));
    }

    /// A store learns some of what is different.
    pub(super) fn support(&mut self, id: StoreId, incarnation: u32) -> Result<(), Violation> {
        if !self.nodes[&id].is_up(incarnation) {
            return Ok(());
        }
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        ensure!(Pledge, !node.repeated, "store {id} gives an id twice");
        let count = self
            .beats
            .random
            .between(1, node.changes.len().max(1) as u64) as usize;
        let some: Vec<Change> = node
            .changes
            .drain(..count.min(node.changes.len()))
            .collect();
        if !node.changes.is_empty() {
            let delay = self.beats.random.between(1, TICK / 2);
            self.schedule.after(delay, Action::Support(id, incarnation));
        }
        for change in some {
            self.step(id, Event::Support(change))?;
        }
        Ok(())
    }

    /// Something happens to support.
    pub(super) fn unrest(&mut self) {
        if self.beats.calm {
            return;
        }
        let silence = self.silence();
        let delay = self.beats.random.between(TICK, 6 * silence);
        self.schedule.after(delay, Action::Unrest);
        let up: Vec<StoreId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.live.is_some())
            .map(|(id, _)| *id)
            .collect();
        if up.is_empty() {
            return;
        }
        let now = self.schedule.now();
        let id = self.beats.random.pick(&up);
        let all: Vec<StoreId> = self.nodes.keys().copied().collect();
        let other = self.beats.random.pick(&all);
        match self.beats.random.below(5) {
            0 | 1 => {
                let until = now + self.beats.random.between(TICK, 5 * silence);
                self.beats.cut.insert((id, other), until);
                if self.beats.random.chance(500) {
                    self.beats.cut.insert((other, id), until);
                }
            }
            2 => self.with_live(id, |live| live.end(other)),
            3 => {
                self.with_live(id, |live| live.want(false));
                let duration = self.beats.random.between(TICK, 2 * silence);
                self.schedule.after(duration, Action::Recover(id));
            }
            _ => {
                for beat in self.beats.old.clone() {
                    if self.beats.random.chance(300) {
                        let delay = self.beats.random.between(1, TICK);
                        self.schedule.after(delay, Action::Beat(Box::new(beat)));
                    }
                }
            }
        }
    }

    fn with_live(&mut self, id: StoreId, what: impl FnOnce(&mut Liveness)) {
        let live = self.nodes.get_mut(&id).and_then(|node| node.live.as_mut());
        if let Some(live) = live {
            what(live);
            self.tell_support(id);
        }
    }

    /// A store wants support again.
    pub(super) fn recover(&mut self, id: StoreId) {
        self.with_live(id, |live| live.want(true));
    }

    /// Beats arrive from now on, and every store wants support.
    pub(super) fn end_unrest(&mut self) {
        self.beats.calm = true;
        self.beats.cut.clear();
        let all: Vec<StoreId> = self.nodes.keys().copied().collect();
        all.into_iter().for_each(|id| self.recover(id));
    }
}
