//! Waiting for an operator while showing how far it is.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Shown;
use crate::{
    exit::Result,
    output,
    remote::{Region, Remote},
};

/// Whether and how long to wait.
#[derive(Clone, Debug, Args)]
pub struct Waiting {
    /// Return as soon as placement has accepted the request
    #[arg(long)]
    pub no_wait: bool,
    /// Wait at most so long
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// What a command prints that asked for an operator.
#[derive(Serialize)]
struct Outcome {
    operator: u64,
    done: bool,
    /// The region as it is afterwards; absent without waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
}

/// Waits for an operator on a region unless told not to, and prints the outcome.
///
/// # Errors
/// The operator was cancelled, or it takes too long.
pub async fn finish(
    remote: &Remote,
    operator: u64,
    region: u64,
    waiting: &Waiting,
    shown: &Shown,
) -> Result<()> {
    let mut outcome = Outcome {
        operator,
        done: false,
        region: None,
    };
    if !waiting.no_wait {
        let bar = ProgressBar::new_spinner().with_style(
            ProgressStyle::with_template("{spinner} {wide_msg}")
                .expect("the template is well-formed"),
        );
        bar.enable_steady_tick(Duration::from_millis(100));
        let mut last = None;
        let mut target = region;
        let waited = remote
            .wait_operator(operator, waiting.timeout, |status| {
                // What was merged is gone; its neighbour is shown.
                if status.target_region_id > 0 {
                    target = status.target_region_id;
                }
                let step = status.steps.get(status.step as usize);
                let text = match step {
                    Some(step) => format!(
                        "{} of region {region}: step {} of {}, {step}",
                        status.kind,
                        status.step + 1,
                        status.steps.len()
                    ),
                    None => format!("{} of region {region}: done", status.kind),
                };
                if last.as_ref() != Some(&text) {
                    // Without a terminal there is no bar; the steps are lines then.
                    if bar.is_hidden() {
                        output::progress(&text);
                    }
                    bar.set_message(text.clone());
                    last = Some(text);
                }
            })
            .await;
        bar.finish_and_clear();
        waited?;
        outcome.done = true;
        outcome.region = Some(remote.region(target).await?);
    }
    output::print(shown.output, &outcome, |outcome| match &outcome.region {
        Some(region) => format!(
            "done: region {} {} on stores {}",
            region.id,
            region.range(),
            region.replicas()
        ),
        None => format!("accepted as operator {}", outcome.operator),
    })?;
    Ok(())
}
