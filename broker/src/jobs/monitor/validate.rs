//! Validates messages from a shim before the broker uses their numbers; an invalid one ends the connection.
//! The shim runs partly under the job's uid, so nothing here trusts it.

use job_shim::index;
use job_shim::wire::{Exited, FromShim, InputAck, Progress, ShimHello};

use crate::jobs::recovery_rules::is_end;

/// Above any file size, and low enough that sums do not overflow.
const MOST_BYTES: u64 = 1 << 60;
/// Latest time, in nanoseconds since 1970: what an i64 holds.
const MOST_TIME: u64 = i64::MAX as u64;

/// Checks a message.
///
/// # Errors
/// What is wrong, in words for an operator.
pub(crate) fn check(message: &FromShim) -> Result<(), String> {
    match message {
        FromShim::Hello(hello) => check_hello(hello),
        FromShim::Started(started) => time(started.time_ns),
        FromShim::Progress(value) => progress(value),
        FromShim::Ended(ended) => progress(&ended.progress),
        FromShim::InputAck(ack) => input(ack),
        FromShim::Exited(value) => exited(value),
        FromShim::Failed(_) | FromShim::Stopping | FromShim::Limits(_) => Ok(()),
    }
}

/// Checks a HELLO.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_hello(hello: &ShimHello) -> Result<(), String> {
    progress(&hello.progress)?;
    input(&hello.input)?;
    hello.started.as_ref().map_or(Ok(()), |started| time(started.time_ns))?;
    hello.exited.as_ref().map_or(Ok(()), exited)
}

fn progress(value: &Progress) -> Result<(), String> {
    let Progress { stdout, stderr, entries, dropped, .. } = *value;
    [stdout, stderr, index::length(entries), dropped].into_iter().try_for_each(bytes)
}

fn input(ack: &InputAck) -> Result<(), String> {
    bytes(ack.accepted)
}

fn exited(value: &Exited) -> Result<(), String> {
    if !is_end(value.wait_status) {
        return Err(format!("wait status {} is not that of an ended process", value.wait_status));
    }
    time(value.time_ns)
}

fn bytes(count: u64) -> Result<(), String> {
    if count > MOST_BYTES {
        Err(format!("a count of {count} bytes is out of range"))
    } else {
        Ok(())
    }
}

fn time(ns: u64) -> Result<(), String> {
    if ns > MOST_TIME { Err(format!("it tells the time {ns}")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use job_shim::wire::{Cause, Ended, Limits, Source, Started};

    fn value(wait_status: i32, time_ns: u64) -> Exited {
        let (cause, source, by) = (Cause::Exited, Source::None, String::new());
        Exited { wait_status, cause, source, by, time_ns }
    }

    fn hello() -> ShimHello {
        ShimHello {
            job: [1; 16],
            nonce: [2; 16],
            pid: 3,
            started: Some(Started { pid: 4, time_ns: 5 }),
            progress: Progress::default(),
            input: InputAck::default(),
            exited: Some(value(9, 6)),
            stopping: false,
            limits: Limits::default(),
        }
    }

    #[test]
    fn numbers_that_would_wrap_a_sum_are_no_shims() {
        let one =
            Progress { stdout: 1 << 50, stderr: 2, entries: 1 << 50, dropped: 4, blocked: None };
        for kept in [Progress::default(), one] {
            assert_eq!(check(&FromShim::Progress(kept)), Ok(()));
        }
        for wraps in [
            Progress { stdout: u64::MAX, ..one },
            Progress { stderr: MOST_BYTES + 1, ..one },
            Progress { entries: u64::MAX / 32, ..one },
            Progress { dropped: u64::MAX, ..one },
        ] {
            check(&FromShim::Progress(wraps)).unwrap_err();
            check(&FromShim::Ended(Ended { progress: wraps })).unwrap_err();
            check(&FromShim::Hello(Box::new(ShimHello { progress: wraps, ..hello() })))
                .unwrap_err();
        }
        let input = InputAck { accepted: u64::MAX, closed: false };
        check(&FromShim::InputAck(input)).unwrap_err();
        check_hello(&ShimHello { input, ..hello() }).unwrap_err();
        check_hello(&hello()).unwrap();
    }

    #[test]
    fn an_end_that_wait_never_gives_and_times_beyond_all_clocks_are_no_shims() {
        for end in [0, 7 << 8, 9, 9 | 0x80] {
            check(&FromShim::Exited(value(end, 1))).unwrap();
        }
        for (end, time_ns) in [(-1, 1), (0x7f, 1), (0x10000, 1), (0, u64::MAX)] {
            check(&FromShim::Exited(value(end, time_ns))).unwrap_err();
            check_hello(&ShimHello { exited: Some(value(end, time_ns)), ..hello() }).unwrap_err();
        }
        check(&FromShim::Started(Started { pid: 1, time_ns: u64::MAX })).unwrap_err();
    }
}
