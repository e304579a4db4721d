//! Waits for a job's exit, or for its end. Changes nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::{Authorized, View};
use crate::jobs::job::Job;

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The exit status is known.
    Exit,
    /// The output is complete and the job is settled.
    End,
}

/// Waits for `until`, at most `within`; returns false on a timeout.
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
            let _ = settled.wait_for(|settled| *settled).await; // cleanup has run
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
