//! Members that lie (RELIABILITY R34): whatever another process says, a peer refuses it or goes on; it never ends.

use std::collections::VecDeque;

use proptest::prelude::*;
use raft::{
    AppendResult, Body, CampaignReason, Entry, Error, Event, Index, LogPosition, LogWrite,
    MemberKind, Membership, MembershipChange, Message, Payload, PeerId, Raft, ReadId,
    RefusalReason, Restored, Role, Term,
};

use crate::common::{Cluster, change, command, peer, small_options};

fn message(from: u64, to: u64, term: Term, body: Body) -> Message {
    Message {
        from: peer(from),
        to: peer(to),
        term,
        support: None,
        body,
    }
}

fn beat(from: u64, to: u64, term: Term) -> Event {
    let body = Body::Heartbeat {
        commit: 1,
        round: 0,
    };
    Event::Message(message(from, to, term, body))
}

fn append(from: u64, to: u64, term: Term) -> Event {
    let body = Body::Append {
        previous: LogPosition { term: 1, index: 1 },
        entries: vec![Entry {
            term,
            index: 2,
            payload: command("false"),
        }],
        commit: 2,
    };
    Event::Message(message(from, to, term, body))
}

fn snapshot(from: u64, term: Term, position: LogPosition) -> Event {
    Event::InstallSnapshot {
        from: peer(from),
        term,
        position,
        membership: Membership::of_voters([1, 2, 3].map(PeerId)),
    }
}

/// What can be seen of a peer.
fn seen(raft: &Raft) -> (raft::View, LogPosition, raft::HardState, Index, bool) {
    let state = raft.hard_state();
    let effects = raft.has_effects();
    (raft.view(), raft.last(), state, raft.applied(), effects)
}

/// R1 cannot be kept by those who do not lie alone. What they can do is follow nobody else, and say so.
#[test]
fn reliability_r34_a_second_leader_of_a_term_is_refused() {
    let mut cluster = Cluster::led(3, 1);
    let far = LogPosition { term: 1, index: 9 };
    for to in [1, 2] {
        let before = seen(cluster.raft(to));
        for lie in [beat(3, to, 1), append(3, to, 1), snapshot(3, 1, far)] {
            let refused = cluster.step(to, lie.clone());
            let expected = Error::TwoLeaders {
                term: 1,
                leader: peer(1),
                other: peer(3),
            };
            assert_eq!(refused, Err(expected), "{lie:?}");
            assert_eq!(seen(cluster.raft(to)), before, "{lie:?}");
        }
    }
    cluster.propose(1, command("true")).expect("1 leads");
    cluster.settle();
    assert_eq!(cluster.raft(2).committed(), 2);
    // A later term may be led by anybody.
    cluster.step(2, beat(3, 2, 2)).expect("a newer leader");
    assert_eq!(cluster.raft(2).leader(), Some(peer(3)));
    assert_eq!(
        cluster.step(2, beat(1, 2, 2)),
        Err(Error::TwoLeaders {
            term: 2,
            leader: peer(3),
            other: peer(1),
        })
    );
}

#[test]
fn reliability_r34_nobody_speaks_in_the_name_of_the_receiver() {
    let mut cluster = Cluster::new(3);
    let last = LogPosition::default();
    let vote = Body::VoteRequest {
        last,
        released: None,
        transfer: true,
    };
    for event in [
        beat(2, 2, 1),
        append(2, 2, 1),
        Event::Message(message(2, 2, 1, vote)),
        snapshot(2, 1, LogPosition { term: 1, index: 9 }),
    ] {
        let before = seen(cluster.raft(2));
        let refused = cluster.step(2, event);
        assert_eq!(refused, Err(Error::Malformed { from: peer(2) }));
        assert_eq!(seen(cluster.raft(2)), before);
    }
}

#[test]
fn reliability_r34_a_snapshot_has_numbers_that_can_be_counted_on() {
    let mut cluster = Cluster::led(3, 1);
    let at = |index, term| LogPosition { index, term };
    for (from, term, position) in [
        (3, u64::MAX, at(9, 1)),
        (3, 1 << 62, at(9, 1)),
        (3, 2, at(u64::MAX, 1)),
        (3, 2, at(1 << 62, 1)),
        (3, 2, at(9, 3)),
        (0, 2, at(9, 1)),
    ] {
        let before = seen(cluster.raft(2));
        let refused = cluster.step(2, snapshot(from, term, position));
        assert_eq!(refused, Err(Error::Malformed { from: peer(from) }));
        assert_eq!(seen(cluster.raft(2)), before, "{position:?} of {term}");
    }
}

