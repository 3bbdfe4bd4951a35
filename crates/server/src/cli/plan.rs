//! `pontoon plan`.

use std::time::Duration;

use clap::{Args, Subcommand};
use proto::{
    metapb,
    pontoon::v1::{PlanResponse, plan_request::Question},
};
use serde::Serialize;

use super::{Shown, Target, store};
use crate::{
    exit::Result,
    output::{self, thousands},
};

/// Steps that people are shown.
const STEPS_SHOWN: usize = 20;

/// Find out what a change would bring; changes nothing.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A store is drained
    Drain {
        /// The store
        id: u64,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Empty stores like the others join
    AddStores {
        /// How many
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Every store with a label dies at once
    Lose {
        /// NAME=VALUE
        #[arg(value_name = "NAME=VALUE", value_parser = store::label)]
        label: metapb::StoreLabel,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
}

/// What would happen.
#[derive(Serialize)]
struct Plan {
    moves: u64,
    transfers: u64,
    bytes: u64,
    /// Absent if it would go on after a week.
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_ms: Option<u64>,
    /// How long regions would be without one of their voters.
    #[serde(skip_serializing_if = "Option::is_none")]
    risk_ms: Option<u64>,
    regions_at_risk: u64,
    regions_unavailable: u64,
    regions_unplaced: u64,
    unplaced: Vec<Unplaced>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Unplaced {
    region: u64,
    reason: String,
}

#[derive(Serialize)]
struct Step {
    at_ms: u64,
    region: u64,
    text: String,
}

impl From<PlanResponse> for Plan {
    fn from(plan: PlanResponse) -> Self {
        Self {
            moves: plan.moves,
            transfers: plan.transfers,
            bytes: plan.bytes,
            eta_ms: plan.eta_ms,
            risk_ms: plan.risk_ms,
            regions_at_risk: plan.at_risk,
            regions_unavailable: plan.unavailable,
            regions_unplaced: plan.unplaced_total,
            warnings: plan.warnings,
            unplaced: plan
                .unplaced
                .into_iter()
                .map(|unplaced| Unplaced {
                    region: unplaced.region_id,
                    reason: unplaced.reason,
                })
                .collect(),
            steps: plan
                .steps
                .into_iter()
                .map(|step| Step {
                    at_ms: step.at_ms,
                    region: step.region_id,
                    text: step.text,
                })
                .collect(),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The cluster is not there, or would refuse.
pub async fn run(args: PlanArgs) -> Result<()> {
    let (question, target, shown) = match args.command {
        Command::Drain { id, target, shown } => (Question::DrainStore(id), target, shown),
        Command::AddStores {
            count,
            target,
            shown,
        } => (Question::AddStores(count), target, shown),
        Command::Lose {
            label,
            target,
            shown,
        } => (Question::Lose(label), target, shown),
    };
    show(target.remote().plan(question).await?, &shown)
}

/// Shows what would happen.
pub(super) fn show(plan: PlanResponse, shown: &Shown) -> Result<()> {
    output::print(shown.output, &Plan::from(plan), tell)
}

fn tell(plan: &Plan) -> String {
    let time = |millis: Option<u64>, never: &str| {
        millis.map_or_else(
            || never.to_owned(),
            |millis| {
                let seconds = Duration::from_secs(millis.div_ceil(1000));
                humantime::format_duration(seconds).to_string()
            },
        )
    };
    let facts = output::facts([
        ("replicas to copy", thousands(plan.moves)),
        ("leaders to hand over", thousands(plan.transfers)),
        ("bytes to copy", output::bytes(plan.bytes)),
        ("done after", time(plan.eta_ms, "more than a week")),
        ("a replica is missing for", time(plan.risk_ms, "no time")),
        ("regions that miss one", thousands(plan.regions_at_risk)),
        (
            "regions without a quorum",
            thousands(plan.regions_unavailable),
        ),
        ("regions without a place", thousands(plan.regions_unplaced)),
    ]);
    let unplaced = plan.unplaced.iter().take(STEPS_SHOWN);
    let unplaced: String = unplaced
        .map(|unplaced| format!("region {}: {}\n", unplaced.region, unplaced.reason))
        .collect();
    let steps = output::rows(
        ["AFTER", "REGION", "STEP"],
        plan.steps.iter().take(STEPS_SHOWN).map(|step| {
            [
                format!("{:.1} s", step.at_ms as f64 / 1e3),
                step.region.to_string(),
                step.text.clone(),
            ]
        }),
    );
    let more = plan.steps.len().saturating_sub(STEPS_SHOWN);
    let more = match more {
        0 => String::new(),
        more => format!(
            "and {} more; --output json has them\n",
            thousands(more as u64)
        ),
    };
    let warnings = plan.warnings.iter();
    let warnings: String = warnings.map(|text| format!("warning: {text}\n")).collect();
    format!("{facts}\n{warnings}{unplaced}{steps}{more}")
}
