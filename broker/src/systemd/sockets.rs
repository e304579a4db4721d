//! Socket activation, sd_listen_fds(3): connections wait in systemd's socket while the broker restarts, instead of
//! being refused. It must accept exactly one listening TCP socket.

use std::env;
use std::io;
use std::net::TcpListener;

use crate::sys;

/// The listening TCP socket passed by systemd, if any.
///
/// # Errors
/// More than one descriptor, or one that is not a listening TCP socket.
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
            let fault = format!("systemd passed {count} sockets; the broker accepts one");
            Err(io::Error::new(io::ErrorKind::InvalidInput, fault))
        }
    }
}
