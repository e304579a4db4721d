//! The account that a job runs as. Plain data: `launch::accounts` resolves it.

use serde::{Deserialize, Serialize};

/// A resolved account: what the kernel is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "passwd(5)")]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}
