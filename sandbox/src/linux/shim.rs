//! Finds the program `job-shim`. Opens it, and runs nothing.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::builder::Builder;
use crate::error::Error;

const NAME: &str = "job-shim";
/// Names the program where the builder does not.
const VARIABLE: &str = "JOB_SANDBOX_SHIM";
/// Where a package of the broker has it.
const INSTALLED: &str = "/usr/lib/job-broker/job-shim";

/// The program, for reading: what its path means later does not matter.
///
/// # Errors
/// `Refused`, with the places.
pub(super) fn open(builder: &Builder) -> Result<File, Error> {
    if let Some(bytes) = builder.shim_bytes {
        let failed = |source| Error::Setup { step: "keep the shim in memory", source };
        return in_memory(bytes).map_err(failed);
    }
    let named = builder.shim.clone().or_else(|| env::var_os(VARIABLE).map(PathBuf::from));
    if let Some(path) = named {
        let refused = |e| Error::refused("shim", format!("cannot open {}: {e}", path.display()));
        return File::open(&path).map_err(refused);
    }
    let places = [beside(), Some(INSTALLED.into())];
    let found = places.iter().flatten().find_map(|path| File::open(path).ok());
    found.ok_or_else(|| {
        let places: Vec<_> =
            places.iter().flatten().map(|path| path.display().to_string()).collect();
        let reason = format!(
            "{NAME} is not at {}; name it with `shim`, `shim_bytes` or {VARIABLE}",
            places.join(" or ")
        );
        Error::refused("shim", reason)
    })
}

fn beside() -> Option<PathBuf> {
    Some(env::current_exe().ok()?.parent()?.join(NAME))
}

/// Opened again for reading: what is open for writing is not executed.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"job-shim", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    File::open(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}
