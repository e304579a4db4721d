//! Maps domain errors to gRPC statuses with details. It must not construct a status itself: `bounded` does.

use std::fmt::Display;

use tonic::{Code, Status};

use crate::auth::{Denied, StartRefusal, Verb};
use crate::grpc::bounded;
use crate::grpc::bounded::{status, with_reason};
use crate::jobs::commands::delete::DeleteError;
use crate::jobs::commands::input::InputError;
use crate::jobs::commands::pause::PauseError;
use crate::jobs::commands::signal::SignalError;
use crate::jobs::commands::start::StartError;
use crate::jobs::commands::stop::StopError;
use crate::jobs::commands::update::UpdateError;
use crate::jobs::history::admission::AdmissionError;
use crate::jobs::output::OutputError;
use crate::jobs::query::FindError;
use crate::jobs::shared::calls::Busy;
use crate::model::id::JobId;
use crate::model::identity::IdentityError;
use crate::model::limits::{Violation, Violations};
use crate::model::spec::SpecError;
use crate::quota::OverQuota;
use crate::sync::Panicked;
use job_launch::accounts::AccountError;
use job_launch::cgroup::limits::Unenforceable;
use job_launch::host;

/// The reason for a quota that has no older reason of its own.
pub(super) const QUOTA: &str = "QUOTA_EXCEEDED";

/// INVALID_ARGUMENT for one field.
pub(super) fn field(field: &str, fault: String) -> Status {
    bounded::invalid([(field.to_owned(), fault)], 0)
}

/// A certificate without an identity, or no certificate.
pub(super) fn unauthenticated(error: Option<&IdentityError>) -> Status {
    match error {
        Some(error) => status(Code::Unauthenticated, error),
        None => status(Code::Unauthenticated, "no client certificate"),
    }
}

/// An error of the host.
pub(super) fn host_error(error: &std::io::Error) -> Status {
    status(Code::Internal, error)
}

/// tonic's status for a broken request stream.
pub(super) fn stream_error(error: &Status) -> Status {
    status(error.code(), error.message())
}

/// PERMISSION_DENIED by the policy. Only for a job that the caller may see, or for none.
pub(super) fn denied(denied: &Denied) -> Status {
    forbidden(denied.verb, denied)
}

fn forbidden(verb: Verb, message: impl std::fmt::Display) -> Status {
    let metadata = [("verb", verb.to_string())];
    with_reason(Code::PermissionDenied, "POLICY", message, metadata)
}

pub(super) fn start_refused(refusal: StartRefusal) -> Status {
    match refusal {
        StartRefusal::Invalid(error) => spec(error),
        StartRefusal::Denied(error) => denied(&error),
    }
}

/// PERMISSION_DENIED: a retry of a start, by a caller that may neither start jobs nor see this one any more.
pub(super) fn retry_denied() -> Status {
    forbidden(Verb::Start, "you may not start jobs any more")
}

/// PERMISSION_DENIED for the quotas of another identity, whether or not that exists.
pub(super) fn denied_quota() -> Status {
    forbidden(Verb::Admin, "you may not see the quotas of others: that takes the verb admin")
}

/// The same status for a job that does not exist and for another identity's job.
pub(super) fn no_such_job(id: JobId) -> Status {
    let message = format_args!("there is no job {id}");
    bounded::of_resource(Code::NotFound, "job", id.to_string(), message)
}

/// UNAVAILABLE: clients resume at their offsets with the next broker.
pub(super) fn shutting_down() -> Status {
    let message = "the broker is being stopped or restarted; jobs go on, connect again";
    status(Code::Unavailable, message)
}

pub(super) fn spec(error: SpecError) -> Status {
    match error {
        SpecError::Invalid(violations) => invalid_fields("spec.", violations),
        // The same code as for a message above the size limit.
        SpecError::TooLarge(fault) => status(Code::OutOfRange, fault),
    }
}

/// The violations of a message at `path`.
fn invalid_fields(path: &str, violations: Violations) -> Status {
    let violation = |v: Violation| (format!("{path}{}", v.field), v.fault);
    bounded::invalid(violations.first.into_iter().map(violation), violations.more)
}

fn unenforceable(error: &Unenforceable) -> Status {
    let metadata = [("limit", error.limit.to_owned()), ("controller", error.controller.to_owned())];
    with_reason(Code::FailedPrecondition, "LIMIT_UNENFORCEABLE", error, metadata)
}

