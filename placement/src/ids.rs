//! Identities for regions, peers, stores and operators (R31).
//!
//! A high-water mark is durable before any identity at or below it is handed out, and a new leader starts above it. So
//! no identity is handed out twice, whoever believes to lead: a deposed leader can only use up what it had reserved.

/// Hands identities out below a mark saved ahead.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    /// Last one handed out.
    last: u64,
    /// Staged or saved: `last <= high_water`.
    high_water: u64,
    step: u64,
}

/// A range of identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdRange {
    /// The last one.
    pub last: u64,
    /// The mark to save, when it moved. The range must not be shown before it is durable.
    pub save: Option<u64>,
}

impl Ids {
    /// Continues above the saved mark: what lies below may have been handed out by an earlier leader.
    pub fn new(high_water: u64, step: u64) -> Self {
        Self {
            last: high_water,
            high_water,
            step: step.max(1),
        }
    }

    /// Takes `count` identities. `None` when the 64 bits are used up.
    pub fn take(&mut self, count: u64) -> Option<IdRange> {
        let last = self.last.checked_add(count)?;
        let mut save = None;
        if last > self.high_water {
            self.high_water = last.checked_add(self.step)?;
            save = Some(self.high_water);
        }
        self.last = last;
        assert!(
            self.last <= self.high_water,
            "{} above {}",
            self.last,
            self.high_water
        );
        Some(IdRange { last, save })
    }

    /// Whether an identity may have been handed out: anything above was not.
    pub fn known(&self, id: u64) -> bool {
        id != 0 && id <= self.high_water
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// R31: never twice, across leaders that come back with nothing but the saved mark.
        #[test]
        fn ids_are_never_reused(steps in prop::collection::vec((1u64..2000, any::<bool>()), 1..200), step in 1u64..1500) {
            let mut saved = 0;
            let mut highest = 0;
            let mut ids = Ids::new(saved, step);
            for (count, new_leader) in steps {
                if new_leader {
                    ids = Ids::new(saved, step);
                }
                let range = ids.take(count).expect("64 bits are enough here");
                if let Some(mark) = range.save {
                    saved = mark;
                }
                prop_assert!(range.last < saved + 1);
                prop_assert!(range.last - count >= highest);
                highest = range.last;
            }
        }
    }

    #[test]
    fn the_end_of_the_space_is_refused() {
        let mut ids = Ids::new(u64::MAX - 5, 1);
        assert!(ids.take(10).is_none());
        assert_eq!(ids.take(2).map(|range| range.last), Some(u64::MAX - 3));
    }
}
