//! Resolves the disks of a job's limits with the rights of the job's user, so that the answer reveals nothing that
//! only root may see. It opens each path once, as that user, and must not look the name up again.

use std::collections::BTreeMap;
use std::path::Path;

use job_shim::isolation::JOB_DIR;

use crate::as_user;
use crate::cgroup::disk::Stat;
use crate::cgroup::hierarchy::Hierarchy;
use crate::cgroup::limits::{Plan, ResolvedDisks, Unenforceable};
use crate::model::account::Account;
use crate::model::isolation::Place;
use crate::model::limits::{DiskName, LimitKind, Limits};
use crate::model::spec::JobSpec;

/// Resolves the disks and checks that this host can enforce every limit. Paths are the job's, as its mounts make them; its
/// own directory, which is not there yet, will be in `work_dir`; it sees the `shared` directories of the host. Blocks.
///
/// # Errors
/// [`Unenforceable`].
pub fn resolve(
    hierarchy: &Hierarchy,
    limits: &Limits,
    spec: &JobSpec,
    account: &Account,
    work_dir: &Path,
    shared: &[String],
) -> Result<ResolvedDisks, Unenforceable> {
    let directory =
        if spec.working_directory.is_empty() { JOB_DIR } else { &spec.working_directory };
    let mut stats = BTreeMap::new();
    for (limit, path) in user_paths(limits, directory) {
        if stats.contains_key(path) {
            continue;
        }
        let fault = |reason| Unenforceable { limit, controller: "io", reason };
        let on_host = match spec.isolation.on_host(path, shared) {
            _ if path == JOB_DIR => work_dir.to_owned(),
            Place::JobDir => work_dir.to_owned(),
            Place::Host(path) => path.into(),
            Place::Memory => {
                return Err(fault(format!("{path} is in memory in this job, on no disk")));
            }
            Place::Image => {
                return Err(fault(format!(
                    "{path} is of the job's image, which has no disk of its own"
                )));
            }
        };
        let found = as_user::open(account, &on_host).and_then(|file| Stat::of(&file));
        let found = found.map_err(|e| {
            let place = on_host.display();
            let leads = if on_host == Path::new(path) {
                String::new()
            } else {
                format!(" ({place} on the host)")
            };
            fault(format!("{} cannot look up {path}{leads}: {e}", account.name))
        })?;
        stats.insert(path, found);
    }
    // The devices below, such as the layers of an overlay, are resolved as root: the user did not name them.
    let stat_of = |path: &str| stats.get(path).copied().ok_or(format!("{path} was not looked up"));
    let found = ResolvedDisks::resolve(limits, hierarchy, directory, stat_of)?;
    Plan::new(limits, &found).check(hierarchy)?;
    Ok(found)
}

/// The paths that the user gave, each with the limit that needs it. A job could not work in a directory that
/// its user cannot see.
fn user_paths<'a>(
    limits: &'a Limits,
    directory: &'a str,
) -> impl Iterator<Item = (&'static str, &'a str)> {
    let of_rules = limits.io.iter().filter_map(move |rule| match &rule.disk {
        DiskName::WorkingDirectory => Some(("io.max", directory)),
        DiskName::Path(path) => Some(("io.max", path.as_str())),
        DiskName::Device(_) => None,
    });
    of_rules.chain(limits.get(LimitKind::IoWeight).map(|_| ("io.weight", directory)))
}
