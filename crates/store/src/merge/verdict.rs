//! What became of a merge (REGIONS §5, verdict): given by any peer of the region that owns the witness key, from its applied
//! state. Once given it never changes: a target leaves `E_T` once, and the record of a commit goes wherever the key goes.

use engine::Engine;
use proto::metapb;
use proto::pontoon::v1 as wire;

use super::MergeKey;
use crate::peer::Peer;
use crate::planted::Bug;
use crate::store::Store;

/// What the owner of the witness key knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The target still is where it was: ask again.
    Pending,
    /// It took the source in.
    Committed,
    /// It moved on without it.
    Aborted,
}

impl<E: Engine> Store<E> {
    /// The verdict, if the owner of the witness key has a peer here.
    pub(crate) fn verdict(&self, merge: MergeKey, freeze: &wire::Freeze) -> Option<Verdict> {
        let target = freeze.target.as_ref()?;
        let bug = self.cx.options.bug;
        let owner = if bug == Some(Bug::VerdictFromAnyRegion) {
            let mut others = self.peers.values().map(|peer| &**peer);
            others.find(|peer| peer.is_normal() && peer.region_id() != merge.source)?
        } else {
            let mut end = freeze.witness_key.to_vec();
            end.push(0);
            let region = self
                .cx
                .ranges
                .overlapping(&freeze.witness_key, &end)
                .next()?;
            let owner = self.peers.get(&region)?;
            Some(&**owner).filter(|peer| peer.is_normal())?
        };
        if bug == Some(Bug::VerdictOnlyFromTarget) && owner.region.id != target.id {
            return None;
        }
        Some(judge(owner, merge, target))
    }
}

fn judge(owner: &Peer, merge: MergeKey, target: &metapb::Region) -> Verdict {
    let (now, then) = (owner.epoch(), target.region_epoch.unwrap_or_default());
    let past = now.version > then.version
        || (owner.region.id == target.id && now.conf_ver > then.conf_ver);
    if !past {
        Verdict::Pending
    } else if owner.merge.record(merge).is_some() {
        Verdict::Committed
    } else {
        Verdict::Aborted
    }
}
