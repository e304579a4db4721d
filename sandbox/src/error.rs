//! What a sandbox cannot do, or could not. Worded for whoever embeds it.

use std::fmt;
use std::io;

/// Why there is no sandbox, or no outcome.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that was asked for cannot be had here, or is not what it must be. Nothing was run.
    #[error("refused: {}", list(.0))]
    Refused(Vec<Refusal>),
    /// A step before the command failed. It was not run.
    #[error("cannot {step}: {source}")]
    Setup {
        /// "make a directory", ...
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The command could not be started.
    #[error("{message} ({step})")]
    Start {
        /// As the broker's contract names it: `exec`, `chdir`, `enter_cgroup`, ...
        step: &'static str,
        /// As errno(3), 0 where none applies.
        errno: i32,
        /// In words.
        message: String,
    },
    /// A stream of the caller's failed, and the command was killed.
    #[error("{stream}: {source}")]
    Stream {
        /// "stdin", "stdout", "stderr".
        stream: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The supervisor of the command was killed, and the command with it: how it would have ended is not known.
    #[error("the supervisor of the command ended before it: {0}")]
    Lost(String),
}

/// One thing that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The method of the builder that asks for it.
    pub field: &'static str,
    /// Why, and what to do.
    pub reason: String,
}

impl Error {
    /// The refusal of one field.
    pub(crate) fn refused(field: &'static str, reason: impl Into<String>) -> Error {
        Error::Refused(vec![Refusal { field, reason: reason.into() }])
    }

    /// What was refused, if that is why.
    pub fn refusals(&self) -> &[Refusal] {
        match self {
            Error::Refused(refusals) => refusals,
            _ => &[],
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

fn list(refusals: &[Refusal]) -> String {
    refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; ")
}
