//! Waiting for a job's exit, or for its end.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::{Authorized, View};
use crate::jobs::job::Job;

/// How far to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The exit status is known.
    Exit,
    /// Its output is whole and nothing is left of it, but for what the kernel cannot kill yet.
    End,
}

/// Answers when the job has come that far, or at the timeout; whether it has.
pub(crate) async fn wait(
    job: &Authorized<View, Arc<Job>>,
    until: Until,
    within: Option<Duration>,
) -> bool {
    let mut snapshot = job.subject().watch_snapshot();
    let mut settled = job.subject().watch_settled();
    let arrived = async {
        let has_come = snapshot.wait_for(|known| {
            known.state.is_over() || (until == Until::Exit && known.exited.is_some())
        });
        let _ = has_come.await;
        if until == Until::End {
            let _ = settled.wait_for(|settled| *settled).await; // and nothing is left, if that can be
        }
    };
    match within {
        Some(time) => tokio::time::timeout(time, arrived).await.is_ok(),
        None => {
            arrived.await;
            true
        }
    }
}
