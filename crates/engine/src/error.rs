//! Why an engine refuses or fails.

/// Why an engine refuses or fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk or the operating system failed. After a failed write or sync the engine's state is unknown (R14).
    #[error("{operation} failed")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Data on disk is not what was written (R13, R15).
    #[error("{what} is damaged")]
    Corrupt {
        /// What is damaged.
        what: String,
        /// The cause.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The engine itself met data on disk that is not what was written, or that cannot be read, while it compacted files: it takes
    /// no more changes. Opened again, it goes on without that file, if it can (STORAGE §9).
    #[error("{operation} failed: {file} is damaged, and is left out when this is started again")]
    FileDamaged {
        /// What was tried.
        operation: &'static str,
        /// The file's name.
        file: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process has the directory open.
    #[error("{path} is in use by another process")]
    InUse {
        /// The directory.
        path: String,
    },
    /// A staged file of this name does not exist, or exists already.
    #[error("staged file {name} {}", if *.exists { "exists already" } else { "does not exist" })]
    Staging {
        /// The name.
        name: String,
        /// Whether it exists.
        exists: bool,
    },
    /// The name of a staged file is empty, too long, or has other characters than letters, digits, `-`, `_` and `.`.
    #[error(
        "{name:?} cannot name a staged file: use up to 200 letters, digits, '-', '_' and '.', not starting with '.'"
    )]
    StagingName {
        /// The name.
        name: String,
    },
}

impl Error {
    /// An operating system error while doing `operation`.
    pub(crate) fn io(
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::Io {
            operation,
            source: source.into(),
        }
    }
}
