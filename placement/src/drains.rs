//! How drains go on: leaders first, and how long it takes.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::StoreId;

use crate::event::Now;
use crate::settings::Settings;
use crate::stores::DrainInfo;

/// Leaders on a store that is drained: how many there were at the least, and since when.
#[derive(Clone, Copy, Debug)]
struct Watch {
    led: u32,
    since: Duration,
}

/// All drains under way. Soft: a new placement leader begins to watch anew.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    watched: BTreeMap<StoreId, Watch>,
}

impl Drains {
    /// Looks at the drains under way and what their stores lead.
    pub fn watch(&mut self, drains: impl Iterator<Item = (StoreId, u32)>, now: Now) {
        let mut watched = BTreeMap::new();
        for (store, led) in drains {
            let mut watch = self.watched.get(&store).copied().unwrap_or(Watch {
                led,
                since: now.monotonic,
            });
            if led < watch.led {
                watch = Watch {
                    led,
                    since: now.monotonic,
                };
            }
            watched.insert(store, watch);
        }
        self.watched = watched;
    }

    /// Whether peers of a store wait for its leaders to go. Those go in moments, and a leader that moves along with its
    /// peer costs a hand-over in the middle; but a leader that nobody can follow holds nobody else up.
    pub fn leaders_first(&self, store: StoreId, led: u32, now: Now, settings: &Settings) -> bool {
        let stalls = self.watched.get(&store).is_some_and(|watch| {
            now.monotonic.saturating_sub(watch.since) >= settings.hand_over_patience
        });
        led > 0 && !stalls
    }
}

/// How far a drain is, from the peers that are left and the pace so far.
pub(crate) fn progress(
    drain: proto::pontoon::v1::PlacementDrain,
    peers: u32,
    wall_ms: u64,
) -> DrainInfo {
    let elapsed = wall_ms.saturating_sub(drain.since_ms);
    let done = u64::from(drain.peers.saturating_sub(peers));
    let left = match (peers, done) {
        (0, _) => Some(Duration::ZERO),
        (_, 0) => None,
        (peers, done) => Some(Duration::from_millis(
            elapsed.saturating_mul(u64::from(peers)) / done,
        )),
    };
    DrainInfo {
        peers_at_start: drain.peers,
        elapsed: Duration::from_millis(elapsed),
        left,
    }
}

#[cfg(test)]
mod tests {
    use proto::pontoon::v1::PlacementDrain;

    use super::*;

    fn at(seconds: u64) -> Now {
        Now {
            wall_ms: 0,
            monotonic: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn peers_wait_for_leaders_that_go_on() {
        let settings = Settings::default();
        let mut drains = Drains::default();
        let store = StoreId(1);
        assert!(drains.leaders_first(store, 3, at(0), &settings));
        drains.watch([(store, 3)].into_iter(), at(0));
        assert!(!drains.leaders_first(store, 0, at(1), &settings));
        drains.watch([(store, 2)].into_iter(), at(20));
        assert!(drains.leaders_first(store, 2, at(49), &settings));
        drains.watch([(store, 2)].into_iter(), at(50));
        assert!(!drains.leaders_first(store, 2, at(50), &settings));
        drains.watch([].into_iter(), at(51));
        drains.watch([(store, 2)].into_iter(), at(52));
        assert!(
            drains.leaders_first(store, 2, at(52), &settings),
            "a new drain"
        );
    }

    #[test]
    fn the_time_left_follows_the_pace() {
        let drain = PlacementDrain {
            since_ms: 1000,
            peers: 40,
        };
        assert_eq!(progress(drain, 40, 5000).left, None);
        assert_eq!(
            progress(drain, 30, 5000).left,
            Some(Duration::from_secs(12))
        );
        assert_eq!(progress(drain, 0, 5000).left, Some(Duration::ZERO));
    }
}
