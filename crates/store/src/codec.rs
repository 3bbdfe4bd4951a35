//! Where Raft's types meet the messages of the wire and the records of the disk, and nowhere else.
//!
//! Payloads are shared bytes, so converting copies no data. A payload is *sealed* when it is proposed: four bytes of
//! CRC-32C, then the encoded command. The seal travels inside the payload through memory, wire and disk of every peer and
//! is checked on arrival, on reading back and again right before applying (R13).

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};
use raft::{
    AppendResult, Body, Entry, HardState, Index, LogPosition, MemberKind, Membership,
    MembershipChange, Message, Payload, PeerId, RefusalReason, SupportId,
};

/// Format byte of a record of the store's own: protobuf follows.
const RECORD: u8 = 0x01;
/// The same for a record whose merge fields are set. Who does not know of merging must not read it: it would take a frozen
/// region for a living one.
const MERGE_RECORD: u8 = 0x02;

/// What the store keeps on disk under a format byte.
pub trait Record: prost::Message {
    /// Whether fields are set that versions without merging do not know.
    fn has_merge(&self) -> bool {
        false
    }
}

impl Record for wire::StoreIdentity {}
impl Record for wire::RaftState {}
impl Record for wire::AppliedState {}
impl Record for wire::Entry {}

impl Record for wire::RegionState {
    fn has_merge(&self) -> bool {
        self.freeze.is_some() || !self.records.is_empty() || self.absorber_id != 0
    }
}

impl Record for wire::PeerMark {
    fn has_merge(&self) -> bool {
        let head = |head: &wire::SnapshotHead| head.freeze.is_some() || !head.records.is_empty();
        !self.replaces.is_empty() || self.installing.as_ref().is_some_and(head)
    }
}

/// Why outside bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a message of ours.
    #[error("malformed")]
    Malformed,
    /// A field has a value that no sender may send.
    #[error("the field {0} has a value that cannot be")]
    Field(&'static str),
    /// A payload is not what was proposed.
    #[error("the checksum of a payload does not match")]
    Checksum,
}

/// Encodes a record with its format byte.
pub fn encode_record(record: &impl Record) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + record.encoded_len());
    append_record(&mut bytes, record);
    bytes.freeze()
}

/// Appends a record with its format byte.
pub fn append_record(bytes: &mut BytesMut, record: &impl Record) {
    bytes.reserve(1 + record.encoded_len());
    bytes.put_u8(if record.has_merge() {
        MERGE_RECORD
    } else {
        RECORD
    });
    record.encode(bytes).expect("the buffer grows");
}

/// Decodes a record; `None` when it is not one of this kind.
pub fn decode_record<M: prost::Message + Default>(bytes: &Bytes) -> Option<M> {
    match bytes.first() {
        Some(&(RECORD | MERGE_RECORD)) => M::decode(bytes.slice(1..)).ok(),
        _ => None,
    }
}

/// Encodes a command and puts its checksum before it.
pub fn seal(command: &wire::Command) -> Bytes {
    let mut bytes = BytesMut::with_capacity(4 + command.encoded_len());
    bytes.put_u32(0);
    command.encode(&mut bytes).expect("the buffer grows");
    let checksum = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_be_bytes());
    bytes.freeze()
}

/// Checks a sealed payload and returns its checksum.
///
/// # Errors
/// [`DecodeError::Checksum`].
pub fn verify(payload: &[u8]) -> Result<u32, DecodeError> {
    let (seal, command) = payload
        .split_first_chunk::<4>()
        .ok_or(DecodeError::Checksum)?;
    let checksum = u32::from_be_bytes(*seal);
    if checksum == crc32c::crc32c(command) {
        Ok(checksum)
    } else {
        Err(DecodeError::Checksum)
    }
}

/// Checks a sealed payload and decodes the command in it.
///
/// # Errors
/// [`DecodeError::Checksum`], or [`DecodeError::Malformed`] when the checked bytes are no command.
pub fn unseal(payload: &Bytes) -> Result<wire::Command, DecodeError> {
    verify(payload)?;
    wire::Command::decode(payload.slice(4..)).map_err(|_| DecodeError::Malformed)
}

/// The seal of a payload whose bytes were checked when they came in.
fn seal_of(payload: &[u8]) -> u32 {
    payload
        .first_chunk::<4>()
        .map_or(0, |seal| u32::from_be_bytes(*seal))
}

