//! Why a limit is not enforced.

use std::io;

/// A limit that this host cannot enforce; the job that asks for it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{limit} cannot be enforced here: {reason}")]
pub struct Unenforceable {
    /// `memory.max`, ...
    pub limit: &'static str,
    /// Which controller would.
    pub controller: &'static str,
    /// For the user.
    pub reason: String,
}

/// A limit that the kernel did not take.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// write(2) or read(2).
    #[error("cannot set {limit} to {value:?}: {source}")]
    Io {
        /// `memory.max`, ...
        limit: &'static str,
        /// As written.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// It says something else than it was told.
    #[error("{limit} was set to {asked:?}, and the kernel made it {applied:?}")]
    Differs {
        /// `memory.max`, ...
        limit: &'static str,
        /// As written.
        asked: String,
        /// As read back.
        applied: String,
    },
}
