//! A relay that makes the loopback interface as long as a real network: each direction is delayed by half the
//! round-trip time, and a connection takes one before its first byte. It bounds the throughput only where it is told a
//! rate, and serves this host only.
//!
//! The kernel accepts a client's connection at once. So the relay counts what the client sends in the first round trip
//! as sent at its end, and connects to the server when the client's last word of the TCP handshake would be there.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A relay to one server; takes no connections once it is dropped.
pub(super) struct Relay {
    addr: SocketAddr,
    is_closed: Arc<AtomicBool>,
}

/// Read at once.
const PIECE: usize = 64 << 10;
/// Bytes under way in one direction: of 1 GB/s in half of 200 ms, a little more than there are.
const UNDER_WAY: usize = 128 << 20;

impl Relay {
    /// Listens on a free port of the loopback interface.
    ///
    /// # Errors
    /// There is no port or thread.
    pub(super) fn start(server: SocketAddr, round_trip: Duration) -> Result<Relay> {
        Self::with_rate(server, round_trip, f64::INFINITY)
    }

    /// The same; each direction passes this many bytes a second.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub(super) fn with_rate(server: SocketAddr, round_trip: Duration, rate: f64) -> Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port")?;
        let addr = listener.local_addr()?;
        let is_closed = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&is_closed);
        thread::Builder::new().name("relay".into()).spawn(move || {
            for client in listener.incoming() {
                if closed.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(client) = client {
                    thread::spawn(move || relay(&client, server, round_trip, rate));
                }
            }
        })?;
        Ok(Relay { addr, is_closed })
    }

    /// Where clients connect.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr); // wakes the thread that accepts
    }
}

/// One connection, until both directions have ended.
fn relay(client: &TcpStream, server: SocketAddr, round_trip: Duration, rate: f64) {
    let established = Instant::now() + round_trip;
    let half = round_trip / 2;
    let connected = OnceLock::new();
    let [up, down] = [(); 2].map(|()| Direction::of(rate));
    thread::scope(|scope| {
        scope.spawn(|| up.fill(client, established, half));
        thread::sleep(round_trip + half);
        let Ok(server) = TcpStream::connect(server) else {
            up.give_up();
            let _ = client.shutdown(Shutdown::Both);
            return;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true)); // a slower relay, if they fail
        let server = connected.get_or_init(|| server);
        scope.spawn(|| up.drain(server));
        scope.spawn(|| down.fill(server, established, half));
        down.drain(client);
    });
}

/// What is under way in one direction, the oldest first, each with the time at which it arrives. An empty piece is the
/// end.
struct Direction {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Bytes a second.
    rate: f64,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    is_given_up: bool,
}

impl Direction {
    fn of(rate: f64) -> Direction {
        Direction { queue: Mutex::default(), changed: Condvar::new(), rate }
    }

    fn fill(&self, mut from: &TcpStream, established: Instant, half: Duration) {
        let mut buffer = vec![0; PIECE];
        let mut is_free = established; // the line
        loop {
            // A connection that was reset has an end, too.
            let length = from.read(&mut buffer).unwrap_or(0);
            is_free = Instant::now().max(is_free) + self.takes(length);
            let arrives = is_free + half;
            let most = UNDER_WAY.min(self.under_way(half));
            let room = |queue: &mut Queue| queue.bytes >= most && !queue.is_given_up;
            let mut queue = self.wait_while(room);
            if queue.is_given_up {
                return;
            }
            queue.bytes += length;
            queue.pieces.push_back((arrives, buffer[..length].to_vec()));
            self.changed.notify_all();
            if length == 0 {
                return;
            }
        }
    }

    fn drain(&self, mut to: &TcpStream) {
        loop {
            let mut queue = self.wait_while(|queue| queue.pieces.is_empty());
            let Some((arrives, piece)) = queue.pieces.pop_front() else { return };
            queue.bytes -= piece.len();
            drop(queue);
            self.changed.notify_all();
            thread::sleep(arrives.saturating_duration_since(Instant::now()));
            if piece.is_empty() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            if to.write_all(&piece).is_err() {
                self.give_up();
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }

    fn takes(&self, length: usize) -> Duration {
        Duration::from_secs_f64(length as f64 / self.rate)
    }

    /// What is on the line and in the buffer before it, as of a router.
    fn under_way(&self, half: Duration) -> usize {
        ((self.rate * half.as_secs_f64() * 2.0) as usize).saturating_add(2 * PIECE)
    }

    /// Nobody takes what comes.
    fn give_up(&self) {
        self.lock().is_given_up = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl FnMut(&mut Queue) -> bool) -> MutexGuard<'_, Queue> {
        let waited = self.changed.wait_while(self.lock(), condition);
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(60);

    #[test]
    fn a_first_answer_takes_two_round_trips_the_next_one_and_the_end_arrives() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let relay = Relay::start(server.local_addr().expect("bound"), ROUND_TRIP).expect("starts");
        let echo = thread::spawn(move || {
            let (mut client, _) = server.accept().expect("the relay");
            let mut buffer = [0; 16];
            while let length @ 1.. = client.read(&mut buffer).expect("read") {
                client.write_all(&buffer[..length]).expect("written");
            }
        });
        let begin = Instant::now();
        let mut client = TcpStream::connect(relay.addr()).expect("connects");
        let mut ask = || {
            client.write_all(b"ping").expect("sent");
            client.read_exact(&mut [0; 4]).expect("answered");
            begin.elapsed()
        };
        let (first, second) = (ask(), ask());
        assert!(first >= 2 * ROUND_TRIP, "{first:?}");
        assert!(second - first >= ROUND_TRIP, "{first:?}, {second:?}");
        client.shutdown(Shutdown::Write).expect("ours");
        assert_eq!(client.read(&mut [0; 4]).expect("the end"), 0);
        echo.join().expect("ended");
    }

    #[test]
    fn a_slow_line_takes_its_time() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = server.local_addr().expect("bound");
        let relay = Relay::with_rate(addr, Duration::ZERO, 1e6).expect("starts");
        let begin = Instant::now();
        let sink = thread::spawn(move || {
            let (mut client, _) = server.accept().expect("the relay");
            std::io::copy(&mut client, &mut std::io::sink()).expect("read")
        });
        let mut client = TcpStream::connect(relay.addr()).expect("connects");
        client.write_all(&[0; 200_000]).expect("sent");
        client.shutdown(Shutdown::Write).expect("ours");
        assert_eq!(sink.join().expect("ended"), 200_000);
        assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
    }

    #[test]
    fn a_server_that_is_not_there_ends_the_connection() {
        let gone = TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr());
        let relay = Relay::start(gone.expect("a port"), ROUND_TRIP).expect("starts");
        let mut client = TcpStream::connect(relay.addr()).expect("connects");
        assert!(matches!(client.read(&mut [0; 4]), Ok(0) | Err(_)));
    }
}
