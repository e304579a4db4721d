//! Letting connections in: so many together, so many from one address, and calm when the process
//! is out of descriptors.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::Arrival;

/// Who is in, and on which thread. Connections beyond are closed at once: the client sees it and
/// says so.
#[derive(Debug)]
pub(super) struct Admission {
    workers: Vec<mpsc::UnboundedSender<Arrival>>,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug)]
struct Inside {
    by_address: HashMap<IpAddr, usize>,
    by_worker: Vec<usize>,
}

/// A place inside; given back when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    inside: Arc<Mutex<Inside>>,
    address: IpAddr,
    worker: usize,
}

/// Most connections: of all addresses, and of one.
const MOST: (usize, usize) = (8192, 4096);
/// After accept(2) failed for want of descriptors or memory: they come back as others leave.
const CALM: Duration = Duration::from_millis(100);

impl Admission {
    pub(super) fn new(workers: Vec<mpsc::UnboundedSender<Arrival>>) -> Admission {
        let inside = Inside { by_address: HashMap::new(), by_worker: vec![0; workers.len()] };
        Admission { workers, inside: Arc::new(Mutex::new(inside)) }
    }

    /// A place on the thread that has the fewest connections, the first of these.
    fn admit(&self, address: IpAddr) -> Option<Ticket> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.by_worker.iter().sum::<usize>() >= MOST.0 {
            return None;
        }
        let own = inside.by_address.entry(address).or_default();
        if *own >= MOST.1 {
            return None;
        }
        *own += 1;
        let (worker, count) = inside.by_worker.iter_mut().enumerate().min_by_key(|(_, n)| **n)?;
        *count += 1;
        Some(Ticket { inside: Arc::clone(&self.inside), address, worker })
    }

    fn hand_out(&self, tcp: TcpStream, from: SocketAddr) {
        let Some(ticket) = self.admit(from.ip()) else {
            return tracing::warn!(%from, "connection refused: too many are open");
        };
        // Fails when that thread is gone, and so is everything.
        let _ = self.workers[ticket.worker].send((tcp, from, ticket));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.by_worker[self.worker] -= 1;
        if let Some(own) = inside.by_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                inside.by_address.remove(&self.address);
            }
        }
    }
}

/// Accepts until closing, and hands connections out.
pub(super) async fn accept(
    listener: TcpListener,
    admission: Admission,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, from) = match accepted.and_then(|(tcp, from)| Ok((prepare(tcp)?, from))) {
            Ok(accepted) => accepted,
            Err(e) if is_shortage(&e) => {
                tracing::warn!("cannot accept connections for now: {e}");
                sleep(CALM).await; // accept(2) would fail again at once, a thousand times
                continue;
            }
            Err(e) => {
                tracing::debug!("a connection was gone before it was accepted: {e}");
                continue;
            }
        };
        admission.hand_out(tcp, from);
    }
}

fn prepare(tcp: tokio::net::TcpStream) -> io::Result<TcpStream> {
    tcp.set_nodelay(true)?;
    tcp.into_std()
}

/// Errors that last, unlike those of a single connection: accept(2).
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| shortages.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let admission = Admission::new(vec![mpsc::unbounded_channel().0]);
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<_> = (0..MOST.1).map(|_| admission.admit(greedy).unwrap()).collect();
        assert!(admission.admit(greedy).is_none());
        assert!(admission.admit(other).is_some());
        held.pop();
        assert!(admission.admit(greedy).is_some());
    }

    #[test]
    fn connections_are_spread_and_the_first_thread_is_preferred() {
        let workers = (0..2).map(|_| mpsc::unbounded_channel().0).collect();
        let (admission, address) = (Admission::new(workers), IpAddr::from([10, 0, 0, 1]));
        let held: Vec<_> = (0..4).map(|_| admission.admit(address).unwrap()).collect();
        assert_eq!(held.iter().map(|t| t.worker).collect::<Vec<_>>(), [0, 1, 0, 1]);
        drop(held);
        assert_eq!(admission.admit(address).unwrap().worker, 0);
    }
}
