//! R24 Read index, and R25 where leases serve (Thesis §6.4): a read is served at an index not below what anybody had learned
//! when it began.

use raft::{Index, PeerId};

use crate::group::node::PendingRead;
use crate::rule::{Violation, ensure};

/// Checks the index at which a read may be served.
///
/// # Errors
/// R24.
pub fn check_confirmed(peer: PeerId, read: &PendingRead, index: Index) -> Result<(), Violation> {
    ensure!(
        ReadIndex,
        index >= read.floor,
        "peer {peer} may serve a read at {index}; {} was known to be committed when it began",
        read.floor
    );
    Ok(())
}
