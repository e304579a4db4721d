//! Runs a change of a job apart from its caller: a caller that hangs up does not leave half of it. Changes
//! of one job wait for each other.

use std::sync::Arc;

use crate::auth::{Action, Authorized};
use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::jobs::shared::calls::Call;
use crate::model::identity::Identity;
use crate::sync::Panicked;

/// Runs `change` for the caller when all earlier changes of the job are done; `call` counts until it ends.
///
/// # Errors
/// Those of `change`; [`Panicked`].
pub(super) async fn run<A: Action, E: From<Panicked> + Send + 'static, F>(
    shared: &Arc<Shared>,
    job: &Authorized<A, Arc<Job>>,
    call: Call,
    change: impl FnOnce(Arc<Shared>, Arc<Job>, Identity) -> F + Send + 'static,
) -> Result<(), E>
where
    F: Future<Output = Result<(), E>> + Send + 'static,
{
    let (own, by) = (Arc::clone(shared), job.caller().identity().clone());
    let job = Arc::clone(job.subject());
    let task = shared.runtime.spawn(async move {
        let _call = call;
        let _turn = job.change_turn.lock().await;
        change(own, Arc::clone(&job), by).await
    });
    task.await.map_err(Panicked::from)?
}
