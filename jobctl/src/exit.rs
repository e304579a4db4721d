//! Every exit status of `jobctl`, decided here and nowhere else.

use job_api::v1::{Cause, Job};

use crate::failure::{Failure, Kind};

/// The footer of `jobctl --help`.
pub(crate) const HELP: &str = "\
Exit status of run, start and wait:
  N      the job's own exit status (run, wait)
  128+N  signal N ended the job, e.g. 143 for SIGTERM
  124    the job reached its --time, or used up its --cpu-time
  125    refused by the broker, or wrong usage
  126    the program was found and could not be executed
  127    the program was not found
  137    the job ran out of memory, e.g. its --memory (or was ended by SIGKILL)
  255    not connected, connection lost for good, or the job itself was lost

Exit status of the other commands:
  0    done
  1    the broker said no, e.g. there is no such job
  125  wrong usage or settings
  255  not connected

  130  ended by Ctrl-C        141  whoever read the output has gone";

pub(crate) const OK: i32 = 0;
pub(crate) const REFUSED: i32 = 1;
const TIMED_OUT: i32 = 124;
const USAGE: i32 = 125;
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;
pub(crate) const INTERRUPTED: i32 = 130;
const OUT_OF_MEMORY: i32 = 137;
const READER_GONE: i32 = 141;
const LOST: i32 = 255;

/// Wrong options, as clap found them: 125, so that no job's own status is imitated (clap's is 2).
pub(crate) fn of_parsing(error: &clap::Error) -> i32 {
    if error.use_stderr() { USAGE } else { OK }
}

/// `runs_a_job`: the command answers with the job's status, so that 1 would be the job's.
pub(crate) fn of_failure(failure: &Failure, runs_a_job: bool) -> i32 {
    match &failure.kind {
        Kind::Usage => USAGE,
        Kind::Refused if runs_a_job => USAGE,
        Kind::Refused => REFUSED,
        Kind::NotStarted(why) => of_failed_start(&why.step, why.error_number),
        Kind::Unreachable => LOST,
        Kind::ReaderGone => READER_GONE,
        Kind::AlreadyPrinted(status) => *status,
    }
}

/// How `run` and `wait` exit for a job that has ended.
pub(crate) fn of_job(job: &Job) -> i32 {
    match job.cause() {
        Cause::TimedOut => return TIMED_OUT,
        Cause::OutOfMemory => return OUT_OF_MEMORY,
        Cause::Lost => return LOST,
        Cause::StartFailed => {
            let (step, errno) =
                job.failure.as_ref().map_or(("", 0), |f| (f.step.as_str(), f.error_number));
            return of_failed_start(step, errno);
        }
        _ => {}
    }
    match (job.exit_code, job.signal) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => LOST,
    }
}

fn of_failed_start(step: &str, errno: i32) -> i32 {
    match (step, errno) {
        ("exec", libc::ENOENT) => NOT_FOUND,
        ("exec", _) => NOT_EXECUTABLE,
        _ => USAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(cause: Cause, exit_code: Option<i32>, signal: Option<i32>) -> Job {
        Job { cause: cause.into(), exit_code, signal, ..Job::default() }
    }

    #[test]
    fn a_job_that_exited_gives_its_own_status() {
        assert_eq!(of_job(&ended(Cause::Exited, Some(0), None)), 0);
        assert_eq!(of_job(&ended(Cause::Exited, Some(7), None)), 7);
        assert_eq!(of_job(&ended(Cause::Stopped, Some(3), None)), 3);
    }

    #[test]
    fn a_signal_counts_from_128_unless_the_broker_knows_better() {
        assert_eq!(of_job(&ended(Cause::Signaled, None, Some(15))), 143);
        assert_eq!(of_job(&ended(Cause::Stopped, None, Some(9))), 137);
        assert_eq!(of_job(&ended(Cause::TimedOut, None, Some(15))), 124);
        assert_eq!(of_job(&ended(Cause::TimedOut, Some(0), None)), 124);
        assert_eq!(of_job(&ended(Cause::OutOfMemory, None, Some(9))), 137);
    }

    #[test]
    fn a_job_whose_end_is_not_known_is_never_a_success() {
        assert_eq!(of_job(&ended(Cause::Lost, None, None)), 255);
        assert_eq!(of_job(&ended(Cause::Unspecified, None, None)), 255);
    }

    #[test]
    fn a_start_that_failed_tells_missing_from_not_executable() {
        assert_eq!(of_failed_start("exec", libc::ENOENT), 127);
        assert_eq!(of_failed_start("exec", libc::EACCES), 126);
        assert_eq!(of_failed_start("exec", libc::ENOEXEC), 126);
        assert_eq!(of_failed_start("chdir", libc::ENOENT), 125);
    }
}
