//! The judge of votes and the table of terms, gone through case by case.

use proptest::prelude::*;

use super::{Ballot, Voter, judge_vote, proves_leader_gone, raises_term};
use crate::event::Role;
use crate::message::{AppendResult, Body, RefusalReason};
use crate::pledge::Pledge;
use crate::types::{LogPosition, PeerId, Term};

fn position() -> impl Strategy<Value = LogPosition> {
    (0..4_u64, 0..4_u64).prop_map(|(term, index)| LogPosition { term, index })
}

fn peers() -> impl Strategy<Value = Option<PeerId>> {
    prop::option::of((1..4_u64).prop_map(PeerId))
}

fn voters() -> impl Strategy<Value = Voter> {
    (
        1..4_u64,
        peers(),
        peers(),
        any::<bool>(),
        any::<bool>(),
        position(),
    )
        .prop_map(|(term, vote, leader, heard, pledged, last)| Voter {
            term,
            vote,
            leader,
            leader_heard: heard && leader.is_some(),
            pledge: leader.filter(|_| pledged).map(|leader| Pledge {
                term,
                leader,
                support: 1.try_into().expect("1 is not 0"),
            }),
            last,
        })
}

fn ballots() -> impl Strategy<Value = Ballot> {
    let released = prop::option::of(1..4_u64);
    (
        any::<bool>(),
        1..4_u64,
        1..5_u64,
        position(),
        released,
        any::<bool>(),
    )
        .prop_map(|(pre, from, term, last, released, transfer)| Ballot {
            pre,
            from: PeerId(from),
            term,
            last,
            released,
            transfer: transfer && !pre,
        })
}

