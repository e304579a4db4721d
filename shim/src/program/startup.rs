//! Steps 1 and 2: what the shim inherits, and its protection from the out-of-memory killer.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;

use caps::{CapSet, Capability};
use job_shim::isolation::{FIRST_SOURCE_FD, VIEW_FD};
use job_shim::launch::{
    CONTROL_FD, FIRST_FREE_FD, LAUNCH_FD, LISTEN_FD, Launch, PROGRAM_FD, Program, SCRIPT_FD,
    STATE_FD, WORK_FD,
};
use job_shim::wire::Step;
use nix::errno::Errno;
use nix::unistd::geteuid;

use super::failure::{At, Failure};
use crate::sys::{self, Disposition};

/// The descriptors of `launch.rs`, owned.
pub(crate) struct Inherited {
    pub(crate) control: OwnedFd,
    pub(crate) state: OwnedFd,
    pub(crate) work: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) launch: OwnedFd,
    pub(crate) program: InheritedProgram,
    pub(crate) view: InheritedView,
}

/// The descriptors of an isolated job, if there are any.
pub(crate) struct InheritedView {
    /// The mount namespace to copy.
    pub(crate) namespace: Option<OwnedFd>,
    /// What is attached.
    pub(crate) sources: Vec<OwnedFd>,
}

/// The descriptors of a checked program, if there are any.
pub(crate) struct InheritedProgram {
    program: Option<OwnedFd>,
    script: Option<OwnedFd>,
}

/// A program that the broker has opened and checked.
pub(crate) struct Checked {
    /// What is executed.
    pub(crate) program: OwnedFd,
    /// What it interprets.
    pub(crate) script: Option<OwnedFd>,
}

impl InheritedProgram {
    /// What the launch says that there is, and nothing else.
    ///
    /// # Errors
    /// `CheckedProgram`, with EBADF for one that is not there: nothing is looked up in its place.
    pub(crate) fn checked(self, what: Option<Program>) -> Result<Option<Checked>, Failure> {
        let absent = Failure { step: Step::CheckedProgram, errno: Errno::EBADF };
        let script = match what {
            None => return Ok(None),
            Some(Program::Binary) => None,
            Some(Program::Script) => Some(self.script.ok_or(absent)?),
        };
        Ok(Some(Checked { program: self.program.ok_or(absent)?, script }))
    }
}

impl Inherited {
    /// Takes them, and leaves behind whatever else the parent had: descriptors that it forgot to
    /// mark and signals that it ignored (an ignored SIGCHLD would take away the exit status).
    ///
    /// # Errors
    /// EBADF where this process was not started by a broker.
    pub(crate) fn take() -> nix::Result<Inherited> {
        let numbers = [CONTROL_FD, STATE_FD, WORK_FD, LISTEN_FD, LAUNCH_FD];
        let [control, state, work, listener, launch] = sys::inherited(numbers)?;
        let program = sys::inherited_if_open(PROGRAM_FD);
        let script = sys::inherited_if_open(SCRIPT_FD);
        let namespace = sys::inherited_if_open(VIEW_FD);
        let sources = (FIRST_SOURCE_FD..FIRST_FREE_FD).map_while(sys::inherited_if_open).collect();
        sys::close_from(FIRST_FREE_FD)?;
        default_dispositions()?;
        let program = InheritedProgram { program, script };
        let view = InheritedView { namespace, sources };
        Ok(Inherited { control, state, work, listener, launch, program, view })
    }
}

/// All signals to their defaults. Rust's runtime ignores SIGPIPE, for one, and a process that
/// inherits that writes for ever into pipes without a reader.
///
/// # Errors
/// EFAULT; no kernel gives it.
pub(crate) fn default_dispositions() -> nix::Result<()> {
    for signal in (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        sys::disposition(signal, Disposition::Default)?;
    }
    Ok(())
}

/// Reads the launch and judges what can be judged without the kernel.
///
/// # Errors
/// `ReadLaunch`, and `User` with EPERM for a launch that would leave somebody root: that is
/// refused here, however it came about.
pub(crate) fn read_launch(memory: OwnedFd) -> Result<Launch, Failure> {
    let mut file = File::from(memory);
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).at(Step::ReadLaunch)?;
    let launch = Launch::from_bytes(&bytes)
        .map_err(|_| Failure { step: Step::ReadLaunch, errno: Errno::EBADMSG })?;
    if launch.uid == 0 {
        return Err(Failure { step: Step::User, errno: Errno::EPERM });
    }
    // With a uid in common, the workload could kill and trace its shim. Who is not root has no other uid to give.
    let shares_uid = launch.shim_uid == launch.uid && geteuid().is_root();
    if launch.shim_uid == 0 || shares_uid {
        return Err(Failure { step: Step::DropPrivileges, errno: Errno::EPERM });
    }
    Ok(launch)
}

/// Takes this process out of the reach of the out-of-memory killer: a job must not outlive the one
/// that records its end.
///
/// # Errors
/// `OomScore`; see [`set_oom_score`].
pub(crate) fn never_kill_for_memory() -> Result<(), Failure> {
    set_oom_score(b"-1000")
}

/// Lets it be killed like any other.
///
/// # Errors
/// `OomScore`; see [`set_oom_score`].
pub(crate) fn kill_for_memory_as_usual() -> Result<(), Failure> {
    set_oom_score(b"0")
}

/// A host whose root does not hold CAP_SYS_RESOURCE (many containers) has no way of protecting a
/// process: there, and only there, the score stays as it is. The broker reports it, once for all
/// jobs.
fn set_oom_score(score: &[u8]) -> Result<(), Failure> {
    let result = std::fs::write("/proc/self/oom_score_adj", score);
    let held = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE);
    match result {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) && matches!(held, Ok(false)) => Ok(()),
        result => result.at(Step::OomScore),
    }
}
