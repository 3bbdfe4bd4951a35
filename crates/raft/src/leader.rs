//! What only a leader has.

use crate::event::Fetch;
use crate::progress::Progress;
use crate::read::Reads;
use crate::transfer::Transfer;
use crate::types::{Index, Membership, PeerId};

/// # Invariants
/// 1. `members` are the peers of the latest appended configuration without this one, ascending.
/// 2. `uncommitted_bytes` is the size of all entries above the commit index.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Leader {
    pub members: Vec<(PeerId, Progress)>,
    pub uncommitted_bytes: usize,
    /// Ticks since this leadership began.
    pub ticks: u64,
    pub heartbeat_elapsed: u32,
    /// A heartbeat to everyone is due.
    pub heartbeat_due: bool,
    /// Some member shall be asked for its pledge.
    pub asking: bool,
    /// Something may be there to send: looked at when effects are taken, so that many proposals share one append.
    pub dirty: bool,
    pub reads: Reads,
    pub transfer: Option<Transfer>,
    pub fetches: Vec<Fetch>,
    pub snapshots: Vec<PeerId>,
}

impl Leader {
    pub fn new() -> Self {
        Leader {
            members: Vec::new(),
            uncommitted_bytes: 0,
            ticks: 0,
            heartbeat_elapsed: 0,
            heartbeat_due: false,
            asking: false,
            dirty: true,
            reads: Reads::default(),
            transfer: None,
            fetches: Vec::new(),
            snapshots: Vec::new(),
        }
    }

    pub fn progress(&self, peer: PeerId) -> Option<&Progress> {
        self.members
            .iter()
            .find(|(member, _)| *member == peer)
            .map(|(_, progress)| progress)
    }

    pub fn progress_mut(&mut self, peer: PeerId) -> Option<&mut Progress> {
        self.members
            .iter_mut()
            .find(|(member, _)| *member == peer)
            .map(|(_, progress)| progress)
    }

    /// Takes over the members of a configuration. Who is new starts at `next`, as a member since the entry at `since`; who is
    /// gone is forgotten with all it acknowledged, unless `keep_removed`, which is a planted bug.
    pub fn take_members(
        &mut self,
        own: PeerId,
        membership: &Membership,
        next: Index,
        since: impl Fn(PeerId) -> Index,
        keep_removed: bool,
    ) {
        if !keep_removed {
            self.members.retain(|(peer, _)| membership.contains(*peer));
            self.snapshots.retain(|peer| membership.contains(*peer));
            self.fetches.retain(|fetch| membership.contains(fetch.peer));
        }
        for peer in membership
            .members
            .keys()
            .copied()
            .filter(|peer| *peer != own)
        {
            if let Err(place) = self
                .members
                .binary_search_by_key(&peer, |(member, _)| *member)
            {
                self.members
                    .insert(place, (peer, Progress::new(next, since(peer))));
            }
        }
        self.dirty = true;
    }

    pub fn check(&self, last: Index, own: PeerId, membership: &Membership) {
        for (peer, progress) in &self.members {
            assert!(
                progress.matched < progress.next,
                "peer {peer} matched {} but next is {}",
                progress.matched,
                progress.next
            );
            assert!(
                progress.next <= last + 1,
                "peer {peer} is sent {} next, the log ends at {last}",
                progress.next
            );
        }
        for peer in membership.members.keys().filter(|peer| **peer != own) {
            assert!(
                self.progress(*peer).is_some(),
                "no progress for member {peer}"
            );
        }
    }
}