/// The comparison of Raft §5.4.1, word by word.
fn is_up_to_date(candidate: LogPosition, voter: LogPosition) -> bool {
    if candidate.term != voter.term {
        candidate.term > voter.term
    } else {
        candidate.index >= voter.index
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn votes_are_judged_by_every_rule(voter in voters(), ballot in ballots()) {
        let current = ballot.term >= voter.term;
        let gone = proves_leader_gone(&voter, &ballot);
        let bound = voter.pledge.is_some() && !gone;
        let heard = voter.leader_heard && !ballot.transfer && !gone;
        let free = ballot.term > voter.term
            || voter.vote == Some(ballot.from)
            || (voter.vote.is_none() && voter.leader.is_none());
        let grants = current && !bound && !heard && free && is_up_to_date(ballot.last, voter.last);
        prop_assert_eq!(judge_vote(&voter, &ballot).is_ok(), grants);
    }

    /// A pre-vote and the vote that follows it are judged alike, so that who passes the first is not refused for a rule.
    #[test]
    fn pre_votes_are_judged_as_votes(voter in voters(), ballot in ballots()) {
        let pre = Ballot { pre: true, transfer: false, ..ballot };
        let vote = Ballot { pre: false, transfer: false, ..ballot };
        prop_assert_eq!(judge_vote(&voter, &pre), judge_vote(&voter, &vote));
    }

    #[test]
    fn positions_compare_as_logs(a in position(), b in position()) {
        prop_assert_eq!(a >= b, is_up_to_date(a, b));
    }
}

const FREE: Voter = Voter {
    term: 3,
    vote: None,
    leader: None,
    leader_heard: false,
    pledge: None,
    last: LogPosition { term: 2, index: 5 },
};

const ASKS: Ballot = Ballot {
    pre: false,
    from: PeerId(9),
    term: 4,
    last: LogPosition { term: 2, index: 5 },
    released: None,
    transfer: false,
};

fn pledged(leader: u64) -> Voter {
    Voter {
        leader: Some(PeerId(leader)),
        leader_heard: true,
        pledge: Some(Pledge {
            term: 3,
            leader: PeerId(leader),
            support: 1.try_into().expect("1 is not 0"),
        }),
        ..FREE
    }
}

#[test]
fn cases_of_the_judge() {
    let heard = Voter {
        leader: Some(PeerId(1)),
        leader_heard: true,
        ..FREE
    };
    let voted = Voter {
        vote: Some(PeerId(1)),
        ..FREE
    };
    let at = |term: Term, index| LogPosition { term, index };
    let cases: [(&str, Voter, Ballot, Option<RefusalReason>); 16] = [
        ("nothing against it", FREE, ASKS, None),
        (
            "old term",
            FREE,
            Ballot { term: 2, ..ASKS },
            Some(RefusalReason::Term),
        ),
        (
            "our term, vote free",
            FREE,
            Ballot { term: 3, ..ASKS },
            None,
        ),
        (
            "our term, vote given",
            voted,
            Ballot { term: 3, ..ASKS },
            Some(RefusalReason::Term),
        ),
        (
            "our term, vote given to it",
            voted,
            Ballot {
                term: 3,
                from: PeerId(1),
                ..ASKS
            },
            None,
        ),
        ("later term, vote given in ours", voted, ASKS, None),
        (
            "shorter log",
            FREE,
            Ballot {
                last: at(2, 4),
                ..ASKS
            },
            Some(RefusalReason::BetterLog),
        ),
        (
            "longer log of an older term",
            FREE,
            Ballot {
                last: at(1, 9),
                ..ASKS
            },
            Some(RefusalReason::BetterLog),
        ),
        (
            "shorter log of a later term",
            FREE,
            Ballot {
                last: at(3, 1),
                ..ASKS
            },
            None,
        ),
        (
            "leader heard",
            heard,
            ASKS,
            Some(RefusalReason::LeaderHeard),
        ),
        (
            "leader heard, but it asked for this",
            heard,
            Ballot {
                transfer: true,
                ..ASKS
            },
            None,
        ),
        (
            "leader heard, and is the one who asks",
            heard,
            Ballot {
                from: PeerId(1),
                ..ASKS
            },
            None,
        ),
        ("pledged", pledged(1), ASKS, Some(RefusalReason::Pledged)),
        (
            "pledged, the owner asks",
            pledged(1),
            Ballot {
                from: PeerId(1),
                ..ASKS
            },
            None,
        ),
        (
            "pledged, the owner released the term",
            pledged(1),
            Ballot {
                released: Some(3),
                ..ASKS
            },
            None,
        ),
        (
            "pledged, a later leader existed",
            pledged(1),
            Ballot {
                last: at(4, 1),
                term: 5,
                ..ASKS
            },
            None,
        ),
    ];
    for (name, voter, ballot, refusal) in cases {
        assert_eq!(judge_vote(&voter, &ballot).err(), refusal, "{name}");
    }
    let older = Ballot {
        released: Some(2),
        ..ASKS
    };
    assert_eq!(
        judge_vote(&pledged(1), &older),
        Err(RefusalReason::Pledged),
        "a release of another term"
    );
    let transfer = Ballot {
        transfer: true,
        ..ASKS
    };
    assert_eq!(
        judge_vote(&pledged(1), &transfer),
        Err(RefusalReason::Pledged),
        "a transfer that releases nothing"
    );
}

#[test]
fn table_of_terms() {
    const ROLES: [Role; 4] = [
        Role::Follower,
        Role::PreCandidate,
        Role::Candidate,
        Role::Leader,
    ];
    const EVERYONE: [bool; 4] = [true; 4];
    const NOBODY: [bool; 4] = [false; 4];
    const ASKERS: [bool; 4] = [false, true, true, true];
    let last = LogPosition::default();
    let vote = Body::VoteRequest {
        last,
        released: None,
        transfer: false,
    };
    let refusal = Some(RefusalReason::Term);
    let plain: [(Body, [bool; 4]); 13] = [
        (
            Body::PreVoteRequest {
                last,
                released: None,
            },
            NOBODY,
        ),
        (vote.clone(), NOBODY),
        (Body::PreVoteResponse { refusal: None }, NOBODY),
        (Body::PreVoteResponse { refusal }, ASKERS),
        (Body::VoteResponse { refusal: None }, ASKERS),
        (Body::VoteResponse { refusal }, ASKERS),
        (
            Body::Append {
                previous: last,
                entries: Vec::new(),
                commit: 0,
            },
            EVERYONE,
        ),
        (
            Body::AppendResponse {
                result: AppendResult::Matched(1),
                commit: 0,
                pledge: None,
            },
            ASKERS,
        ),
        (
            Body::Heartbeat {
                commit: 0,
                round: 0,
            },
            EVERYONE,
        ),
        (
            Body::HeartbeatResponse {
                round: 0,
                commit: 0,
                pledge: None,
            },
            ASKERS,
        ),
        (Body::ReadIndexRequest { request: 1 }, NOBODY),
        (Body::TimeoutNow, NOBODY),
        (Body::Release, NOBODY),
    ];
    for (body, expected) in &plain {
        for (role, expected) in ROLES.into_iter().zip(expected) {
            assert_eq!(
                raises_term(body, role, None),
                *expected,
                "{body:?} at a {role:?}"
            );
        }
    }
    let verdicts = [
        (Ok(()), true),
        (Err(RefusalReason::BetterLog), true),
        (Err(RefusalReason::Term), true),
        (Err(RefusalReason::Pledged), false),
        (Err(RefusalReason::LeaderHeard), false),
    ];
    for (verdict, expected) in verdicts {
        for role in ROLES {
            assert_eq!(
                raises_term(&vote, role, Some(verdict)),
                expected,
                "a vote judged {verdict:?} at a {role:?}"
            );
        }
    }
}
