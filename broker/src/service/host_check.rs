//! What `check-config` and `preflight` look at on this host for jobs: the views of the profiles, and limits of their directories.
//! A disk that hangs delays it for a moment only. It must not change anything.

use std::fs::{self, File};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::config::Config;
use crate::launch;
use crate::model::limits::LimitKind;

/// For each look. What hangs is not waited for: the process ends without it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What jobs would be refused for, in sentences. For root; others cannot look.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let mut found = Vec::new();
    if let Ok(rules) = config.isolation.rules() {
        for path in &rules.shared {
            found.extend(directory("isolation.shared", path.clone()));
        }
        found.extend(launch::missing_profiles(&rules).into_iter().map(|(_, why)| why));
    }
    found.extend(job_dir(config));
    found
}

fn directory(key: &str, path: String) -> Option<String> {
    let shown = path.clone();
    let looked = within_time(move || File::open(&path).map(drop));
    match looked {
        Some(Ok(())) => None,
        Some(Err(e)) => Some(format!("{key}: jobs do not see {shown}: {e}")),
        None => Some(format!("{key}: {shown} does not answer: a disk may hang")),
    }
}

/// A default or ceiling of `job_dir` that this host cannot enforce.
fn job_dir(config: &Config) -> Option<String> {
    let tables = config.limits.tables().ok()?;
    let sets = [(&tables.default, "[limits.default]"), (&tables.max, "[limits.max]")];
    let (_, section) =
        sets.into_iter().find(|(table, _)| table.get(LimitKind::JobDir).is_some())?;
    let (path, range) = (config.jobs.work_dir(), config.jobs.job_dir_projects);
    let why = within_time(move || launch::why_unlimited(existing(&path), range));
    let why =
        why.unwrap_or_else(|| Some("jobs.work_dir does not answer: a disk may hang".into()))?;
    Some(format!("{section} sets job_dir, so jobs are refused: {why}"))
}

/// The directory, or the next above it that is there: the broker will make it.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| fs::metadata(path).is_ok()).unwrap_or(path)
}

/// The answer, if there is one in time.
fn within_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = mpsc::channel();
    let look = move || _ = answer.send(look());
    thread::Builder::new().name("look".into()).spawn(look).ok()?;
    answered.recv_timeout(TIMEOUT).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_not_waited_for() {
        assert_eq!(within_time(|| 7), Some(7));
        let (never, waits) = mpsc::channel::<()>();
        assert_eq!(within_time(move || waits.recv().is_ok()), None);
        drop(never);
    }
}
