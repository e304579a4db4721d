//! Integration with systemd: sd_notify (`notify`), socket activation (`sockets`), and a scope for the jobs (`scope`,
//! `keeper`, `bus`), since processes below the service's own cgroup keep systemd from restarting the service. It must
//! not depend on systemd where systemd is not process 1.

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
