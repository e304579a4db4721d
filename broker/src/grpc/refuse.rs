//! Every no that a caller can get, with its status and its details. Denied, invalid, not found and
//! internal map to one code each.

use std::collections::HashMap;

use job_api::ERROR_DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::jobs::input::InputError;
use crate::jobs::output::OutputError;
use crate::jobs::spec::Refusal;
use crate::jobs::{
    DeleteError, FindError, NoRoom, PauseError, SignalError, StartError, StopError, UpdateError,
};
use crate::launch::accounts::AccountError;
use crate::launch::limits::Unenforceable;
use crate::limits::Violation;

/// One field that is not as it must be.
pub(super) fn field(field: &str, fault: String) -> Status {
    fields(vec![FieldViolation::new(field, fault)])
}

fn fields(violations: Vec<FieldViolation>) -> Status {
    let text: Vec<_> =
        violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
    let details = ErrorDetails::with_bad_request(violations);
    Status::with_error_details(Code::InvalidArgument, text.join("; "), details)
}

fn with_reason(
    code: Code,
    reason: &str,
    message: String,
    metadata: HashMap<String, String>,
) -> Status {
    let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// The same for a job that is not there and for somebody else's.
pub(super) fn no_such_job(id: &str) -> Status {
    let details = ErrorDetails::with_resource_info("job", id, "", "");
    Status::with_error_details(Code::NotFound, format!("there is no job {id}"), details)
}

/// Clients go on with the next broker from where they are.
pub(super) fn closing() -> Status {
    Status::unavailable("the broker is being stopped or restarted; jobs go on, connect again")
}

pub(super) fn wish(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Invalid(violations) => violated("spec.", violations),
        // As a message that is larger than the broker takes.
        Refusal::TooLarge(fault) => Status::out_of_range(fault),
    }
}

/// Fields of a message that lies at `path`.
fn violated(path: &str, violations: Vec<Violation>) -> Status {
    let violation = |v: Violation| FieldViolation::new(format!("{path}{}", v.field), v.fault);
    fields(violations.into_iter().map(violation).collect())
}

fn unenforceable(error: &Unenforceable) -> Status {
    let metadata = [
        ("limit".to_owned(), error.limit.to_owned()),
        ("controller".to_owned(), error.controller.to_owned()),
    ];
    let message = error.to_string();
    with_reason(Code::FailedPrecondition, "LIMIT_UNENFORCEABLE", message, metadata.into())
}

pub(super) fn start(error: StartError) -> Status {
    let message = error.to_string();
    let job = |job: crate::id::JobId| ("job".to_owned(), job.to_string());
    match error {
        StartError::RequestReused { job: id, .. } => {
            with_reason(Code::AlreadyExists, "REQUEST_ID_REUSED", message, [job(id)].into())
        }
        StartError::RequestAside { job: id, .. } => {
            let metadata = [job(id)].into();
            with_reason(Code::FailedPrecondition, "REQUEST_QUARANTINED", message, metadata)
        }
        StartError::NameTaken { job: id, .. } => {
            with_reason(Code::AlreadyExists, "NAME_TAKEN", message, [job(id)].into())
        }
        StartError::Account(AccountError::PoolEmpty(_)) => Status::resource_exhausted(message),
        StartError::Account(AccountError::Lookup { .. }) => Status::unavailable(message),
        StartError::Account(_) => Status::failed_precondition(message),
        StartError::Unenforceable(error) => unenforceable(&error),
        StartError::NoRoom(error) => no_room(&error),
        StartError::Find(error) => find(error),
        StartError::Failed { job: id, failure } => {
            let metadata = [
                job(id),
                ("step".into(), failure.step.clone()),
                ("errno".into(), failure.errno.to_string()),
            ];
            with_reason(Code::FailedPrecondition, "START_FAILED", failure.message, metadata.into())
        }
    }
}

/// With the numbers, for programs.
fn no_room(error: &NoRoom) -> Status {
    let (reason, numbers) = match *error {
        NoRoom::Space { free, needed, .. } => ("DISK_SPACE", [("free", free), ("needed", needed)]),
        NoRoom::Inodes { free, needed, .. } => {
            ("DISK_INODES", [("free", free), ("needed", needed)])
        }
        NoRoom::Output { kept, max } => ("OUTPUT_QUOTA", [("kept", kept), ("max", max)]),
    };
    let metadata = numbers.map(|(name, number)| (name.to_owned(), number.to_string()));
    with_reason(Code::ResourceExhausted, reason, error.to_string(), metadata.into())
}

pub(super) fn find(error: FindError) -> Status {
    match error {
        FindError::NotKnown(_) => Status::unavailable(error.to_string()),
        FindError::Io(_) => Status::internal(error.to_string()),
    }
}

pub(super) fn update(error: UpdateError) -> Status {
    let message = error.to_string();
    match error {
        UpdateError::Invalid(violations) => violated("", violations),
        UpdateError::Unenforceable(error) => unenforceable(&error),
        UpdateError::MemoryInUse { used, asked } => {
            let metadata =
                [("used".to_owned(), used.to_string()), ("asked".to_owned(), asked.to_string())];
            with_reason(Code::FailedPrecondition, "MEMORY_IN_USE", message, metadata.into())
        }
        UpdateError::Over | UpdateError::Limit(_) => Status::failed_precondition(message),
        UpdateError::Starting | UpdateError::Unreachable(_) => Status::unavailable(message),
        UpdateError::Record(_) => Status::internal(message),
    }
}

pub(super) fn pause(error: PauseError) -> Status {
    match error {
        PauseError::NotRunning(_) => Status::failed_precondition(error.to_string()),
        // Not UNAVAILABLE, which clients try again at once: that would stop the job for another 5 s.
        PauseError::Freeze(_) | PauseError::Thaw(_) => Status::aborted(error.to_string()),
    }
}

pub(super) fn stop(error: StopError) -> Status {
    Status::internal(error.to_string())
}

pub(super) fn signal(error: SignalError) -> Status {
    match error {
        SignalError::Over => Status::failed_precondition(error.to_string()),
        SignalError::Unreachable(_) => Status::unavailable(error.to_string()),
    }
}

pub(super) fn output(error: OutputError) -> Status {
    match error {
        OutputError::PastTheEnd { .. } => Status::out_of_range(error.to_string()),
        OutputError::Removed => Status::not_found(error.to_string()),
        OutputError::Io(_) => Status::internal(error.to_string()),
    }
}

pub(super) fn input(error: InputError) -> Status {
    match error {
        InputError::NoStdin => Status::failed_precondition(error.to_string()),
        InputError::Gap { .. } => Status::out_of_range(error.to_string()),
        InputError::Unreachable(_) => Status::unavailable(error.to_string()),
    }
}

pub(super) fn delete(error: DeleteError) -> Status {
    match error {
        DeleteError::Running => Status::failed_precondition(error.to_string()),
        DeleteError::Io(_) => Status::internal(error.to_string()),
    }
}
