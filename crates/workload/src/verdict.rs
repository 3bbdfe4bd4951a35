//! What came of it.

use std::{fmt, time::Duration};

use history::{Effect, NEVER, Operation, Refused, Value};

/// Acknowledged operations per second below which a run says nothing.
pub const RATE_MIN: f64 = 50.0;

/// Violations that are kept whole; more are counted only.
pub(crate) const KEPT: usize = 10;

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Operations that were answered.
    pub acknowledged: u64,
    /// Writes whose outcome was not known.
    pub unknown: u64,
    /// Operations that were not done, or reads without an answer.
    pub not_done: u64,
    /// How long the clients worked.
    pub span: Duration,
    /// The longest time without an answer to anybody.
    pub longest_silence: Duration,
    /// Keys whose histories were checked.
    pub keys: u64,
    /// Operations in them.
    pub operations: u64,
    /// Keys that were read again at the end.
    pub read_back: u64,
    /// Keys that could not be read at the end within [`crate::Settings::read_limit`].
    pub unread: u64,
    /// Histories of which nothing can be said, with the reason for the first.
    pub undecided: u64,
    /// That reason.
    pub undecided_because: Option<Refused>,
    /// What was wrong; the first few of them.
    pub violations: Vec<Violation>,
    /// How much was wrong.
    pub violations_total: u64,
}

/// What a verdict means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Everything that was seen is linearizable, and everything acknowledged is there.
    Passed,
    /// Something is wrong for certain.
    Violated,
    /// Keys could not be read at the end, although nothing disturbed the cluster any more.
    Unread,
    /// Of some histories nothing can be said.
    Undecided,
    /// Too little happened for the run to say anything.
    Void,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Of which key.
    pub key: String,
    /// What.
    pub fault: Fault,
    /// Operations that show it, as few as there can be, in the order of their beginning.
    pub shown_by: Vec<Operation>,
}

/// What is wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The history is not linearizable.
    History(Refused),
    /// A key that nobody used any more changed.
    Changed {
        /// What it held.
        known: Value,
        /// What it holds.
        found: Value,
    },
    /// A value was read whose bytes nobody wrote.
    Altered {
        /// How many.
        bytes: usize,
    },
}

impl Verdict {
    /// Acknowledged operations per second.
    pub fn per_second(&self) -> f64 {
        self.acknowledged as f64 / self.span.as_secs_f64().max(1e-9)
    }

    /// What it means: the worst that holds.
    pub fn judgement(&self) -> Judgement {
        if self.violations_total > 0 {
            Judgement::Violated
        } else if self.unread > 0 {
            Judgement::Unread
        } else if self.undecided > 0 {
            Judgement::Undecided
        } else if self.per_second() < RATE_MIN || self.keys == 0 {
            Judgement::Void
        } else {
            Judgement::Passed
        }
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        self.violations_total += 1;
        if self.violations.len() < KEPT {
            self.violations.push(violation);
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "linearizable",
            Self::Violated => "VIOLATED",
            Self::Unread => "keys could not be read at the end",
            Self::Undecided => "undecided: some histories could not be checked",
            Self::Void => "void: too little happened",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} operations acknowledged in {:.1} s: {:.0}/s; {} of unknown outcome, {} not done; longest silence {:.1} s",
            self.acknowledged,
            self.span.as_secs_f64(),
            self.per_second(),
            self.unknown,
            self.not_done,
            self.longest_silence.as_secs_f64(),
        )?;
        writeln!(
            f,
            "{} histories of {} operations checked, {} keys read at the end, {} not readable",
            self.keys, self.operations, self.read_back, self.unread,
        )?;
        if let Some(reason) = &self.undecided_because {
            writeln!(
                f,
                "{} histories undecided, the first because: {reason}",
                self.undecided
            )?;
        }
        for violation in &self.violations {
            write!(f, "{violation}")?;
        }
        if self.violations_total > self.violations.len() as u64 {
            writeln!(f, "{} violations in all", self.violations_total)?;
        }
        write!(f, "verdict: {}", self.judgement())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}: ", self.key)?;
        match &self.fault {
            Fault::History(Refused::Inexplicable { .. }) => {
                writeln!(f, "no order explains what was seen")?;
            }
            Fault::History(Refused::Stale { stale, newer, .. }) => writeln!(
                f,
                "{} was seen although {} had replaced it, or on both sides of it",
                shown(*stale),
                shown(*newer)
            )?,
            Fault::History(refused) => writeln!(f, "{refused}")?,
            Fault::Changed { known, found } => writeln!(
                f,
                "it held {} when its last operation had ended, and now holds {}",
                shown(*known),
                shown(*found)
            )?,
            Fault::Altered { bytes } => {
                writeln!(f, "{bytes} bytes were read that nobody wrote")?;
            }
        }
        for operation in &self.shown_by {
            writeln!(f, "  {}", line(operation))?;
        }
        Ok(())
    }
}

fn shown(value: Value) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| format!("value {value}"))
}

/// An operation with its times in microseconds.
fn line(operation: &Operation) -> String {
    let ended = match operation.ended {
        NEVER => "unknown".to_owned(),
        ended => format!("{} us", ended / 1_000),
    };
    let effect = match operation.effect {
        Effect::Put(value) => format!("put {value}"),
        Effect::Delete => "delete".to_owned(),
        Effect::Get(value) => format!("get: {}", shown(value)),
        Effect::Swap {
            expected,
            new,
            found,
        } => {
            let came = match found {
                None => "no answer".to_owned(),
                Some((_, true)) => "done".to_owned(),
                Some((found, false)) => format!("not done, it found {}", shown(found)),
            };
            format!("swap {} for {new}: {came}", shown(expected))
        }
    };
    format!(
        "{:>12} us .. {ended:>15}  {effect}",
        operation.began / 1_000
    )
}
