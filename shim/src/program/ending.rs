//! How a job comes to its end: who asked first, and when force is used. Pure: time comes in,
//! deeds go out. All times are since boot.

use std::time::Duration;

use job_shim::launch::Launch;
use job_shim::wire::{Cause, Exited, Signal, Source, Stop};

/// What is to be done to the workload now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Nothing,
    /// The stop signal, to all.
    Ask,
    /// cgroup.kill.
    Kill,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Reason {
    cause: Cause,
    source: Source,
    by: String,
}

/// From one kill to the next while something is left, and the longest such pause: whoever joined
/// after the first dies soon, and one that hangs in the kernel does not keep the shim busy.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The first signal is 1, the last 64.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// Everything that is going to end this job.
pub(crate) struct Ending {
    time_limit: Option<Duration>,
    stop_timeout: Duration,
    leftover_grace: Duration,
    /// Why it ends; the first one counts.
    reason: Option<Reason>,
    deadline: Option<Duration>,
    kill_at: Option<Duration>,
    pause: Duration,
    /// The last of each number that was sent, to know later whose doing a death was.
    signals: Vec<Signal>,
}

impl Ending {
    /// Nothing ends it yet.
    pub(crate) fn new(launch: &Launch) -> Ending {
        Ending {
            time_limit: launch.time_limit_ms.map(Duration::from_millis),
            stop_timeout: Duration::from_millis(launch.stop_timeout_ms),
            leftover_grace: Duration::from_millis(launch.leftover_grace_ms),
            reason: None,
            deadline: None,
            kill_at: None,
            pause: PAUSES.0,
            signals: Vec::new(),
        }
    }

    /// The program runs: its time begins.
    pub(crate) fn started(&mut self, now: Duration) {
        self.deadline = self.time_limit.map(|limit| now.saturating_add(limit));
    }

    /// Somebody wants it to stop. One who comes later cannot change the reason, nor give it more
    /// time.
    pub(crate) fn stop(&mut self, now: Duration, stop: Stop) -> Deed {
        let reason = Reason { cause: Cause::Stopped, source: stop.source, by: stop.by };
        self.end(now, reason, Duration::from_millis(stop.grace_ms))
    }

    /// It has written more than it may, and is to be killed for that.
    pub(crate) fn output_limit(&mut self, now: Duration) -> Deed {
        let (cause, source) = (Cause::OutputLimit, Source::System);
        self.end(now, Reason { cause, source, by: String::new() }, Duration::ZERO)
    }

    /// Whether something is ending it.
    pub(crate) fn has_begun(&self) -> bool {
        self.reason.is_some()
    }

    /// A signal was sent to the main process.
    pub(crate) fn signaled(&mut self, signal: Signal) {
        if SIGNALS.contains(&signal.number) {
            self.signals.retain(|earlier| earlier.number != signal.number);
            self.signals.push(signal);
        }
    }

    /// The main process has ended with this wait status: what is left gets its grace.
    pub(crate) fn exited(&mut self, now: Duration, wait_status: i32, time_ns: u64) -> Exited {
        self.deadline = None;
        self.kill_within(now, self.leftover_grace);
        let Reason { cause, source, by } =
            self.reason.clone().unwrap_or_else(|| self.own_end(wait_status));
        Exited { wait_status, cause, source, by, time_ns }
    }

    /// Nothing is left to end.
    pub(crate) fn emptied(&mut self) {
        self.kill_at = None;
    }

    /// What is due.
    pub(crate) fn due(&mut self, now: Duration) -> Deed {
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            let (cause, source) = (Cause::TimedOut, Source::Timeout);
            return self.end(now, Reason { cause, source, by: String::new() }, self.stop_timeout);
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSES.1);
            return Deed::Kill;
        }
        Deed::Nothing
    }

    /// When something will be due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.deadline.into_iter().chain(self.kill_at).min()
    }

    fn end(&mut self, now: Duration, reason: Reason, grace: Duration) -> Deed {
        let first = self.reason.is_none();
        self.reason.get_or_insert(reason);
        self.kill_within(now, grace);
        match self.due(now) {
            Deed::Nothing if first => Deed::Ask,
            deed => deed,
        }
    }

    fn kill_within(&mut self, now: Duration, grace: Duration) {
        let at = now.saturating_add(grace);
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn own_end(&self, wait_status: i32) -> Reason {
        if !libc::WIFSIGNALED(wait_status) {
            return Reason { cause: Cause::Exited, source: Source::None, by: String::new() };
        }
        let number = libc::WTERMSIG(wait_status);
        let sent = self.signals.iter().find(|signal| signal.number == number);
        let (source, by) =
            sent.map_or((Source::System, String::new()), |s| (s.source, s.by.clone()));
        Reason { cause: Cause::Signaled, source, by }
    }
}

#[cfg(test)]
mod tests {
    use job_shim::launch::OutputPolicy;

    use super::*;

