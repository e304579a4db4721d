//! Finished jobs: runs jobs to their end, and finds their records.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::{Env, until};

/// Runs a job of `sh -c` that succeeds to its end, as far as its last record; its id.
///
/// # Panics
/// When it does not succeed.
pub fn run(env: &Env, user: &str, text: &str) -> String {
    run_to(env, user, text, 0)
}

/// The same of one that exits with this.
///
/// # Panics
/// When it exits otherwise.
pub fn run_to(env: &Env, user: &str, text: &str, code: i32) -> String {
    let id = env.jobctl(user, &["start", "--", "sh", "-c", text]).id();
    env.jobctl(user, &["-q", "wait", "--until", "end", &id]).expect(code);
    until("its last record", || env.job_dir(&id).join("final.json").exists().then_some(()));
    id
}

/// The ids of a user's jobs.
///
/// # Panics
/// When they cannot be listed.
pub fn ids(env: &Env, user: &str) -> BTreeSet<String> {
    let out = env.jobctl(user, &["ps", "-a", "-q"]);
    out.expect(0).out().split_whitespace().map(str::to_owned).collect()
}

/// What there is beside them on the disk, by name.
///
/// # Panics
/// When it cannot be read.
pub fn directories(env: &Env) -> BTreeSet<String> {
    let entries = fs::read_dir(env.path("state/jobs")).expect("it is there");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("it is text");
    entries.map(|entry| name(entry.expect("it can be read"))).collect()
}

/// What a broker tells its admin "admin" of jobs that cannot be read: names and reasons.
///
/// # Panics
/// When it does not.
pub fn quarantined(env: &Env) -> Vec<(String, String)> {
    let info = env.jobctl("admin", &["info", "-o", "json"]).json();
    let all = info["quarantined"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().expect("it is text").to_owned();
    all.iter().map(|job| (text(&job["id"]), text(&job["reason"]))).collect()
}

/// Waits until there are this many.
///
/// # Panics
/// When there never are.
pub fn until_quarantined(env: &Env, count: usize) -> Vec<(String, String)> {
    until("quarantine", || Some(quarantined(env)).filter(|all| all.len() == count))
}
