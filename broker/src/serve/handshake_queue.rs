//! Schedules the steps of TLS handshakes: one step at a time on each thread, round-robin between networks. A flood from
//! one network must not delay a handshake from another by more than one step.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::yield_now;

use crate::quota::fair_queue::{self, FairQueue};
use crate::serve::network::Network;

type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type FairPermit = fair_queue::FairPermit<Network>;

/// A connection that reads handshake data only in its turn, until [`QueuedHandshake::set_free`].
pub(super) struct QueuedHandshake {
    tcp: TcpStream,
    handshake_queue: Arc<FairQueue<Network>>,
    network: Network,
    state: State,
}

enum State {
    /// Waits for data from the peer.
    Idle,
    /// Data has arrived; waits for a turn.
    Waiting(Soon<FairPermit>),
    /// Processes the data that was read.
    Working(#[allow(dead_code, reason = "given back when dropped")] FairPermit),
    /// The step is done. The turn ends after the runtime has polled other connections.
    Resting(#[allow(dead_code, reason = "given back when dropped")] FairPermit, Soon<()>),
    Free,
}

impl QueuedHandshake {
    pub(super) fn new(
        tcp: TcpStream,
        handshake_queue: Arc<FairQueue<Network>>,
        network: Network,
    ) -> QueuedHandshake {
        QueuedHandshake { tcp, handshake_queue, network, state: State::Idle }
    }

    /// Ends the queueing: the handshake is complete.
    pub(super) fn set_free(&mut self) {
        self.state = State::Free;
    }
}

impl AsyncRead for QueuedHandshake {
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
                    let (handshake_queue, network) =
                        (Arc::clone(&this.handshake_queue), this.network);
                    State::Waiting(Box::pin(async move { handshake_queue.acquire(&network).await }))
                }
                State::Waiting(turn) => State::Working(ready!(turn.as_mut().poll(context))),
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

impl AsyncWrite for QueuedHandshake {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(context, buffer);
        if written.is_pending() && matches!(self.state, State::Working(_)) {
            self.state = State::Idle; // a peer that does not read holds no turn
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
