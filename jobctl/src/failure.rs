//! What went wrong, in words: `jobctl: what: why`, the details, and a hint where there is
//! something to do.

use std::io::{self, Write as _};

use job_api::client::{ConnectError, status_cause};
use job_api::v1::{Failure as JobFailure, JobSpec};
use job_api::{ERROR_DOMAIN, REQUEST_ID_METADATA};
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt as _};

use crate::format::escape::escape;
use crate::format::start_failure::{start_failure, start_hint};
use crate::format::tls;

/// What kind of failure, which decides the exit status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The caller's options, environment or files.
    Usage,
    /// The broker answered no.
    Refused,
    /// The job was made and its program could not be started.
    NotStarted(Box<JobFailure>),
    /// No connection, or lost for good.
    Unreachable,
    /// Nobody reads standard output any more; nothing is printed.
    ReaderGone,
    /// The message is printed already; only the exit status is left.
    AlreadyPrinted(i32),
}

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What the broker answered, where it did.
    pub(crate) code: Option<Code>,
    what: String,
    details: Vec<String>,
    hint: Option<String>,
    /// The broker's id of the call that failed; its audit has it.
    request_id: Option<String>,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        let (code, hint, request_id) = (None, None, None);
        Failure { kind, code, what: what.into(), details: Vec::new(), hint, request_id }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Failure::new(Kind::Usage, what)
    }

    pub(crate) fn unreachable(what: impl Into<String>) -> Self {
        Failure::new(Kind::Unreachable, what)
    }

    /// For what the client finds out itself from the broker's answers.
    pub(crate) fn refused(what: impl Into<String>) -> Self {
        Failure::new(Kind::Refused, what)
    }

    pub(crate) fn already_printed(status: i32) -> Self {
        Failure::new(Kind::AlreadyPrinted(status), "")
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// A call that failed; `what` is what was wanted: "cannot stop web".
    pub(crate) fn of_call(what: &str, addr: &str, status: &Status) -> Self {
        Failure { request_id: request_id(status), ..Failure::in_words(what, addr, status) }
    }

    fn in_words(what: &str, addr: &str, status: &Status) -> Self {
        if let Some(failure) = not_started(what, status) {
            return failure;
        }
        let cause = call_cause(status);
        if let Some(failure) = Failure::of_tls(addr, &cause) {
            return failure;
        }
        if is_transient(status) {
            // The broker has answered that it cannot now, e.g. while it comes back.
            let lost = match (status_cause(status), status.code()) {
                (None, Code::Unavailable) => String::new(),
                _ => format!("connection to {addr} lost: "),
            };
            return Failure::unreachable(format!("{what}: {lost}{cause}"));
        }
        // The fields' faults are the message in full, where there are any.
        let faults = violations(status);
        let mut failure = match faults.as_slice() {
            [] => Failure::refused(format!("{what}: {}", escape(status.message()))),
            [one] => Failure::refused(format!("{what}: {one}")),
            many => {
                Failure::refused(format!("{what}: {} things are wrong", many.len())).details(faults)
            }
        };
        failure.code = Some(status.code());
        match status.code() {
            Code::Unauthenticated => failure
                .hint("\"jobctl auth whoami\" shows who you are; --cert and --key say as whom"),
            _ => failure,
        }
    }

    /// The broker made the job, and a step of its start failed.
    pub(crate) fn not_started(what: &str, failure: JobFailure, spec: &JobSpec) -> Self {
        let said = format!("{what}: {}", start_failure(&failure, spec));
        let hint = start_hint(&failure).map(str::to_owned);
        Failure { hint, ..Failure::new(Kind::NotStarted(Box::new(failure)), said) }
    }

    /// What TLS refuses for good; `None` for any other cause.
    pub(crate) fn of_tls(addr: &str, cause: &str) -> Option<Self> {
        Some(Failure::refused_by_tls(addr, tls::in_words(cause)?))
    }

    /// Whatever it was that TLS has refused.
    pub(crate) fn refused_by_tls(addr: &str, said: tls::Explanation) -> Self {
        let what = format!("cannot connect to {addr}: {}", said.what);
        Failure::unreachable(what).hint(said.hint)
    }

    /// No connection at the first attempt.
    pub(crate) fn of_connect(addr: &str, error: &ConnectError) -> Self {
        match error {
            ConnectError::Transport(cause) => Failure::of_tls(addr, cause).unwrap_or_else(|| {
                Failure::unreachable(format!("cannot connect to {addr}: {}", plain(cause)))
                    .hint("is the address right, and does job-broker run and listen there?")
            }),
            ConnectError::Address(_) => Failure::usage(error.to_string()),
            ConnectError::Pem { .. } | ConnectError::Identity(_) => Failure::usage(
                error.to_string(),
            )
            .hint("the files are those of --ca, --cert and --key, their variables or context"),
        }
    }

    /// A write to standard output that failed: quietly, if its reader has gone.
    pub(crate) fn of_stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Kind::ReaderGone, ""),
            _ => Failure::usage(format!("cannot write to standard output: {error}")),
        }
    }

    /// To standard error, once.
    pub(crate) fn print(&self) {
        if matches!(self.kind, Kind::ReaderGone | Kind::AlreadyPrinted(_)) {
            return;
        }
        notice(&self.what);
        for detail in &self.details {
            print_line(&format!("  {detail}"));
        }
        if let Some(hint) = &self.hint {
            print_line(&format!("hint: {hint}"));
        }
        if let Some(id) = &self.request_id {
            print_line(&format!("request id: {id}"));
        }
    }
}

/// `jobctl: TEXT` on standard error. A closed standard error is nobody's failure.
pub(crate) fn notice(text: &str) {
    print_line(&format!("jobctl: {text}"));
}

