//! The pace of retries: pure, told the time.

use std::time::{Duration, Instant};

use crate::{cause::When, options::Options};

/// Immediate retries in a row. Two peers that name each other as leader would otherwise be asked as fast as they answer.
const NOW_MAX: u32 = 3;

/// What is left of an operation's time, and how long to wait before its next attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    deadline: Instant,
    min: Duration,
    max: Duration,
    next: Duration,
    nows: u32,
}

impl Backoff {
    pub(crate) fn new(options: &Options, start: Instant) -> Self {
        Self {
            deadline: start + options.budget,
            min: options.backoff_min,
            max: options.backoff_max,
            next: options.backoff_min,
            nows: 0,
        }
    }

    /// Time left at `now`.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }

    /// The pause before the next attempt; `None` when it would not be made in time. `jitter` is in `0.0..1.0`.
    pub(crate) fn pause(&mut self, when: When, now: Instant, jitter: f64) -> Option<Duration> {
        let pause = match when {
            When::Now if self.nows < NOW_MAX => {
                self.nows += 1;
                Duration::ZERO
            }
            When::Now | When::Backoff => self.step(jitter),
            When::AtLeast(least) => least + self.step(jitter),
        };
        (pause < self.left(now)).then_some(pause)
    }

    /// Between half and all of the current step, which then doubles.
    fn step(&mut self, jitter: f64) -> Duration {
        self.nows = 0;
        let step = self.next.max(self.min).mul_f64(0.5 + jitter / 2.0);
        self.next = (self.next * 2).min(self.max);
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn pauses_double_up_to_the_limit_and_end_with_the_budget() {
        let start = Instant::now();
        let mut backoff = Backoff::new(&Options::default(), start);
        let pauses: Vec<_> = (0..8)
            .map(|_| backoff.pause(When::Backoff, start, 1.0).unwrap())
            .collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 100, 100, 100].map(millis));
        assert_eq!(
            backoff.pause(When::Backoff, start, 0.0),
            Some(millis(50)),
            "jitter takes up to half"
        );
        let late = start + millis(9_900);
        assert_eq!(backoff.left(late), millis(100));
        assert_eq!(backoff.pause(When::Backoff, late, 1.0), None);
        assert_eq!(backoff.pause(When::Now, late, 1.0), Some(Duration::ZERO));
        assert_eq!(backoff.pause(When::Now, start + millis(10_000), 1.0), None);
    }

    #[test]
    fn immediate_retries_are_few_in_a_row() {
        let start = Instant::now();
        let mut backoff = Backoff::new(&Options::default(), start);
        let pauses: Vec<_> = (0..5)
            .map(|_| backoff.pause(When::Now, start, 1.0).unwrap())
            .collect();
        assert_eq!(pauses, [0, 0, 0, 5, 0].map(millis));
    }

    #[test]
    fn a_store_that_asks_for_rest_gets_it() {
        let start = Instant::now();
        let mut backoff = Backoff::new(&Options::default(), start);
        assert_eq!(
            backoff.pause(When::AtLeast(millis(100)), start, 1.0),
            Some(millis(105))
        );
        assert_eq!(
            backoff.pause(When::AtLeast(millis(10_000)), start, 1.0),
            None
        );
    }
}