/// An entry as it is on the wire and on disk.
pub fn entry_to_wire(entry: &Entry) -> wire::Entry {
    use wire::entry::Kind;
    let (kind, payload, change) = match &entry.payload {
        Payload::Noop => (Kind::Noop, Bytes::new(), None),
        Payload::Command(payload) => (Kind::Command, payload.clone(), None),
        Payload::Structural(payload) => (Kind::Structural, payload.clone(), None),
        Payload::Membership { change, context } => (
            Kind::Membership,
            context.clone(),
            Some(change_to_wire(change)),
        ),
    };
    let crc32c = seal_of(&payload);
    wire::Entry {
        term: entry.term,
        index: entry.index,
        kind: kind as i32,
        payload,
        change,
        crc32c,
    }
}

/// An entry from the wire or from disk, its payload checked.
///
/// # Errors
/// [`DecodeError`] of each kind.
pub fn entry_from_wire(entry: wire::Entry) -> Result<Entry, DecodeError> {
    use wire::entry::Kind;
    if entry.term == 0 {
        return Err(DecodeError::Field("entry.term"));
    }
    if entry.index == 0 {
        return Err(DecodeError::Field("entry.index"));
    }
    let kind = Kind::try_from(entry.kind).map_err(|_| DecodeError::Field("entry.kind"))?;
    let sealed = if entry.payload.is_empty() {
        0
    } else {
        verify(&entry.payload)?
    };
    if sealed != entry.crc32c {
        return Err(DecodeError::Checksum);
    }
    let payload = match (kind, entry.change) {
        (Kind::Noop, None) if entry.payload.is_empty() => Payload::Noop,
        (Kind::Command, None) if !entry.payload.is_empty() => Payload::Command(entry.payload),
        (Kind::Structural, None) if !entry.payload.is_empty() => Payload::Structural(entry.payload),
        (Kind::Membership, Some(change)) => {
            let change = change_from_wire(change)?;
            if entry.payload.is_empty() && change != MembershipChange::LeaveJoint {
                return Err(DecodeError::Field("entry.payload"));
            }
            Payload::Membership {
                change,
                context: entry.payload,
            }
        }
        _ => return Err(DecodeError::Field("entry")),
    };
    Ok(Entry {
        term: entry.term,
        index: entry.index,
        payload,
    })
}

/// Reads an entry of the log from disk.
///
/// # Errors
/// [`DecodeError`] of each kind; an entry at the wrong key counts as malformed.
pub fn entry_from_disk(index: Index, bytes: &Bytes) -> Result<Entry, DecodeError> {
    let entry = entry_from_wire(decode_record(bytes).ok_or(DecodeError::Malformed)?)?;
    if entry.index == index {
        Ok(entry)
    } else {
        Err(DecodeError::Field("entry.index"))
    }
}

/// A membership change as it is on the wire.
pub fn change_to_wire(change: &MembershipChange) -> wire::MembershipChange {
    use wire::membership_change::Kind;
    let ids = |peers: &[PeerId]| peers.iter().map(|peer| peer.0).collect();
    let (kind, peer, promote, demote) = match change {
        MembershipChange::AddLearner(peer) => (Kind::AddLearner, peer.0, Vec::new(), Vec::new()),
        MembershipChange::RemoveLearner(peer) => {
            (Kind::RemoveLearner, peer.0, Vec::new(), Vec::new())
        }
        MembershipChange::EnterJoint { promote, demote } => {
            (Kind::EnterJoint, 0, ids(promote), ids(demote))
        }
        MembershipChange::LeaveJoint => (Kind::LeaveJoint, 0, Vec::new(), Vec::new()),
    };
    wire::MembershipChange {
        kind: kind as i32,
        peer,
        promote,
        demote,
    }
}

