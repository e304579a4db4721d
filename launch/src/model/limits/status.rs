//! The status of one limit, as shown and recorded. Plain data.

use serde::{Deserialize, Serialize};

/// One limit, with the kernel's names and values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitStatus {
    /// `memory.max`, `io.max 8:0`, `rlimit nofile`, `time_limit`.
    pub name: String,
    /// Empty if not requested.
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
