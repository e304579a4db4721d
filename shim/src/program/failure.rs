//! Why a start failed. Every step before GO fails with its name and an errno.

use job_shim::wire::Step;
use nix::errno::Errno;

/// Why a start failed: the step and the error, for the broker and the record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
}

/// Names the step that a kernel call belongs to.
pub(crate) trait At<T> {
    fn at(self, step: Step) -> Result<T, Failure>;
}

impl<T, E: Into<std::io::Error>> At<T> for Result<T, E> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.map_err(|error| Failure { step, errno: errno(&error.into()) })
    }
}

/// The number of an I/O error. One without a number is the standard library's, about a short read.
pub(crate) fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
