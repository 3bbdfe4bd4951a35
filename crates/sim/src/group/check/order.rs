//! R8 Order: `compacted <= applied <= min(committed, persisted)`, `max(committed, persisted) <= last`; nothing goes back within
//! an incarnation. R2 Leader append-only (Raft §5.3, figure 3). R16 a snapshot never moves a peer back.

use raft::{Index, LogWrite, Raft, Term};

use crate::group::node::Node;
use crate::rule::{Violation, ensure};

/// Checks the pointers of a peer after a step.
///
/// # Errors
/// R8.
pub fn check_pointers(node: &Node, raft: &Raft) -> Result<(), Violation> {
    let (compacted, applied) = (raft.compacted().index, raft.applied());
    let (committed, persisted, last) = (raft.committed(), raft.persisted(), raft.last().index);
    // While a snapshot is installed, the log is cut to its position and nothing of it applied (REGIONS §2, Installing).
    ensure!(
        Order,
        compacted <= applied || raft.installing().is_some(),
        "peer {}: compacted {compacted} above applied {applied}",
        node.id
    );
    ensure!(
        Order,
        applied <= committed && applied <= persisted,
        "peer {}: applied {applied}, committed {committed}, persisted {persisted}",
        node.id
    );
    ensure!(
        Order,
        committed <= last && persisted <= last,
        "peer {}: committed {committed}, persisted {persisted}, last {last}",
        node.id
    );
    ensure!(
        Order,
        committed >= node.watch.committed,
        "peer {}: committed goes back from {} to {committed}",
        node.id,
        node.watch.committed
    );
    Ok(())
}

/// Checks a log write against what the node has written before; `led` is the term it leads since before the write was made.
///
/// # Errors
/// R2, R8, R16.
pub fn check_write(
    node: &Node,
    write: &LogWrite,
    led: Option<Term>,
    committed: Index,
) -> Result<(), Violation> {
    ensure!(
        Order,
        write.id.0 == node.watch.write_id + 1,
        "peer {}: log write {:?} follows {}",
        node.id,
        write.id,
        node.watch.write_id
    );
    if let Some(position) = write.install {
        ensure!(
            Snapshot,
            position.index > node.state.applied.index && position.index > committed,
            "peer {} installs a snapshot at {position:?}, applied {:?}, committed {committed}",
            node.id,
            node.state.applied
        );
    }
    if let Some(term) = led {
        ensure!(
            AppendOnly,
            write.install.is_none() && write.truncate_from.is_none(),
            "the leader {} of term {term} changes its log: install {:?}, truncate from {:?}",
            node.id,
            write.install,
            write.truncate_from
        );
    }
    if let Some(index) = write.truncate_from {
        ensure!(
            AppendOnly,
            index > committed,
            "peer {} removes entries from {index} on, committed up to {committed}",
            node.id
        );
    }
    Ok(())
}
