//! Socket activation: sockets that systemd listens on and passes on, sd_listen_fds(3). With one of
//! those, connections wait while the broker restarts instead of being refused.

use std::env;
use std::io;
use std::net::TcpListener;

use crate::sys;

/// The listening TCP socket that systemd has passed, if it has.
///
/// # Errors
/// More than one, or something that is no listening TCP socket.
pub(crate) fn listener() -> io::Result<Option<TcpListener>> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => {
            let listener = sys::first_passed_listener()?;
            listener.set_nonblocking(true)?;
            Ok(Some(listener))
        }
        Some(count) => {
            let fault = format!("systemd passes {count} sockets; the broker serves one address");
            Err(io::Error::new(io::ErrorKind::InvalidInput, fault))
        }
    }
}
