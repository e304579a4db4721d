//! What `systemctl status` shows and the watchdog waits for: the protocol of sd_notify(3), one
//! datagram for each message. Thirty lines, for which no crate is needed.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The service manager, if there is one that listens.
#[derive(Debug, Clone)]
pub(crate) struct Notifier {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
}

impl Notifier {
    /// Whom `$NOTIFY_SOCKET` names. Jobs do not inherit the variable: their environment is built
    /// from nothing.
    pub(crate) fn from_environment() -> Notifier {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Notifier { socket: None } };
        let name = name.to_string_lossy();
        let address = match name.strip_prefix('@') {
            Some(hidden) => SocketAddr::from_abstract_name(hidden),
            None => SocketAddr::from_pathname(&*name),
        };
        let socket = address.and_then(|address| Ok(Arc::new((UnixDatagram::unbound()?, address))));
        if let Err(e) = &socket {
            tracing::warn!("cannot notify the service manager at {name}: {e}");
        }
        Notifier { socket: socket.ok() }
    }

    /// The API answers.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// One line for `systemctl status`.
    pub(crate) fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
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

    /// It lives.
    pub(crate) fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = self.socket.as_deref() else { return };
        if let Err(e) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::warn!("cannot notify the service manager: {e}");
        }
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
    use super::*;

    #[test]
    fn each_message_is_one_datagram_in_the_form_of_sd_notify() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_pathname(&path).unwrap();
        let notifier =
            Notifier { socket: Some(Arc::new((UnixDatagram::unbound().unwrap(), address))) };
        let heard = || {
            let mut bytes = [0; 256];
            let length = manager.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        notifier.ready("20 jobs running");
        assert_eq!(heard(), "READY=1\nSTATUS=20 jobs running");
        notifier.reloading();
        let reloading = heard();
        let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        assert!(time.is_some_and(|time| time.parse::<u64>().is_ok()), "{reloading}");
        notifier.watchdog();
        assert_eq!(heard(), "WATCHDOG=1");
    }

    #[test]
    fn without_a_manager_nothing_is_said() {
        Notifier { socket: None }.ready("nobody hears this");
    }
}
