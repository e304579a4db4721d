//! Why a program could not be started, and what to do about it.

use job_api::v1::{Failure, JobSpec};

use super::errno;
use super::escape::escape;

/// `step exec: No such file or directory (ENOENT): "/no/such"`.
pub(crate) fn start_failure(failure: &Failure, spec: &JobSpec) -> String {
    let (step, message) = (escape(&failure.step), escape(&failure.message));
    if failure.error_number == 0 {
        return format!("step {step}: {message}");
    }
    let (meaning, name) = errno::in_words(failure.error_number);
    let said = format!("step {step}: {meaning} ({name})");
    let subject = match failure.step.as_str() {
        "exec" => spec.argv.first(),
        "chdir" => Some(&spec.working_directory),
        _ => None,
    };
    match subject.filter(|subject| !subject.is_empty()) {
        Some(subject) => format!("{said}: \"{}\"", escape(subject)),
        None if message.contains(&meaning) => said,
        None => format!("{said}: {message}"),
    }
}

/// What to do about it, where something can be said.
pub(crate) fn start_hint(failure: &Failure) -> Option<&'static str> {
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