pub(super) fn start(error: StartError) -> Status {
    let message = error.to_string();
    let job = |job: JobId| ("job", job.to_string());
    match error {
        StartError::RequestReused { job: id, .. } => {
            with_reason(Code::AlreadyExists, "REQUEST_ID_REUSED", message, [job(id)])
        }
        StartError::RequestQuarantined { job: id, .. } => {
            with_reason(Code::FailedPrecondition, "REQUEST_QUARANTINED", message, [job(id)])
        }
        StartError::NameTaken { job: id, .. } => {
            with_reason(Code::AlreadyExists, "NAME_TAKEN", message, [job(id)])
        }
        StartError::Denied(_) => forbidden(Verb::Start, message),
        // As of a start that fails at execve(2), but for the job: there is none.
        StartError::Program(error) => {
            let metadata =
                [("step", error.step().to_owned()), ("errno", error.errno().to_string())];
            with_reason(Code::FailedPrecondition, "START_FAILED", message, metadata)
        }
        StartError::Account(AccountError::PoolEmpty(_)) => status(Code::ResourceExhausted, message),
        StartError::Account(AccountError::Lookup { .. }) => status(Code::Unavailable, message),
        StartError::Account(_) => status(Code::FailedPrecondition, message),
        StartError::Image(_) => status(Code::FailedPrecondition, message),
        StartError::Unenforceable(error) => unenforceable(&error),
        StartError::Admission(error) => not_admitted(&error),
        StartError::Quota(quota) => over_quota(&quota, QUOTA, message),
        StartError::TooMany(max) => {
            let metadata = [("max", max.to_string())];
            with_reason(Code::ResourceExhausted, "MAX_RUNNING", message, metadata)
        }
        StartError::Shortage(_) => {
            with_reason(Code::ResourceExhausted, "HOST_SHORTAGE", message, [])
        }
        StartError::Unrecorded(_) => unrecorded(message),
        StartError::Find(error) => find(error),
        StartError::Internal(_) => status(Code::Internal, message),
        StartError::Failed { job: id, failure } => {
            let errno = failure.errno.to_string();
            let metadata = [job(id), ("step", failure.step), ("errno", errno)];
            with_reason(Code::FailedPrecondition, "START_FAILED", failure.message, metadata)
        }
    }
}

/// RESOURCE_EXHAUSTED for a quota of an identity, with its name, use and limit for programs.
pub(super) fn over_quota(quota: &OverQuota, reason: &'static str, message: impl Display) -> Status {
    let OverQuota { kind, used, limit, origin, retry_after, .. } = quota;
    let metadata = [
        ("quota", kind.name().to_owned()),
        ("use", used.to_string()),
        ("limit", limit.to_string()),
        ("from", origin.to_string()),
    ];
    bounded::quota_exceeded(reason, message, metadata, kind.name().to_owned(), *retry_after)
}

/// RESOURCE_EXHAUSTED, with the numbers for programs.
fn not_admitted(error: &AdmissionError) -> Status {
    let (reason, numbers) = match *error {
        AdmissionError::Space { free, needed, .. } => {
            ("DISK_SPACE", [("free", free), ("needed", needed)])
        }
        AdmissionError::Inodes { free, needed, .. } => {
            ("DISK_INODES", [("free", free), ("needed", needed)])
        }
        AdmissionError::Output { kept, max } => ("OUTPUT_QUOTA", [("kept", kept), ("max", max)]),
        AdmissionError::Unknown { .. } => return status(Code::Unavailable, error),
    };
    let metadata = numbers.map(|(name, number)| (name, number.to_string()));
    with_reason(Code::ResourceExhausted, reason, error, metadata)
}

/// RESOURCE_EXHAUSTED, retryable: the calls in flight end.
pub(super) fn busy(error: Busy) -> Status {
    const REASON: &str = "TOO_MANY_CALLS";
    match error.quota() {
        Some(quota) => over_quota(quota, REASON, &error),
        None => with_reason(Code::ResourceExhausted, REASON, error, []),
    }
}

/// A start that exceeded the caller's deadline in the queue: nothing was started.
pub(super) fn deadline_exceeded() -> Status {
    let message =
        "the deadline of the call is over, and it was not this start's turn; nothing was started";
    status(Code::DeadlineExceeded, message)
}

