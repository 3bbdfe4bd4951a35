//! R7 Durable before said (Thesis §3.8; REGIONS §1): every message that leaves is compared with what a crash would leave of
//! its sender.

use raft::{AppendResult, Body, Message, Raft};

use crate::group::node::Node;
use crate::rule::{Violation, ensure};

/// Checks `message`, which `node` sends now. `leader` is the receiver, as far as its log may be compared.
///
/// # Errors
/// R7.
pub fn check_said(node: &Node, message: &Message, leader: Option<&Node>) -> Result<(), Violation> {
    let durable = node.disk.hard_state;
    let term = message.term;
    match &message.body {
        // The term of a pre-vote is asked for, not claimed. A question for an index, and the answer that there is none, promise
        // nothing that a crash could break: whoever fell back below the term has not voted above it either.
        Body::PreVoteRequest { .. }
        | Body::PreVoteResponse { .. }
        | Body::ReadIndexRequest { .. }
        | Body::ReadIndexResponse { index: None, .. } => return Ok(()),
        Body::VoteRequest { .. } => ensure!(
            Durable,
            durable.term > term || durable.term == term && durable.vote == Some(node.id),
            "peer {} asks for votes in term {term}; durable is {durable:?}",
            node.id
        ),
        Body::VoteResponse { refusal: None } => ensure!(
            Durable,
            durable.term > term || durable.term == term && durable.vote == Some(message.to),
            "peer {} grants its vote of term {term} to {}; durable is {durable:?}",
            node.id,
            message.to
        ),
        Body::AppendResponse {
            result: AppendResult::Matched(index),
            ..
        } => {
            let log = &node.disk.log;
            ensure!(
                Durable,
                *index <= log.last().index,
                "peer {} acknowledges index {index}; its durable log ends at {:?}",
                node.id,
                log.last()
            );
            let expected = leader.and_then(|leader| leader.log.chain_at(*index));
            if let (Some(expected), Some(durable)) = (expected, log.chain_at(*index)) {
                ensure!(
                    Durable,
                    expected == durable,
                    "peer {} acknowledges index {index}; its durable log does not match the leader's up to there",
                    node.id
                );
            }
        }
        Body::VoteResponse { refusal: Some(_) }
        | Body::Append { .. }
        | Body::AppendResponse { .. }
        | Body::Heartbeat { .. }
        | Body::HeartbeatResponse { .. }
        | Body::ReadIndexResponse { .. }
        | Body::TimeoutNow
        | Body::Release => {}
    }
    ensure!(
        Durable,
        durable.term >= term,
        "peer {} speaks of term {term}, durable is term {}: {:?}",
        node.id,
        durable.term,
        message.body
    );
    Ok(())
}

/// Checks that what the core believes durable is.
///
/// # Errors
/// R7, "a completion for overwritten entries counts for nothing".
pub fn check_persisted(node: &Node, raft: &Raft) -> Result<(), Violation> {
    let persisted = raft.persisted();
    let durable = &node.disk.log;
    ensure!(
        Durable,
        persisted <= durable.last().index,
        "peer {} believes index {persisted} durable; the durable log ends at {:?}",
        node.id,
        durable.last()
    );
    if let (Some(believed), Some(is)) = (node.log.chain_at(persisted), durable.chain_at(persisted))
    {
        ensure!(
            Durable,
            believed == is,
            "peer {} believes its log durable up to {persisted}; durable is another one",
            node.id
        );
    }
    Ok(())
}
