//! What commands that follow a job say of it on standard error, beside its output.

use job_api::v1::Job;

use crate::failure::notice;
use crate::format::cause;

/// What the exit status alone does not tell, and what is missing from the output.
pub(crate) fn note_end(job: &Job, quiet: bool) {
    if quiet {
        return;
    }
    note_output(job);
    if let Some(reason) = cause::reason(job) {
        notice(&format!("job {} {reason}", job.id));
    }
}

/// What the trailer says of the output's wholeness.
pub(crate) fn note_output(job: &Job) {
    if job.dropped_bytes > 0 {
        notice(&format!("{} bytes dropped {}", job.dropped_bytes, cause::why_dropped(job)));
    }
    if job.incomplete {
        notice("output incomplete: the end of it may be missing");
    }
}
