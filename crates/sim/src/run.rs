//! Running a plan at either scale, and telling how to see it again.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use crate::group::settings::{Fault, Plan, Scale};
use crate::rule::{Rule, Violation};
use crate::{cluster, group};

/// What came of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The rule that broke, if one did.
    pub violation: Option<Violation>,
    /// Events until the end.
    pub events: u64,
    /// Hash of everything that happened.
    pub digest: u64,
    /// How often things happened that must happen in a batch.
    pub happened: BTreeMap<String, u64>,
    /// The text of it, when asked for.
    pub trace: Vec<String>,
}

impl Outcome {
    /// A run that failed before it began.
    pub fn failed(violation: Violation) -> Self {
        Outcome {
            violation: Some(violation),
            ..Outcome::default()
        }
    }
}

/// Runs `plan`.
pub fn run(plan: &Plan) -> Outcome {
    match plan.scale {
        Scale::Group => group::run::run(plan),
        Scale::Cluster => cluster::run::run(plan),
    }
}

thread_local! {
    /// Whether panics of this thread are caught and told as violations.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps caught panics from printing. Others print as ever.
fn quieten() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let inner = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !CATCHING.get() {
                inner(panic);
            }
        }));
    });
}

/// Runs `body`; a panic in it is a violation.
pub fn catching(body: impl FnOnce() -> Result<(), Violation>) -> Result<(), Violation> {
    quieten();
    CATCHING.set(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    CATCHING.set(false);
    result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without text".to_owned());
        Err(Violation {
            rule: Rule::Assertion,
            text,
        })
    })
}

/// The commit of the sources, with a `+` when the tree differs from it; `unknown` without git. Asked when something failed, so
/// that what is printed says on what it was seen.
pub fn revision() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    match (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain"])) {
        (Some(head), Some(changes)) if changes.is_empty() => head.trim().to_owned(),
        (Some(head), _) => format!("{}+", head.trim()),
        (None, _) => "unknown".to_owned(),
    }
}

/// The command that runs `plan` again.
pub fn replay_command(plan: &Plan) -> String {
    let mut command = format!(
        "cargo run --release -p sim -- --seed {} --events {} --trace",
        plan.seed, plan.events
    );
    if plan.scale == Scale::Group {
        command += " --group";
    }
    if let Some(stores) = plan.stores {
        command += &format!(" --stores {stores}");
    }
    let names = |faults: &[Fault]| {
        faults
            .iter()
            .map(|fault| fault.name())
            .collect::<Vec<_>>()
            .join(",")
    };
    if !plan.without.is_empty() {
        command += &format!(" --without {}", names(&plan.without));
    }
    if !plan.faults.is_empty() {
        command += &format!(" --faults {}", names(&plan.faults));
    }
    if let Some(bug) = plan.bug {
        command += &format!(" --bug {bug:?}");
    }
    if let Some(bug) = plan.store_bug {
        command += &format!(" --store-bug {bug:?}");
    }
    if plan.stores_compare {
        command += " --stores-compare";
    }
    command
}
