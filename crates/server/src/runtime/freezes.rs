//! How long merges stop a range, as the views tell it: nobody is served from a view that is frozen (REGIONS §5).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::RegionId;
use raft::Role;
use store::event::ViewChange;

/// How a freeze ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The neighbour took the region in, and serves its range.
    Merged,
    /// The region serves again.
    Thawed,
}

impl Outcome {
    /// A word for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Merged => "merged",
            Outcome::Thawed => "thawed",
        }
    }
}

/// Regions whose view here is frozen.
#[derive(Debug, Default)]
pub(super) struct Freezes {
    /// Since when, and whether it was led here meanwhile: who only follows keeps nobody waiting.
    since: BTreeMap<RegionId, (Instant, bool)>,
}

impl Freezes {
    /// Takes note of what is published at `now`. Returns the freezes that end with it and that this store led.
    pub fn note(&mut self, changes: &[ViewChange], now: Instant) -> Vec<(Outcome, Duration)> {
        let mut ended = Vec::new();
        for change in changes {
            let (region, outcome) = match change {
                ViewChange::Set(view) if view.frozen => {
                    let region = RegionId(view.region.id);
                    let (_, led) = self.since.entry(region).or_insert((now, false));
                    *led |= view.role == Role::Leader;
                    continue;
                }
                ViewChange::Set(view) => (RegionId(view.region.id), Outcome::Thawed),
                ViewChange::Removed(region) => (*region, Outcome::Merged),
            };
            if let Some((since, true)) = self.since.remove(&region) {
                ended.push((outcome, now.saturating_duration_since(since)));
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::metapb;
    use raft::PeerId;
    use store::event::RegionView;

    use super::*;

    fn view(id: u64, frozen: bool, role: Role) -> ViewChange {
        ViewChange::Set(Arc::new(RegionView {
            region: metapb::Region {
                id,
                ..Default::default()
            },
            peer: PeerId(id * 10),
            owns_range: true,
            frozen,
            role,
            term: 1,
            leader: None,
            damaged: false,
        }))
    }

    #[test]
    fn freezes_last_from_the_first_frozen_view_to_the_end_of_it() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut freezes = Freezes::default();
        let mut note = |changes: &[ViewChange], millis| freezes.note(changes, at(millis));
        let frozen = |id, role| view(id, true, role);
        let first = [frozen(1, Role::Leader), frozen(2, Role::Follower)];
        assert_eq!(note(&first, 0), []);
        assert_eq!(note(&[frozen(3, Role::Leader)], 5), []);
        // The second is led here from now on; the first hands over to another store and remains frozen.
        let moved = [frozen(1, Role::Follower), frozen(2, Role::Leader)];
        assert_eq!(note(&moved, 10), []);
        let gone = |id| ViewChange::Removed(RegionId(id));
        let millis = Duration::from_millis;
        assert_eq!(note(&[gone(1)], 20), [(Outcome::Merged, millis(20))]);
        let both = [view(2, false, Role::Leader), view(3, false, Role::Leader)];
        let thawed = [(Outcome::Thawed, millis(30)), (Outcome::Thawed, millis(25))];
        assert_eq!(note(&both, 30), thawed);
        // One that only follows keeps nobody waiting, and what is not frozen ends nothing.
        assert_eq!(note(&[frozen(4, Role::Follower)], 40), []);
        assert_eq!(note(&[gone(4), view(3, false, Role::Leader)], 50), []);
    }
}
