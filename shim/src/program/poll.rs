//! What the loop waits for: fixed slots, so that waiting allocates nothing.

use std::os::fd::{AsFd, AsRawFd};

use crate::sys;

/// Connections that have not said who they are.
pub(crate) const STRANGERS: usize = 4;

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
    /// Counted from 0.
    Stranger(usize),
}

const SLOTS: usize = 9 + STRANGERS;

impl Slot {
    fn index(self) -> usize {
        match self {
            Slot::Alarm => 0,
            Slot::Fault => 1,
            Slot::Main => 2,
            Slot::Cgroup => 3,
            Slot::Stdout => 4,
            Slot::Stderr => 5,
            Slot::Stdin => 6,
            Slot::Broker => 7,
            Slot::Listener => 8,
            Slot::Stranger(n) => 9 + n,
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
    /// Anything at all on this slot. All descriptors are non-blocking: whoever asks may try.
    pub(crate) fn has(&self, slot: Slot) -> bool {
        self.0[slot.index()].revents != 0
    }

    /// Something from the workload.
    pub(crate) fn has_output(&self) -> bool {
        self.has(Slot::Stdout) || self.has(Slot::Stderr)
    }

    /// Something from a broker, or somebody who might be one.
    pub(crate) fn has_control(&self) -> bool {
        self.has(Slot::Broker)
            || self.has(Slot::Listener)
            || (0..STRANGERS).any(|n| self.has(Slot::Stranger(n)))
    }
}
