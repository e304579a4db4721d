//! The user in whose name the demo acts.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;
use crate::site::Site;

/// Not the admin, who could do more than users can.
pub(super) const USER: &str = "user-a";

/// What a jobctl command prints as JSON.
pub(super) fn json(site: &Site, words: &[&str]) -> Result<Value> {
    let text = process::output(site.jobctl(USER).args(words))?;
    serde_json::from_str(&text).with_context(|| format!("jobctl {}: bad JSON", words.join(" ")))
}
