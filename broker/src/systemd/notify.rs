//! The protocol of sd_notify(3): readiness, status line and watchdog, one datagram for each message.
//!
//! It must not block: the messages come from the thread that the jobs depend on, and a stopped service manager lets
//! its socket queue fill up. A message for a full queue is dropped, since the next one replaces it. Only READY=1 is
//! repeated with every later message until one is delivered: without it systemd considers the service not started.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A client of the service manager; does nothing without one.
#[derive(Debug, Clone)]
pub(crate) struct Notifier {
    manager: Option<Arc<Manager>>,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// READY=1 is still to be delivered.
    ready_pending: AtomicBool,
}

impl Notifier {
    /// The service manager at `$NOTIFY_SOCKET`. Jobs do not inherit the variable: their environment starts
    /// empty.
    pub(crate) fn from_environment() -> Notifier {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Notifier { manager: None } };
        let name = name.to_string_lossy();
        let address = match name.strip_prefix('@') {
            Some(hidden) => SocketAddr::from_abstract_name(hidden),
            None => SocketAddr::from_pathname(&*name),
        };
        let manager = address.and_then(Manager::at);
        if let Err(e) = &manager {
            tracing::warn!("cannot notify the service manager at {name}: {e}");
        }
        Notifier { manager: manager.ok().map(Arc::new) }
    }

    /// READY=1: the API answers. If not delivered now, READY=1 is repeated with later messages.
    pub(crate) fn ready(&self, status: &str) {
        if let Some(manager) = &self.manager {
            manager.ready_pending.store(true, Ordering::Relaxed);
        }
        self.status(status);
    }

    /// STATUS=, the line of `systemctl status`. False if the socket queue is full and the caller should retry.
    pub(crate) fn status(&self, status: &str) -> bool {
        self.send(&format!("STATUS={status}"))
    }

    /// RELOADING=1, until [`Notifier::ready`]. `Type=notify-reload` requires the time.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
            i128::from(now.tv_sec()) * 1_000_000 + i128::from(now.tv_nsec()) / 1000
        });
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=reading the configuration"));
    }

    /// STOPPING=1.
    pub(crate) fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// The service failed; `systemctl status` keeps showing the error.
    pub(crate) fn failed(&self, error: &dyn std::error::Error) {
        self.send(&format!("STATUS=not running: {}", one_line(error)));
    }

    /// WATCHDOG=1. False as with [`Notifier::status`].
    pub(crate) fn watchdog(&self) -> bool {
        self.send("WATCHDOG=1")
    }

    fn send(&self, message: &str) -> bool {
        let Some(manager) = &self.manager else { return true };
        match manager.send(message) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) => {
                tracing::warn!("cannot notify the service manager: {e}");
                true
            }
        }
    }
}

impl Manager {
    fn at(address: SocketAddr) -> io::Result<Manager> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Manager { socket, address, ready_pending: AtomicBool::new(false) })
    }

    /// If one message has several of READY, RELOADING and STOPPING, the last one counts. A pending READY is
    /// therefore put in front, and another READY always follows RELOADING.
    fn send(&self, message: &str) -> io::Result<()> {
        let pending = self.ready_pending.swap(false, Ordering::Relaxed);
        let ready = if pending { "READY=1\n" } else { "" };
        let sent = self.socket.send_to_addr(format!("{ready}{message}").as_bytes(), &self.address);
        if pending && sent.is_err() {
            self.ready_pending.store(true, Ordering::Relaxed);
        }
        sent.map(drop)
    }
}

/// The interval of WATCHDOG=1, if the watchdog is enabled: half of its timeout, sd_watchdog_enabled(3).
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let time = number("WATCHDOG_USEC").filter(|usec| is_meant && *usec > 0)?;
    Some(Duration::from_micros(time) / 2)
}

/// The text of an error on one line, as sd_notify(3) requires.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use tempfile::TempDir;

    use super::*;

    /// The socket of a service manager.
    struct TestManager {
        socket: UnixDatagram,
        address: SocketAddr,
        _dir: TempDir,
    }

    impl TestManager {
        fn open() -> (TestManager, Notifier) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            let address = SocketAddr::from_pathname(&path).unwrap();
            let manager = Manager::at(address.clone()).unwrap();
            (
                TestManager { socket, address, _dir: dir },
                Notifier { manager: Some(Arc::new(manager)) },
            )
        }

        fn heard(&self) -> String {
            let mut bytes = [0; 256];
            let length = self.socket.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        }

        /// Fills the socket queue; returns the number of messages in it.
        fn fill(&self) -> usize {
            let another = UnixDatagram::unbound().unwrap();
            another.set_nonblocking(true).unwrap();
            (0..).take_while(|_| another.send_to_addr(b"X", &self.address).is_ok()).count()
        }
    }

    #[test]
    fn each_message_is_one_datagram_in_the_form_of_sd_notify() {
        let (manager, notifier) = TestManager::open();
        notifier.ready("20 jobs running");
        assert_eq!(manager.heard(), "READY=1\nSTATUS=20 jobs running");
        notifier.reloading();
        let reloading = manager.heard();
        let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        assert!(time.is_some_and(|time| time.parse::<u64>().is_ok()), "{reloading}");
        notifier.watchdog();
        assert_eq!(manager.heard(), "WATCHDOG=1");
    }

    #[test]
    fn a_manager_that_does_not_listen_holds_nobody_up_and_hears_of_readiness_later() {
        let (manager, notifier) = TestManager::open();
        let waiting = manager.fill();
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            notifier.ready("one");
            let heard = notifier.status("two");
            let _ = sender.send((notifier, heard));
        });
        let (notifier, heard) = said.recv_timeout(Duration::from_secs(60)).expect("it waits");
        assert!(!heard);
        (0..waiting).for_each(|_| assert_eq!(manager.heard(), "X"));
        assert!(notifier.status("three"));
        assert_eq!(manager.heard(), "READY=1\nSTATUS=three");
        notifier.watchdog();
        assert_eq!(manager.heard(), "WATCHDOG=1");
    }

    #[test]
    fn without_a_manager_nothing_is_said() {
        Notifier { manager: None }.ready("nobody hears this");
    }
}
