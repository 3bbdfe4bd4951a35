//! R10 Calm: with pre-vote and quorum check, a cut-off peer cannot raise terms, and a leader without quorum steps down within
//! 2T (Thesis §6.2, §9.6).

use raft::{Raft, Role, Term};

use crate::group::model::{Halves, slot};
use crate::group::node::Node;
use crate::group::settings::Settings;
use crate::peers::PeerSet;
use crate::rule::{Violation, ensure};

/// Checks a leader after a tick: some quorum was heard within 2T, or it has led, or had its configuration, for less.
///
/// # Errors
/// R10.
pub fn check_quorum_heard(node: &Node, raft: &Raft, settings: &Settings) -> Result<(), Violation> {
    if raft.role() != Role::Leader {
        return Ok(());
    }
    let ticks = node.watch.ticks;
    let patience = u64::from(settings.options.election_ticks) * 2 + 1;
    if ticks - node.watch.quorum_since <= patience {
        return Ok(());
    }
    let recent: PeerSet = raft
        .membership()
        .members
        .keys()
        .copied()
        .filter(|peer| *peer == node.id || ticks - node.watch.heard[slot(*peer)] <= patience)
        .collect();
    let halves = Halves::of(raft.membership());
    ensure!(
        Calm,
        halves.is_quorum(recent),
        "peer {} leads term {} and heard only {:#b} in the last {patience} ticks, of {halves:?}",
        node.id,
        raft.term(),
        recent.0
    );
    Ok(())
}

/// Checks a peer that became a candidate of `term`: a quorum granted its pre-vote.
///
/// # Errors
/// R10.
pub fn check_candidate(node: &Node, raft: &Raft, term: Term) -> Result<(), Violation> {
    let mut peers = node.watch.pre_votes.get(&term).copied().unwrap_or_default();
    peers.insert(node.id);
    let halves = Halves::of(raft.membership());
    ensure!(
        Calm,
        halves.is_quorum(peers),
        "peer {} raises the term to {term} with pre-votes of {:#b} only, of {halves:?}",
        node.id,
        peers.0
    );
    Ok(())
}
