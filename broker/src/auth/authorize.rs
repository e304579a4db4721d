//! Decides whether a caller may act, and makes the proof: [`Authorized`] is constructed here only. Performs
//! no action.

use std::marker::PhantomData;

use crate::auth::action::{Action, Verb};
use crate::auth::policy::{Caller, Role};
use crate::journal::AUDIT;
use crate::model::id::JobId;
use crate::model::identity::Identity;

/// What an action is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource<'a> {
    /// A job that does not exist yet; whoever starts it owns it.
    NewJob,
    /// A job.
    Job {
        /// Which.
        id: JobId,
        /// Whose.
        owner: &'a Identity,
    },
}

/// The caller may not act, and must not learn that the job exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied;

/// A subject that this caller may do `A` to.
#[derive(Debug, Clone)]
#[must_use = "an unused proof protects nothing"]
pub struct Authorized<A, T> {
    caller: Caller,
    subject: T,
    action: PhantomData<A>,
}

/// Whether the caller may. Pure: the same answer for the same question.
///
/// # Errors
/// [`Denied`], which callers must answer exactly as if the job did not exist.
pub(crate) fn decide(caller: &Caller, _verb: Verb, resource: Resource<'_>) -> Result<(), Denied> {
    match resource {
        // Every authenticated caller may start jobs.
        Resource::NewJob => Ok(()),
        Resource::Job { .. } if caller.role() == Role::Admin => Ok(()),
        Resource::Job { owner, .. } if caller.identity() == owner => Ok(()),
        Resource::Job { .. } => Err(Denied),
    }
}

/// Decides, and leaves a line in the audit log if the answer is no.
///
/// # Errors
/// As [`decide`].
pub(crate) fn authorize<A: Action, T>(
    caller: &Caller,
    resource: Resource<'_>,
    subject: T,
) -> Result<Authorized<A, T>, Denied> {
    match decide(caller, A::VERB, resource) {
        Ok(()) => Ok(Authorized { caller: caller.clone(), subject, action: PhantomData }),
        Err(denied) => {
            let (by, verb) = (caller.identity(), A::VERB);
            let request = caller.context().map(|call| tracing::field::display(call.request_id));
            if let Resource::Job { id, owner } = resource {
                tracing::info!(target: AUDIT, job = %id, %owner, %by, %verb, request, "denied");
            }
            Err(denied)
        }
    }
}

impl Caller {
    /// Every authenticated caller may start jobs, and owns them.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn may_start<T>(&self, spec: T) -> Result<Authorized<super::Start, T>, Denied> {
        authorize(self, Resource::NewJob, spec)
    }
}

impl<A, T> Authorized<A, T> {
    /// Who was judged.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What it may do that to.
    pub fn subject(&self) -> &T {
        &self.subject
    }

    /// Both.
    pub fn into_parts(self) -> (Caller, T) {
        (self.caller, self.subject)
    }

    /// The same permission for what the subject stands for, as a job for its entry in the registry.
    pub(crate) fn with<U>(self, subject: U) -> Authorized<A, U> {
        Authorized { caller: self.caller, subject, action: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Policy, View};

    fn id(name: &str) -> Identity {
        Identity::new(name).unwrap()
    }

    #[test]
    fn jobs_of_others_are_hidden_except_from_admins() {
        let policy = Policy::new([id("root")]);
        let (alice, root) = (policy.caller(id("alice")), policy.caller(id("root")));
        let sees = |caller: &Caller, owner: &str| {
            let resource = Resource::Job { id: JobId::fresh(), owner: &id(owner) };
            authorize::<View, ()>(caller, resource, ()).map(|_| ())
        };
        assert_eq!(sees(&alice, "alice"), Ok(()));
        assert_eq!(sees(&alice, "bob"), Err(Denied));
        assert_eq!(sees(&root, "bob"), Ok(()));
    }
}
