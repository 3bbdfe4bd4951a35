//! R9 Membership: the configuration is a pure function of snapshot and log; one change at a time, begun only after the last is
//! applied and the leader has committed in its term; neighbouring configurations share a voter in all their quorums
//! (Raft §6, Thesis §4.1 to §4.3, REGIONS §1 and §3).

use std::collections::BTreeSet;

use raft::{Entry, Index, Membership, Payload, Raft};

use crate::group::model::{Halves, membership_after};
use crate::group::node::Node;
use crate::rule::{Violation, ensure};

/// Pairs of neighbouring configurations whose quorums were compared already.
#[derive(Debug, Default)]
pub struct Configurations {
    compared: BTreeSet<[u64; 4]>,
}

impl Configurations {
    /// Checks a membership entry that a leader of its term appends, before it enters the ghost's log. `applied` and `committed`
    /// are what the leader knew.
    ///
    /// # Errors
    /// R9.
    pub fn check_begun(
        &self,
        node: &Node,
        entry: &Entry,
        applied: Index,
        committed: Index,
    ) -> Result<(), Violation> {
        if let Some(before) = node.log.last_change() {
            ensure!(
                Membership,
                before <= applied,
                "the leader {} changes membership at {} before it applied the change at {before} (applied {applied})",
                node.id,
                entry.index
            );
        }
        // The base of a split child counts as committed in term 1 (REGIONS §4).
        ensure!(
            Membership,
            node.log.term_at(committed) == Some(entry.term),
            "the leader {} changes membership at {:?} before it committed in its term (committed {committed})",
            node.id,
            entry.position()
        );
        Ok(())
    }

    /// Checks the step that `payload` makes from `before`, in whatever log.
    ///
    /// # Errors
    /// R9.
    pub fn check_step(&mut self, before: &Membership, payload: &Payload) -> Result<(), Violation> {
        let Payload::Membership { change, .. } = payload else {
            return Ok(());
        };
        let after = membership_after(before, change);
        let (old, new) = (Halves::of(before), Halves::of(&after));
        if self.compared.insert([
            old.outgoing.0,
            old.incoming.0,
            new.outgoing.0,
            new.incoming.0,
        ]) {
            ensure!(
                Membership,
                old.quorums_intersect(new),
                "{change:?} leads from {old:?} to {new:?}, which have disjoint quorums"
            );
        }
        ensure!(
            Membership,
            !new.incoming.is_empty() && !new.outgoing.is_empty(),
            "{change:?} leaves {new:?}, in which nobody votes"
        );
        Ok(())
    }
}

/// Checks that the configuration a peer acts on is the one its log says.
///
/// # Errors
/// R9.
pub fn check_pure(node: &Node, raft: &Raft) -> Result<(), Violation> {
    ensure!(
        Membership,
        raft.membership() == &**node.log.membership(),
        "peer {} acts on {:?}, its log says {:?}",
        node.id,
        raft.membership(),
        node.log.membership()
    );
    Ok(())
}
