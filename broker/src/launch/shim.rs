//! The first words between a broker and a shim that it has just brought forth. Blocking.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use job_shim::frame;
use job_shim::wire::{FromShim, Started, ToShim};
use nix::poll::{PollFd, PollFlags, poll};
use uuid::Uuid;

use super::errors::LaunchError;
use crate::id::JobId;
use crate::sys;

/// A shim and the connection to it.
#[derive(Debug)]
pub struct Shim {
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    /// Non-blocking.
    pub control: UnixStream,
    /// Messages that have come already.
    pub reader: frame::Reader<FromShim>,
}

/// From clone3 to HELLO, and from GO to STARTED: both take less than 2 ms on an idle host.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

impl Shim {
    /// A shim that has failed and left already has said why: that is read next.
    pub(super) fn go(&mut self) -> Result<(), LaunchError> {
        let mut bytes = Vec::new();
        frame::write(&ToShim::Go, &mut bytes);
        match self.control.write_all(&bytes) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(LaunchError::Go),
        }
    }

    pub(super) fn expect_hello(&mut self, id: JobId, nonce: Uuid) -> Result<(), LaunchError> {
        match self.receive().map_err(LaunchError::Hello)? {
            FromShim::Hello(hello)
                if hello.job == *id.as_bytes() && hello.nonce == *nonce.as_bytes() =>
            {
                Ok(())
            }
            FromShim::Failed(failed) => Err(LaunchError::Shim(failed)),
            other => Err(LaunchError::Hello(unexpected(&other))),
        }
    }

    pub(super) fn expect_started(&mut self) -> Result<Started, LaunchError> {
        match self.receive().map_err(LaunchError::Go)? {
            FromShim::Started(started) => {
                self.control.set_nonblocking(true).map_err(LaunchError::Go)?;
                Ok(started)
            }
            FromShim::Failed(failed) => Err(LaunchError::Shim(failed)),
            other => Err(LaunchError::Go(unexpected(&other))),
        }
    }

    fn receive(&mut self) -> io::Result<FromShim> {
        let mut bytes = [0; 4096];
        loop {
            match self.reader.next_message() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(garbled) => return Err(io::Error::new(io::ErrorKind::InvalidData, garbled)),
            }
            match self.control.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.reader.push(&bytes[..n]),
            }
        }
    }

    /// Without STARTED it has no reason to live; usually it has left by itself.
    pub(super) fn end(&self) {
        let _ = sys::pidfd_kill(self.pidfd.as_fd(), libc::SIGKILL); // gone is as good
        let mut ended = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut ended, 2000u16);
        sys::pidfd_reap(self.pidfd.as_fd());
    }
}

fn unexpected(message: &FromShim) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected {message:?}"))
}
