//! Constructs every `tonic::Status` of the broker. None may exceed [`MAX_STATUS`] once encoded: clients accept 8 KiB
//! of metadata by default, and a request of 2 MB must not cause a larger answer.
//!
//! `broker/clippy.toml` bans the constructors of `Status` elsewhere.

#![allow(clippy::disallowed_methods, reason = "the one place that makes them")]

use std::fmt::{self, Display, Write as _};

use std::time::Duration;

use job_api::ERROR_DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, QuotaViolation, StatusExt};

use crate::metrics::METRICS;

/// Maximum bytes of a status as headers, their names included.
pub(super) const MAX_STATUS: usize = 4096;
/// Maximum bytes of the percent-encoded message, of these.
const MAX_MESSAGE: usize = 640;
/// Maximum bytes of all violations. The details are base64 and repeat the message: 640 + 1480 + framing become 3,100
/// bytes.
const MAX_VIOLATION_BYTES: usize = 1480;
/// Maximum violations of one status; the status counts the rest.
const MAX_VIOLATIONS: usize = 16;
/// Maximum bytes of one violation's description.
const MAX_DESCRIPTION: usize = 400;
/// Maximum bytes of a metadata value and of a resource's name.
const MAX_VALUE: usize = 200;
/// Maximum bytes of a field's name.
const MAX_FIELD_NAME: usize = 64;
/// Tags and lengths of one violation.
const FRAMING: usize = 10;

/// A status without details.
pub(super) fn status(code: Code, message: impl Display) -> Status {
    METRICS.refusals.add(name(code), "");
    Status::new(code, truncate_encoded(message))
}

/// INVALID_ARGUMENT with these violations, and a count of `more`.
pub(super) fn invalid(
    violations: impl IntoIterator<Item = (String, String)>,
    mut more: usize,
) -> Status {
    let (mut kept, mut remaining, mut omitted) = (Vec::new(), MAX_VIOLATION_BYTES, None);
    for (field, description) in violations {
        let violation = FieldViolation::new(
            truncate(field, MAX_FIELD_NAME),
            truncate(description, MAX_DESCRIPTION),
        );
        let length = violation.field.len() + violation.description.len() + FRAMING;
        if omitted.is_some() || kept.len() == MAX_VIOLATIONS || length > remaining {
            omitted = omitted.or(Some(violation.field));
            more += 1;
            continue;
        }
        remaining -= length;
        kept.push(violation);
    }
    if more > 0 {
        let last = || kept.last().map(|violation| violation.field.clone());
        let field = omitted.or_else(last).unwrap_or_default();
        kept.push(FieldViolation::new(field, format!("and {more} more faults, not listed here")));
    }
    METRICS.refusals.add(name(Code::InvalidArgument), "");
    let message = truncate_encoded(Listed(&kept));
    Status::with_error_details(Code::InvalidArgument, message, ErrorDetails::with_bad_request(kept))
}

