//! The timestamp oracle (R28).
//!
//! A timestamp is `(physical, logical)`: wall-clock milliseconds and a counter of 18 bits within one. Two rules make
//! timestamps strictly increase in real time for all clients, across leaders, restarts and clock jumps:
//!
//! 1. **A bound is saved ahead.** Every timestamp handed out has `physical < bound`, and the bound is applied in the
//!    placement region first. A leader takes the newest saved bound over (it applied an entry of its own term, so it
//!    holds every bound ever committed) and starts at or above it. So timestamps of different leaders never meet,
//!    whatever their clocks say, and those of later terms are larger.
//! 2. **Leadership is confirmed after the request arrived.** A deposed leader that does not know it yet could otherwise
//!    hand out a timestamp *after* its successor handed out a larger one. Timestamps are taken only after a round of
//!    read index that began after the request arrived. The quorum of that round was in this leader's term after the
//!    arrival; every later leader needs the vote of one of that quorum, hence was elected later, hence everything it
//!    ever hands out is handed out after the arrival. One round serves all requests that waited when it began.
//!
//! Within one leader the counter only grows. When the clock goes back, or more than 2^18 - 1 timestamps are wanted
//! within a millisecond, the physical part runs ahead of the clock and waits for it to catch up.

/// Largest logical part.
pub const LOGICAL_MAX: u32 = (1 << 18) - 1;

/// Hands timestamps out below a bound saved ahead.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    /// Last timestamp handed out.
    physical_ms: u64,
    logical: u32,
    /// Staged or saved.
    bound_ms: u64,
    /// Applied: nothing at or above may leave.
    durable_ms: u64,
    /// Bounds whose writes are not applied, with the tokens of the writes.
    staged: Vec<(u64, u64)>,
    window_ms: u64,
}

/// The last of some timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp {
    pub physical_ms: u64,
    pub logical: u32,
}

impl Oracle {
    /// Continues above the saved bound of earlier leaders, 0 if there was none.
    pub fn new(saved_bound_ms: u64, window_ms: u64) -> Self {
        Self {
            physical_ms: saved_bound_ms,
            logical: 0,
            bound_ms: saved_bound_ms,
            durable_ms: saved_bound_ms,
            staged: Vec::new(),
            window_ms: window_ms.max(2),
        }
    }

    /// The bound to save now, if it is time: at the start, and when half of the window is used up.
    pub fn extend(&mut self, wall_ms: u64) -> Option<u64> {
        let front = self.physical_ms.max(wall_ms);
        if self.bound_ms.saturating_sub(front) > self.window_ms / 2 {
            return None;
        }
        self.bound_ms = front.saturating_add(self.window_ms);
        Some(self.bound_ms)
    }

    /// The newest bound of [`Oracle::extend`] travels in the write with this token.
    pub fn stage(&mut self, token: u64) {
        if let Some((last, bound)) = self.staged.last_mut()
            && *last == token
        {
            *bound = self.bound_ms;
        } else {
            self.staged.push((token, self.bound_ms));
        }
    }

    /// The write with this token is applied.
    pub fn written(&mut self, token: u64) {
        let durable = self
            .staged
            .iter()
            .take_while(|(staged, _)| *staged <= token)
            .count();
        for (_, bound) in self.staged.drain(..durable) {
            self.durable_ms = self.durable_ms.max(bound);
        }
    }

    /// Takes `count` timestamps, all with the same physical part. The caller extends the bound afterwards, and holds the
    /// answer back while [`Oracle::durable`] does not cover it.
    ///
    /// # Panics
    /// When `count` is 0 or above [`LOGICAL_MAX`]: the caller refuses those.
    pub fn take(&mut self, count: u32, wall_ms: u64) -> Timestamp {
        assert!((1..=LOGICAL_MAX).contains(&count), "count {count}");
        if wall_ms > self.physical_ms {
            self.physical_ms = wall_ms;
            self.logical = 0;
        } else if self.logical + count > LOGICAL_MAX {
            self.physical_ms += 1;
            self.logical = 0;
        }
        self.logical += count;
        Timestamp {
            physical_ms: self.physical_ms,
            logical: self.logical,
        }
    }

    /// Whether a timestamp may leave.
    pub fn durable(&self, timestamp: Timestamp) -> bool {
        timestamp.physical_ms < self.durable_ms
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Take(u32),
        Clock(u64),
        NewLeader,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => prop_oneof![1u32..10, 1u32..=LOGICAL_MAX].prop_map(Step::Take),
            3 => (0u64..10_000_000).prop_map(Step::Clock),
            1 => Just(Step::NewLeader),
        ]
    }

    proptest! {
        /// R28: strictly increasing over clock jumps and new leaders, and at the clock whenever the clock is ahead.
        #[test]
        fn timestamps_strictly_increase(steps in prop::collection::vec(step(), 1..300), window in 2u64..5000) {
            let mut wall = 1_000_000;
            let mut saved = 0;
            let mut last = (0, 0);
            let mut token = 0;
            let mut oracle = Oracle::new(saved, window);
            for step in steps {
                match step {
                    Step::Clock(at) => wall = at,
                    Step::NewLeader => oracle = Oracle::new(saved, window),
                    Step::Take(count) => {
                        let taken = oracle.take(count, wall);
                        if let Some(bound) = oracle.extend(wall) {
                            prop_assert!(bound > saved);
                            token += 1;
                            oracle.stage(token);
                            saved = bound;
                            oracle.written(token);
                        }
                        prop_assert!(oracle.durable(taken));
                        prop_assert!(taken.physical_ms < saved);
                        prop_assert!(taken.physical_ms >= wall);
                        prop_assert!(taken.logical <= LOGICAL_MAX);
                        // The first of the batch is above the last one before.
                        prop_assert!((taken.physical_ms, taken.logical - count + 1) > last);
                        last = (taken.physical_ms, taken.logical);
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_leaves_before_its_bound_is_applied() {
        let mut oracle = Oracle::new(0, 3000);
        let taken = oracle.take(1, 500);
        assert_eq!(oracle.extend(500), Some(3500));
        oracle.stage(7);
        assert!(!oracle.durable(taken));
        oracle.written(6);
        assert!(!oracle.durable(taken));
        oracle.written(7);
        assert!(oracle.durable(taken));
        assert_eq!(oracle.extend(1000), None);
        assert_eq!(oracle.extend(2100), Some(5100));
    }
}
