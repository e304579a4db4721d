//! Ends live calls whose caller may no longer make them. Must not end a call for any other reason.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::Status;

use crate::auth::{
    Action, Authorized, Caller, Policy, Resource, Verb, authorize, authorize_of_broker,
};
use crate::grpc::status;
use crate::jobs::job::Job;

/// Waits until a reload has changed the policy so that the caller may not do `A` to the job any more; gives the status of
/// that. Never answers before.
pub(super) async fn revoked<A: Action>(
    mut policy: watch::Receiver<Policy>,
    job: Authorized<A, Arc<Job>>,
) -> Status {
    let (caller, job) = job.into_parts();
    while policy.changed().await.is_ok() {
        let now = policy.borrow_and_update().caller(caller.identity().clone());
        let resource = Resource { id: job.id(), owner: job.owner() };
        match authorize::<A, _>(&now.made_by(&caller), resource, ()) {
            Ok(_) => {}
            Err(denied) if denied.is_hidden => return status::no_such_job(job.id()),
            Err(denied) => return status::denied(&denied),
        }
    }
    std::future::pending().await // the broker ends, and so does the call
}

/// The same for a call that is about no job.
pub(super) async fn revoked_verb(
    mut policy: watch::Receiver<Policy>,
    caller: Caller,
    verb: Verb,
) -> Status {
    while policy.changed().await.is_ok() {
        let now = policy.borrow_and_update().caller(caller.identity().clone());
        if let Err(denied) = authorize_of_broker(&now.made_by(&caller), verb) {
            return status::denied(&denied);
        }
    }
    std::future::pending().await
}
