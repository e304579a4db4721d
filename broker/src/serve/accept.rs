//! Letting connections in: so many together, so many from one address, and calm when the process
//! is out of descriptors.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::Arrival;

/// Who is in. Connections beyond are closed at once: the client sees it and says so.
#[derive(Debug, Default)]
pub(super) struct Admission {
    inside: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place inside; given back when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    inside: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

/// Most connections: of all addresses, and of one.
const MOST: (usize, usize) = (8192, 4096);
/// After accept(2) failed for want of descriptors or memory: they come back as others leave.
const CALM: Duration = Duration::from_millis(100);

impl Admission {
    fn admit(&self, address: IpAddr) -> Option<Ticket> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.values().sum::<usize>() >= MOST.0 {
            return None;
        }
        let own = inside.entry(address).or_default();
        if *own >= MOST.1 {
            return None;
        }
        *own += 1;
        Some(Ticket { inside: Arc::clone(&self.inside), address })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = inside.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                inside.remove(&self.address);
            }
        }
    }
}

/// Accepts until closing, and hands out connections to the workers in turn.
pub(super) async fn accept(
    listener: TcpListener,
    admission: Admission,
    workers: Vec<mpsc::UnboundedSender<Arrival>>,
    mut closing: watch::Receiver<bool>,
) {
    let mut turns = workers.iter().cycle();
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
        match (admission.admit(from.ip()), turns.next()) {
            (Some(ticket), Some(worker)) => drop(worker.send((tcp, from, ticket))),
            _ => tracing::warn!(%from, "connection refused: too many are open"),
        }
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
        let admission = Admission::default();
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<_> = (0..MOST.1).map(|_| admission.admit(greedy).unwrap()).collect();
        assert!(admission.admit(greedy).is_none());
        assert!(admission.admit(other).is_some());
        held.pop();
        assert!(admission.admit(greedy).is_some());
    }
}