/// A membership change from the wire.
///
/// # Errors
/// [`DecodeError::Field`].
pub fn change_from_wire(change: wire::MembershipChange) -> Result<MembershipChange, DecodeError> {
    use wire::membership_change::Kind;
    let ids = |peers: Vec<u64>| {
        peers
            .into_iter()
            .map(|peer| peer_id(peer, "change.peers"))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(
        match Kind::try_from(change.kind).map_err(|_| DecodeError::Field("change.kind"))? {
            Kind::AddLearner => MembershipChange::AddLearner(peer_id(change.peer, "change.peer")?),
            Kind::RemoveLearner => {
                MembershipChange::RemoveLearner(peer_id(change.peer, "change.peer")?)
            }
            Kind::EnterJoint => MembershipChange::EnterJoint {
                promote: ids(change.promote)?,
                demote: ids(change.demote)?,
            },
            Kind::LeaveJoint => MembershipChange::LeaveJoint,
        },
    )
}

fn peer_id(id: u64, field: &'static str) -> Result<PeerId, DecodeError> {
    if id == 0 {
        Err(DecodeError::Field(field))
    } else {
        Ok(PeerId(id))
    }
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The region.
    pub region: RegionId,
    /// The sender's store.
    pub from_store: StoreId,
    /// The receiver's store.
    pub to_store: StoreId,
    /// The sender's applied epoch.
    pub epoch: metapb::RegionEpoch,
}

/// What a Raft message becomes on the wire.
#[derive(Debug)]
pub enum Outgoing {
    /// A message of its own.
    Message(Box<wire::RaftMessage>),
    /// A row of [`wire::Frame::heartbeats`].
    Heartbeat(Beat),
    /// A row of [`wire::Frame::heartbeat_responses`].
    HeartbeatResponse(Beat),
}

/// A row of a heartbeat batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The region.
    pub region: RegionId,
    /// Sender.
    pub from: PeerId,
    /// Receiver.
    pub to: PeerId,
    /// The sender's term.
    pub term: u64,
    /// The commit index it tells.
    pub commit: Index,
    /// The read round.
    pub round: u64,
    /// The sender's applied `conf_ver`, unless its version does not tell.
    pub conf_ver: Option<u64>,
    /// Of a response: the pledge it tells.
    pub pledge: Option<SupportId>,
}

impl Beat {
    /// Appends the row.
    pub fn push_to(self, batch: &mut wire::HeartbeatBatch) {
        batch.region_ids.push(self.region.0);
        batch.from_peers.push(self.from.0);
        batch.to_peers.push(self.to.0);
        batch.terms.push(self.term);
        batch.commits.push(self.commit);
        batch.rounds.push(self.round);
        batch.conf_vers.extend(self.conf_ver);
        if self.pledge.is_some() || !batch.pledges.is_empty() {
            batch.pledges.resize(batch.region_ids.len() - 1, 0);
            batch.pledges.push(self.pledge.map_or(0, SupportId::get));
        }
    }

    /// The rows of a batch; none when its columns differ in length.
    pub fn rows(batch: &wire::HeartbeatBatch) -> impl Iterator<Item = Beat> + '_ {
        let rows = batch.region_ids.len();
        let columns = [
            &batch.from_peers,
            &batch.to_peers,
            &batch.terms,
            &batch.commits,
            &batch.rounds,
        ];
        let told = batch.conf_vers.is_empty() || batch.conf_vers.len() == rows;
        let told = told && (batch.pledges.is_empty() || batch.pledges.len() == rows);
        let rows = if told && columns.iter().all(|column| column.len() == rows) {
            rows
        } else {
            0
        };
        (0..rows).map(move |row| Beat {
            region: RegionId(batch.region_ids[row]),
            from: PeerId(batch.from_peers[row]),
            to: PeerId(batch.to_peers[row]),
            term: batch.terms[row],
            commit: batch.commits[row],
            round: batch.rounds[row],
            conf_ver: batch.conf_vers.get(row).copied(),
            pledge: batch.pledges.get(row).copied().and_then(SupportId::new),
        })
    }

    /// The Raft message of the row.
    pub fn into_message(self, response: bool) -> Message {
        let Beat {
            from,
            to,
            term,
            commit,
            round,
            pledge,
            ..
        } = self;
        let body = if response {
            Body::HeartbeatResponse {
                round,
                commit,
                pledge,
            }
        } else {
            Body::Heartbeat { commit, round }
        };
        Message {
            from,
            to,
            term,
            support: None,
            body,
        }
    }
}

