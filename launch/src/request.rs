//! What is launched: the job, and what has been checked of it. Plain data.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::cgroup::limits::ResolvedDisks;
use crate::model::account::Account;
use crate::model::id::JobId;
use crate::model::isolation::IsolationRules;
use crate::model::spec::JobSpec;
use crate::program::OpenProgram;

/// One launch.
#[derive(Debug, Clone, Copy)]
pub struct LaunchRequest<'a> {
    /// The job.
    pub id: JobId,
    /// What is run.
    pub spec: &'a JobSpec,
    /// As whom.
    pub account: &'a Account,
    /// The disks that its limits speak of.
    pub disks: &'a ResolvedDisks,
    /// The program, where it has been checked: then nothing else is executed.
    pub program: Option<&'a OpenProgram>,
    /// The directory of its image, which is its root.
    pub root: Option<&'a Arc<OwnedFd>>,
    /// What it may mount.
    pub rules: &'a IsolationRules,
}
