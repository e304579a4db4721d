//! How a job ends: which cause was first, and when it is killed. Pure: times in, actions out. All times
//! are since boot.

use std::time::Duration;

use job_shim::launch::Launch;
use job_shim::wire::{Cause, Exited, Limits, Signal, Source, Stop};

use super::cpu_time::CpuTime;

/// What to do to the workload now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    /// Send the stop signal to all processes.
    Ask,
    /// Write cgroup.kill.
    Kill,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Reason {
    cause: Cause,
    source: Source,
    by: String,
}

impl Reason {
    /// Nobody's in particular.
    fn by_nobody(cause: Cause, source: Source) -> Reason {
        Reason { cause, source, by: String::new() }
    }
}

/// The first and the longest delay between kills while processes are left: a process that joined after
/// the first kill dies soon, and one that hangs in the kernel does not keep the shim busy.
const KILL_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The first signal is 1, the last 64.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// Everything that can end this job.
pub(crate) struct Ending {
    time_limit: Option<Duration>,
    stop_timeout: Duration,
    leftover_grace: Duration,
    /// While the program runs: since when.
    running: Option<Duration>,
    cpu_time: CpuTime,
    /// Why it ends; the first cause wins.
    reason: Option<Reason>,
    deadline: Option<Duration>,
    /// The deadline, once the main process has ended: until then the disk has time for its output.
    patience: Option<Duration>,
    /// That has passed.
    is_late: bool,
    kill_at: Option<Duration>,
    pause: Duration,
    /// The last of each number that was sent, to know later whose doing a death was.
    signals: Vec<Signal>,
    /// The kernel killed for memory, before anything else came to end it.
    out_of_memory: bool,
}

impl Ending {
    /// Nothing ends it yet.
    pub(crate) fn new(launch: &Launch) -> Ending {
        Ending {
            time_limit: launch.limits.time_ms.map(Duration::from_millis),
            stop_timeout: Duration::from_millis(launch.stop_timeout_ms),
            leftover_grace: Duration::from_millis(launch.leftover_grace_ms),
            running: None,
            cpu_time: CpuTime::new(&launch.limits),
            reason: None,
            deadline: None,
            patience: None,
            is_late: false,
            kill_at: None,
            pause: KILL_BACKOFF.0,
            signals: Vec::new(),
            out_of_memory: false,
        }
    }

    /// The program runs: its time begins.
    pub(crate) fn started(&mut self, now: Duration) {
        self.running = Some(now);
        self.set_clocks();
    }

    /// Other limits in place of those it has; the deadline still counts from the program's start.
    pub(crate) fn limit(&mut self, limits: &Limits) {
        self.time_limit = limits.time_ms.map(Duration::from_millis);
        self.cpu_time.limit(limits);
        self.set_clocks();
    }

    fn set_clocks(&mut self) {
        let Some(start) = self.running else { return };
        self.deadline = self.time_limit.map(|limit| start.saturating_add(limit));
        self.cpu_time.look(start);
    }

    /// A stop was requested. A later stop neither changes the cause nor extends the grace period.
    pub(crate) fn stop(&mut self, now: Duration, stop: Stop) -> Action {
        let reason = Reason { cause: Cause::Stopped, source: stop.source, by: stop.by };
        self.end(now, reason, Duration::from_millis(stop.grace_ms))
    }

    /// The output limit is exceeded, and the policy is to kill.
    pub(crate) fn output_limit(&mut self, now: Duration) -> Action {
        let reason = Reason::by_nobody(Cause::OutputLimit, Source::System);
        self.end(now, reason, Duration::ZERO)
    }

    /// Whether to call [`Ending::cpu_time`] now.
    pub(crate) fn asks_for_cpu_time(&self, now: Duration) -> bool {
        self.cpu_time.next().is_some_and(|at| at <= now)
    }

    /// The CPU time that all processes together have used.
    pub(crate) fn cpu_time(&mut self, now: Duration, used: Duration) -> Action {
        if !self.cpu_time.is_over(now, used) {
            return Action::Nothing;
        }
        let reason = Reason::by_nobody(Cause::TimedOut, Source::CpuTime);
        self.end(now, reason, self.stop_timeout)
    }

    /// The OOM killer has killed a process of the job. That is the cause, unless there is one already:
    /// call this before any other event.
    pub(crate) fn killed_for_memory(&mut self) {
        let was_killed = self.signals.iter().any(|signal| signal.number == libc::SIGKILL);
        self.out_of_memory |= self.reason.is_none() && !was_killed;
    }

    /// Whether something is ending it.
    pub(crate) fn has_begun(&self) -> bool {
        self.reason.is_some()
    }

