//! Living with systemd: telling it how the service is (`notify`), taking listening sockets from it
//! (`sockets`), and a scope of its own for the jobs (`scope`, `keeper`, `bus`), since what lives below
//! the service's own cgroup keeps the service from being restarted.

mod bus;
mod keeper;
pub(crate) mod notify;
pub(crate) mod scope;
pub(crate) mod sockets;

use std::path::Path;

/// Whether systemd is process 1: sd_booted(3).
pub(crate) fn is_init() -> bool {
    Path::new("/run/systemd/system").is_dir()
}
