//! Since when regions have been in a state that should pass: a joint configuration, a learner that no operator owns, a
//! size that is not worth a region.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{RegionId, metapb};

use crate::event::Now;
use crate::regions::RegionInfo;

/// What should pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Joint,
    Learner(u64),
    /// With the version since which it is: what was just split or merged counts anew.
    Small(u64),
}

/// Regions in such a state. Soft: a new placement leader counts anew.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    since: BTreeMap<RegionId, (What, Duration)>,
}

impl Unsettled {
    /// Looks at a region; returns how long it has been so. `owned` is whether an operator looks after it, `small` whether
    /// it could be part of a neighbour.
    pub fn watch(&mut self, region: &RegionInfo, owned: bool, small: bool, now: Now) -> Duration {
        let learner = |peer: &&metapb::Peer| peer.role() == metapb::PeerRole::Learner;
        let what = if region.is_joint() {
            Some(What::Joint)
        } else if owned {
            None
        } else {
            let learner = region.region.peers.iter().find(learner);
            match learner {
                Some(peer) => Some(What::Learner(peer.id)),
                None if small => Some(What::Small(region.epoch().version)),
                None => None,
            }
        };
        let Some(what) = what else {
            self.forget(region.id());
            return Duration::ZERO;
        };
        let begins = (what, now.monotonic);
        let entry = self.since.entry(region.id()).or_insert(begins);
        if entry.0 != what {
            *entry = begins;
        }
        now.monotonic.saturating_sub(entry.1)
    }

    /// A region left the view.
    pub fn forget(&mut self, region: RegionId) {
        self.since.remove(&region);
    }
}
