//! The statuses of calls that reach no handler: authentication, quotas, malformed messages. It must not map
//! the errors of jobs: `status` does.

use std::fmt::Display;
use std::time::Duration;

use tonic::{Code, Status};

use crate::grpc::bounded::{status, with_reason};
use crate::grpc::{MAX_REQUEST, status};
use crate::model::identity::IdentityError;
use crate::quota::Exceeded;

/// A certificate without an identity.
pub(crate) fn unauthenticated(error: &IdentityError) -> Status {
    status::unauthenticated(Some(error))
}

/// A certificate that is not accepted, or not any more. `reason` is for programs.
pub(crate) fn certificate_refused(reason: &'static str, why: impl Display) -> Status {
    with_reason(Code::Unauthenticated, reason, why, [])
}

/// A quota of the identity, or of all.
pub(crate) fn quota_exceeded(exceeded: Exceeded) -> Status {
    let message = format_args!("{exceeded}; try again when something of it is over");
    match exceeded.quota() {
        Some(quota) => status::over_quota(quota, status::QUOTA, message),
        None => status(Code::ResourceExhausted, message),
    }
}

/// RESOURCE_EXHAUSTED by the announced length, in tonic's words.
pub(crate) fn message_too_large(length: usize) -> Status {
    let message =
        format_args!("the message has {length} bytes; at most {MAX_REQUEST} bytes are allowed");
    status(Code::OutOfRange, message)
}

/// An incomplete message at its timeout.
pub(crate) fn message_timeout(within: Duration) -> Status {
    let message = format_args!("the request did not come within {within:?}");
    status(Code::DeadlineExceeded, message)
}

/// A second message in a call that takes one.
pub(crate) fn second_message() -> Status {
    status(Code::InvalidArgument, "this call takes one message, and more came")
}

/// The request stream broke.
pub(crate) fn stream_error(error: impl Display) -> Status {
    status(Code::Cancelled, error)
}
