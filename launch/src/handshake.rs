//! The handshake with a newly spawned shim: GO, HELLO, STARTED. Never blocks a thread after GO.
//!
//! A program may hang in its execve(2) for any time: a file under a lease, a file system without its server.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use job_shim::frame;
use job_shim::wire::{FromShim, Started, ToShim};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{MsgFlags, send};
use tokio::net::UnixStream;
use tokio::time::timeout;
use uuid::Uuid;

use crate::errors::SpawnError;
use crate::model::id::JobId;
use crate::sys;

/// A shim and the connection to it.
#[derive(Debug)]
pub struct Shim {
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    /// Registered with the runtime of the jobs.
    pub control: UnixStream,
    /// Messages that have come already.
    pub reader: frame::Reader<FromShim>,
}

/// From GO to HELLO, and from there to STARTED: both take less than 2 ms on an idle host.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

impl Shim {
    /// Lets the program run. A shim that has failed and left already has said why: that is read next.
    ///
    /// # Errors
    /// `Go`: nobody knows whether it runs.
    pub fn go(&mut self) -> Result<(), SpawnError> {
        let mut bytes = Vec::new();
        frame::write(&ToShim::Go, &mut bytes);
        // Nothing has been said before: there is room for it.
        match send(
            self.control.as_raw_fd(),
            &bytes,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        ) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) => Err(SpawnError::Go(io::ErrorKind::WriteZero.into())),
            Err(Errno::EPIPE) => Ok(()),
            Err(errno) => Err(SpawnError::Go(errno.into())),
        }
    }

    /// The first message.
    ///
    /// # Errors
    /// [`SpawnError`]: the shim has failed, or this is not the one that was spawned.
    pub async fn expect_hello(&mut self, id: JobId, nonce: Uuid) -> Result<(), SpawnError> {
        match self.receive().await.map_err(SpawnError::Hello)? {
            FromShim::Hello(hello)
                if hello.job == *id.as_bytes() && hello.nonce == *nonce.as_bytes() =>
            {
                Ok(())
            }
            FromShim::Failed(failed) => Err(SpawnError::Shim(failed)),
            other => Err(SpawnError::Hello(unexpected(&other))),
        }
    }

    /// The second one: the program runs.
    ///
    /// # Errors
    /// [`SpawnError`]: it does not.
    pub async fn expect_started(&mut self) -> Result<Started, SpawnError> {
        match self.receive().await.map_err(SpawnError::Go)? {
            FromShim::Started(started) => Ok(started),
            FromShim::Failed(failed) => Err(SpawnError::Shim(failed)),
            other => Err(SpawnError::Go(unexpected(&other))),
        }
    }

    async fn receive(&mut self) -> io::Result<FromShim> {
        timeout(ANSWER_TIMEOUT, self.next_message()).await?
    }

    async fn next_message(&mut self) -> io::Result<FromShim> {
        let mut bytes = [0; 512];
        loop {
            match self.reader.next_message() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            self.control.readable().await?;
            match self.control.try_read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.reader.push(&bytes[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Without STARTED it has no reason to live; usually it has left by itself. Blocks.
    pub fn end(&self) {
        end(self.pidfd.as_fd());
    }
}

/// Kills the shim with this pidfd, and reaps it. Blocks, for 2 s at most.
pub fn end(pidfd: BorrowedFd<'_>) {
    let _ = sys::pidfd_kill(pidfd, libc::SIGKILL); // gone is as good
    let mut ended = [PollFd::new(pidfd, PollFlags::POLLIN)];
    let _ = poll(&mut ended, 2000u16);
    sys::pidfd_reap(pidfd);
}

fn unexpected(message: &FromShim) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected {message:?}"))
}
