//! What a run showed.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf};

use anyhow::Result;
use workload::{Judgement, Verdict};

/// Everything that came of a run.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// How often each kind of fault happened.
    pub happened: BTreeMap<&'static str, u64>,
    /// Kinds that were planned and did not happen.
    pub missing: Vec<&'static str>,
    /// What the proxies did.
    pub network: String,
    /// Messages that the processes found damaged since they last started.
    pub damaged: u64,
    /// Processes that ended by themselves.
    pub ended: Vec<String>,
    /// What stores told of replicas that do not hold the same.
    pub differing: Vec<String>,
    /// What of the cluster was not whole at the end.
    pub unhealed: Option<String>,
    /// What the clients saw.
    pub verdict: Verdict,
    /// Where everything is.
    pub folder: PathBuf,
    /// How to do it again.
    pub command: String,
}

/// What a report means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything held.
    Passed,
    /// Something is wrong.
    Failed,
    /// Too little happened to say anything.
    Void,
}

impl Report {
    /// What it means.
    pub fn outcome(&self) -> Outcome {
        let failed =
            !self.ended.is_empty() || !self.differing.is_empty() || self.unhealed.is_some();
        match self.verdict.judgement() {
            _ if failed => Outcome::Failed,
            Judgement::Violated | Judgement::Unread | Judgement::Undecided => Outcome::Failed,
            Judgement::Void => Outcome::Void,
            Judgement::Passed if self.missing.is_empty() => Outcome::Passed,
            Judgement::Passed => Outcome::Void,
        }
    }

    /// Writes the report into the folder; of a run that passed, the folder goes.
    pub(super) fn keep(&self) -> Result<()> {
        match self.outcome() {
            Outcome::Passed => fs::remove_dir_all(&self.folder)?,
            Outcome::Failed | Outcome::Void => {
                fs::write(self.folder.join("report.txt"), self.to_string())?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let happened: Vec<String> = self
            .happened
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        writeln!(f, "seed {}: {}", self.seed, happened.join(", "))?;
        writeln!(
            f,
            "network: {}; {} messages found damaged since the last starts",
            self.network, self.damaged
        )?;
        if !self.missing.is_empty() {
            writeln!(f, "planned and did not happen: {}", self.missing.join(", "))?;
        }
        for end in self.ended.iter().chain(&self.differing) {
            writeln!(f, "{end}")?;
        }
        if let Some(unhealed) = &self.unhealed {
            writeln!(f, "not whole at the end: {unhealed}")?;
        }
        writeln!(f, "{}", self.verdict)?;
        match self.outcome() {
            Outcome::Passed => write!(f, "passed"),
            outcome => write!(
                f,
                "{outcome:?}\n  folder:  {} (events.log, *.log, report.txt)\n  command: {}",
                self.folder.display(),
                self.command
            ),
        }
    }
}
