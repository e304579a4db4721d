//! One connection with a broker: frames in both directions, never blocking.

use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use job_shim::frame::{self, Reader};
use job_shim::wire::{FromShim, ToShim};

use super::poll::{Interest, Slot};

/// Unread bytes after which a broker is cut off. It gets few messages, each of them an answer: a broker
/// with this much waiting has stopped reading.
const MAX_UNREAD: usize = 256 * 1024;

/// How long a peer that does not read is waited for at the end.
const LINGER_MS: i32 = 2000;

/// The connection is unusable: closed, broken or garbled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

/// One end of it.
pub(crate) struct Connection {
    socket: UnixStream,
    incoming: Reader<ToShim>,
    unsent: Vec<u8>,
    /// The peer does not read any more; messages that it sent before still count.
    write_failed: bool,
}

impl Connection {
    /// Takes a connected stream socket.
    pub(crate) fn new(socket: impl Into<OwnedFd>) -> Connection {
        let socket = UnixStream::from(socket.into());
        // Fails for a closed descriptor only; this one is owned.
        let _ = socket.set_nonblocking(true);
        Connection { socket, incoming: Reader::default(), unsent: Vec::new(), write_failed: false }
    }

    /// Waits for whatever this connection waits for.
    pub(crate) fn register(&self, interest: &mut Interest, slot: Slot) {
        let writing = if self.unsent.is_empty() { 0 } else { libc::POLLOUT };
        interest.add(slot, &self.socket, libc::POLLIN | writing);
    }

    /// Reads once. The messages are to be taken with [`Connection::next`] before it reads again:
    /// so no more than one frame and what is read at once are ever held.
    ///
    /// # Errors
    /// At the end of the stream.
    pub(crate) fn receive(&mut self) -> Result<(), Closed> {
        match self.incoming.fill(&self.socket) {
            Ok(0) => Err(Closed),
            Ok(_) => Ok(()),
            Err(e) if would_block(&e) => Ok(()),
            Err(_) => Err(Closed),
        }
    }

    /// See [`Reader::reuse`].
    pub(crate) fn reuse(&mut self, bytes: Vec<u8>) {
        self.incoming.reuse(bytes);
    }

    /// Gives back memory that no message is in.
    pub(crate) fn release(&mut self) {
        self.incoming.release();
    }

    /// The next whole message.
    ///
    /// # Errors
    /// When the bytes are no message.
    pub(crate) fn next(&mut self) -> Result<Option<ToShim>, Closed> {
        self.incoming.next_message().map_err(|_| Closed)
    }

    /// Sends, and buffers what the socket does not take now.
    ///
    /// # Errors
    /// When the other side has not read for too long.
    pub(crate) fn send(&mut self, message: &FromShim) -> Result<(), Closed> {
        frame::write(message, &mut self.unsent);
        self.flush();
        if self.unsent.len() > MAX_UNREAD { Err(Closed) } else { Ok(()) }
    }

    /// Sends what is buffered, as far as that is possible now.
    pub(crate) fn flush(&mut self) {
        let mut sent = 0;
        while !self.write_failed && sent < self.unsent.len() {
            match self.socket.write(&self.unsent[sent..]) {
                Ok(length) => sent += length,
                Err(e) if would_block(&e) => break,
                Err(_) => self.write_failed = true,
            }
        }
        if self.write_failed || sent == self.unsent.len() {
            self.unsent = Vec::new();
        } else {
            self.unsent.drain(..sent);
        }
    }

    /// Waits for what is buffered to be sent: [`LINGER_MS`] for each piece that the other side takes.
    pub(crate) fn linger(&mut self) {
        self.flush();
        while !self.unsent.is_empty() {
            let mut interest = Interest::new();
            interest.add(Slot::Broker, &self.socket, libc::POLLOUT);
            if !interest.wait(LINGER_MS).has(Slot::Broker) {
                return;
            }
            self.flush();
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn would_block(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
