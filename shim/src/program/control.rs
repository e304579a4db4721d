//! Step 9 and after: who may command this shim. There is one broker at a time, and sometimes none.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use job_shim::launch::Launch;
use job_shim::wire::{Blocked, BrokerHello, FromShim, Limits, Progress, Step, ToShim};
use nix::sys::socket::{Backlog, getsockopt, listen, sockopt::PeerCredentials};

use super::connection::{Closed, Connection};
use super::failure::{At, Failure};
use super::poll::{Interest, MAX_PENDING, Ready, Slot};

/// Makes the socket take connections. Its credentials, as the peer sees them, are those of this
/// moment: to be called after the change of uid.
///
/// # Errors
/// `Listen`.
pub(crate) fn start_listening(socket: OwnedFd) -> Result<UnixListener, Failure> {
    listen(&socket, Backlog::new(MAX_PENDING as i32).at(Step::Listen)?).at(Step::Listen)?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true).at(Step::Listen)?;
    Ok(listener)
}

/// Every connection of a shim.
pub(crate) struct Control {
    nonce: [u8; 16],
    /// Of the last broker that was accepted.
    epoch: u64,
    listener: UnixListener,
    broker: Option<Connection>,
    /// Connections without a HELLO yet; the oldest first.
    pending: Vec<Connection>,
    /// Connections that sent PROBE and await HELLO.
    probes: Vec<Connection>,
    /// The progress that the broker has seen, while its WATCH is open.
    watch: Option<Progress>,
    /// The reason for blocking that was last sent.
    told: Option<Blocked>,
}

impl Control {
    /// Starts with the inherited connection.
    pub(crate) fn new(launch: &Launch, listener: UnixListener, broker: Connection) -> Control {
        Control {
            nonce: launch.nonce,
            epoch: 0,
            listener,
            broker: Some(broker),
            pending: Vec::new(),
            probes: Vec::new(),
            watch: None,
            told: None,
        }
    }

    /// Step 10: waits for GO, and returns the limits in force by then. `None`: the broker is gone, or
    /// sent a message that is not allowed before GO.
    pub(crate) fn await_go(&mut self, mut limits: Limits) -> Option<Limits> {
        while let Some(broker) = &self.broker {
            let mut interest = Interest::new();
            broker.register(&mut interest, Slot::Broker);
            let ready = interest.wait(-1);
            self.turn(&ready);
            while let Some(message) = self.next() {
                match message {
                    ToShim::Go => return Some(limits),
                    ToShim::Hello(hello) if self.recognize(&hello) => {}
                    ToShim::Limits(newer) => {
                        limits = newer;
                        self.send(&FromShim::Limits(limits));
                    }
                    _ => return None,
                }
            }
        }
        None
    }

    /// Waits for all of them.
    pub(crate) fn register(&self, interest: &mut Interest) {
        interest.add(Slot::Listener, &self.listener, libc::POLLIN);
        if let Some(broker) = &self.broker {
            broker.register(interest, Slot::Broker);
        }
        for (n, peer) in self.pending.iter().enumerate() {
            peer.register(interest, Slot::Pending(n));
        }
    }

    /// Reads and writes once, as far as something is ready. `true`: there is a new broker, and
    /// the shim has to say Hello.
    pub(crate) fn turn(&mut self, ready: &Ready) -> bool {
        let hears_broker = ready.has(Slot::Broker) && self.broker.is_some();
        if hears_broker && let Some(broker) = &mut self.broker {
            broker.flush();
            if broker.receive().is_err() {
                self.hang_up();
            }
        }
        // Messages queued by the old broker are processed before a new one takes its place: a shim that
        // was stopped finds both queues at once.
        let new_broker = !hears_broker && self.read_pending(ready);
        if ready.has(Slot::Listener) {
            self.accept();
        }
        new_broker
    }

    /// Gives back memory that no message is in.
    pub(crate) fn release(&mut self) {
        self.broker.iter_mut().for_each(Connection::release);
    }

    /// Takes the bytes of the broker's message back, for its next one.
    pub(crate) fn reuse(&mut self, bytes: Vec<u8>) {
        if let Some(broker) = &mut self.broker {
            broker.reuse(bytes);
        }
    }

    /// The broker's next message.
    pub(crate) fn next(&mut self) -> Option<ToShim> {
        let message = self.broker.as_mut()?.next();
        message.unwrap_or_else(|Closed| {
            self.hang_up();
            None
        })
    }

    /// Whether this is our broker, and not one that a later broker has replaced.
    pub(crate) fn recognize(&mut self, hello: &BrokerHello) -> bool {
        let known = hello.nonce == self.nonce && hello.epoch >= self.epoch;
        if known {
            self.epoch = hello.epoch;
        }
        known
    }

    /// Takes the connections that sent PROBE: each gets HELLO and is closed.
    pub(crate) fn probes(&mut self) -> Vec<Connection> {
        std::mem::take(&mut self.probes)
    }

    /// Sends a message to the broker, if one is connected.
    pub(crate) fn send(&mut self, message: &FromShim) {
        if let Some(broker) = &mut self.broker
            && broker.send(message).is_err()
        {
            self.hang_up();
        }
    }

    /// Closes the connection with the broker; the job goes on, and a broker may connect again.
    pub(crate) fn hang_up(&mut self) {
        self.broker = None;
        self.watch = None;
    }

    /// Whether nobody commands this shim now.
    pub(crate) fn is_alone(&self) -> bool {
        self.broker.is_none()
    }

    /// The broker asks to be told of more output than this.
    pub(crate) fn watch(&mut self, seen: Progress) {
        self.watch = Some(seen);
    }

    /// Sends progress, if a WATCH is open and there is more. One answer for each WATCH: without a reader
    /// nothing is sent. A change of the reason for blocking is sent unasked.
    pub(crate) fn report(&mut self, progress: Progress) {
        let asked = self.watch.is_some_and(|seen| seen != progress);
        if asked || self.told != progress.blocked {
            self.watch = None;
            self.told = progress.blocked;
            self.send(&FromShim::Progress(progress));
        }
    }

    /// See [`Connection::linger`].
    pub(crate) fn linger(&mut self) {
        if let Some(broker) = &mut self.broker {
            broker.linger();
        }
    }

    fn read_pending(&mut self, ready: &Ready) -> bool {
        let mut new_broker = false;
        for (n, mut peer) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let heard = if ready.has(Slot::Pending(n)) { peer.receive() } else { Ok(()) };
            match heard.and_then(|()| peer.next()) {
                Ok(None) => self.pending.push(peer),
                Ok(Some(ToShim::Hello(hello))) if self.recognize(&hello) => {
                    self.hang_up();
                    self.broker = Some(peer);
                    new_broker = true;
                }
                Ok(Some(ToShim::Probe(probe))) if probe.nonce == self.nonce => {
                    self.probes.push(peer);
                }
                Ok(Some(_)) | Err(Closed) => {} // dropped, and so closed
            }
        }
        new_broker
    }

    fn accept(&mut self) {
        let Ok((socket, _)) = self.listener.accept() else { return };
        // The directory of the socket lets nobody else in; this is the second lock.
        if getsockopt(&socket, PeerCredentials).is_ok_and(|peer| peer.uid() == 0) {
            if self.pending.len() == MAX_PENDING {
                self.pending.remove(0);
            }
            self.pending.push(Connection::new(socket));
        }
    }
}