fn print_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether the same call may go well on a new connection: the broker did not answer at all, or said
/// that it cannot now. What TLS refuses once it refuses again.
pub(crate) fn is_transient(status: &Status) -> bool {
    if tls::in_words(&call_cause(status)).is_some() {
        return false;
    }
    // An operator has to look at it.
    let info = status.get_details_error_info();
    if info.is_some_and(|info| info.reason == "AUDIT_UNAVAILABLE") {
        return false;
    }
    let from_transport = std::error::Error::source(status).is_some()
        || status.message().starts_with("h2 protocol error");
    from_transport || matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown)
}

/// Why a call failed, at its innermost: what the socket or TLS said, else the broker.
pub(crate) fn call_cause(status: &Status) -> String {
    match status_cause(status) {
        Some(cause) => plain(&cause),
        None => escape(status.message()).into_owned(),
    }
}

/// A cause without what only programmers read.
fn plain(cause: &str) -> String {
    if cause.contains("without sending TLS close_notify") {
        return "the broker closed the connection".to_owned();
    }
    let words = cause.split(" (os error").next().unwrap_or(cause);
    escape(words).into_owned()
}

/// The broker's id of the call, where the broker answered.
fn request_id(status: &Status) -> Option<String> {
    let id = status.metadata().get(REQUEST_ID_METADATA)?.to_str().ok()?;
    Some(escape(id).into_owned())
}

/// Every field that the broker found fault with: `spec.argv: must not be empty`.
fn violations(status: &Status) -> Vec<String> {
    let bad = status.get_details_bad_request().map(|bad| bad.field_violations);
    bad.unwrap_or_default()
        .iter()
        .map(|v| format!("{}: {}", escape(&v.field), escape(&v.description)))
        .collect()
}

/// What the broker answered: every field that it found fault with, else its message.
pub(crate) fn rejection(status: &Status) -> String {
    match violations(status).as_slice() {
        [] => escape(status.message()).into_owned(),
        faults => faults.join("; "),
    }
}

fn not_started(what: &str, status: &Status) -> Option<Failure> {
    let ErrorInfo { reason, domain, metadata } = status.get_details_error_info()?;
    if reason != "START_FAILED" || domain != ERROR_DOMAIN {
        return None;
    }
    let field = |name: &str| metadata.get(name).map(String::as_str).unwrap_or_default();
    let failure = JobFailure {
        step: field("step").to_owned(),
        error_number: field("errno").parse().unwrap_or(0),
        message: status.message().to_owned(),
    };
    Some(Failure::not_started(what, failure, &JobSpec::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    fn start_failed(step: &str, errno: i32, message: &str) -> Status {
        let metadata = HashMap::from([
            ("step".to_owned(), step.to_owned()),
            ("errno".to_owned(), errno.to_string()),
        ]);
        let details = ErrorDetails::with_error_info("START_FAILED", ERROR_DOMAIN, metadata);
        Status::with_error_details(Code::FailedPrecondition, message, details)
    }

    #[test]
    fn a_failed_start_names_step_errno_and_file() {
        let status = start_failed("exec", 2, "step exec: No such file or directory (os error 2)");
        let failure = Failure::of_call("cannot start", "b:1", &status);
        assert_eq!(failure.what, "cannot start: step exec: No such file or directory (ENOENT)");
        let Kind::NotStarted(why) = failure.kind else { panic!("{:?}", failure.kind) };
        let spec = JobSpec { argv: vec!["/no/such".into()], ..JobSpec::default() };
        assert_eq!(
            Failure::not_started("cannot start", *why, &spec).what,
            "cannot start: step exec: No such file or directory (ENOENT): \"/no/such\""
        );
    }

    #[test]
    fn a_step_without_a_file_keeps_the_brokers_words() {
        let status = start_failed("setresuid", 11, "uid 70000 has too many processes");
        let failure = Failure::of_call("cannot start", "b:1", &status);
        assert!(failure.what.ends_with("(EAGAIN): uid 70000 has too many processes"));
    }

    #[test]
    fn a_bad_request_lists_each_field() {
        let fault = |field: &str| tonic_types::FieldViolation::new(field, "must not be empty");
        let refused = |faults: Vec<_>| {
            let details = ErrorDetails::with_bad_request(faults);
            let status = Status::with_error_details(Code::InvalidArgument, "all at once", details);
            Failure::of_call("cannot start", "b:1", &status)
        };
        let one = refused(vec![fault("spec.argv")]);
        assert_eq!(one.what, "cannot start: spec.argv: must not be empty");
        assert_eq!(one.kind, Kind::Refused);
        let two = refused(vec![fault("spec.argv"), fault("spec.name")]);
        assert_eq!(two.what, "cannot start: 2 things are wrong");
        let listed = ["spec.argv: must not be empty", "spec.name: must not be empty"];
        assert_eq!(two.details, listed);
    }

    #[test]
    fn only_silence_and_unavailability_are_tried_again() {
        assert!(is_transient(&Status::unavailable("going down")));
        assert!(is_transient(&Status::cancelled("reset")));
        assert!(is_transient(&Status::from_error("broken pipe".into())));
        assert!(!is_transient(&Status::not_found("no such job")));
        assert!(!is_transient(&Status::internal("cannot read the log")));
        assert!(!is_transient(&Status::from_error(
            "received fatal alert: CertificateRevoked".into()
        )));
    }

    #[test]
    fn what_the_broker_says_cannot_steer_the_terminal() {
        let failure = Failure::of_call("x", "b:1", &Status::not_found("\x1b[2J"));
        assert_eq!(failure.what, "x: \\x1b[2J");
    }
}
