//! One task for each live job: holds the session with the shim until the shim has ended, then finalizes
//! the job. Nothing here starts or stops a job.

pub(crate) mod connection;
pub(crate) mod finalize;
mod job_log;
pub(crate) mod session;
pub(super) mod validate;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use crate::jobs::job::Job;
use crate::jobs::monitor::connection::InitialContact;
use crate::jobs::process::ShimProcess;
use crate::jobs::shared::Shared;
use crate::model::state::Contact;

/// Monitors the shim until it has ended, then settles the job. Messages that are unread in the socket then
/// are not lost: the shim's records have them.
pub(crate) async fn monitor(
    shared: Arc<Shared>,
    job: Arc<Job>,
    shim: ShimProcess,
    initial: InitialContact,
) {
    job.set_shim(Some(shim));
    let kept = AssertUnwindSafe(connection::keep_connected(&shared, &job, shim, initial))
        .catch_unwind()
        .await;
    if kept.is_err() {
        Box::pin(wait_without_session(&shared, &job, shim)).await;
    }
    // Boxed: ten thousand running jobs need no memory for it.
    Box::pin(finalize::settle(shared, job)).await;
}

/// After a panic over a message, a bug of the broker: only this job is out of reach, until its shim ends.
async fn wait_without_session(shared: &Shared, job: &Job, shim: ShimProcess) {
    tracing::error!(job = %job.id(), "the broker ends its session with the shim after a panic (logged above); the job keeps running");
    job.set_channel(None);
    job.set_contact(Contact::Silent);
    connection::wait_for_exit(shared, job, shim).await;
}
