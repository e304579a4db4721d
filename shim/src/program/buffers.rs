//! Memory that is resident only while it is used: a thousand idle shims must cost little. A shim that
//! has been idle for a second holds a few pages of stack and data, and the code of its loop.

use std::time::Duration;

use super::output::BUFFER;
use crate::sys::{Region, release_code, release_stack};

/// A buffer that is unused for this long is given back.
const IDLE: Duration = Duration::from_secs(1);

/// The buffer of output, and when the others are to be given back.
pub(crate) struct Buffers {
    output: Region,
    used: bool,
    idle_at: Option<Duration>,
}

impl Buffers {
    /// Reserves it. What the start has used counts as used.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn new() -> nix::Result<Buffers> {
        Ok(Buffers { output: Region::new(BUFFER)?, used: true, idle_at: None })
    }

    /// For output on its way to the disk.
    pub(crate) fn output(&mut self) -> &mut [u8] {
        self.used = true;
        self.output.bytes()
    }

    /// The buffers of messages and of input are in use.
    pub(crate) fn touch(&mut self) {
        self.used = true;
    }

    /// When to check whether they are still used.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.idle_at
    }

    /// Checks, and gives back what is unused; whether it has. `held`: the output buffer holds bytes that are not in a
    /// log.
    pub(crate) fn turn(&mut self, now: Duration, held: bool) -> bool {
        let over = self.idle_at.is_some_and(|at| at <= now);
        let is_idle = over && !self.used && !held;
        if is_idle {
            self.output.release();
            release_code();
            release_stack();
            self.idle_at = None;
        } else if over || self.used && self.idle_at.is_none() {
            // Not moved with each use: that would set the timer anew for each read.
            self.idle_at = Some(now + IDLE);
            self.used = false;
        }
        is_idle
    }
}
