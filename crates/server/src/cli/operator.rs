//! `pontoon operator`.

use clap::{Args, Subcommand};
use proto::pontoon::v1::{OperatorStatus, ReadJournalRequest, operator_status::State};
use serde::Serialize;

use super::{Shown, Target, journal};
use crate::{
    exit::{Failure, Kind, Result},
    output,
};

/// Look at what placement does and why; cancel it.
#[derive(Debug, Args)]
pub struct OperatorArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Operators under way
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// The last operators that ended, newest first
    History {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// One operator with its steps
    Show {
        /// The operator
        id: u64,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Why an operator was made, what it rests on, and what came of it
    Explain {
        /// The operator
        id: u64,
        #[command(flatten)]
        limit: journal::Limit,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// End an operator between its steps
    Cancel {
        /// The operator
        id: u64,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
}

/// One operator.
#[derive(Clone, Debug, Serialize)]
struct Operator {
    id: u64,
    kind: String,
    region: u64,
    state: &'static str,
    steps: Vec<String>,
    /// Steps that are done.
    step: u32,
    cause: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    age_ms: u64,
}

impl From<OperatorStatus> for Operator {
    fn from(status: OperatorStatus) -> Self {
        Self {
            state: match status.state() {
                State::Running => "running",
                State::Done => "done",
                State::Cancelled => "cancelled",
            },
            id: status.id,
            kind: status.kind,
            region: status.region_id,
            steps: status.steps,
            step: status.step,
            cause: status.cause,
            reason: status.reason,
            age_ms: status.age_ms,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The cluster is not there, knows no such operator, or refuses.
pub async fn run(args: OperatorArgs) -> Result<()> {
    match args.command {
        Command::List { target, shown } => list(&target, &shown, true).await?,
        Command::History { target, shown } => list(&target, &shown, false).await?,
        Command::Show { id, target, shown } => {
            let found = target.remote().operator_status(id).await?;
            let found = found.map(Operator::from).ok_or_else(|| {
                Failure::new(
                    Kind::NotFound,
                    format!("there is no operator {id}, or not any more"),
                )
                .hint("`pontoon operator explain` asks the journal, which remembers for longer")
            })?;
            output::print(shown.output, &found, detail)?;
        }
        Command::Explain {
            id,
            limit,
            target,
            shown,
        } => {
            let query = ReadJournalRequest {
                operator_id: id,
                ..limit.query()
            };
            journal::print(&target, &shown, query).await?;
        }
        Command::Cancel { id, target, shown } => {
            target.remote().cancel(id).await?;
            output::taken(shown.output, format!("operator {id} is cancelled"))?;
        }
    }
    Ok(())
}

async fn list(target: &Target, shown: &Shown, running: bool) -> Result<()> {
    let operators = target.remote().operators().await?;
    let operators = operators.into_iter().map(Operator::from);
    let wanted = operators.filter(|operator| (operator.state == "running") == running);
    let operators: Vec<Operator> = wanted.collect();
    output::print(shown.output, &operators, |operators| table(operators))?;
    Ok(())
}

fn table(operators: &[Operator]) -> String {
    output::rows(
        [
            "OPERATOR", "KIND", "REGION", "STATE", "STEP", "AGE", "CAUSE",
        ],
        operators.iter().map(|operator| {
            let why = match operator.reason.as_str() {
                "" => operator.cause.clone(),
                reason => format!("{}; {reason}", operator.cause),
            };
            [
                operator.id.to_string(),
                operator.kind.clone(),
                operator.region.to_string(),
                operator.state.to_owned(),
                format!("{} of {}", operator.step, operator.steps.len()),
                format!("{:.1} s", operator.age_ms as f64 / 1e3),
                why,
            ]
        }),
    )
}

fn detail(operator: &Operator) -> String {
    let facts = output::facts([
        ("operator", operator.id.to_string()),
        ("kind", operator.kind.clone()),
        ("region", operator.region.to_string()),
        ("state", operator.state.to_owned()),
        ("cause", operator.cause.clone()),
        ("reason", operator.reason.clone()),
        ("age", format!("{:.1} s", operator.age_ms as f64 / 1e3)),
    ]);
    let steps = operator.steps.iter().zip(0u32..).map(|(step, at)| {
        let state = match at.cmp(&operator.step) {
            std::cmp::Ordering::Less => "done",
            std::cmp::Ordering::Equal => operator.state,
            std::cmp::Ordering::Greater => "",
        };
        [(at + 1).to_string(), step.clone(), state.to_owned()]
    });
    format!(
        "{facts}\n{}",
        output::rows(["STEP", "WHAT", "STATE"], steps)
    )
}