    const EXITED_0: i32 = 0;
    const KILLED: i32 = 9;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(1_000_000 + ms)
    }

    fn ending(time_limit_ms: Option<u64>) -> Ending {
        let mut ending = Ending::new(&Launch {
            job: [0; 16],
            nonce: [0; 16],
            boot_id: [0; 16],
            argv: Vec::new(),
            env: Vec::new(),
            working_directory: Vec::new(),
            uid: 1,
            gid: 1,
            groups: Vec::new(),
            shim_uid: 2,
            shim_gid: 2,
            stdin: false,
            time_limit_ms,
            stop_signal: 15,
            stop_timeout_ms: 500,
            leftover_grace_ms: 200,
            output_limit: None,
            output_policy: OutputPolicy::Discard,
        });
        ending.started(at(0));
        ending
    }

    fn stop(grace_ms: u64, by: &str) -> Stop {
        Stop { grace_ms, source: Source::User, by: by.into() }
    }

    fn cause(ending: &mut Ending, wait_status: i32) -> (Cause, Source, String) {
        let exited = ending.exited(at(9_000), wait_status, 1);
        (exited.cause, exited.source, exited.by)
    }

    #[test]
    fn who_stops_first_is_the_reason() {
        let mut ending = ending(Some(50));
        assert_eq!(ending.stop(at(0), stop(5_000, "a")), Deed::Ask);
        assert_eq!(ending.stop(at(1), stop(5_000, "b")), Deed::Nothing);
        assert_eq!(ending.due(at(50)), Deed::Nothing, "the deadline asks nobody again");
        assert_eq!(cause(&mut ending, KILLED), (Cause::Stopped, Source::User, "a".into()));
    }

    #[test]
    fn a_later_stop_can_only_shorten_the_grace() {
        let mut ending = ending(None);
        ending.stop(at(0), stop(1_000, "a"));
        ending.stop(at(10), stop(100, "b"));
        assert_eq!(ending.next(), Some(at(110)));
        ending.stop(at(20), stop(5_000, "c"));
        assert_eq!(ending.next(), Some(at(110)));
        assert_eq!(ending.stop(at(30), stop(0, "d")), Deed::Kill);
    }

    #[test]
    fn without_grace_it_is_killed_and_not_asked() {
        assert_eq!(ending(None).stop(at(0), stop(0, "a")), Deed::Kill);
    }

    #[test]
    fn the_deadline_asks_and_then_kills() {
        let mut ending = ending(Some(100));
        assert_eq!(ending.due(at(99)), Deed::Nothing);
        assert_eq!(ending.next(), Some(at(100)));
        assert_eq!(ending.due(at(100)), Deed::Ask);
        assert_eq!(ending.next(), Some(at(600)));
        assert_eq!(ending.due(at(600)), Deed::Kill);
        assert_eq!(cause(&mut ending, KILLED), (Cause::TimedOut, Source::Timeout, String::new()));
    }

    #[test]
    fn it_is_killed_again_until_nothing_is_left() {
        let mut ending = ending(None);
        ending.stop(at(0), stop(0, "a"));
        assert_eq!(ending.next(), Some(at(50)));
        assert_eq!(ending.due(at(50)), Deed::Kill);
        assert_eq!(ending.next(), Some(at(150)));
        ending.emptied();
        assert_eq!(ending.next(), None);
    }

    #[test]
    fn what_outlives_the_main_process_has_its_own_grace() {
        let mut ending = ending(Some(100));
        assert_eq!(cause(&mut ending, EXITED_0), (Cause::Exited, Source::None, String::new()));
        assert_eq!(ending.next(), Some(at(9_200)), "and the deadline is over");
        assert_eq!(ending.due(at(9_200)), Deed::Kill);
    }

    #[test]
    fn leftovers_get_no_more_time_than_the_stop_has_left() {
        let mut ending = ending(None);
        ending.stop(at(8_000), stop(1_100, "a"));
        ending.exited(at(9_000), EXITED_0, 1);
        assert_eq!(ending.next(), Some(at(9_100)));
    }

    #[test]
    fn a_death_by_signal_is_the_senders_doing_if_it_is_that_signal() {
        let sent = |number| Signal { number, source: Source::Admin, by: "root".into() };
        let mut by_it = ending(None);
        by_it.signaled(sent(10));
        by_it.signaled(sent(9));
        assert_eq!(cause(&mut by_it, KILLED), (Cause::Signaled, Source::Admin, "root".into()));
        let mut by_other = ending(None);
        by_other.signaled(sent(10));
        let system = (Cause::Signaled, Source::System, String::new());
        assert_eq!(cause(&mut by_other, KILLED), system);
    }

    #[test]
    fn limits_beyond_all_time_never_come() {
        let mut ending = ending(Some(u64::MAX));
        assert_eq!(ending.stop(at(0), stop(u64::MAX, "a")), Deed::Ask);
        assert_eq!(ending.due(Duration::from_secs(1 << 40)), Deed::Nothing);
    }
}