    /// Whether nothing is waited for any more once its processes are gone: something is ending it, or
    /// its deadline passed after its main process had ended by itself.
    pub(crate) fn is_over(&self) -> bool {
        self.has_begun() || self.is_late
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
        self.running = None;
        let deadline = self.deadline.take();
        self.is_late = deadline.is_some_and(|at| at <= now);
        self.patience = deadline.filter(|at| *at > now);
        self.cpu_time.ended();
        self.kill_within(now, self.leftover_grace);
        let Reason { cause, source, by } = self.reason_of(wait_status);
        Exited { wait_status, cause, source, by, time_ns }
    }

    /// Nothing is left to end.
    pub(crate) fn emptied(&mut self) {
        self.kill_at = None;
    }

    /// The action that is due.
    pub(crate) fn due(&mut self, now: Duration) -> Action {
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            let reason = Reason::by_nobody(Cause::TimedOut, Source::Timeout);
            return self.end(now, reason, self.stop_timeout);
        }
        self.is_late |= self.patience.take_if(|at| *at <= now).is_some();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(KILL_BACKOFF.1);
            return Action::Kill;
        }
        Action::Nothing
    }

    /// When the next action is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        let times = [self.deadline, self.cpu_time.next(), self.kill_at, self.patience];
        times.into_iter().flatten().min()
    }

    fn end(&mut self, now: Duration, reason: Reason, grace: Duration) -> Action {
        let first = self.reason.is_none();
        self.reason.get_or_insert(reason);
        self.kill_within(now, grace);
        match self.due(now) {
            Action::Nothing if first => Action::Ask,
            deed => deed,
        }
    }

    fn kill_within(&mut self, now: Duration, grace: Duration) {
        let at = now.saturating_add(grace);
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// A main process that the kernel has spared, or has not killed alone, may end as it likes.
    fn reason_of(&self, wait_status: i32) -> Reason {
        let killed = libc::WIFSIGNALED(wait_status) && libc::WTERMSIG(wait_status) == libc::SIGKILL;
        if self.out_of_memory && killed {
            return Reason::by_nobody(Cause::OutOfMemory, Source::Oom);
        }
        self.reason.clone().unwrap_or_else(|| self.own_end(wait_status))
    }

    fn own_end(&self, wait_status: i32) -> Reason {
        if !libc::WIFSIGNALED(wait_status) {
            return Reason::by_nobody(Cause::Exited, Source::None);
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

    fn ending(time_ms: Option<u64>) -> Ending {
        limited(Limits { time_ms, ..Limits::default() })
    }

    fn limited(limits: Limits) -> Ending {
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
            limits,
            rlimits: Vec::new(),
            stop_signal: 15,
            stop_timeout_ms: 500,
            leftover_grace_ms: 200,
            output_policy: OutputPolicy::Discard,
            program: None,
            isolation: None,
            root: None,
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
        assert_eq!(ending.stop(at(0), stop(5_000, "a")), Action::Ask);
        assert_eq!(ending.stop(at(1), stop(5_000, "b")), Action::Nothing);
        assert_eq!(ending.due(at(50)), Action::Nothing, "the deadline asks nobody again");
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
        assert_eq!(ending.stop(at(30), stop(0, "d")), Action::Kill);
    }

    #[test]
    fn without_grace_it_is_killed_and_not_asked() {
        assert_eq!(ending(None).stop(at(0), stop(0, "a")), Action::Kill);
    }

    #[test]
    fn the_deadline_asks_and_then_kills() {
        let mut ending = ending(Some(100));
        assert_eq!(ending.due(at(99)), Action::Nothing);
        assert_eq!(ending.next(), Some(at(100)));
        assert_eq!(ending.due(at(100)), Action::Ask);
        assert_eq!(ending.next(), Some(at(600)));
        assert_eq!(ending.due(at(600)), Action::Kill);
        assert_eq!(cause(&mut ending, KILLED), (Cause::TimedOut, Source::Timeout, String::new()));
    }

    #[test]
    fn it_is_killed_again_until_nothing_is_left() {
        let mut ending = ending(None);
        ending.stop(at(0), stop(0, "a"));
        assert_eq!(ending.next(), Some(at(50)));
        assert_eq!(ending.due(at(50)), Action::Kill);
        assert_eq!(ending.next(), Some(at(150)));
        ending.emptied();
        assert_eq!(ending.next(), None);
    }

    #[test]
    fn what_outlives_the_main_process_has_its_own_grace() {
        let mut ending = ending(Some(100));
        assert_eq!(cause(&mut ending, EXITED_0), (Cause::Exited, Source::None, String::new()));
        assert_eq!(ending.next(), Some(at(9_200)), "and the deadline is over");
        assert_eq!(ending.due(at(9_200)), Action::Kill);
    }

    #[test]
    fn after_the_main_process_the_deadline_ends_the_waiting_for_the_disk() {
        let mut with = ending(Some(20_000));
        with.exited(at(9_000), EXITED_0, 1);
        with.emptied();
        assert_eq!((with.is_over(), with.next()), (false, Some(at(20_000))));
        assert_eq!(with.due(at(20_000)), Action::Nothing, "nothing is left to kill");
        assert_eq!((with.is_over(), with.next()), (true, None));
        let mut without = ending(None);
        without.exited(at(9_000), EXITED_0, 1);
        without.emptied();
        assert_eq!((without.is_over(), without.next()), (false, None));
        without.stop(at(9_001), stop(5_000, "a"));
        assert!(without.is_over(), "and so does a stop");
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

    fn cpu_time(ms: u64) -> Limits {
        Limits { cpu_time_us: Some(ms * 1000), cpus_milli: 1000, ..Limits::default() }
    }

    #[test]
    fn cpu_time_that_is_over_asks_and_then_kills() {
        let mut ending = limited(cpu_time(100));
        assert!(ending.asks_for_cpu_time(at(0)));
        assert_eq!(ending.cpu_time(at(0), Duration::ZERO), Action::Nothing);
        assert_eq!(ending.next(), Some(at(100)));
        assert_eq!(ending.cpu_time(at(100), Duration::from_millis(100)), Action::Ask);
        assert_eq!(ending.next(), Some(at(600)));
        assert_eq!(ending.due(at(600)), Action::Kill);
        assert_eq!(cause(&mut ending, KILLED), (Cause::TimedOut, Source::CpuTime, String::new()));
    }

    #[test]
    fn cpu_time_is_not_looked_at_after_the_main_process() {
        let mut ending = limited(cpu_time(100));
        ending.exited(at(0), EXITED_0, 1);
        ending.limit(&Limits { time_ms: Some(1), ..cpu_time(10) });
        assert_eq!(ending.next(), Some(at(200)), "the leftovers' grace alone");
    }

    #[test]
    fn a_new_deadline_counts_from_the_start() {
        let time = |ms| Limits { time_ms: Some(ms), ..Limits::default() };
        let mut ending = ending(Some(100));
        ending.limit(&time(500));
        assert_eq!((ending.due(at(100)), ending.next()), (Action::Nothing, Some(at(500))));
        ending.limit(&Limits::default());
        assert_eq!(ending.next(), None);
        ending.limit(&time(50));
        assert_eq!(ending.due(at(100)), Action::Ask, "it has passed");
        ending.limit(&time(50));
        assert_eq!(ending.due(at(101)), Action::Nothing, "the same again asks nobody again");
        assert_eq!(ending.next(), Some(at(600)));
    }

    #[test]
    fn a_limit_that_comes_before_the_start_counts_from_it() {
        let mut ending = Ending { running: None, ..ending(None) };
        ending.limit(&Limits { time_ms: Some(100), ..cpu_time(7) });
        assert_eq!(ending.next(), None);
        ending.started(at(40));
        assert_eq!(ending.deadline, Some(at(140)));
        assert!(ending.asks_for_cpu_time(at(40)));
    }

    #[test]
    fn a_kill_for_memory_is_the_cause() {
        let out_of_memory = (Cause::OutOfMemory, Source::Oom, String::new());
        let mut alone = ending(None);
        alone.killed_for_memory();
        assert_eq!(cause(&mut alone, KILLED), out_of_memory);
        let mut before_a_stop = ending(None);
        before_a_stop.killed_for_memory();
        before_a_stop.stop(at(0), stop(0, "a"));
        assert_eq!(cause(&mut before_a_stop, KILLED), out_of_memory);
        let mut before_a_signal = ending(None);
        before_a_signal.killed_for_memory();
        before_a_signal.signaled(sigkill());
        assert_eq!(cause(&mut before_a_signal, KILLED), out_of_memory);
    }

    #[test]
    fn a_kill_for_memory_after_another_reason_is_not_the_cause() {
        let mut after_a_stop = ending(None);
        after_a_stop.stop(at(0), stop(0, "a"));
        after_a_stop.killed_for_memory();
        assert_eq!(cause(&mut after_a_stop, KILLED).0, Cause::Stopped);
        let mut after_a_signal = ending(None);
        after_a_signal.signaled(sigkill());
        after_a_signal.killed_for_memory();
        assert_eq!(cause(&mut after_a_signal, KILLED).0, Cause::Signaled);
    }

    #[test]
    fn a_main_process_that_outlives_a_kill_for_memory_ends_by_itself() {
        let mut ending = ending(None);
        ending.killed_for_memory();
        assert_eq!(cause(&mut ending, EXITED_0).0, Cause::Exited);
    }

    fn sigkill() -> Signal {
        Signal { number: libc::SIGKILL, source: Source::Admin, by: "root".into() }
    }

    #[test]
    fn limits_beyond_all_time_never_come() {
        let mut ending = ending(Some(u64::MAX));
        assert_eq!(ending.stop(at(0), stop(u64::MAX, "a")), Action::Ask);
        assert_eq!(ending.due(Duration::from_secs(1 << 40)), Action::Nothing);
    }
}
