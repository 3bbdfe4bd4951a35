//! How `pontoon` ends: one exit code per kind of failure, so that scripts can tell them apart.

use std::{fmt, process::ExitCode};

/// What a failure means to the caller of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An acknowledged write was lost or altered, a history is not linearizable, or replicas are not known to be the same.
    Lost,
    /// The command line does not make sense.
    Usage,
    /// Nobody answered: the cluster, or the part of it that was asked, is not there.
    Unreachable,
    /// The cluster answered and refused.
    Refused,
    /// A port is taken.
    PortTaken,
    /// A configuration file or override is wrong.
    Config,
    /// What was asked for does not exist.
    NotFound,
    /// A folder is in use, of another cluster, or of a newer format.
    Directory,
    /// It took longer than it was given.
    Timeout,
    /// The machine failed the command: a file, a process, a disk.
    Environment,
    /// The user ended it.
    Interrupted,
    /// Too little happened to say anything.
    Void,
}

/// All kinds with their codes and what they mean, for `--help`.
pub const KINDS: [(Kind, u8, &str); 12] = [
    (
        Kind::Lost,
        1,
        "an acknowledged write was lost, a history is wrong, or replicas are not the same (demo, verify)",
    ),
    (Kind::Usage, 2, "the command line is wrong"),
    (Kind::Unreachable, 3, "no answer from the cluster"),
    (Kind::Refused, 4, "the cluster refused the request"),
    (Kind::PortTaken, 5, "a port is taken"),
    (Kind::Config, 6, "a configuration file or override is wrong"),
    (Kind::NotFound, 7, "no such key, region, store or process"),
    (
        Kind::Directory,
        8,
        "the folder is in use, of another cluster, or of a newer format",
    ),
    (Kind::Timeout, 9, "it did not finish in time"),
    (
        Kind::Environment,
        10,
        "the machine failed the command: a file, a process, a disk",
    ),
    (Kind::Interrupted, 11, "it was interrupted"),
    (
        Kind::Void,
        12,
        "too little happened to say anything (verify)",
    ),
];

impl Kind {
    /// The exit code.
    pub fn code(self) -> u8 {
        KINDS
            .iter()
            .find(|(kind, _, _)| *kind == self)
            .map(|(_, code, _)| *code)
            .expect("every kind is in the table")
    }
}

/// Why a command failed: what happened, why, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    what: String,
    why: Option<String>,
    hint: Option<String>,
}

/// What a command returns.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure of a kind; `what` is a whole clause in lower case.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            why: None,
            hint: None,
        }
    }

    /// The machine failed the command.
    pub fn environment(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::new(Kind::Environment, what).because(why)
    }

    /// Adds the reason.
    pub fn because(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// Adds what the user can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the failure means to the caller.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The code to exit with.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// An error with its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their cause; saying it once is enough.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        let failure = Self::new(Kind::Config, chain(&error));
        match error {
            crate::config::ConfigError::UnknownKey { .. } => {
                failure.hint("`pontoon config show --defaults` lists every key")
            }
            _ => failure,
        }
    }
}

/// The list of exit codes for `--help`.
pub fn help() -> String {
    let mut text = String::from("Exit codes:\n   0  it worked\n");
    for (_, code, meaning) in KINDS {
        text.push_str(&format!("  {code:>2}  {meaning}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_documented() {
        let help = help();
        for (kind, code, meaning) in KINDS {
            assert_eq!(kind.code(), code);
            assert!(help.contains(&format!("{code:>2}  {meaning}")));
            assert_eq!(
                KINDS.iter().filter(|(_, other, _)| *other == code).count(),
                1
            );
        }
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let failure = Failure::new(Kind::PortTaken, "port 20160 is taken")
            .because("another process listens on it")
            .hint("choose other ports with --port-offset 100");
        assert_eq!(
            failure.to_string(),
            "port 20160 is taken: another process listens on it\n  choose other ports with --port-offset 100"
        );
        assert_eq!(failure.kind().code(), 5);
    }
}
