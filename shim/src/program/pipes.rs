//! Step 5: the workload's standard streams, and the two pipes that time and report its exec.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use job_shim::launch::Launch;
use job_shim::wire::Step;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchown, pipe2};

use super::failure::{At, Failure};

/// A writer of 1 MiB need not wait for the shim, and the shim reads 256 KiB at a time.
const OUTPUT_PIPE: i32 = 1 << 20;
/// The broker sends this much ahead of what the pipe has taken.
const INPUT_PIPE: i32 = 256 << 10;

/// The shim's ends.
pub(crate) struct Pipes {
    /// Non-blocking.
    pub(crate) stdin: Option<File>,
    /// Standard output and standard error, non-blocking.
    pub(crate) outputs: [File; 2],
    /// One byte: exec. Closed: leave.
    pub(crate) go: File,
    /// See [`super::child`].
    pub(crate) fault: File,
}

/// The workload's ends, all close-on-exec as they are.
pub(crate) struct Ends {
    /// Standard input, output and error.
    pub(crate) stdio: [OwnedFd; 3],
    pub(crate) go: OwnedFd,
    pub(crate) fault: OwnedFd,
}

impl Pipes {
    /// Makes all of them.
    ///
    /// # Errors
    /// `MakePipes`.
    pub(crate) fn make(launch: &Launch) -> Result<(Pipes, Ends), Failure> {
        let (stdin, stdin_end) = input(launch)?;
        let (stdout, stdout_end) = output(launch)?;
        let (stderr, stderr_end) = output(launch)?;
        let (go_end, go) = pipe2(OFlag::O_CLOEXEC).at(Step::MakePipes)?;
        let (fault, fault_end) = pipe2(OFlag::O_CLOEXEC).at(Step::MakePipes)?;
        let outputs = [stdout, stderr];
        let stdio = [stdin_end, stdout_end, stderr_end];
        Ok((
            Pipes { stdin, outputs, go: go.into(), fault: fault.into() },
            Ends { stdio, go: go_end, fault: fault_end },
        ))
    }
}

fn input(launch: &Launch) -> Result<(Option<File>, OwnedFd), Failure> {
    if launch.stdin {
        let (theirs, ours) = owned_pipe(launch)?;
        let _ = fcntl(&ours, FcntlArg::F_SETPIPE_SZ(INPUT_PIPE)); // as of an output
        return Ok((Some(non_blocking(ours)?), theirs));
    }
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    Ok((None, open("/dev/null", flags, Mode::empty()).at(Step::MakePipes)?))
}

fn output(launch: &Launch) -> Result<(File, OwnedFd), Failure> {
    let (ours, theirs) = owned_pipe(launch)?;
    // EPERM above the limits of pipe(7) where the broker's container lacks CAP_SYS_RESOURCE. The
    // usual size is slower, and nothing else.
    let _ = fcntl(&ours, FcntlArg::F_SETPIPE_SZ(OUTPUT_PIPE));
    Ok((non_blocking(ours)?, theirs))
}

/// The workload owns its pipes: /dev/stdout is opened anew by its path, which is a matter of
/// permission.
fn owned_pipe(launch: &Launch) -> Result<(OwnedFd, OwnedFd), Failure> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).at(Step::MakePipes)?;
    // Both ends are one inode.
    fchown(&read, Some(Uid::from_raw(launch.uid)), Some(Gid::from_raw(launch.gid)))
        .at(Step::MakePipes)?;
    Ok((read, write))
}

/// O_NONBLOCK belongs to the open file, so the workload's end stays as programs expect it.
fn non_blocking(end: OwnedFd) -> Result<File, Failure> {
    fcntl(end.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).at(Step::MakePipes)?;
    Ok(end.into())
}
