//! What went wrong, in words: `jobctl: what: why`, the details, and a hint where there is
//! something to do.

use std::io::{self, Write as _};

use job_api::ERROR_DOMAIN;
use job_api::client::{ConnectError, status_cause};
use job_api::v1::Failure as JobFailure;
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt as _};

use crate::text::escape;
use crate::{errno, tls};

/// Whose doing it was, which decides the exit status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The caller's options, environment or files.
    Usage,
    /// The broker answered no.
    Refused,
    /// The job was made and its program could not be started.
    NotStarted { step: String, errno: i32 },
    /// No connection, or lost for good.
    Unreachable,
    /// Nobody reads standard output any more; nothing is said.
    ReaderGone,
    /// All has been said already; only the exit status is left.
    Told(i32),
}

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What the broker answered, where it did.
    pub(crate) code: Option<Code>,
    what: String,
    details: Vec<String>,
    hint: Option<String>,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Failure { kind, code: None, what: what.into(), details: Vec::new(), hint: None }
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

    pub(crate) fn told(status: i32) -> Self {
        Failure::new(Kind::Told(status), "")
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
        if let Some(failure) = not_started(what, status) {
            return failure;
        }
        let cause = call_cause(status);
        if let Some(failure) = Failure::of_tls(addr, &cause) {
            return failure;
        }
        if is_transient(status) {
            return Failure::unreachable(format!("{what}: connection to {addr} lost: {cause}"));
        }
        let mut failure = Failure::refused(format!("{what}: {}", escape(status.message())))
            .details(violations(status));
        failure.code = Some(status.code());
        match status.code() {
            Code::Unauthenticated => failure
                .hint("\"jobctl auth whoami\" shows who you are; --cert and --key say as whom"),
            _ => failure,
        }
    }

    /// What TLS refuses for good; `None` for any other cause.
    pub(crate) fn of_tls(addr: &str, cause: &str) -> Option<Self> {
        let said = tls::in_words(cause)?;
        let what = format!("cannot connect to {addr}: {}", said.what);
        Some(Failure::unreachable(what).hint(said.hint))
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
    pub(crate) fn tell(&self) {
        if matches!(self.kind, Kind::ReaderGone | Kind::Told(_)) {
            return;
        }
        say(&self.what);
        for detail in &self.details {
            say_plain(&format!("  {detail}"));
        }
        if let Some(hint) = &self.hint {
            say_plain(&format!("hint: {hint}"));
        }
    }
}

/// `jobctl: TEXT` on standard error. A closed standard error is nobody's failure.
pub(crate) fn say(text: &str) {
    say_plain(&format!("jobctl: {text}"));
}

fn say_plain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether the same call may go well on a new connection: the broker did not answer at all, or said
/// that it cannot now. What TLS refuses once it refuses again.
pub(crate) fn is_transient(status: &Status) -> bool {
    if tls::in_words(&call_cause(status)).is_some() {
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

/// Every field that the broker found fault with: `spec.argv: must not be empty`.
fn violations(status: &Status) -> Vec<String> {
    let bad = status.get_details_bad_request().map(|bad| bad.field_violations);
    bad.unwrap_or_default()
        .iter()
        .map(|v| format!("{}: {}", escape(&v.field), escape(&v.description)))
        .collect()
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
    let kind = Kind::NotStarted { step: failure.step.clone(), errno: failure.error_number };
    let said = Failure::new(kind, format!("{what}: {}", start_failure(&failure)));
    Some(match start_hint(&failure) {
        Some(hint) => said.hint(hint),
        None => said,
    })
}

/// `step exec: No such file or directory (ENOENT): "/no/such"`.
pub(crate) fn start_failure(failure: &JobFailure) -> String {
    let mut text = format!("step {}", escape(&failure.step));
    let message = escape(&failure.message);
    if failure.error_number == 0 {
        return format!("{text}: {message}");
    }
    let (meaning, name) = errno::in_words(failure.error_number);
    text.push_str(&format!(": {meaning} ({name})"));
    // The broker's message names the file or setting; said once is enough where it repeats us.
    let rest = message.find(&text).map_or(&*message, |at| &message[at + text.len()..]);
    let rest = rest.trim_start_matches([':', ' ']);
    if rest.is_empty() { text } else { format!("{text}: {rest}") }
}

fn start_hint(failure: &JobFailure) -> Option<&'static str> {
    match (failure.step.as_str(), failure.error_number) {
        ("exec", libc::ENOENT) => Some(
            "the program is looked up on the broker's host, in the job's PATH; \
             a missing interpreter (\"#!\") looks the same",
        ),
        ("exec" | "chdir", libc::EACCES) => {
            Some("the job's account (see --user) must be allowed to reach it on the broker's host")
        }
        ("exec", libc::ENOEXEC) => Some("a script needs a first line such as \"#!/bin/sh\""),
        ("chdir", libc::ENOENT) => Some("--workdir is a directory of the broker's host"),
        _ => None,
    }
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
        let failure =
            Failure::of_call("cannot start", "b:1", &start_failed("exec", 2, "\"/no/such\""));
        assert_eq!(
            failure.what,
            "cannot start: step exec: No such file or directory (ENOENT): \"/no/such\""
        );
        assert_eq!(failure.kind, Kind::NotStarted { step: "exec".into(), errno: 2 });
    }

    #[test]
    fn a_message_that_says_it_all_is_not_said_twice() {
        let message = "step exec: No such file or directory (ENOENT): \"/no/such\"";
        let failure = Failure::of_call("cannot start", "b:1", &start_failed("exec", 2, message));
        assert_eq!(failure.what, format!("cannot start: {message}"));
    }

    #[test]
    fn a_bad_request_lists_each_field() {
        let details = ErrorDetails::with_bad_request(vec![
            tonic_types::FieldViolation::new("spec.argv", "must not be empty"),
            tonic_types::FieldViolation::new("spec.name", "has ' '"),
        ]);
        let status = Status::with_error_details(Code::InvalidArgument, "2 fields", details);
        let failure = Failure::of_call("cannot start", "b:1", &status);
        assert_eq!(failure.details, ["spec.argv: must not be empty", "spec.name: has ' '"]);
        assert_eq!(failure.kind, Kind::Refused);
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
