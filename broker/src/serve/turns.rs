//! The processor's time of handshakes. Each takes a millisecond or two of signatures: of a flood of them,
//! one step is made at a time on each thread, and the connections there are looked at in between.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;

/// Whose turn it is, on one thread.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Semaphore>);

type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Turn = OwnedSemaphorePermit;

/// A connection that reads what a handshake needs when it is its turn, until it is [`Paced::set_free`].
pub(super) struct Paced {
    tcp: TcpStream,
    turns: Turns,
    state: State,
}

enum State {
    /// Until something comes.
    Idle,
    /// Something has come.
    Waiting(Soon<Result<Turn, AcquireError>>),
    /// What is read is worked on.
    Working(#[allow(dead_code, reason = "given back when dropped")] Turn),
    /// Done for now. The turn ends when the runtime has looked at other connections.
    Resting(#[allow(dead_code, reason = "given back when dropped")] Turn, Soon<()>),
    Free,
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns(Arc::new(Semaphore::new(1)))
    }
}

impl Paced {
    pub(super) fn new(tcp: TcpStream, turns: Turns) -> Paced {
        Paced { tcp, turns, state: State::Idle }
    }

    /// The handshake is over.
    pub(super) fn set_free(&mut self) {
        self.state = State::Free;
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            this.state = match &mut this.state {
                State::Free => return Pin::new(&mut this.tcp).poll_read(context, buffer),
                State::Idle => {
                    ready!(this.tcp.poll_read_ready(context))?;
                    State::Waiting(Box::pin(Arc::clone(&this.turns.0).acquire_owned()))
                }
                State::Waiting(turn) => {
                    State::Working(ready!(turn.as_mut().poll(context)).map_err(io::Error::other)?)
                }
                State::Working(_) => {
                    if let Poll::Ready(read) = Pin::new(&mut this.tcp).poll_read(context, buffer) {
                        return Poll::Ready(read);
                    }
                    match std::mem::replace(&mut this.state, State::Idle) {
                        State::Working(turn) => State::Resting(turn, Box::pin(yield_now())),
                        other => other,
                    }
                }
                State::Resting(_, rest) => {
                    ready!(rest.as_mut().poll(context));
                    State::Idle
                }
            };
        }
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(context, buffer);
        if written.is_pending() && matches!(self.state, State::Working(_)) {
            self.state = State::Idle; // nobody waits for a peer that does not read
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}
