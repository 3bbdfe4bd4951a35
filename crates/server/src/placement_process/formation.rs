//! How a placement group begins, and who comes too late for it: a decision, without I/O.
//!
//! A member that starts over a directory without a group asks all others who they are, in rounds, and decides after each
//! from the answers of that round and from what it has noted itself. What it decides to note is durable before the next
//! round begins, and it says of itself only what is durable.
//!
//! - Once all have answered, it notes their ids: its *plan*. It begins when in a later round all others have the same plan.
//! - Who has begun says so, and with whom. That goes before every plan: whoever is among those begins with them, and whoever is
//!   not came later, and must be taken in by a change of the members.
//!
//! So a group is formed only while all its members are up, and a member whose directory was emptied, which is another one by
//! its id, is never taken for the one that was there.
//!
//! # Why no two groups begin
//! Say X begins with the set S by plan, Y with another set T, and each is a member of both. X noted S before the round in which Y
//! said S, and says S ever since. Y noted T before the round in which X said T, and says T ever since. So Y said S before it
//! noted T, hence X noted S before Y noted T; and the same the other way round, which cannot be.
//!
//! Whoever begins because another has begun does so with the set of one that began by plan, and is in that set itself.
//!
//! Sets that differ because a member was emptied meanwhile share the others. As long as one that began lives, it says so, and
//! a set without it needs an answer from its position. If it was emptied as well before anybody followed it, the others
//! begin anew: what it was counts in no quorum, since its id is not in their set, and it cannot have acknowledged anything alone.

use proto::StoreId;

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who it is.
    pub member: StoreId,
    /// Once `begun`, with whom the group began; before, the plan, empty if there is none.
    pub first: Vec<StoreId>,
    /// Whether the group began.
    pub begun: bool,
}

/// What a member does after a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Note these as the plan, durably, and ask again.
    Plan(Vec<StoreId>),
    /// Begin, with those of the plan.
    Begin,
    /// The group began with these, and without this member: be taken in.
    Join(Vec<StoreId>),
    /// Ask again.
    Wait(Waiting),
}

/// What a member waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Nobody who has begun answers, and these positions do not answer at all.
    Answers(Vec<usize>),
    /// These positions do not have the same plan yet.
    Plans(Vec<usize>),
    /// Members say that the group began with one set, and with another. Somebody brought back a directory from before the
    /// group was formed.
    Agreement(Vec<usize>),
}

/// Decides after a round. `answers` are by position: `None` for whoever did not answer, and at the own position; each was
/// given after `plan` was durable.
pub fn decide(member: StoreId, plan: &[StoreId], answers: &[Option<Answer>]) -> Decision {
    let begun = |answer: &&Answer| answer.begun;
    if let Some(first) = answers.iter().flatten().find(begun).map(|one| &one.first) {
        let others = positions(answers, |answer| {
            answer.is_some_and(|answer| answer.begun && answer.first != *first)
        });
        return if !others.is_empty() {
            Decision::Wait(Waiting::Agreement(others))
        } else if !first.contains(&member) {
            Decision::Join(first.clone())
        } else if plan == first {
            Decision::Begin
        } else {
            Decision::Plan(first.clone())
        };
    }
    let own = super::member::position(member).expect("an own id has a position");
    let mut all = Vec::with_capacity(answers.len());
    for (position, answer) in answers.iter().enumerate() {
        match answer {
            _ if position == own => all.push(member),
            Some(answer) => all.push(answer.member),
            None => {
                let mut silent = positions(answers, |answer| answer.is_none());
                silent.retain(|position| *position != own);
                return Decision::Wait(Waiting::Answers(silent));
            }
        }
    }
    if plan != all {
        return Decision::Plan(all);
    }
    let differing = positions(answers, |answer| {
        answer.is_some_and(|answer| answer.first != all)
    });
    if differing.is_empty() {
        Decision::Begin
    } else {
        Decision::Wait(Waiting::Plans(differing))
    }
}

fn positions(answers: &[Option<Answer>], matches: impl Fn(Option<&Answer>) -> bool) -> Vec<usize> {
    let matching = answers
        .iter()
        .enumerate()
        .filter(|(_, answer)| matches(answer.as_ref()));
    matching.map(|(position, _)| position).collect()
}

#[cfg(test)]
mod tests;
