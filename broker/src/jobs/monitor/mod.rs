//! One task for each job that lives: it listens to the job's shim until that has ended, and finalizes the
//! job. Nothing here starts or stops anything.

pub(crate) mod connection;
pub(crate) mod finalize;
pub(crate) mod session;
mod validate;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use crate::jobs::job::Job;
use crate::jobs::monitor::connection::InitialContact;
use crate::jobs::process::ShimProcess;
use crate::jobs::shared::Shared;
use crate::model::state::Contact;

/// Listens to the shim until it has ended, and settles the job. A shim that lives and does not answer is
/// asked again and again; meanwhile its files tell. Last words that are still in the socket when it has
/// ended are not missed: they are on disk.
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
    // Of a job that runs, nothing is kept for this: ten thousand may.
    Box::pin(finalize::settle(shared, job)).await;
}

/// A panic over what a shim has said is a fault of this broker: its job alone is out of reach then, until
/// the shim has ended and its records tell.
async fn wait_without_session(shared: &Shared, job: &Job, shim: ShimProcess) {
    tracing::error!(job = %job.id(), "its shim is left to itself, after a panic that is told above");
    job.set_channel(None);
    job.set_contact(Contact::Silent);
    connection::wait_for_exit(shared, job, shim).await;
}
