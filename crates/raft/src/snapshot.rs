//! Snapshots (Raft §7, REGIONS §7). The state itself is the caller's; here is what it means for the log.
//!
//! At the receiver: an accepted snapshot replaces the log in one durable write, which raises the commit index too; from then on
//! there is no way back. While the caller puts the state in place the peer votes and answers heartbeats, but takes no entries
//! and does not campaign. If the state is lost meanwhile the peer stays so, answers entries by saying which one it lost, and takes another,
//! which is at least as new. At the leader: a member that needs what is compacted away waits until its snapshot ended, one way or
//! the other, and is probed again.

use std::sync::Arc;

use crate::error::Error;
use crate::planted::Bug;
use crate::progress::Mode;
use crate::raft::{Configuration, NUMBER_MAX, Raft, State};
use crate::types::{Index, LogPosition, Membership, PeerId, Term};

impl Raft {
    pub(crate) fn on_install_snapshot(
        &mut self,
        from: PeerId,
        term: Term,
        position: LogPosition,
        membership: Membership,
    ) -> Result<(), Error> {
        if term < self.hard_state.term {
            return Err(Error::StaleTerm {
                term,
                current: self.hard_state.term,
            });
        }
        let bounded = term < NUMBER_MAX && position.index < NUMBER_MAX;
        let foreign = from.0 != 0 && from != self.id;
        if position.term > term || membership.is_empty() || !bounded || !foreign {
            return Err(Error::Malformed { from });
        }
        if self.behind() {
            // What it did before must happen again first: a region born here might not be born anywhere else (REGIONS §1).
            return Err(Error::Behind {
                applied: self.applied,
                commit: self.restored_commit,
            });
        }
        // A lost one is replaced by one that is no older, and whatever that brings is needed.
        let replaced = self.installing;
        if let Some(replaced) = replaced
            && !(self.lost && position.index >= replaced.index)
        {
            return Err(Error::Installing { position: replaced });
        }
        if term > self.hard_state.term {
            self.raise_term(term);
        }
        let support = self.pledge_to(from);
        self.follow(from, support)?;
        let commit = self.hard_state.commit;
        if replaced.is_none()
            && !self.has_bug(Bug::SnapshotMovesBack)
            && (position.index <= commit || self.log.matches(position))
        {
            // The log reaches the position: what is committed there is committed here, and nothing has to be replaced.
            self.commit_to(commit.max(position.index));
            self.acknowledge(from, self.hard_state.commit);
            return Err(Error::SnapshotNotNeeded {
                position,
                commit: self.hard_state.commit,
            });
        }
        // What was not committed may be something else in the snapshot.
        self.withdraw(commit + 1);
        self.hard_state.commit = position.index;
        self.log.reset(position, self.handed);
        self.handed = position.index;
        self.configurations = vec![Configuration {
            index: position.index,
            membership: Arc::new(membership),
        }];
        self.installing = Some(position);
        self.lost = false;
        self.install = true;
        self.view_changed = true;
        Ok(())
    }

    pub(crate) fn on_snapshot_installed(&mut self, position: LogPosition) {
        assert!(
            self.installing == Some(position),
            "snapshot {position:?} installed while {:?} was expected",
            self.installing
        );
        assert!(
            self.log.persisted() >= position.index,
            "snapshot {position:?} installed before its record is durable"
        );
        self.installing = None;
        self.lost = false;
        self.applied = position.index;
        if let Some(leader) = self.leader {
            self.acknowledge(leader, position.index);
        }
    }

    pub(crate) fn on_snapshot_lost(&mut self, position: LogPosition) {
        self.lost |= self.installing == Some(position);
    }

    pub(crate) fn on_snapshot_ended(&mut self, peer: PeerId, delivered: Option<Index>) {
        let (compacted, last) = (self.log.compacted().index, self.log.last().index);
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        let Some(progress) = leader
            .progress_mut(peer)
            .filter(|progress| progress.mode == Mode::Snapshot)
        else {
            return;
        };
        match delivered {
            Some(index) => progress.probe(index.clamp(compacted, last) + 1),
            None => {
                // It is asked whether it needs one still: another way than this may have filled it meanwhile (a split).
                progress.probe(progress.matched.max(compacted) + 1);
                // Tried again when it is heard, not in a loop.
                progress.mode = Mode::Probe { paused: true };
            }
        }
        leader.dirty = true;
    }
}
