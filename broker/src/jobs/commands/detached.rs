//! Runs a change of a job apart from its caller: a caller that hangs up does not leave half of it. Changes
//! of one job wait for each other.

use std::sync::Arc;

use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::jobs::shared::calls::Call;
use crate::sync::Panicked;

/// Runs `change` when all earlier changes of the job are done; `call` counts until it ends.
///
/// # Errors
/// Those of `change`; [`Panicked`].
pub(super) async fn run<E: From<Panicked> + Send + 'static>(
    shared: &Arc<Shared>,
    job: &Arc<Job>,
    call: Call,
    change: impl Future<Output = Result<(), E>> + Send + 'static,
) -> Result<(), E> {
    let job = Arc::clone(job);
    let task = shared.runtime.spawn(async move {
        let _call = call;
        let _turn = job.change_turn.lock().await;
        change.await
    });
    task.await.map_err(Panicked::from)?
}