/// One peer whose disk and state machine do as they are told, some time later.
struct Alone {
    raft: Raft,
    writes: VecDeque<LogWrite>,
    committed: Index,
    installing: Option<LogPosition>,
    sent: usize,
}

/// Peer 1 of the voters 1 to 3 and the learner 4.
const OWN: u64 = 1;

impl Alone {
    fn new() -> Self {
        let mut membership = Membership::of_voters([1, 2, 3].map(PeerId));
        membership.members.insert(peer(4), MemberKind::Learner);
        let base = LogPosition { term: 1, index: 1 };
        let restored = Restored {
            hard_state: raft::HardState {
                term: 1,
                vote: None,
                commit: 1,
            },
            compacted: base,
            membership,
            applied: 1,
            ..Restored::blank(peer(OWN), 7)
        };
        Self {
            raft: Raft::new(small_options(), restored).expect("it is sound"),
            writes: VecDeque::new(),
            committed: 1,
            installing: None,
            sent: 0,
        }
    }

    fn step(&mut self, event: Event) {
        // Refused or not.
        let _ = self.raft.step(event);
        self.raft.check_invariants();
        while self.raft.has_effects() {
            let effects = self.raft.take_effects();
            self.raft.check_invariants();
            self.sent += effects.messages.len();
            self.writes.extend(effects.write);
            if let Some(last) = effects.committed.last() {
                self.committed = last.index;
            }
            for fetch in effects.fetches {
                let peer = fetch.peer;
                let entries = Vec::new();
                let _ = self.raft.step(Event::Fetched { peer, entries });
            }
            for peer in effects.snapshots {
                let delivered = Some(self.raft.applied());
                let _ = self.raft.step(Event::SnapshotEnded { peer, delivered });
            }
        }
    }

    /// The disk and the state machine go on.
    fn work(&mut self) {
        while let Some(write) = self.writes.pop_front() {
            self.installing = write.install.or(self.installing);
            self.step(Event::Written(write.id));
        }
        match self.installing.take() {
            Some(position) => {
                self.committed = position.index;
                self.step(Event::SnapshotInstalled(position));
            }
            None if self.raft.installing().is_none() => {
                self.step(Event::Applied(self.committed));
            }
            None => {}
        }
    }
}

/// What is said, as numbers: most are near what the receiver has, some are anything.
#[derive(Clone, Debug)]
enum Lie {
    Say {
        from: u64,
        kind: u8,
        numbers: [u64; 5],
    },
    Snapshot {
        from: u64,
        numbers: [u64; 3],
    },
    Ticks(u8),
    Campaign,
    Propose,
    Read,
    Compact,
    Work,
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        12 => 0..6_u64,
        1 => any::<u64>(),
        1 => (0..3_u64).prop_map(|less| u64::MAX - less),
        1 => (0..3_u64).prop_map(|off| (1 << 62) - 1 + off),
    ]
}

fn lie() -> impl Strategy<Value = Lie> {
    let numbers = || prop::array::uniform5(number());
    let numbers3 = || prop::array::uniform3(number());
    prop_oneof![
        16 => (0..6_u64, any::<u8>(), numbers())
            .prop_map(|(from, kind, numbers)| Lie::Say { from, kind, numbers }),
        2 => (0..6_u64, numbers3()).prop_map(|(from, numbers)| Lie::Snapshot { from, numbers }),
        2 => (1..25_u8).prop_map(Lie::Ticks),
        2 => Just(Lie::Campaign),
        1 => Just(Lie::Propose),
        1 => Just(Lie::Read),
        1 => Just(Lie::Compact),
        6 => Just(Lie::Work),
    ]
}

/// Near `base` when `number` is small.
fn near(base: u64, number: u64) -> u64 {
    match number {
        0..6 => base.saturating_add(number).saturating_sub(2),
        any => any,
    }
}

fn payload(number: u64) -> Payload {
    match number % 8 {
        0 => Payload::Noop,
        1 => change(MembershipChange::AddLearner(peer(number % 7))),
        2 => change(MembershipChange::RemoveLearner(peer(4))),
        3 => change(MembershipChange::EnterJoint {
            promote: vec![peer(4)],
            demote: vec![peer(number % 4)],
        }),
        4 => change(MembershipChange::LeaveJoint),
        _ => command("false"),
    }
}

