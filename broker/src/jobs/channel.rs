//! The sending half of the connection to a shim: a message goes into the socket, or waits in a bounded
//! outbox. Nothing here reads a message or blocks.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard};

use job_shim::frame;
use job_shim::wire::ToShim;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::sync::lock;

/// The job's shim has no connection, or its outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job's shim cannot be reached now")]
pub struct Unreachable;

/// The connection to a shim: any task may send, only the job's monitor receives.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) stream: UnixStream,
    outbox: Mutex<Vec<u8>>,
    pub(crate) backlog: Notify,
}

/// Unsent bytes that the outbox holds before the shim counts as unreachable.
const OUTBOX: usize = 256 * 1024;

impl Channel {
    pub(crate) fn new(stream: UnixStream) -> Arc<Channel> {
        Arc::new(Channel { stream, outbox: Mutex::default(), backlog: Notify::new() })
    }

    pub(crate) fn send(&self, message: &ToShim) -> Result<(), Unreachable> {
        let mut outbox = self.outbox();
        if outbox.len() > OUTBOX {
            return Err(Unreachable);
        }
        frame::write(message, &mut outbox);
        self.flush_locked(&mut outbox).map_err(|_| Unreachable)?;
        if !outbox.is_empty() {
            self.backlog.notify_one();
        }
        Ok(())
    }

    /// Sends the whole message or nothing: a unix(7) stream socket takes a message of this size at once.
    pub(crate) fn send_whole(&self, message: &ToShim) -> Result<(), Unreachable> {
        let mut outbox = self.outbox();
        if !outbox.is_empty() {
            return Err(Unreachable);
        }
        frame::write(message, &mut outbox);
        self.flush_locked(&mut outbox).map_err(|_| Unreachable)?;
        let is_sent = outbox.is_empty();
        outbox.clear();
        if is_sent { Ok(()) } else { Err(Unreachable) }
    }

    fn outbox(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.outbox)
    }

    /// Sends as much of the outbox as the socket takes; returns whether the outbox is empty.
    pub(crate) fn flush(&self) -> io::Result<bool> {
        let mut outbox = self.outbox();
        self.flush_locked(&mut outbox)?;
        Ok(outbox.is_empty())
    }

    fn flush_locked(&self, outbox: &mut Vec<u8>) -> io::Result<()> {
        while !outbox.is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.stream.as_raw_fd(), outbox, flags) {
                Ok(sent) => drop(outbox.drain(..sent)),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if outbox.is_empty() {
            *outbox = Vec::new(); // a thousand idle jobs keep nothing
        }
        Ok(())
    }
}