/// Prepares a Raft message for the wire.
pub fn message_to_wire(message: Message, route: Route) -> Outgoing {
    use wire::raft_message::Body as Wire;
    let Message {
        from,
        to,
        term,
        support: _,
        body,
    } = message;
    let beat = |commit, round, pledge| Beat {
        region: route.region,
        from,
        to,
        term,
        commit,
        round,
        conf_ver: Some(route.epoch.conf_ver),
        pledge,
    };
    let body = match body {
        Body::Heartbeat { commit, round } => {
            return Outgoing::Heartbeat(beat(commit, round, None));
        }
        Body::HeartbeatResponse {
            round,
            commit,
            pledge,
        } => return Outgoing::HeartbeatResponse(beat(commit, round, pledge)),
        Body::PreVoteRequest { last, released } => {
            Wire::PreVoteRequest(vote_request(last, released, false))
        }
        Body::VoteRequest {
            last,
            released,
            transfer,
        } => Wire::VoteRequest(vote_request(last, released, transfer)),
        Body::PreVoteResponse { refusal } => Wire::PreVoteResponse(vote_response(refusal)),
        Body::VoteResponse { refusal } => Wire::VoteResponse(vote_response(refusal)),
        Body::Append {
            previous,
            entries,
            commit,
        } => Wire::Append(wire::Append {
            previous_term: previous.term,
            previous_index: previous.index,
            commit,
            entries: entries.iter().map(entry_to_wire).collect(),
        }),
        Body::AppendResponse {
            result,
            commit,
            pledge,
        } => {
            let mut response = wire::AppendResponse {
                commit,
                ..Default::default()
            };
            response.pledge = pledge.map_or(0, |support| support.get());
            match result {
                AppendResult::Matched(index) => response.matched = index,
                AppendResult::Mismatch { rejected, hint } => {
                    response.mismatch = true;
                    response.rejected = rejected;
                    response.hint_term = hint.term;
                    response.hint_index = hint.index;
                }
                AppendResult::Lost(position) => {
                    response.lost = Some(wire::LostSnapshot {
                        term: position.term,
                        index: position.index,
                    });
                }
            }
            Wire::AppendResponse(response)
        }
        Body::ReadIndexRequest { request } => {
            Wire::ReadIndexRequest(wire::ReadIndexRequest { request })
        }
        Body::ReadIndexResponse { request, index } => {
            Wire::ReadIndexResponse(wire::ReadIndexResponse { request, index })
        }
        Body::TimeoutNow => Wire::TimeoutNow(wire::TimeoutNow {}),
        Body::Release => Wire::Release(wire::Release {}),
    };
    Outgoing::Message(Box::new(envelope(route, from, to, term, Some(body))))
}

/// A message without a body: "am I still a member?" Members answer it with a notice if not (REGIONS §2).
pub fn membership_question(route: Route, from: PeerId, to: PeerId, term: u64) -> wire::RaftMessage {
    envelope(route, from, to, term, None)
}

fn envelope(
    route: Route,
    from: PeerId,
    to: PeerId,
    term: u64,
    body: Option<wire::raft_message::Body>,
) -> wire::RaftMessage {
    wire::RaftMessage {
        region_id: route.region.0,
        from_peer: from.0,
        to_peer: to.0,
        from_store: route.from_store.0,
        to_store: route.to_store.0,
        epoch: Some(route.epoch),
        term,
        body,
    }
}

fn vote_request(last: LogPosition, released: Option<u64>, transfer: bool) -> wire::VoteRequest {
    wire::VoteRequest {
        last_term: last.term,
        last_index: last.index,
        released,
        transfer,
    }
}

fn vote_response(refusal: Option<RefusalReason>) -> wire::VoteResponse {
    use wire::vote_response::Refusal;
    let refusal = match refusal {
        None => Refusal::None,
        Some(RefusalReason::Pledged) => Refusal::Pledged,
        Some(RefusalReason::LeaderHeard) => Refusal::LeaderHeard,
        Some(RefusalReason::BetterLog) => Refusal::BetterLog,
        Some(RefusalReason::Term) => Refusal::Term,
    };
    wire::VoteResponse {
        refusal: refusal as i32,
    }
}

