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
    /// They have connected and not yet said Hello; the oldest first.
    pending: Vec<Connection>,
    /// They have asked who this is, and have not been told.
    probes: Vec<Connection>,
    /// What the broker has seen, while it waits for more.
    watch: Option<Progress>,
    /// What hindered the output when that was last told.
    told: Option<Blocked>,
}

impl Control {
    /// Begins with the connection that the shim was born with.
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

    /// Step 10: waits for GO, and gives the limits that hold by then. `None`: the broker is gone, or
    /// says what makes no sense before it.
    pub(crate) fn await_go(&mut self, mut limits: Limits, scratch: &mut [u8]) -> Option<Limits> {
        while let Some(broker) = &self.broker {
            let mut interest = Interest::new();
            broker.register(&mut interest, Slot::Broker);
            let ready = interest.wait(-1);
            self.turn(&ready, scratch);
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
    pub(crate) fn turn(&mut self, ready: &Ready, scratch: &mut [u8]) -> bool {
        let hears_broker = ready.has(Slot::Broker) && self.broker.is_some();
        if hears_broker && let Some(broker) = &mut self.broker {
            broker.flush();
            if broker.receive(scratch).is_err() {
                self.hang_up();
            }
        }
        // Nobody takes the broker's place before all that it has said was heard: a shim that was
        // stopped finds the last words of a dead one and the next one's first together.
        let new_broker = !hears_broker && self.read_pending(ready, scratch);
        if ready.has(Slot::Listener) {
            self.accept();
        }
        new_broker
    }

    /// The broker's next word.
    pub(crate) fn next(&mut self) -> Option<ToShim> {
        let message = self.broker.as_mut()?.next();
        message.unwrap_or_else(|Closed| {
            self.hang_up();
            None
        })
    }

    /// Whether that is our broker, and not one that a later one has taken the place of.
    pub(crate) fn recognize(&mut self, hello: &BrokerHello) -> bool {
        let known = hello.nonce == self.nonce && hello.epoch >= self.epoch;
        if known {
            self.epoch = hello.epoch;
        }
        known
    }

    /// Those who have asked who this is: to be told once, and left.
    pub(crate) fn probes(&mut self) -> Vec<Connection> {
        std::mem::take(&mut self.probes)
    }

    /// Says something to the broker, if there is one.
    pub(crate) fn send(&mut self, message: &FromShim) {
        if let Some(broker) = &mut self.broker
            && broker.send(message).is_err()
        {
            self.hang_up();
        }
    }

    /// Ends the connection with the broker; the job goes on, and a broker may come again.
    pub(crate) fn hang_up(&mut self) {
        self.broker = None;
        self.watch = None;
    }

    /// The broker wants to know of more than this.
    pub(crate) fn watch(&mut self, seen: Progress) {
        self.watch = Some(seen);
    }

    /// Answers, if somebody waits and there is something new. One answer to each question: without
    /// a reader there is nothing to send. That the job blocks, or does so no more, is told unasked.
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

    fn read_pending(&mut self, ready: &Ready, scratch: &mut [u8]) -> bool {
        let mut new_broker = false;
        for (n, mut peer) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let heard = if ready.has(Slot::Pending(n)) { peer.receive(scratch) } else { Ok(()) };
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
