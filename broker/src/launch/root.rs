//! Where the root cgroup of all jobs is: a plain directory, or the scope of systemd. Makes and finds it; what is below it
//! is for others.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config;
use crate::launch::errors::SetupError;
use crate::model::id::JobId;
use crate::systemd;
use crate::systemd::scope::{self, Scope};
use job_launch::cgroup::hierarchy::{self, Hierarchy, HierarchyError};

/// The root cgroup below the mount if none is configured and systemd is not process 1.
const DEFAULT_CGROUP: &str = "job-broker";

/// Opens it, and makes it if it is not there. If none is configured and systemd is process 1, systemd creates a scope, and
/// the program `keeper` holds it open.
///
/// # Errors
/// [`SetupError`].
pub(super) fn open(
    config: &config::Jobs,
    keeper: &File,
) -> Result<(Hierarchy, Option<Arc<Scope>>), SetupError> {
    let mount = hierarchy::mount()?;
    let below = config.cgroup.as_deref();
    let scope = match below {
        None if systemd::is_init() => Some(Scope::open(&mount, keeper)),
        _ => None,
    };
    let scope =
        scope.transpose().map_err(|source| SetupError::Scope { name: scope::NAME, source })?;
    let scope = scope.map(Arc::new);
    let path = match &scope {
        Some(scope) => scope.path().to_owned(),
        None => configured_path(&mount, below),
    };
    let maker = scope.clone().map(|scope| scope as Arc<dyn hierarchy::Scope>);
    Ok((Hierarchy::open(mount, path, maker, &config.require_controllers)?, scope))
}

/// The jobs that have a cgroup below the root of [`open`]; creates nothing. Empty if that does not exist.
///
/// # Errors
/// `NotMounted` and `Io`.
pub(crate) fn existing_jobs(below: Option<&Path>) -> Result<Vec<JobId>, HierarchyError> {
    let mount = hierarchy::mount()?;
    let root = match below {
        None if systemd::is_init() => scope::cgroup_path(&mount),
        _ => configured_path(&mount, below),
    };
    match hierarchy::jobs(&root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|source| HierarchyError::Io { step: "list", path: root, source }),
    }
}

fn configured_path(mount: &Path, below: Option<&Path>) -> PathBuf {
    mount.join(below.unwrap_or(Path::new(DEFAULT_CGROUP)))
}
