//! What a caller is told.

use proto::pontoon::v1::admin_error;

use crate::cause::Cause;

/// Why an operation did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Keys have at least one byte.
    #[error("the key is empty")]
    EmptyKey,
    /// Something is larger than the cluster takes. Nothing was done.
    #[error("{part} of {bytes} bytes is too large: at most {bytes_max} are taken")]
    TooLarge {
        /// What is too large.
        part: Part,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Keyspace ids have 24 bits.
    #[error("there can be no keyspace {keyspace}")]
    Keyspace {
        /// The id asked for.
        keyspace: u32,
    },
    /// A store refused the request as such, in its own words. Nothing was done, and repeating will not help.
    #[error("the store refused: {message}")]
    Refused {
        /// The store's words.
        message: String,
    },
    /// The budget was used up. Nothing was done; repeating may help.
    #[error("no success within {budget_ms} ms after {attempts} attempts")]
    Unavailable {
        /// The budget in milliseconds.
        budget_ms: u64,
        /// Attempts made.
        attempts: u32,
        /// What the last one met.
        #[source]
        last: Cause,
    },
    /// The write may have been done, may be done later, or never. Only reading tells (R26).
    #[error("the outcome is not known")]
    Unknown {
        /// What the attempt met.
        #[source]
        last: Cause,
    },
    /// The placement group refused an administrator's command.
    #[error("placement refused ({}): {message}", kind.as_str_name())]
    Admin {
        /// Why.
        kind: admin_error::Kind,
        /// In its own words.
        message: String,
    },
}

/// What was too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A key, with its keyspace.
    Key,
    /// A value.
    Value,
    /// A whole request.
    Request,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key => "a key",
            Self::Value => "a value",
            Self::Request => "a request",
        })
    }
}

impl Error {
    /// Whether the operation may have taken effect, now or later, although it failed.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}
