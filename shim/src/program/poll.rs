//! What the loop waits for: fixed slots, so that waiting allocates nothing.

use std::os::fd::{AsFd, AsRawFd};

use crate::sys;

/// The most connections without a HELLO.
pub(crate) const MAX_PENDING: usize = 4;

/// One descriptor each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Alarm,
    Fault,
    Main,
    Cgroup,
    Stdout,
    Stderr,
    Stdin,
    Broker,
    Listener,
    Children,
    /// Counted from 0.
    Pending(usize),
}

const SLOTS: usize = 10 + MAX_PENDING;

impl Slot {
    /// poll(2) looks at one after the other, and time passes in between: what follows from another
    /// thing is looked at before that. A main process that has ended, and all output, come after the
    /// exec; so whoever sees one of them sees what became of the exec as well, and can tell it first.
    fn index(self) -> usize {
        match self {
            Slot::Alarm => 0,
            Slot::Main => 1,
            Slot::Cgroup => 2,
            Slot::Stdout => 3,
            Slot::Stderr => 4,
            Slot::Stdin => 5,
            Slot::Broker => 6,
            Slot::Listener => 7,
            Slot::Children => 8,
            Slot::Pending(n) => 9 + n,
            Slot::Fault => SLOTS - 1,
        }
    }
}

/// What to wait for.
pub(crate) struct Interest([libc::pollfd; SLOTS]);

/// What has happened.
pub(crate) struct Ready([libc::pollfd; SLOTS]);

impl Interest {
    /// Nothing.
    pub(crate) fn new() -> Interest {
        Interest([libc::pollfd { fd: -1, events: 0, revents: 0 }; SLOTS])
    }

    /// Waits for `events` of poll(2) too. Hang-ups and errors come unasked.
    pub(crate) fn add(&mut self, slot: Slot, fd: impl AsFd, events: libc::c_short) {
        self.0[slot.index()] = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events, revents: 0 };
    }

    /// Waits until something happens or the time is over; -1 waits for ever.
    pub(crate) fn wait(mut self, timeout_ms: i32) -> Ready {
        // ENOMEM is the only error left, and then nothing is ready: the caller comes again.
        let _ = sys::poll(&mut self.0, timeout_ms);
        Ready(self.0)
    }
}

impl Ready {
    /// Whether this slot has any event. All descriptors are non-blocking, so a caller may just try.
    pub(crate) fn has(&self, slot: Slot) -> bool {
        self.0[slot.index()].revents != 0
    }

    /// Whether the workload has something.
    pub(crate) fn has_output(&self) -> bool {
        self.has(Slot::Stdout) || self.has(Slot::Stderr)
    }

    /// Whether a broker or a pending connection has something.
    pub(crate) fn has_control(&self) -> bool {
        self.has(Slot::Broker)
            || self.has(Slot::Listener)
            || (0..MAX_PENDING).any(|n| self.has(Slot::Pending(n)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_the_exec_is_looked_at_after_all_that_follows_from_it() {
        let mut others = vec![Slot::Alarm, Slot::Main, Slot::Cgroup, Slot::Stdout, Slot::Stderr];
        others.extend([Slot::Stdin, Slot::Broker, Slot::Listener, Slot::Children]);
        others.extend((0..MAX_PENDING).map(Slot::Pending));
        let mut places: Vec<_> = others.iter().map(|slot| slot.index()).collect();
        assert!(places.iter().all(|place| *place < Slot::Fault.index()), "{places:?}");
        places.sort_unstable();
        places.dedup();
        assert_eq!((places.len() + 1, Slot::Fault.index() + 1), (SLOTS, SLOTS), "one each");
    }
}
