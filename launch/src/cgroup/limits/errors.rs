//! The errors of limits: a limit that this host lacks, and a limit that the kernel rejects. They must not name a
//! gRPC status: `grpc` maps them.

use std::io;

/// A limit that this host cannot enforce. A request with such a limit is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{limit} cannot be enforced here: {reason}")]
pub struct Unenforceable {
    /// `memory.max`, ...
    pub limit: &'static str,
    /// The controller that the limit needs.
    pub controller: &'static str,
    /// The reason, for the user.
    pub reason: String,
}

/// A limit that the kernel did not apply.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// write(2) or read(2) failed.
    #[error("cannot set {limit} to {value:?}: {source}")]
    Io {
        /// `memory.max`, ...
        limit: &'static str,
        /// As written.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// The value read back differs from the value written.
    #[error("{limit} was set to {asked:?}, and the kernel changed it to {applied:?}")]
    Differs {
        /// `memory.max`, ...
        limit: &'static str,
        /// As written.
        asked: String,
        /// As read back.
        applied: String,
    },
}
