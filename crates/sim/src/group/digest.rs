//! What of an event goes into the digest of a run.

use raft::{Body, Event};

/// Numbers that tell events apart in the digest.
pub fn describe_words(event: &Event) -> (u64, u64) {
    match event {
        Event::Tick => (1, 0),
        Event::Message(message) => (
            2,
            message.from.0 ^ message.term << 8 ^ body_word(&message.body) << 32,
        ),
        Event::Propose(_) => (3, 0),
        Event::Read(id) => (4, id.0),
        Event::Written(id) => (5, id.0),
        Event::Applied(index) => (6, *index),
        Event::CommittedTo(position) => (20, position.index ^ position.term << 32),
        Event::Fetched { peer, entries } => (7, peer.0 ^ (entries.len() as u64) << 8),
        Event::Compact(index) => (8, *index),
        Event::InstallSnapshot { position, .. } => (9, position.index),
        Event::SnapshotInstalled(position) => (10, position.index),
        Event::SnapshotEnded { peer, delivered } => (11, peer.0 ^ delivered.unwrap_or(0) << 8),
        Event::Unreachable(peer) => (12, peer.0),
        Event::Transfer(peer) => (13, peer.map_or(0, |peer| peer.0)),
        Event::Campaign(_) => (14, 0),
        Event::StepDown(_) => (15, 0),
        Event::SupportEnded(_) => (16, 0),
        Event::SupportHeld { peer, .. } => (17, peer.0),
        Event::SnapshotLost(position) => (18, position.index),
    }
}

fn body_word(body: &Body) -> u64 {
    match body {
        Body::PreVoteRequest { last, .. } => 1 ^ last.index << 4,
        Body::VoteRequest { last, .. } => 2 ^ last.index << 4,
        Body::PreVoteResponse { refusal } => 3 ^ u64::from(refusal.is_some()) << 4,
        Body::VoteResponse { refusal } => 4 ^ u64::from(refusal.is_some()) << 4,
        Body::Append {
            previous,
            entries,
            commit,
        } => 5 ^ previous.index << 4 ^ (entries.len() as u64) << 16 ^ commit << 24,
        Body::AppendResponse { result, .. } => match result {
            raft::AppendResult::Matched(index) => 6 ^ index << 4,
            raft::AppendResult::Mismatch { rejected, .. } => 7 ^ rejected << 4,
            raft::AppendResult::Lost(position) => 14 ^ position.index << 4,
        },
        Body::Heartbeat { commit, round } => 8 ^ commit << 4 ^ round << 16,
        Body::HeartbeatResponse { round, .. } => 9 ^ round << 4,
        Body::ReadIndexRequest { request } => 10 ^ request << 4,
        Body::ReadIndexResponse { request, index } => 11 ^ request << 4 ^ index.unwrap_or(0) << 16,
        Body::TimeoutNow => 12,
        Body::Release => 13,
    }
}
