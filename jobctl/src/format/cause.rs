//! Why a job ended, in words.

use job_api::v1::{Cause, Job};

use crate::format::escape::escape;
use crate::format::limits;
use crate::format::start_failure::start_failure;

/// What the exit status alone does not tell, without its subject: "was stopped by admin". `None`
/// for a job that ended by itself, or has not ended.
pub(crate) fn reason(job: &Job) -> Option<String> {
    Some(match job.cause() {
        Cause::TimedOut if job.ended_by_limit == "cpu_time_limit" => {
            format!("used up its CPU time limit{} and was ended", of(job, "cpu_time_limit"))
        }
        Cause::TimedOut => format!("reached its time limit{} and was ended", of(job, "time_limit")),
        Cause::OutOfMemory => format!("ran out of memory{} and was ended", memory(job)),
        Cause::OutputLimit => {
            format!("reached its output limit{} and was ended", of(job, "output_limit"))
        }
        Cause::Stopped if job.ended_by.is_empty() => "was stopped".to_owned(),
        Cause::Stopped => format!("was stopped by {}", escape(&job.ended_by)),
        Cause::StartFailed => failed(job, "could not start"),
        Cause::Lost => failed(job, "was lost"),
        Cause::Exited | Cause::Signaled | Cause::Unspecified => return None,
    })
}

/// ` of 10m`, where it is known.
fn of(job: &Job, limit: &str) -> String {
    limits::bound(job, limit).map_or_else(String::new, |words| format!(" of {words}"))
}

/// Not only its own limit may have ended it: that of a cgroup above, or the host's memory.
fn memory(job: &Job) -> String {
    let Some(limit) =
        limits::limit(job, "memory.max").filter(|_| job.ended_by_limit == "memory.max")
    else {
        return String::new();
    };
    let above = limit.effective.as_ref().filter(|_| !limit.bound_by.is_empty());
    match above {
        Some(value) => format!(
            " (limit of {}: {})",
            escape(&limit.bound_by),
            limits::in_words("memory.max", value)
        ),
        None => limits::bound(job, "memory.max")
            .map_or_else(String::new, |words| format!(" (its limit: {words})")),
    }
}

fn failed(job: &Job, what: &str) -> String {
    let spec = job.spec.clone().unwrap_or_default();
    match &job.failure {
        Some(failure) => format!("{what}: {}", start_failure(failure, &spec)),
        None => what.to_owned(),
    }
}

/// Behind a number of bytes: why they were not kept.
pub(crate) fn why_dropped(job: &Job) -> &'static str {
    if job.incomplete {
        "past the output limit, or since the disk was full when the job was ended"
    } else {
        "past the output limit"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use job_api::v1::Limit;

    fn ended(cause: Cause, limit: &str, limits: &[(&str, &str)]) -> Job {
        let limits = limits.iter().map(|(name, value)| Limit {
            name: (*name).into(),
            requested: (*value).into(),
            applied: Some((*value).into()),
            ..Limit::default()
        });
        Job {
            cause: cause.into(),
            ended_by_limit: limit.into(),
            limits: limits.collect(),
            ..Job::default()
        }
    }

    #[test]
    fn the_limit_that_ended_it_is_named_with_its_value() {
        let limits = [
            ("time_limit", "600s"),
            ("cpu_time_limit", "10s"),
            ("memory.max", "67108864"),
            ("output_limit", "1024"),
        ];
        let said = |cause, limit| reason(&ended(cause, limit, &limits)).expect("a reason");
        assert_eq!(
            said(Cause::TimedOut, "cpu_time_limit"),
            "used up its CPU time limit of 10s and was ended"
        );
        assert_eq!(
            said(Cause::TimedOut, "time_limit"),
            "reached its time limit of 10m and was ended"
        );
        assert_eq!(
            said(Cause::OutOfMemory, "memory.max"),
            "ran out of memory (its limit: 64 MiB) and was ended"
        );
        assert_eq!(
            said(Cause::OutputLimit, "output_limit"),
            "reached its output limit of 1 KiB and was ended"
        );
    }

    #[test]
    fn memory_that_somebody_elses_limit_or_the_host_refused_is_not_called_its_own() {
        let mut job = ended(Cause::OutOfMemory, "memory.max", &[("memory.max", "max")]);
        job.limits[0].effective = Some("1048576".into());
        job.limits[0].bound_by = "/jobs.slice".into();
        let above = "ran out of memory (limit of /jobs.slice: 1 MiB) and was ended";
        assert_eq!(reason(&job).as_deref(), Some(above));
        let host = ended(Cause::OutOfMemory, "", &[("memory.max", "67108864")]);
        assert_eq!(reason(&host).as_deref(), Some("ran out of memory and was ended"));
    }

    #[test]
    fn who_stopped_it_is_named_and_an_exit_needs_no_words() {
        let mut job = ended(Cause::Stopped, "", &[]);
        assert_eq!(reason(&job).as_deref(), Some("was stopped"));
        job.ended_by = "ad\x1bmin".into();
        assert_eq!(reason(&job).as_deref(), Some("was stopped by ad\\x1bmin"));
        assert_eq!(reason(&ended(Cause::Exited, "", &[])), None);
        assert_eq!(reason(&Job::default()), None);
    }
}
