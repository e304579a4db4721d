//! What is launched: the job, and what has been checked of it. Plain data.

use crate::launch::program::OpenProgram;
use crate::model::isolation::IsolationRules;
use crate::store::records::SpecRecord;

/// One launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaunchRequest<'a> {
    /// The job.
    pub job: &'a SpecRecord,
    /// The program, where it has been checked: then nothing else is executed.
    pub program: Option<&'a OpenProgram>,
    /// What it may mount.
    pub rules: &'a IsolationRules,
}
