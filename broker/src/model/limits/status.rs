//! The status of one limit, as shown and recorded. Plain data.

use serde::{Deserialize, Serialize};

/// One limit, in the kernel's own words, for whoever asks what a job may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitStatus {
    /// `memory.max`, `io.max 8:0`, `rlimit nofile`, `time_limit`.
    pub name: String,
    /// Empty where nobody has asked.
    pub requested: String,
    /// As read back.
    pub applied: Option<String>,
    /// The tightest on the way up.
    pub effective: Option<String>,
    /// The cgroup above the job's that is tighter.
    pub bound_by: String,
    /// It was not the job that asked.
    pub is_default: bool,
}
