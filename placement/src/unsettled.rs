//! Since when regions have been in a state that should pass: a joint configuration, a learner that no operator owns, a
//! size that is not worth a region.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::RegionId;

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
    /// Looks at a region; returns how long it has been so. `owned` is whether an operator looks after it, `stray` a learner
    /// that neither a rule nor an operator counts on, `small` whether it could be part of a neighbour.
    pub fn watch(
        &mut self,
        region: &RegionInfo,
        owned: bool,
        stray: Option<u64>,
        small: bool,
        now: Now,
    ) -> Duration {
        let what = if region.is_joint() {
            Some(What::Joint)
        } else if owned {
            None
        } else {
            match stray {
                Some(peer) => Some(What::Learner(peer)),
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
