//! Faults that begin by themselves and have draws of their own: of processes, disks, clocks, links, and of placement.

use std::collections::VecDeque;

use engine::{CrashMode, Keep};
use proto::StoreId;
use proto::pontoon::v1 as wire;
use raft::PeerId;
use store::Dial;
use store::event::Event;

use super::settings::TICK;
use super::world::{Action, World, broken};
use crate::group::settings::Fault;
use crate::peers::PeerSet;
use crate::rule::Violation;
use crate::schedule::Time;

/// Old frames that may come again, and permille of frames that are kept for that.
const OLD_MAX: usize = 32;
const OLD_PERMILLE: u64 = 30;

/// What such faults hold on to.
#[derive(Default)]
pub struct Trouble {
    /// Frames that may come again.
    old: VecDeque<(StoreId, StoreId, wire::Frame)>,
    /// By sender: to whom nothing gets through for now.
    clogged: [PeerSet; 16],
    /// What waits for that, in its order.
    held: Vec<Action>,
    /// Placement answers from this time on.
    placement_back: Time,
}

impl World {
    /// How long an action has to wait because its store pauses, or its disk hangs.
    pub(super) fn wait_for(&self, action: &Action) -> Time {
        let Some(node) = action.store().and_then(|store| self.nodes.get(&store)) else {
            return 0;
        };
        let hangs = matches!(action, Action::SyncLog(..)) && node.hangs_until > node.paused_until;
        let until = if hangs {
            node.hangs_until
        } else {
            node.paused_until
        };
        // What comes meanwhile waits, in its order.
        match until.checked_sub(self.schedule.now()) {
            Some(wait) if wait > 0 => wait + 1,
            Some(_) | None => 0,
        }
    }

    /// Some fault begins at one of the stores that are `up`.
    pub(super) fn begin_trouble(&mut self, fault: Fault, up: &[StoreId]) -> Result<(), Violation> {
        let id = self.trouble_random.pick(up);
        let duration = self.trouble_length();
        let now = self.schedule.now();
        self.trace
            .note(now, [40, fault as u64, id.0, duration], || {
                format!(
                    "{} at {id}, {} ms if it lasts",
                    fault.name(),
                    duration / 1000
                )
            });
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        match fault {
            Fault::Pause => {
                node.paused_until = now + duration;
                self.count("store paused");
            }
            Fault::DiskFails => {
                use engine::Fault::{Flush, Sync, Write};
                let what = self
                    .trouble_random
                    .pick(&[Write, Write, Sync, Sync, Sync, Flush]);
                node.engine.fail_next(what);
                node.failing = Some(what);
            }
            Fault::DiskHangs => {
                node.hangs_until = now + duration;
                self.count("disk hung");
            }
            Fault::Rot => self.let_rot(),
            Fault::Clog => {
                let all: PeerSet = self.nodes.keys().map(|id| PeerId(id.0)).collect();
                let to = self.trouble_random.next() & all.0;
                self.trouble.clogged[id.0 as usize].0 |= to;
                self.schedule.after(duration, Action::Mend);
            }
            Fault::Bridge => {
                self.bridge(id);
                self.schedule.after(duration, Action::Mend);
            }
            Fault::Jumps => return self.jump(id, now + duration),
            Fault::NoPlacement => self.trouble.placement_back = now + duration,
            Fault::Dial => {
                let mut bytes = || self.trouble_random.pick(&[0, 100, 64 << 10, 30 << 20]);
                let dial = Dial {
                    balance_bytes: bytes(),
                    repair_bytes: bytes(),
                };
                self.count("dial turned");
                return self.step(id, Event::Dial(dial));
            }
            Fault::Replay => self.replay(),
            Fault::Placement => return self.begin_placement_trouble(id, duration),
            _ => debug_assert!(false, "{fault:?} does not begin by itself"),
        }
        Ok(())
    }

    /// Faults end; what was held up goes on.
    pub(super) fn end_troubles(&mut self) {
        for node in self.nodes.values_mut() {
            node.paused_until = 0;
            node.hangs_until = 0;
            node.clock_back = 0;
        }
        self.trouble.old.clear();
        self.trouble.placement_back = 0;
        self.unclog();
    }

    /// As long as an election takes, or several.
    fn trouble_length(&mut self) -> Time {
        let timeout = Time::from(self.settings.options.raft.election_ticks) * TICK;
        self.trouble_random.between(TICK, 5 * timeout)
    }

