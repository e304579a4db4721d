//! A canary: a small job that goes past a limit, what is done to it, and what is to be seen.

use std::time::Duration;

use job_api::v1::{Job, JobSpec};

use crate::failure::Failure;

/// A job of `/bin/sh -c SCRIPT`, and the checks that are made of what became of it.
pub(crate) struct Canary {
    /// Part of the job's name.
    pub(crate) name: &'static str,
    /// `$1` is the directory on the disk to check. Every script ends by itself, or by the deadline,
    /// and stays small also where no limit holds.
    pub(crate) script: &'static str,
    /// Adds the limits; the directory is given.
    pub(crate) limits: fn(&mut JobSpec, &str),
    /// What a second job does that has no limits and is there all the time.
    pub(crate) beside: Option<&'static str>,
    pub(crate) steps: &'static [Step],
    pub(crate) checks: &'static [Check],
    /// Its measurement wants a quiet host.
    pub(crate) is_alone: bool,
}

/// What is done, in order; everything but a pause of ours gives a [`Reading`].
pub(crate) enum Step {
    /// Milliseconds.
    Sleep(u64),
    Read,
    /// Reads until it is so, at most for so many milliseconds.
    Until(fn(&Job) -> bool, u64),
    Pause,
    Resume,
    /// With a grace period in milliseconds.
    Stop(u64),
    /// Waits for the exit status, at most for so many milliseconds.
    Exit(u64),
    /// Waits until nothing is left, at most for so many milliseconds.
    End(u64),
}

/// A line of the report.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    /// `DIR` stands for the directory.
    pub(crate) asked: &'static str,
    pub(crate) judge: fn(&Evidence) -> Finding,
}

/// The job as it was at a moment, with its usage.
pub(crate) struct Reading {
    /// Since its start, by our clock.
    pub(crate) at: Duration,
    pub(crate) job: Job,
}

/// What was seen of one canary.
#[derive(Default)]
pub(crate) struct Evidence {
    /// As many as the course has steps that read.
    pub(crate) readings: Vec<Reading>,
    /// The second job, after all else.
    pub(crate) beside: Option<Job>,
    /// The beginning of what it wrote to standard error.
    pub(crate) said: String,
}

/// Why nothing was seen.
#[derive(Debug)]
pub(crate) enum Unmeasured {
    /// The broker takes no such job, in its words.
    Refused(String),
    /// Something else went wrong.
    Failed(String),
    /// The broker is gone.
    Lost(Box<Failure>),
    Interrupted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Enforced,
    NotEnforced,
    /// The reason.
    Refused(String),
    /// The reason.
    Unchecked(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// For people; empty if nothing was.
    pub(crate) measured: String,
    pub(crate) verdict: Verdict,
}

impl Finding {
    pub(crate) fn of(is_enforced: bool, measured: String) -> Finding {
        let verdict = if is_enforced { Verdict::Enforced } else { Verdict::NotEnforced };
        Finding { measured, verdict }
    }

    pub(crate) fn unchecked(measured: impl Into<String>, reason: impl Into<String>) -> Finding {
        Finding { measured: measured.into(), verdict: Verdict::Unchecked(reason.into()) }
    }

    /// Another look would tell the same.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.verdict, Verdict::Enforced | Verdict::Refused(_))
    }
}

pub(crate) struct Row {
    pub(crate) check: &'static str,
    pub(crate) asked: &'static str,
    pub(crate) finding: Finding,
    /// The how manieth it was, from 1.
    pub(crate) look: usize,
}

impl Canary {
    pub(crate) fn judged(&self, outcome: &Result<Evidence, Unmeasured>, look: usize) -> Vec<Row> {
        let finding = |check: &Check| match outcome {
            Ok(evidence) => (check.judge)(evidence),
            Err(Unmeasured::Refused(reason)) => {
                Finding { measured: String::new(), verdict: Verdict::Refused(reason.clone()) }
            }
            Err(Unmeasured::Failed(reason)) => Finding::unchecked("", reason),
            Err(Unmeasured::Lost(_)) => Finding::unchecked("", "the connection was lost"),
            Err(Unmeasured::Interrupted) => Finding::unchecked("", "interrupted"),
        };
        let row = |check: &Check| Row {
            check: check.name,
            asked: check.asked,
            finding: finding(check),
            look,
        };
        self.checks.iter().map(row).collect()
    }
}
