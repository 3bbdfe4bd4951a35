//! How things print. A position is `index@term`, a hard state `term/vote/commit`.

use raft::{
    AppendResult, Body, Effects, Entry, HardState, LogPosition, MemberKind, Membership,
    MembershipChange, Message, Payload, RefusalReason, Role, View,
};

pub fn effects(id: u64, effects: &Effects) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(view) = &effects.view {
        lines.push(format!("{id} is {}", self::view(view)));
    }
    for message in &effects.messages {
        lines.push(format!("{id} sends {}", self::message(message)));
    }
    if let Some(write) = &effects.write {
        let mut parts = Vec::new();
        if let Some(state) = &write.hard_state {
            parts.push(format!("state {}", hard_state(state)));
        }
        if let Some(position) = write.install {
            parts.push(format!("snapshot {}", self::position(position)));
        }
        if let Some(from) = write.truncate_from {
            parts.push(format!("cut {from}"));
        }
        if !write.entries.is_empty() {
            parts.push(entries(&write.entries));
        }
        if parts.is_empty() {
            parts.push("nothing".to_owned());
        }
        lines.push(format!("{id} writes #{}: {}", write.id.0, parts.join(", ")));
        for message in &write.after {
            lines.push(format!("{id}   then {}", self::message(message)));
        }
    }
    if !effects.committed.is_empty() {
        lines.push(format!("{id} applies {}", entries(&effects.committed)));
    }
    for ready in &effects.reads {
        lines.push(format!("{id} reads r{} at {}", ready.id.0, ready.index));
    }
    for dropped in &effects.reads_dropped {
        lines.push(format!("{id} drops read r{}", dropped.0));
    }
    for fetch in &effects.fetches {
        lines.push(format!(
            "{id} fetches {}..{} for {}",
            fetch.range.start, fetch.range.end, fetch.peer
        ));
    }
    for peer in &effects.snapshots {
        lines.push(format!("{id} wants a snapshot for {peer}"));
    }
    lines
}

/// Whether a line tells of state, not of traffic.
pub fn is_state(line: &str) -> bool {
    [" is ", " applies ", " reads ", " drops ", " wants "]
        .iter()
        .any(|word| line.contains(word))
}

pub fn position(position: LogPosition) -> String {
    format!("{}@{}", position.index, position.term)
}

pub fn hard_state(state: &HardState) -> String {
    let vote = state.vote.map_or("-".to_owned(), |vote| vote.to_string());
    format!("{}/{vote}/{}", state.term, state.commit)
}

pub fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

pub fn view(view: &View) -> String {
    let leader = view
        .leader
        .map_or("-".to_owned(), |leader| leader.to_string());
    let mut text = format!(
        "{} of term {}, leader {leader}, commit {}",
        role(view.role),
        view.term,
        view.commit
    );
    if view.committed_in_term {
        text.push_str(" in term");
    }
    if view.transferring {
        text.push_str(", transferring");
    }
    text
}

pub fn membership(membership: &Membership) -> String {
    let names: Vec<String> = membership
        .members
        .iter()
        .map(|(peer, kind)| match kind {
            MemberKind::Voter => format!("{peer}"),
            MemberKind::Learner => format!("{peer}:learner"),
            MemberKind::IncomingVoter => format!("{peer}:incoming"),
            MemberKind::DemotingVoter => format!("{peer}:demoting"),
        })
        .collect();
    names.join(" ")
}

fn entries(entries: &[Entry]) -> String {
    let texts: Vec<String> = entries.iter().map(entry).collect();
    format!("[{}]", texts.join(", "))
}

pub fn entry(entry: &Entry) -> String {
    format!("{} {}", position(entry.position()), payload(&entry.payload))
}

pub fn payload(payload: &Payload) -> String {
    match payload {
        Payload::Noop => "noop".to_owned(),
        Payload::Command(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Payload::Structural(bytes) => format!("!{}", String::from_utf8_lossy(bytes)),
        Payload::Membership { change, .. } => match change {
            MembershipChange::AddLearner(peer) => format!("add {peer}"),
            MembershipChange::RemoveLearner(peer) => format!("remove {peer}"),
            MembershipChange::EnterJoint { promote, demote } => {
                let mut text = "enter".to_owned();
                for peer in promote {
                    text.push_str(&format!(" +{peer}"));
                }
                for peer in demote {
                    text.push_str(&format!(" -{peer}"));
                }
                text
            }
            MembershipChange::LeaveJoint => "leave".to_owned(),
        },
    }
}

/// What an entry adds to the state machine.
pub fn state_of(payload: &Payload) -> Option<String> {
    match payload {
        Payload::Noop | Payload::Membership { .. } => None,
        Payload::Command(_) | Payload::Structural(_) => Some(self::payload(payload)),
    }
}

fn refusal(refusal: Option<RefusalReason>) -> &'static str {
    match refusal {
        None => "granted",
        Some(RefusalReason::Pledged) => "refused: pledged",
        Some(RefusalReason::LeaderHeard) => "refused: leader heard",
        Some(RefusalReason::BetterLog) => "refused: better log",
        Some(RefusalReason::Term) => "refused: term",
    }
}

pub fn message(message: &Message) -> String {
    let pledged = |pledge: Option<raft::SupportId>| {
        pledge.map_or(String::new(), |id| format!(" pledge {id}"))
    };
    let body = match &message.body {
        Body::PreVoteRequest { last, released } => {
            let released = released.map_or(String::new(), |term| format!(" released {term}"));
            format!("pre-vote? last {}{released}", position(*last))
        }
        Body::VoteRequest {
            last,
            released,
            transfer,
        } => {
            let released = released.map_or(String::new(), |term| format!(" released {term}"));
            let transfer = if *transfer { " transfer" } else { "" };
            format!("vote? last {}{released}{transfer}", position(*last))
        }
        Body::PreVoteResponse { refusal: reason } => format!("pre-vote {}", refusal(*reason)),
        Body::VoteResponse { refusal: reason } => format!("vote {}", refusal(*reason)),
        Body::Append {
            previous,
            entries: list,
            commit,
        } => format!(
            "append after {} {} commit {commit}",
            position(*previous),
            entries(list)
        ),
        Body::AppendResponse {
            result,
            commit,
            pledge,
        } => {
            let result = match result {
                AppendResult::Matched(index) => format!("matched {index}"),
                AppendResult::Mismatch { rejected, hint } => {
                    format!("mismatch at {rejected}, try {}", position(*hint))
                }
                AppendResult::Lost(lost) => format!("lost snapshot {}", position(*lost)),
            };
            format!("{result} commit {commit}{}", pledged(*pledge))
        }
        Body::Heartbeat { commit, round } => format!("heartbeat commit {commit} round {round}"),
        Body::HeartbeatResponse {
            round,
            commit,
            pledge,
        } => {
            format!("heard round {round} commit {commit}{}", pledged(*pledge))
        }
        Body::ReadIndexRequest { .. } => "read index?".to_owned(),
        Body::ReadIndexResponse { index, .. } => match index {
            Some(index) => format!("read index {index}"),
            None => "no read index".to_owned(),
        },
        Body::TimeoutNow => "timeout now".to_owned(),
        Body::Release => "release".to_owned(),
    };
    format!("{}->{} t{} {body}", message.from, message.to, message.term)
}