    /// Two sides that hear each other no more, and `bridge`, which hears both.
    fn bridge(&mut self, bridge: StoreId) {
        let ids: Vec<StoreId> = self.nodes.keys().copied().collect();
        let (mut one, mut other) = (PeerSet::default(), PeerSet::default());
        for id in ids.iter().filter(|id| **id != bridge) {
            if self.trouble_random.chance(500) {
                one.insert(PeerId(id.0));
            } else {
                other.insert(PeerId(id.0));
            }
        }
        for id in ids.iter().filter(|id| **id != bridge) {
            let across = if one.contains(PeerId(id.0)) {
                other
            } else {
                one
            };
            self.cut[id.0 as usize].0 |= across.0;
        }
        if !one.is_empty() && !other.is_empty() {
            self.count("bridge");
        }
    }

    /// The clock of a store jumps forward, or stands still until `back`.
    fn jump(&mut self, id: StoreId, back: Time) -> Result<(), Violation> {
        if self.trouble_random.chance(500) {
            self.count("clock stood still");
            let node = self.nodes.get_mut(&id).expect("a store of the cluster");
            node.clock_back = back;
            return Ok(());
        }
        self.count("clock jumped");
        let longest = 4 * u64::from(self.settings.options.raft.election_ticks);
        for _ in 0..self.trouble_random.between(1, longest) {
            self.step(id, Event::Tick)?;
        }
        Ok(())
    }

    /// Whether placement does not answer now. Who asked asks again.
    pub(super) fn is_placement_silent(&mut self) -> bool {
        let silent = self.trouble.placement_back > self.schedule.now();
        if silent {
            self.count("placement silent");
        }
        silent
    }

    /// Keeps a copy of a frame, now and then, in worlds where old ones come again.
    pub(super) fn maybe_keep(&mut self, from: StoreId, to: StoreId, frame: &wire::Frame) {
        if !self.settings.faults.has(Fault::Replay) || !self.trouble_random.chance(OLD_PERMILLE) {
            return;
        }
        if self.trouble.old.len() == OLD_MAX {
            let forgotten = self.trouble_random.below(OLD_MAX as u64) as usize;
            self.trouble.old.remove(forgotten);
        }
        self.trouble.old.push_back((from, to, frame.clone()));
    }

    /// Some old frames arrive again.
    fn replay(&mut self) {
        for _ in 0..self.trouble_random.between(1, 5) {
            if self.trouble.old.is_empty() {
                return;
            }
            let place = self.trouble_random.below(self.trouble.old.len() as u64) as usize;
            let (from, to, frame) = self.trouble.old[place].clone();
            let delay = self.trouble_random.between(1, TICK);
            self.count("old frame replayed");
            let frame = Box::new(frame);
            self.schedule
                .after(delay, Action::Frame { from, to, frame });
        }
    }

    /// Lets a frame arrive, now or when its link is free again.
    pub(super) fn convey(
        &mut self,
        delay: Time,
        from: StoreId,
        to: StoreId,
        frame: Box<wire::Frame>,
    ) {
        let frame = Action::Frame { from, to, frame };
        if self.trouble.clogged[from.0 as usize].contains(PeerId(to.0)) {
            self.count("frame held up");
            self.trouble.held.push(frame);
        } else {
            self.schedule.after(delay, frame);
        }
    }

    /// Links deliver again, first what they held.
    pub(super) fn unclog(&mut self) {
        self.trouble.clogged = Default::default();
        for held in std::mem::take(&mut self.trouble.held) {
            self.schedule.after(1, held);
        }
    }

    /// What an engine says, unless it failed as it was told to: then the store stops, and acknowledges nothing more (R14).
    pub(super) fn or_stop<T, E: std::fmt::Debug>(
        &mut self,
        id: StoreId,
        result: Result<T, E>,
    ) -> Result<Option<T>, Violation> {
        if result.is_ok() {
            return Ok(result.ok());
        }
        let keep = Keep::Seeded(self.trouble_random.next());
        let modes = [CrashMode::Kill, CrashMode::PowerLoss { keep }];
        let mode = self.trouble_random.pick(&modes);
        self.or_stop_in(id, mode, result)
    }

    /// The same, in this way.
    pub(super) fn or_stop_in<T, E: std::fmt::Debug>(
        &mut self,
        id: StoreId,
        mode: CrashMode,
        result: Result<T, E>,
    ) -> Result<Option<T>, Violation> {
        let error = match result {
            Ok(done) => return Ok(Some(done)),
            Err(error) => error,
        };
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        let Some(failed) = node.failing.take() else {
            return Err(broken(error));
        };
        self.count(match failed {
            engine::Fault::Write => "disk write failed",
            engine::Fault::Sync => "disk sync failed",
            engine::Fault::Flush => "disk flush failed",
        });
        self.stop_in(id, mode);
        let back = self.trouble_length();
        self.schedule.after(back, Action::Restart(id));
        Ok(None)
    }
}
