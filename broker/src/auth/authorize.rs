//! The proof that a caller may act: [`Authorized`] is made here only, of a yes of `decide`. Performs no action.

use std::marker::PhantomData;

use crate::audit::{Entry, Phase, Unrecorded};
use crate::auth::action::{Action, Start, Verb};
use crate::auth::caller::Caller;
use crate::auth::decide::{Question, Verdict, decide};
use crate::auth::policy::Rule;
use crate::journal::AUDIT;
use crate::model::id::JobId;
use crate::model::identity::Identity;

/// A job that an action is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resource<'a> {
    /// Which.
    pub id: JobId,
    /// Whose.
    pub owner: &'a Identity,
}

/// The caller may not act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub(crate) verb: Verb,
    /// The caller must not learn that the job exists.
    pub(crate) is_hidden: bool,
    pub(crate) verdict: Box<Verdict>,
}

/// A subject that this caller may do `A` to.
#[derive(Debug, Clone)]
#[must_use = "an unused proof protects nothing"]
pub struct Authorized<A, T> {
    caller: Caller,
    subject: T,
    /// What allowed it. `None` for a start until its program is known.
    rule: Option<Rule>,
    action: PhantomData<A>,
}

/// Why somebody may not act now.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Refused {
    /// By the policy.
    #[error("{0}")]
    Denied(Denied),
    /// It may, and that cannot be recorded.
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
}

/// Decides, and records it: a change before it is made, the reading of output or of another's job without waiting.
///
/// # Errors
/// [`Refused`].
pub(crate) async fn authorize_recorded<A: Action, T>(
    caller: &Caller,
    resource: Resource<'_>,
    subject: T,
) -> Result<Authorized<A, T>, Refused> {
    let authorized = authorize::<A, T>(caller, resource, subject).map_err(Refused::Denied)?;
    let (audit, verb, Resource { id, owner }) = (caller.audit(), A::VERB, resource);
    let entry = || {
        let entry = caller.entry(Phase::Allowed, verb).job(id, owner);
        authorized.rule.iter().fold(entry, |entry, rule| entry.rule(&rule.text))
    };
    if verb.is_done_in_any_case() {
        audit.change_in_any_case(&entry()).recorded().await?;
    } else if verb.is_change() {
        audit.change(&entry()).recorded().await?;
    } else if !(owner == caller.identity() && verb == Verb::View) {
        audit.note_bounded(caller.identity(), entry);
    }
    Ok(authorized)
}

/// Decides, and records a no. Of a yes whoever acts on it keeps the record: see [`authorize_recorded`].
///
/// # Errors
/// [`Denied`].
pub(crate) fn authorize<A: Action, T>(
    caller: &Caller,
    resource: Resource<'_>,
    subject: T,
) -> Result<Authorized<A, T>, Denied> {
    let mut verdict = decide(caller, &Question::Job(A::VERB, resource.owner));
    if verdict.is_allowed && caller.lacks_reason(A::VERB) {
        verdict = no_reason();
    }
    if verdict.is_allowed {
        let action = PhantomData;
        return Ok(Authorized { caller: caller.clone(), subject, rule: verdict.rule, action });
    }
    let (Resource { id, owner }, by, verb) = (resource, caller.identity(), A::VERB);
    let request = caller.context().map(|call| tracing::field::display(call.request_id));
    let why = &*verdict.reason;
    tracing::info!(target: AUDIT, job = %id, %owner, %by, %verb, request, why, "denied");
    caller.audit().note_bounded(by, || {
        let entry = caller.entry(Phase::Denied, verb).job(id, owner).message(why);
        verdict.rule.iter().fold(entry, |entry, rule| entry.rule(&rule.text))
    });
    let is_hidden = !caller.may(Verb::View, owner);
    Err(Denied { verb, is_hidden, verdict: Box::new(verdict) })
}

/// Decides about what is about no job, and records a no. Of a yes gives the entry that says so.
///
/// # Errors
/// [`Denied`].
pub(crate) fn authorize_of_broker(caller: &Caller, verb: Verb) -> Result<Entry, Denied> {
    let mut verdict = decide(caller, &Question::Broker(verb));
    if verdict.is_allowed && caller.lacks_reason(verb) {
        verdict = no_reason();
    }
    if !verdict.is_allowed {
        return Err(Denied::of_no_job(caller, verb, verdict));
    }
    let entry = caller.entry(Phase::Allowed, verb);
    Ok(verdict.rule.iter().fold(entry, |entry, rule| entry.rule(&rule.text)))
}

fn no_reason() -> Verdict {
    Verdict::no("your role demands a reason for this (jobctl --reason)".into())
}

impl Caller {
    /// Whether this call lacks the reason that a role demands for the verb.
    fn lacks_reason(&self, verb: Verb) -> bool {
        self.must_give_reason(verb) && self.context().is_some_and(|call| call.reason.is_none())
    }

    /// Whether it may do this to the jobs of an owner. For what is shown; what is done needs an [`Authorized`].
    pub(crate) fn may(&self, verb: Verb, owner: &Identity) -> bool {
        decide(self, &Question::Job(verb, owner)).is_allowed
    }
}

impl Denied {
    /// Leaves a line in the audit log.
    pub(super) fn of_start(caller: &Caller, verdict: Verdict) -> Denied {
        Denied::of_no_job(caller, Verb::Start, verdict)
    }

    fn of_no_job(caller: &Caller, verb: Verb, verdict: Verdict) -> Denied {
        let by = caller.identity();
        let request = caller.context().map(|call| tracing::field::display(call.request_id));
        tracing::info!(target: AUDIT, %by, %verb, request, why = &*verdict.reason, "denied");
        caller.audit().note_bounded(by, || {
            let entry = caller.entry(Phase::Denied, verb).message(&verdict.reason);
            verdict.rule.iter().fold(entry, |entry, rule| entry.rule(&rule.text))
        });
        Denied { verb, is_hidden: false, verdict: Box::new(verdict) }
    }
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "you may not {}: {}", self.verb.words(), self.verdict.reason)
    }
}

impl<T> Authorized<Start, T> {
    pub(super) fn of_start(caller: &Caller, subject: T) -> Result<Self, Denied> {
        if caller.lacks_reason(Verb::Start) {
            return Err(Denied::of_start(caller, no_reason()));
        }
        Ok(Authorized { caller: caller.clone(), subject, rule: None, action: PhantomData })
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

    /// What allowed it; `None` for a start until its program is known.
    pub fn rule(&self) -> Option<&Rule> {
        self.rule.as_ref()
    }

    /// Both.
    pub fn into_parts(self) -> (Caller, T) {
        (self.caller, self.subject)
    }

    /// The same permission for what the subject stands for, as a job for its entry in the registry.
    pub(crate) fn with<U>(self, subject: U) -> Authorized<A, U> {
        Authorized { caller: self.caller, subject, rule: self.rule, action: PhantomData }
    }
}