/// A status with an ErrorInfo: a reason for programs and at most four short values.
pub(super) fn with_reason<const N: usize>(
    code: Code,
    reason: &'static str,
    message: impl Display,
    metadata: [(&'static str, String); N],
) -> Status {
    const { assert!(N <= 4, "what fits beside the message") };
    let metadata = metadata.map(|(name, value)| (name.to_owned(), truncate(value, MAX_VALUE)));
    METRICS.refusals.add(name(code), reason);
    let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata);
    Status::with_error_details(code, truncate_encoded(message), details)
}

/// RESOURCE_EXHAUSTED with an ErrorInfo, and a QuotaFailure of one violation: the quota. With a RetryInfo, if
/// there is a time after which the call would be admitted.
pub(super) fn quota_exceeded(
    reason: &'static str,
    message: impl Display,
    metadata: [(&'static str, String); 4],
    subject: String,
    retry_after: Option<Duration>,
) -> Status {
    let metadata = metadata.map(|(name, value)| (name.to_owned(), truncate(value, MAX_VALUE)));
    let message = truncate_encoded(message);
    let violation = QuotaViolation::new(
        truncate(subject, MAX_FIELD_NAME),
        truncate(message.clone(), MAX_DESCRIPTION),
    );
    let mut details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata);
    details.set_quota_failure([violation]);
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// A status with a ResourceInfo.
pub(super) fn of_resource(code: Code, kind: &str, name: String, message: impl Display) -> Status {
    METRICS.refusals.add(self::name(code), "");
    let details = ErrorDetails::with_resource_info(kind, truncate(name, MAX_VALUE), "", "");
    Status::with_error_details(code, truncate_encoded(message), details)
}

/// As gRPC's documents write it, for the metrics.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// `spec.name: must not be empty; spec.argv: ...`
struct Listed<'a>(&'a [FieldViolation]);

impl Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, violation) in self.0.iter().enumerate() {
            let between = if at == 0 { "" } else { "; " };
            write!(f, "{between}{}: {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

fn truncate(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut end = max - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A message of at most [`MAX_MESSAGE`] bytes on the wire. Formatting stops at the limit.
fn truncate_encoded(message: impl Display) -> String {
    let mut out = Truncated { text: String::new(), remaining: MAX_MESSAGE - encoded_length('…') };
    if write!(out, "{message}").is_err() {
        out.text.push('…');
    }
    out.text
}

struct Truncated {
    text: String,
    remaining: usize,
}

impl fmt::Write for Truncated {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            self.remaining = self.remaining.checked_sub(encoded_length(c)).ok_or(fmt::Error)?;
            self.text.push(c);
        }
        Ok(())
    }
}

/// Bytes of a character in the percent-encoded `grpc-message`; tonic escapes fewer characters.
fn encoded_length(c: char) -> usize {
    if c.is_ascii_alphanumeric() { 1 } else { 3 * c.len_utf8() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Bytes of a status on the wire; HTTP/2 adds 32 for each header (RFC 9113, 6.5.2).
    pub(crate) fn wire(status: &Status) -> usize {
        let headers = status.clone().into_http::<()>().into_parts().0.headers;
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
    }

    const HOSTILE: [&str; 4] = ["\x1b", "ä", "x", "\""];

    #[test]
    fn no_status_is_larger_than_a_client_takes_whatever_is_in_it() {
        for piece in HOSTILE {
            for length in [0, 1, 199, 200, 201, 100_000] {
                let long = piece.repeat(length);
                let all = [
                    status(Code::Internal, &long),
                    invalid((0..100).map(|_| (long.clone(), long.clone())), 7),
                    invalid([(long.clone(), String::new())], 0),
                    with_reason(
                        Code::Aborted,
                        "R",
                        &long,
                        ["a", "b", "c", "d"].map(|name| (name, long.clone())),
                    ),
                    of_resource(Code::NotFound, "job", long.clone(), &long),
                    quota_exceeded(
                        "R",
                        &long,
                        ["a", "b", "c", "d"].map(|name| (name, long.clone())),
                        long.clone(),
                        Some(Duration::MAX),
                    ),
                ];
                for status in all {
                    let wire = wire(&status);
                    assert!(
                        wire < MAX_STATUS,
                        "{wire} bytes: {piece:?} {length} {:?}",
                        status.code()
                    );
                }
            }
        }
    }

    #[test]
    fn sixteen_violations_are_told_and_the_number_of_the_rest() {
        let fault = |n: usize| ("spec.labels".to_owned(), format!("key \"a {n}\" has ' '"));
        let status = invalid((0..60).map(fault), 3);
        let told = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(told.len(), 17);
        assert_eq!(told[15].description, "key \"a 15\" has ' '");
        assert_eq!(told[16].description, "and 47 more faults, not listed here");
        assert_eq!(told[16].field, "spec.labels");
    }

    #[test]
    fn what_fits_is_not_touched() {
        assert_eq!(status(Code::Internal, "cannot read ä").message(), "cannot read ä");
        let one = invalid([("id".into(), "must be set".into())], 0);
        assert_eq!(one.message(), "id: must be set");
    }
}
