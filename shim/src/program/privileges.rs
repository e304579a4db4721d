//! What workload and shim have in common on their way from root to nobody.

use caps::CapSet;
use job_shim::filter;
use job_shim::launch::Launch;
use job_shim::wire::Step;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

use super::failure::{At, Failure};
use crate::sys::{self, Disposition};

/// Step 8: real and saved uid the shim's, effective uid the workload's. So the shim may signal the
/// workload, and the workload may neither signal nor trace the shim (kill(2) compares with the
/// target's real and saved uid, ptrace(2) with all three).
///
/// # Errors
/// `DropPrivileges`.
pub(crate) fn become_shim(launch: &Launch) -> Result<(), Failure> {
    const STEP: Step = Step::DropPrivileges;
    // The end of the service is not the end of its jobs, and only root can send these anyway.
    for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        sys::disposition(signal, Disposition::Ignore).at(STEP)?;
    }
    nix::unistd::setsid().at(STEP)?;
    nix::unistd::chdir("/").at(STEP)?;
    let (shim, gid) = (Uid::from_raw(launch.shim_uid), Gid::from_raw(launch.shim_gid));
    if geteuid().is_root() {
        setgroups(&[]).at(STEP)?;
    } else {
        // Nothing changes: not the uid either, which would make it untraceable.
        prctl::set_dumpable(false).at(STEP)?;
    }
    setresgid(gid, gid, gid).at(STEP)?;
    setresuid(shim, Uid::from_raw(launch.uid), shim).at(STEP)?;
    clear_inheritable_and_ambient().at(STEP)?;
    prctl::set_no_new_privs().at(STEP)?;
    if !has_nothing() {
        return Err(Failure { step: STEP, errno: Errno::EPERM });
    }
    Ok(())
}

/// The end of step 9: from here on the shim opens, makes and executes nothing. Where the kernel has no filters it goes
/// without; the broker reports that, once for all jobs.
///
/// # Errors
/// `DropPrivileges`.
pub(crate) fn filter_calls() -> Result<(), Failure> {
    match filter::install_for_shim() {
        Err(_) if !filter::is_available() => Ok(()),
        result => result.at(Step::DropPrivileges),
    }
}

/// No exec can bring a capability back. Counted up to what the kernel says is the last: it may
/// know more of them than `caps` does. Who is not root goes without: no_new_privs does the same for its children.
///
/// # Errors
/// EPERM without CAP_SETPCAP.
pub(crate) fn empty_bounding_set() -> nix::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    for capability in 0..64 {
        match sys::drop_from_bounding_set(capability) {
            Err(Errno::EINVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// The two sets that live through a change of uid and an exec.
///
/// # Errors
/// EPERM; a kernel that follows capabilities(7) never gives it for taking away.
pub(crate) fn clear_inheritable_and_ambient() -> nix::Result<()> {
    [CapSet::Ambient, CapSet::Inheritable]
        .into_iter()
        .try_for_each(|set| caps::clear(None, set))
        .map_err(|_| Errno::EPERM)
}

/// Whether no capability is in force or within reach, and none can be gained.
pub(crate) fn has_nothing() -> bool {
    let empty = |set| caps::read(None, set).is_ok_and(|held| held.is_empty());
    empty(CapSet::Effective) && empty(CapSet::Permitted) && prctl::get_no_new_privs() == Ok(true)
}
