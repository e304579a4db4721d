//! Leaves this process one directory and nothing else, before it reads what it was given. It must not return success where
//! any of it has failed.

use std::path::Path;

use caps::CapSet;
use job_shim::filter::{Filter, install};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{
    Gid, Uid, chdir, getresuid, pivot_root, setgroups, setresgid, setresuid, setuid,
};

use crate::{Bounds, Doing, Result, fault};

/// Nobody's: in the range that Debian's policy reserves (65000 to 65533), where no account is made.
pub(crate) const UID: u32 = 65_531;
/// Most memory: what compression may ask for, and names.
const MEMORY: u64 = 1 << 30;

/// Its own mounts, network and IPC; the directory as its root; no other user's files, no capability, few system calls.
///
/// # Errors
/// What this host does not allow.
pub(crate) fn confine(directory: &Path, bounds: Bounds) -> Result<()> {
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces).doing(|| "cannot confine the unpacking: namespaces".into())?;
    enter(directory).doing(|| "cannot confine the unpacking: its root".into())?;
    limit(bounds).doing(|| "cannot confine the unpacking: limits".into())?;
    become_nobody().doing(|| "cannot confine the unpacking: its user".into())?;
    let ids = getresuid().doing(|| "cannot confine the unpacking".into())?;
    let is_own = [ids.real, ids.effective, ids.saved].iter().all(|id| id.as_raw() == UID);
    if !is_own || setuid(Uid::from_raw(0)).is_ok() {
        return fault("cannot confine the unpacking: it is still root");
    }
    Ok(())
}

fn enter(directory: &Path) -> nix::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some(directory), directory, none, MsFlags::MS_BIND, none)?;
    let nothing = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(none, directory, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | nothing, none)?;
    chdir(directory)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

fn limit(bounds: Bounds) -> nix::Result<()> {
    for (resource, most) in [
        (Resource::RLIMIT_AS, MEMORY),
        (Resource::RLIMIT_FSIZE, bounds.bytes),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_NOFILE, 64),
    ] {
        setrlimit(resource, most, most)?;
    }
    Ok(())
}

fn become_nobody() -> std::result::Result<(), Box<dyn std::error::Error>> {
    setgroups(&[])?;
    caps::clear(None, CapSet::Ambient)?;
    for capability in caps::read(None, CapSet::Bounding)? {
        caps::drop(None, CapSet::Bounding, capability)?;
    }
    let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(UID));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    prctl::set_pdeathsig(Signal::SIGKILL)?; // after the change of uid, which clears it
    prctl::set_no_new_privs()?;
    Ok(install(Filter::Strict, false)?)
}
