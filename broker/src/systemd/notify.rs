//! What `systemctl status` shows and the watchdog waits for: the protocol of sd_notify(3), one
//! datagram for each message. A few lines, for which no crate is needed.
//!
//! Nothing here waits. A service manager that is frozen (and be it by a debugger) lets its queue fill
//! up, and these words come from the thread that the jobs depend on. Words that find it full are
//! lost, as the next ones say more; only READY=1, without which the service would be taken for one
//! that never started, goes along with every later message until one is delivered.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The service manager, if there is one that listens.
#[derive(Debug, Clone)]
pub(crate) struct Notifier {
    manager: Option<Arc<Manager>>,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// It is ready and could not say so yet.
    ready_pending: AtomicBool,
}

impl Notifier {
    /// Whom `$NOTIFY_SOCKET` names. Jobs do not inherit the variable: their environment is built
    /// from nothing.
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

    /// The API answers. Said at the latest with the first of the later messages that is delivered.
    pub(crate) fn ready(&self, status: &str) {
        if let Some(manager) = &self.manager {
            manager.ready_pending.store(true, Ordering::Relaxed);
        }
        self.status(status);
    }

    /// One line for `systemctl status`. Whether it need not be said again: not if the service manager
    /// is behind with its reading.
    pub(crate) fn status(&self, status: &str) -> bool {
        self.send(&format!("STATUS={status}"))
    }

    /// The service reloads; [`Notifier::ready`] ends that. `Type=notify-reload` wants the time.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
            i128::from(now.tv_sec()) * 1_000_000 + i128::from(now.tv_nsec()) / 1000
        });
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=reading its configuration"));
    }

    /// The service is about to end.
    pub(crate) fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// It cannot run; `systemctl status` goes on showing why.
    pub(crate) fn failed(&self, error: &dyn std::error::Error) {
        self.send(&format!("STATUS=not running: {}", one_line(error)));
    }

    /// It lives. Whether it need not be said again, as with [`Notifier::status`].
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

    /// Of READY, RELOADING and STOPPING in one message systemd takes the last. So readiness that is
    /// owed goes in front; and RELOADING is always followed by another READY.
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

/// How often the watchdog wants to hear of us, if it does: half the time after which it would kill,
/// sd_watchdog_enabled(3).
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let time = number("WATCHDOG_USEC").filter(|usec| is_meant && *usec > 0)?;
    Some(Duration::from_micros(time) / 2)
}

/// As systemd reads it: one line, whatever an error's text holds.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use tempfile::TempDir;

    use super::*;

    /// A service manager, and who tells it things.
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

        /// Until nothing more goes in; answers with how much there is to be heard.
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
