//! What a launcher is opened with. Plain data: where it comes from is for whoever launches.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use crate::host::BootId;

/// What a [`crate::launcher::Launcher`] is opened with.
#[derive(Debug)]
pub struct Settings<'a> {
    /// The program `job-shim`, opened.
    pub program: File,
    /// Of the shims' sockets; nobody else's.
    pub run_dir: &'a Path,
    /// Of the jobs' own directories.
    pub work_dir: &'a Path,
    /// Project ids for those of them that have a size limit: first and last.
    pub job_dir_projects: (u32, u32),
    /// uid and gid of the shims.
    pub shim_account: (u32, u32),
    /// From the exit of a job's main process to SIGKILL for what is left of it.
    pub leftover_grace: Duration,
    /// The jobs end with this process: a shim that loses its connection kills its job.
    pub tied: bool,
    /// Of this host.
    pub boot_id: BootId,
}
