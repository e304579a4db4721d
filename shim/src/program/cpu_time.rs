//! When to check the CPU time of a job that has a limit of it. The kernel has no event for that, and
//! constant polling would cost more than the job: the rest of its time divided by the CPUs that it can
//! use at once is the earliest moment. Pure, like [`super::ending`].

use std::ops::RangeInclusive;
use std::time::Duration;

use job_shim::wire::Limits;

/// The shortest and the longest interval between checks near the limit: the longest for an idle job, whose
/// limit stays near.
const CHECK_INTERVAL: RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_millis(250);
/// A job that uses less than this part of one CPU is idle.
const IDLE_RATIO: u32 = 16;

/// A limit, and the next check.
pub(crate) struct CpuTime {
    limit: Option<Duration>,
    cpus_milli: u32,
    /// The time of the last check, and the CPU time used by then.
    last: (Duration, Duration),
    check_interval: Duration,
    look_at: Option<Duration>,
}

impl CpuTime {
    /// Nothing runs yet.
    pub(crate) fn new(limits: &Limits) -> CpuTime {
        CpuTime {
            limit: limits.cpu_time_us.map(Duration::from_micros),
            cpus_milli: limits.cpus_milli,
            last: (Duration::ZERO, Duration::ZERO),
            check_interval: *CHECK_INTERVAL.start(),
            look_at: None,
        }
    }

    /// Replaces the limit.
    pub(crate) fn limit(&mut self, limits: &Limits) {
        self.limit = limits.cpu_time_us.map(Duration::from_micros);
        self.cpus_milli = limits.cpus_milli;
    }

    /// Schedules the next check, if there is a limit.
    pub(crate) fn look(&mut self, at: Duration) {
        self.look_at = self.limit.map(|_| at);
    }

    /// Nothing is left that the limit is for.
    pub(crate) fn ended(&mut self) {
        self.look_at = None;
    }

    /// When [`CpuTime::is_over`] is to be asked.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.look_at
    }

    /// A check: `used` by all processes until `now`. `true` once, when the limit is reached.
    pub(crate) fn is_over(&mut self, now: Duration, used: Duration) -> bool {
        let left = self.limit.map(|limit| limit.saturating_sub(used));
        self.look_at = left.filter(|left| !left.is_zero()).map(|left| {
            let pause = self.earliest(left).max(self.check_interval(now, used));
            now.saturating_add(pause)
        });
        left.is_some_and(|left| left.is_zero())
    }

    fn earliest(&self, left: Duration) -> Duration {
        // 0: nobody knows, so it can be over at once.
        let micros = (left.as_micros() * 1000).checked_div(u128::from(self.cpus_milli));
        Duration::from_micros(micros.map_or(0, |us| u64::try_from(us).unwrap_or(u64::MAX)))
    }

    fn check_interval(&mut self, now: Duration, used: Duration) -> Duration {
        let (last, used_then) = std::mem::replace(&mut self.last, (now, used));
        let rests = used.saturating_sub(used_then) * IDLE_RATIO < now.saturating_sub(last);
        let longer = if rests { self.check_interval * 2 } else { Duration::ZERO };
        self.check_interval = longer.clamp(*CHECK_INTERVAL.start(), *CHECK_INTERVAL.end());
        self.check_interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn limits(ms: u64, cpus_milli: u32) -> Limits {
        Limits { cpu_time_us: Some(ms * 1000), cpus_milli, ..Limits::default() }
    }

    fn running(ms_: u64, cpus_milli: u32) -> CpuTime {
        let mut cpu_time = CpuTime::new(&limits(ms_, cpus_milli));
        cpu_time.look(ms(0));
        cpu_time
    }

    #[test]
    fn it_is_looked_at_when_it_can_be_over_at_the_earliest() {
        let mut two_cpus = running(10_000, 2000);
        assert_eq!(two_cpus.next(), Some(ms(0)));
        assert!(!two_cpus.is_over(ms(0), ms(0)));
        assert_eq!(two_cpus.next(), Some(ms(5000)));
        assert!(!two_cpus.is_over(ms(5000), ms(6000)));
        assert_eq!(two_cpus.next(), Some(ms(7000)));
        assert!(two_cpus.is_over(ms(7000), ms(10_000)));
        assert_eq!(two_cpus.next(), None, "said once");
        let mut a_tenth = running(10_000, 100);
        a_tenth.is_over(ms(0), ms(0));
        assert_eq!(a_tenth.next(), Some(ms(100_000)));
    }

    #[test]
    fn near_the_end_it_is_not_asked_all_the_time() {
        let mut cpu_time = running(1000, 2000);
        cpu_time.is_over(ms(500), ms(999));
        assert_eq!(cpu_time.next(), Some(ms(550)));
    }

    #[test]
    fn a_job_that_rests_is_asked_less_often_until_it_works_again() {
        let mut cpu_time = running(1000, 8000);
        cpu_time.is_over(ms(500), ms(900));
        let mut pauses = Vec::new();
        for used in [900, 900, 900, 900, 950] {
            let now = cpu_time.next().unwrap();
            cpu_time.is_over(now, ms(used));
            pauses.push((cpu_time.next().unwrap() - now).as_millis());
        }
        assert_eq!(pauses, [100, 200, 250, 250, 50]);
    }

    #[test]
    fn without_a_limit_and_after_the_end_nobody_asks() {
        let mut unlimited = CpuTime::new(&Limits::default());
        unlimited.look(ms(0));
        assert_eq!(unlimited.next(), None);
        assert!(!unlimited.is_over(ms(0), ms(u64::MAX)));
        let mut ended = running(1000, 1000);
        ended.ended();
        assert_eq!(ended.next(), None);
    }

    #[test]
    fn strange_limits_do_no_harm() {
        let mut unknown_cpus = running(1000, 0);
        unknown_cpus.is_over(ms(0), ms(0));
        assert_eq!(unknown_cpus.next(), Some(ms(50)));
        let most = Limits { cpu_time_us: Some(u64::MAX), cpus_milli: 1, ..Limits::default() };
        let mut endless = CpuTime::new(&most);
        assert!(!endless.is_over(ms(1), ms(0)));
        assert!(endless.next() > Some(Duration::from_secs(1 << 40)));
        assert!(running(0, 1000).is_over(ms(0), ms(0)), "none at all");
    }
}