fn body(raft: &Raft, kind: u8, term: Term, numbers: [u64; 5]) -> Body {
    let [_, a, b, c, d] = numbers;
    let last = raft.last();
    let position = |index, term| LogPosition {
        index: near(last.index, index),
        term: near(last.term, term),
    };
    let released = (d % 2 == 1).then(|| near(raft.term(), c));
    let refusal = match c % 6 {
        1 => Some(RefusalReason::Pledged),
        2 => Some(RefusalReason::LeaderHeard),
        3 => Some(RefusalReason::BetterLog),
        4 => Some(RefusalReason::Term),
        _ => None,
    };
    let commit = near(last.index, d);
    match kind % 13 {
        0 => Body::PreVoteRequest {
            last: position(a, b),
            released,
        },
        1 => Body::VoteRequest {
            last: position(a, b),
            released,
            transfer: c % 2 == 1,
        },
        2 => Body::PreVoteResponse { refusal },
        3 => Body::VoteResponse { refusal },
        4..=6 => {
            let previous = position(a, b);
            let entries = (0..c % 5).map(|next| Entry {
                term: if d % 5 == 4 { near(term, a) } else { term },
                index: previous.index.wrapping_add(1 + next),
                payload: payload(d.wrapping_add(next)),
            });
            Body::Append {
                previous,
                entries: entries.collect(),
                commit,
            }
        }
        7 => Body::AppendResponse {
            result: match c % 3 {
                0 => AppendResult::Matched(near(last.index, a)),
                1 => AppendResult::Mismatch {
                    rejected: near(last.index, a),
                    hint: position(b, b),
                },
                _ => AppendResult::Lost(position(a, b)),
            },
            commit,
            pledge: std::num::NonZeroU64::new(b),
        },
        8 => Body::Heartbeat { commit, round: a },
        9 => Body::HeartbeatResponse {
            round: a,
            commit,
            pledge: std::num::NonZeroU64::new(b),
        },
        10 => Body::ReadIndexRequest { request: a },
        11 => Body::ReadIndexResponse {
            request: a,
            index: (b % 2 == 1).then_some(commit),
        },
        _ if a % 2 == 0 => Body::TimeoutNow,
        _ => Body::Release,
    }
}

fn tell(alone: &mut Alone, lie: &Lie) {
    match *lie {
        Lie::Say {
            from,
            kind,
            numbers,
        } => {
            let term = near(alone.raft.term(), numbers[0]);
            let body = body(&alone.raft, kind, term, numbers);
            alone.step(Event::Message(message(from, OWN, term, body)));
        }
        Lie::Snapshot { from, numbers } => {
            let term = near(alone.raft.term(), numbers[0]);
            let last = alone.raft.last();
            let position = LogPosition {
                index: near(last.index, numbers[1]),
                term: near(last.term, numbers[2]),
            };
            alone.step(snapshot(from, term, position));
        }
        Lie::Ticks(count) => (0..count).for_each(|_| alone.step(Event::Tick)),
        Lie::Campaign => alone.step(Event::Campaign(CampaignReason::Paced)),
        Lie::Propose => alone.step(Event::Propose(command("true"))),
        Lie::Read => alone.step(Event::Read(ReadId(1))),
        Lie::Compact => alone.step(Event::Compact(alone.raft.applied())),
        Lie::Work => alone.work(),
    }
}

proptest! {
    /// Elected or not, a peer that is told anything by anybody keeps its invariants.
    #[test]
    fn reliability_r34_no_lie_ends_a_peer(
        elected in any::<bool>(),
        lies in prop::collection::vec(lie(), 1..60),
    ) {
        let mut alone = Alone::new();
        if elected {
            alone.step(Event::Campaign(CampaignReason::Paced));
            let grant = Body::PreVoteResponse { refusal: None };
            alone.step(Event::Message(message(2, OWN, 2, grant)));
            alone.work();
            let grant = Body::VoteResponse { refusal: None };
            alone.step(Event::Message(message(2, OWN, 2, grant)));
            prop_assert_eq!(alone.raft.role(), Role::Leader);
        }
        for lie in &lies {
            tell(&mut alone, lie);
        }
        alone.work();
        alone.work();
    }
}