/// A Raft message from the wire; `None` for a bare question after membership.
///
/// # Errors
/// [`DecodeError`] of each kind.
pub fn message_from_wire(message: wire::RaftMessage) -> Result<Option<Message>, DecodeError> {
    use wire::raft_message::Body as Wire;
    let from = peer_id(message.from_peer, "message.from_peer")?;
    let to = peer_id(message.to_peer, "message.to_peer")?;
    let Some(body) = message.body else {
        return Ok(None);
    };
    let body = match body {
        Wire::PreVoteRequest(request) => Body::PreVoteRequest {
            last: last_of(&request),
            released: request.released,
        },
        Wire::VoteRequest(request) => Body::VoteRequest {
            last: last_of(&request),
            released: request.released,
            transfer: request.transfer,
        },
        Wire::PreVoteResponse(response) => Body::PreVoteResponse {
            refusal: refusal_of(&response)?,
        },
        Wire::VoteResponse(response) => Body::VoteResponse {
            refusal: refusal_of(&response)?,
        },
        Wire::Append(append) => {
            let previous = LogPosition {
                term: append.previous_term,
                index: append.previous_index,
            };
            let mut entries = Vec::with_capacity(append.entries.len());
            for (next, entry) in (1..).zip(append.entries) {
                let entry = entry_from_wire(entry)?;
                if previous.index.checked_add(next) != Some(entry.index) {
                    return Err(DecodeError::Field("append.entries"));
                }
                entries.push(entry);
            }
            Body::Append {
                previous,
                entries,
                commit: append.commit,
            }
        }
        Wire::AppendResponse(response) => Body::AppendResponse {
            result: if let Some(lost) = response.lost {
                AppendResult::Lost(LogPosition {
                    term: lost.term,
                    index: lost.index,
                })
            } else if response.mismatch {
                AppendResult::Mismatch {
                    rejected: response.rejected,
                    hint: LogPosition {
                        term: response.hint_term,
                        index: response.hint_index,
                    },
                }
            } else {
                AppendResult::Matched(response.matched)
            },
            commit: response.commit,
            pledge: SupportId::new(response.pledge),
        },
        Wire::ReadIndexRequest(request) => Body::ReadIndexRequest {
            request: request.request,
        },
        Wire::ReadIndexResponse(response) => Body::ReadIndexResponse {
            request: response.request,
            index: response.index,
        },
        Wire::TimeoutNow(_) => Body::TimeoutNow,
        Wire::Release(_) => Body::Release,
    };
    Ok(Some(Message {
        from,
        to,
        term: message.term,
        support: None,
        body,
    }))
}

fn last_of(request: &wire::VoteRequest) -> LogPosition {
    LogPosition {
        term: request.last_term,
        index: request.last_index,
    }
}

fn refusal_of(response: &wire::VoteResponse) -> Result<Option<RefusalReason>, DecodeError> {
    use wire::vote_response::Refusal;
    Ok(
        match Refusal::try_from(response.refusal).map_err(|_| DecodeError::Field("vote.refusal"))? {
            Refusal::None => None,
            Refusal::Pledged => Some(RefusalReason::Pledged),
            Refusal::LeaderHeard => Some(RefusalReason::LeaderHeard),
            Refusal::BetterLog => Some(RefusalReason::BetterLog),
            Refusal::Term => Some(RefusalReason::Term),
        },
    )
}

/// The hard state in a raft state.
pub fn hard_state(state: &wire::RaftState) -> HardState {
    HardState {
        term: state.term,
        vote: (state.vote != 0).then_some(PeerId(state.vote)),
        commit: state.commit,
    }
}

/// Puts a hard state into a raft state.
pub fn set_hard_state(state: &mut wire::RaftState, hard_state: HardState) {
    state.term = hard_state.term;
    state.vote = hard_state.vote.map_or(0, |peer| peer.0);
    state.commit = hard_state.commit;
}

/// The compacted position in a raft state.
pub fn compacted(state: &wire::RaftState) -> LogPosition {
    LogPosition {
        term: state.compacted_term,
        index: state.compacted_index,
    }
}

/// The configuration that a descriptor's roles spell.
pub fn membership(region: &metapb::Region) -> Membership {
    let members = region
        .peers
        .iter()
        .map(|peer| (PeerId(peer.id), kind_of(peer.role())))
        .collect();
    Membership { members }
}

/// The part of a role.
pub fn kind_of(role: metapb::PeerRole) -> MemberKind {
    match role {
        metapb::PeerRole::Voter => MemberKind::Voter,
        metapb::PeerRole::Learner => MemberKind::Learner,
        metapb::PeerRole::IncomingVoter => MemberKind::IncomingVoter,
        metapb::PeerRole::DemotingVoter => MemberKind::DemotingVoter,
    }
}