/// UNAVAILABLE, and the reason tells clients that trying again at once does not help.
pub(super) fn unrecorded(message: impl Display) -> Status {
    with_reason(Code::Unavailable, "AUDIT_UNAVAILABLE", message, [])
}

/// No audit is kept.
pub(super) fn no_audit() -> Status {
    status(Code::FailedPrecondition, "this broker keeps no audit")
}

/// An audit that cannot be read.
pub(super) fn audit(error: &std::io::Error) -> Status {
    match error.kind() {
        std::io::ErrorKind::InvalidData => {
            status(Code::DataLoss, format_args!("the audit is damaged: {error}"))
        }
        _ if host::is_shortage(error) => shortage(error),
        _ => status(Code::Internal, format_args!("the audit cannot be read: {error}")),
    }
}

pub(super) fn panicked(error: &Panicked) -> Status {
    status(Code::Internal, error)
}

pub(super) fn find(error: FindError) -> Status {
    match error {
        FindError::Denied(error) => denied(&error),
        FindError::NotRecovered(_) => status(Code::Unavailable, error),
        FindError::Record(error) if error.is_shortage() => shortage(&error),
        FindError::Record(_) => status(Code::Internal, error),
        FindError::Internal(_) => status(Code::Internal, error),
        FindError::Unrecorded(_) => unrecorded(error),
    }
}

pub(super) fn update(error: UpdateError) -> Status {
    let message = error.to_string();
    match error {
        UpdateError::Invalid(violations) => invalid_fields("", violations),
        UpdateError::Quota(quota) => over_quota(&quota, QUOTA, message),
        UpdateError::Unenforceable(error) => unenforceable(&error),
        UpdateError::MemoryInUse { used, asked } => {
            let metadata = [("used", used.to_string()), ("asked", asked.to_string())];
            with_reason(Code::FailedPrecondition, "MEMORY_IN_USE", message, metadata)
        }
        UpdateError::Over | UpdateError::Limit(_) => status(Code::FailedPrecondition, message),
        UpdateError::Starting | UpdateError::Unreachable(_) | UpdateError::Unmeasured(_) => {
            status(Code::Unavailable, message)
        }
        UpdateError::Record(_) | UpdateError::Internal(_) => status(Code::Internal, message),
    }
}

pub(super) fn pause(error: PauseError) -> Status {
    match error {
        PauseError::NotRunning(_) => status(Code::FailedPrecondition, error),
        // Not UNAVAILABLE: clients retry that at once, and each retry stops the job for another 5 s.
        PauseError::Freeze(_) | PauseError::Thaw(_) => status(Code::Aborted, error),
        PauseError::Internal(_) => status(Code::Internal, error),
    }
}

pub(super) fn stop(error: StopError) -> Status {
    status(Code::Internal, error)
}

pub(super) fn signal(error: SignalError) -> Status {
    match error {
        SignalError::Over => status(Code::FailedPrecondition, error),
        SignalError::Unreachable(_) => status(Code::Unavailable, error),
    }
}

pub(super) fn output(error: OutputError) -> Status {
    match error {
        OutputError::PastTheEnd { .. } => status(Code::OutOfRange, error),
        OutputError::Removed => status(Code::NotFound, error),
        OutputError::TooManyStreams(ref exceeded) => match exceeded.quota() {
            Some(quota) => over_quota(quota, "OUTPUT_STREAMS", &error),
            None => with_reason(Code::ResourceExhausted, "OUTPUT_STREAMS", error, []),
        },
        OutputError::Io(error) if host::is_shortage(&error) => shortage(&error),
        OutputError::Io(_) => status(Code::Internal, error),
    }
}

/// A temporary shortage of the host. The request is valid: UNAVAILABLE, and clients retry.
fn shortage(error: &dyn std::error::Error) -> Status {
    let message = format_args!("the broker is short of what this takes ({error}): try again");
    status(Code::Unavailable, message)
}

pub(super) fn input(error: InputError) -> Status {
    match error {
        InputError::NoStdin => status(Code::FailedPrecondition, error),
        InputError::Gap { .. } => status(Code::OutOfRange, error),
        InputError::Unreachable(_) => status(Code::Unavailable, error),
    }
}

pub(super) fn delete(error: DeleteError) -> Status {
    match error {
        DeleteError::Running => status(Code::FailedPrecondition, error),
        DeleteError::Io(_) | DeleteError::Internal(_) => status(Code::Internal, error),
    }
}
