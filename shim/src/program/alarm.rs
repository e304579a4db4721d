//! Time: one timer for everything that is due.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId as TimerClock, TimerFd, TimerFlags};
use nix::time::{ClockId, clock_gettime};

/// A timerfd on the clock that goes on while the host sleeps; poll(2)'s own timeouts stand still
/// then, and a deadline would move.
pub(crate) struct Alarm {
    timer: TimerFd,
    /// What the kernel knows; `None` where that has to be told anew.
    armed: Option<Option<Duration>>,
}

impl Alarm {
    /// Not set.
    ///
    /// # Errors
    /// EMFILE, ENOMEM.
    pub(crate) fn new() -> nix::Result<Alarm> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(TimerClock::CLOCK_BOOTTIME, flags)?;
        Ok(Alarm { timer, armed: Some(None) })
    }

    /// Sets it to a time since boot, or off.
    pub(crate) fn set(&mut self, at: Option<Duration>) {
        if self.armed == Some(at) {
            return;
        }
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
        let result = match at {
            Some(at) => self.timer.set(Expiration::OneShot(TimeSpec::from_duration(at)), flags),
            None => self.timer.unset(),
        };
        // It fails for invalid times only; then it is tried again at the next turn.
        self.armed = result.is_ok().then_some(at);
    }

    /// Call this when it has expired. Setting it again clears the event.
    pub(crate) fn expired(&mut self) {
        self.armed = None;
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// Time since boot, sleep included.
pub(crate) fn since_boot() -> Duration {
    read(ClockId::CLOCK_BOOTTIME)
}

/// Nanoseconds since 1970.
pub(crate) fn wall_clock_ns() -> u64 {
    u64::try_from(read(ClockId::CLOCK_REALTIME).as_nanos()).unwrap_or(u64::MAX)
}

fn read(clock: ClockId) -> Duration {
    // These clocks exist on every Linux.
    clock_gettime(clock).map(Duration::from).unwrap_or_default()
}
