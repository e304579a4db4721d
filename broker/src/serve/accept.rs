//! The accept loop: admits connections before authentication and assigns each to a thread. It must not stop accepting
//! when the process is out of descriptors: reserve descriptors are closed for new connections.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::serve::preauth::{PreauthLimit, PreauthSlot};
use crate::serve::reserve::ReserveDescriptors;
use crate::sync::lock;
use job_launch::host;

/// An accepted connection, on its way to the thread that serves it.
pub(super) struct Arrival {
    pub(super) tcp: TcpStream,
    pub(super) from: SocketAddr,
    /// Held until the connection is authenticated.
    pub(super) place: PreauthSlot,
    pub(super) thread_slot: ThreadSlot,
}

/// The number of connections of each thread.
#[derive(Debug)]
pub(super) struct Threads {
    arrivals: Vec<mpsc::UnboundedSender<Arrival>>,
    counts: Arc<Mutex<Vec<usize>>>,
}

/// One connection's slot on a thread; dropped with the connection.
#[derive(Debug)]
pub(super) struct ThreadSlot {
    counts: Arc<Mutex<Vec<usize>>>,
    thread: usize,
}

/// The state of the accept loop.
struct Acceptor {
    threads: Threads,
    preauth: Arc<PreauthLimit>,
    reserve: ReserveDescriptors,
    /// Whether a reserve descriptor has been closed and not reopened.
    is_short: bool,
}

/// The delay after accept(2) fails with a shortage, and between two refills of the reserve.
const RETRY_DELAY: Duration = Duration::from_millis(100);

impl Threads {
    pub(super) fn new(arrivals: Vec<mpsc::UnboundedSender<Arrival>>) -> Threads {
        let counts = Arc::new(Mutex::new(vec![0; arrivals.len()]));
        Threads { arrivals, counts }
    }

    /// A slot on the first thread with the fewest connections.
    fn thread_slot(&self) -> ThreadSlot {
        let mut counts = lock(&self.counts);
        let fewest = counts.iter().enumerate().min_by_key(|(_, count)| **count);
        let thread = fewest.map_or(0, |(thread, _)| thread);
        counts[thread] += 1;
        ThreadSlot { counts: Arc::clone(&self.counts), thread }
    }
}

impl Drop for ThreadSlot {
    fn drop(&mut self) {
        lock(&self.counts)[self.thread] -= 1;
    }
}

/// Accepts connections until `closing` is true and assigns each to a thread.
pub(super) async fn accept(
    listener: TcpListener,
    threads: Threads,
    preauth: Arc<PreauthLimit>,
    mut closing: watch::Receiver<bool>,
) {
    let mut acceptor =
        Acceptor { threads, preauth, reserve: ReserveDescriptors::new(), is_short: false };
    loop {
        let accepted = tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return,
            accepted = listener.accept() => accepted,
            () = sleep(RETRY_DELAY), if acceptor.is_short => {
                acceptor.refill_reserve();
                continue;
            }
        };
        match accepted.and_then(|(tcp, from)| Ok((prepare(tcp)?, from))) {
            Ok((tcp, from)) => acceptor.accept_one(tcp, from),
            Err(e) if host::is_shortage(&e) => {
                if !acceptor.spend_reserve(&e) {
                    sleep(RETRY_DELAY).await; // otherwise accept(2) fails again at once, in a hot loop
                }
            }
            Err(e) => tracing::debug!("a connection was gone before it was accepted: {e}"),
        }
    }
}

impl Acceptor {
    fn accept_one(&mut self, tcp: TcpStream, from: SocketAddr) {
        // A connection accepted with the last reserve descriptor is closed at once.
        let is_last = self.reserve.is_empty();
        if self.is_short {
            self.refill_reserve();
        }
        if self.reserve.are_few() {
            self.preauth.evict_one(); // frees its descriptor for the next connection
        }
        let place = if is_last { None } else { self.preauth.enter(from.ip()) };
        let Some(place) = place else {
            drop(tcp);
            self.refill_reserve();
            return tracing::warn!(%from, "connection closed at once: there is no place for it");
        };
        let thread_slot = self.threads.thread_slot();
        // Sending fails only if the thread has ended; the broker ends with it.
        let thread = thread_slot.thread;
        let _ = self.threads.arrivals[thread].send(Arrival { tcp, from, place, thread_slot });
    }

    /// Closes a reserve descriptor for the next connection. accept(2) fails with EMFILE even if none is queued.
    fn spend_reserve(&mut self, error: &io::Error) -> bool {
        tracing::warn!("no descriptor for a connection, a spare one is used: {error}");
        self.is_short = true;
        let is_of_descriptors = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        is_of_descriptors && self.reserve.give_up()
    }

    fn refill_reserve(&mut self) {
        self.is_short = !self.reserve.fill();
    }
}

fn prepare(tcp: tokio::net::TcpStream) -> io::Result<TcpStream> {
    tcp.set_nodelay(true)?;
    tcp.into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_spread_and_the_first_thread_is_preferred() {
        let threads = Threads::new((0..2).map(|_| mpsc::unbounded_channel().0).collect());
        let held: Vec<_> = (0..4).map(|_| threads.thread_slot()).collect();
        assert_eq!(
            held.iter().map(|thread_slot| thread_slot.thread).collect::<Vec<_>>(),
            [0, 1, 0, 1]
        );
        drop(held);
        assert_eq!(threads.thread_slot().thread, 0);
    }
}
