//! The way of a member into its group, from its side: forming one with the others, or being taken in by one that has begun.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::Engine;
use futures::future::join_all;
use proto::StoreId;
use store::event::{Order, OrderRefusal, StepId};
use tokio::sync::watch;

use super::directory::{Directory, Known};
use super::error::Error;
use super::formation::{Answer, Decision, Waiting, decide};
use super::member::{Members, REGION, name};
use super::service::{greet, join};
use super::succession::{Step, give_up, next_step};
use crate::runtime::Handle;

/// Between rounds of questions.
const PAUSE: Duration = Duration::from_millis(100);
/// Between words in the log about the same wait.
const WORD: Duration = Duration::from_secs(10);
/// Between words about waits that differ.
const WORD_MIN: Duration = Duration::from_secs(1);

/// Finds out which group this member is of, and makes its directory one of that. At once in a directory that is. `told` is what
/// others hear meanwhile.
///
/// # Errors
/// The disk failed.
pub async fn settle<E: Engine>(
    directory: &mut Directory<E>,
    members: &Members,
    told: &watch::Sender<Known>,
) -> Result<(), Error> {
    let member = directory.known().member;
    let mut log = Log::default();
    while !directory.known().begun {
        let (answers, errors) = ask_all(members, member).await;
        match decide(member, &directory.known().first, &answers) {
            Decision::Plan(first) => {
                tracing::info!(?first, "the group is to begin with these members");
                directory.plan(first)?;
            }
            Decision::Begin => {
                directory.begin()?;
                let first = &directory.known().first;
                tracing::info!(?first, "the group begins");
            }
            Decision::Join(first) => {
                tracing::info!(
                    member = member.0,
                    ?first,
                    "the group began without this directory: it joins as a new member"
                );
                directory.join(first)?;
            }
            Decision::Wait(waiting) => {
                log.say(describe(&waiting, &errors));
                tokio::time::sleep(PAUSE).await;
            }
        }
        told.send_replace(directory.known().clone());
    }
    Ok(())
}

/// Asks all others who they are. What they say and what is wrong with them, by position.
async fn ask_all(members: &Members, me: StoreId) -> (Vec<Option<Answer>>, Vec<Option<String>>) {
    let asked = members.others().map(async |(position, _)| {
        let answer = greet(members, me, position).await;
        (position, answer)
    });
    let mut answers = vec![None; members.size()];
    let mut errors = vec![None; members.size()];
    for (position, answer) in join_all(asked).await {
        match answer {
            Ok(answer) => answers[position] = Some(answer),
            Err(error) => errors[position] = Some(error),
        }
    }
    (answers, errors)
}

fn describe(waiting: &Waiting, errors: &[Option<String>]) -> String {
    let named = |positions: &[usize]| {
        let names: Vec<String> = positions
            .iter()
            .map(|position| match errors.get(*position) {
                Some(Some(error)) => format!("{} ({error})", name(*position)),
                _ => name(*position),
            })
            .collect();
        names.join(", ")
    };
    match waiting {
        Waiting::Answers(positions) => format!(
            "no member says that the group has begun, and for beginning it all must be up: waiting for {}",
            named(positions)
        ),
        Waiting::Plans(positions) => format!(
            "waiting until {} means to begin with the same members",
            named(positions)
        ),
        Waiting::Agreement(positions) => format!(
            "{} began with other members than the rest, so one of the directories is from before the group was formed: empty it",
            named(positions)
        ),
    }
}

/// Asks to be taken in whenever this member does not vote, or somebody else has its position, as its region tells. It never did
/// before it was taken in, and may not any more when it comes back while another one is being taken in for it.
///
/// # Errors
/// None; it never ends.
pub async fn be_taken_in<E: Engine>(
    node: Handle<E>,
    members: Arc<Members>,
    member: StoreId,
    mut has_region: bool,
) -> Result<(), Error> {
    let mut log = Log::default();
    let mut asked = false;
    loop {
        let changed = node.views().changed();
        let view = node.region(REGION);
        let is_in = view.map(|view| next_step(&view.region, member) == Step::Done);
        match is_in {
            Some(true) => {
                has_region = true;
                if std::mem::take(&mut asked) {
                    tracing::info!(member = member.0, "taken in: this member votes");
                }
                changed.await;
                continue;
            }
            // It is not open yet, or was removed: an id that was removed is never taken in again.
            None if has_region => {
                changed.await;
                continue;
            }
            Some(false) => has_region = true,
            None => {}
        }
        asked = true;
        let mut heard = Vec::new();
        for (position, _) in members.others() {
            heard.push(match join(&members, member, position).await {
                Ok(Some(step)) => format!("{}, the leader: {step}", name(position)),
                Ok(None) => format!("{} does not lead", name(position)),
                Err(error) => format!("{}: {error}", name(position)),
            });
        }
        log.say(format!(
            "asking to be taken in by the leader, for which a majority of the group must be up: {}",
            heard.join("; ")
        ));
        tokio::time::sleep(PAUSE).await;
    }
}

/// Gives up members that were being taken in and are gone, as the node tells while it leads. Logs which changes of the members it
/// refuses: most because the one before is not complete, and these come again.
///
/// # Errors
/// None; it never ends.
pub async fn watch_members<E: Engine>(node: Handle<E>) -> Result<(), Error> {
    let mut log = Log::default();
    loop {
        let news = node.news().take().await;
        for report in news.reports.into_values() {
            let silent = report.down.iter().map(|(member, _)| member);
            let Some(step) = give_up(&report.region, silent) else {
                continue;
            };
            tracing::warn!(%step, "a member that was being taken in is silent: it is given up");
            if let Some(kind) = step.order() {
                // Refused at another epoch; then the next report tells more.
                node.order(Order {
                    region: REGION,
                    epoch: report.region.region_epoch.unwrap_or_default(),
                    id: StepId::default(),
                    kind,
                    purpose: Default::default(),
                });
            }
        }
        for answer in news.orders {
            match answer.result {
                Ok(())
                | Err(
                    OrderRefusal::LaneBusy
                    | OrderRefusal::EpochNotMatch
                    | OrderRefusal::Joint
                    | OrderRefusal::NotLeader,
                ) => {}
                Err(refusal) => log.say(format!("a member is not taken in yet: {refusal}")),
            }
        }
    }
}

/// Says each thing once, and again after a while. What changes all the time is told now and then.
#[derive(Default)]
struct Log {
    last: Option<(String, Instant)>,
}

impl Log {
    fn say(&mut self, text: String) {
        if let Some((last, at)) = &self.last
            && at.elapsed() < if *last == text { WORD } else { WORD_MIN }
        {
            return;
        }
        tracing::info!("{text}");
        self.last = Some((text, Instant::now()));
    }
}
