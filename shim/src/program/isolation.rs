//! The child's part of isolation, as root: its namespaces, and what it finds in them. It must not look up a path that
//! a client has named outside of the job's own mount namespace: what comes from there is a descriptor.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use job_shim::crash::{self, Point};
use job_shim::filter::install;
use job_shim::isolation::{Files, Isolation, Mount, Root, Scratch, Source};
use job_shim::wire::Step;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{mkdir, sethostname};

use super::failure::{At, Failure};
use super::root::{self, Layer, empty};
use super::startup::InheritedView;
use crate::sys::landlock::scope_abstract_sockets;
use crate::sys::mount::{
    attach, attribute, file_system, loopback_up, open_tree, restrict, set_owner,
};

/// The places of [`Files::scratch`], and their directories in one tmpfs, which is under `/tmp` then. `/tmp` is the last.
const SCRATCH: [(&CStr, &CStr); 3] =
    [(c"/tmp/vartmp", c"/var/tmp"), (c"/tmp/shm", c"/dev/shm"), (c"/tmp/tmp", c"/tmp")];

/// What a child does to be isolated.
pub(crate) struct Isolator {
    isolation: Isolation,
    root: Option<Root>,
    /// A user namespace, of a root that is the job's.
    owner: Option<OwnedFd>,
    view: InheritedView,
}

impl Isolator {
    /// Of a launch, and the descriptors that it speaks of.
    ///
    /// # Errors
    /// `Namespaces` and `Bind` with EBADF for one that is not there; `MountRoot` with EINVAL for a root that would be
    /// writable.
    pub(crate) fn new(
        isolation: Isolation,
        root: Option<Root>,
        mut view: InheritedView,
    ) -> Result<Isolator, Failure> {
        let absent = |step| Failure { step, errno: Errno::EBADF };
        if isolation.files.is_some() && view.namespace.is_none() {
            return Err(absent(Step::Namespaces));
        }
        if root.is_some() && !isolation.files.as_ref().is_some_and(|files| files.read_only) {
            return Err(Failure { step: Step::MountRoot, errno: Errno::EINVAL });
        }
        let roots = root.map_or(0, |root| root.sources());
        if isolation.sources() + roots != view.sources.len() {
            return Err(absent(Step::Bind));
        }
        let owner = root.is_some_and(|root| root.owned).then(|| view.sources.remove(1));
        Ok(Isolator { isolation, root, owner, view })
    }

    /// The directory of the job's root, for as long as the job lives.
    ///
    /// # Errors
    /// `MountRoot` with EMFILE.
    pub(crate) fn root_to_hold(&self) -> Result<Option<OwnedFd>, Failure> {
        let root = self.root.and(self.view.sources.first());
        root.map(|root| root.try_clone().at(Step::MountRoot)).transpose()
    }

    /// Whether pids are counted anew.
    pub(crate) fn has_own_pids(&self) -> bool {
        self.isolation.pids
    }

    /// Enters its namespaces and makes what is in them. The sources come first, since only in the mount namespace that
    /// they are from can they be copied.
    ///
    /// # Errors
    /// The steps from `Namespaces` to `Hostname`.
    pub(crate) fn enter(&self) -> Result<(), Failure> {
        let mut sources = self.copy_sources()?.into_iter();
        self.change_namespaces().at(Step::Namespaces)?;
        crash::at(Point::NamespacesEntered);
        if let Some(files) = &self.isolation.files {
            let root = self.root.and_then(|root| {
                let tree = sources.next()?;
                let writes = match (root.on_disk, root.overlay) {
                    (true, _) => Some(Layer::OnDisk(sources.next()?)),
                    (false, scratch) => scratch.map(Layer::InMemory),
                };
                Some((tree, writes))
            });
            if let (Some((tree, _)), Some(owner)) = (&root, &self.owner) {
                set_owner(tree, owner).at(Step::MountRoot)?;
            }
            make_files(files, root, sources)?;
        }
        if self.isolation.network {
            loopback_up().at(Step::Network)?;
            crash::at(Point::NetworkUp);
        }
        if !self.isolation.hostname.is_empty() {
            sethostname(OsStr::from_bytes(&self.isolation.hostname)).at(Step::Hostname)?;
            crash::at(Point::HostnameSet);
        }
        Ok(())
    }

    /// The last of it, since what comes before makes calls that are refused after.
    ///
    /// # Errors
    /// `Seccomp`.
    pub(crate) fn filter(&self) -> Result<(), Failure> {
        // Abstract sockets are a network's, and the only ones of the host that no mount hides.
        if self.isolation.ipc && !self.isolation.network {
            scope_abstract_sockets().at(Step::Seccomp)?;
        }
        install(self.isolation.filter, self.isolation.filter_logs).at(Step::Seccomp)
    }

    fn copy_sources(&self) -> Result<Vec<OwnedFd>, Failure> {
        let copy = |source: &OwnedFd| open_tree(Some(source.as_fd()), c"").at(Step::Bind);
        self.view.sources.iter().map(copy).collect()
    }

    fn change_namespaces(&self) -> nix::Result<()> {
        let Isolation { ipc, network, files, hostname, .. } = &self.isolation;
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWIPC, *ipc);
        // With a name of its own always: it would be the host's that is changed.
        flags.set(CloneFlags::CLONE_NEWUTS, *ipc || !hostname.is_empty());
        flags.set(CloneFlags::CLONE_NEWCGROUP, *ipc);
        flags.set(CloneFlags::CLONE_NEWNET, *network);
        if files.is_some()
            && let Some(view) = &self.view.namespace
        {
            setns(view, CloneFlags::CLONE_NEWNS)?;
            flags.insert(CloneFlags::CLONE_NEWNS);
        }
        unshare(flags)
    }
}

/// Fills the new mount namespace.
fn make_files(
    files: &Files,
    root: Option<(OwnedFd, Option<Layer>)>,
    mut sources: impl Iterator<Item = OwnedFd>,
) -> Result<(), Failure> {
    let attributes = if files.read_only { attribute::READ_ONLY | attribute::NO_SUID } else { 0 };
    // What the host mounts from now on does not come in; what came since the view was made is restricted, too.
    restrict(None, attributes, true).at(Step::MountRoot)?;
    if let Some((tree, writes)) = root {
        root::enter(&tree, writes.as_ref())?;
        crash::at(Point::RootMade);
    } else if files.root {
        if !files.read_only {
            return Err(Failure { step: Step::MountRoot, errno: Errno::EINVAL }); // see `make_place`
        }
        root::of_view()?;
        crash::at(Point::RootMade);
    }
    if let Some(scratch) = files.scratch {
        mount_scratch(scratch).at(Step::MountTmp)?;
        crash::at(Point::ScratchMounted);
    }
    if files.read_only {
        // Before the first of them is attached: some are the host's, and writable. And before `/proc` is there, whose
        // links lead to the shim's root: the host's.
        files.mounts.iter().try_for_each(make_place).at(Step::Bind)?;
        crash::at(Point::PlacesMade);
    }
    if files.devices {
        mount_proc().at(Step::MountProc)?;
        mount_devices().at(Step::MountDev)?;
        crash::at(Point::DevicesMounted);
    }
    for mount in &files.mounts {
        bind(mount, &mut sources).at(Step::Bind)?;
    }
    crash::at(Point::SourcesBound);
    Ok(())
}

/// Makes a place for a mount where there is none. This is root, and the path a client's: it works only in the job's
/// own memory, since all else that it may lead to is read-only by now.
fn make_place(mount: &Mount) -> io::Result<()> {
    let place = Path::new(OsStr::from_bytes(&mount.target));
    if place.exists() {
        return Ok(());
    }
    if !matches!(mount.source, Source::Inherited { file: true, .. }) {
        return fs::create_dir_all(place);
    }
    place.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::File::create(place).map(drop)
}

/// One tmpfs for all three, so that they share one limit. Attached before its directories are copied: Linux before 6.15
/// copies nothing of a detached mount. `/var/tmp` may be missing.
fn mount_scratch(scratch: Scratch) -> nix::Result<()> {
    attach(&empty(scratch, c"755")?, c"/tmp")?;
    let make = |(path, target): (&CStr, _)| {
        let sticky = Mode::from_bits_truncate(0o1777); // whatever the umask
        mkdir(path, sticky)?;
        fchmodat(AT_FDCWD, path, sticky, FchmodatFlags::FollowSymlink)?;
        Ok::<_, Errno>((open_tree(None, path)?, target))
    };
    for made in SCRATCH.map(make) {
        let (tree, target) = made?;
        match attach(&tree, target) {
            Err(Errno::ENOENT) if target == c"/var/tmp" => {}
            result => result?,
        }
    }
    Ok(())
}

/// That of the pid namespace that this process is in. A job sees only processes that it may trace: not its shim, whose
/// `mountinfo` is the host's.
fn mount_proc() -> nix::Result<()> {
    let attributes = attribute::NO_SUID | attribute::NO_DEVICES | attribute::NO_EXEC;
    attach(&file_system(c"proc", &[(c"hidepid", c"invisible")], attributes)?, c"/proc")
}

/// Terminals and message queues. A kernel without message queues has none to hide.
fn mount_devices() -> nix::Result<()> {
    let options = [(c"ptmxmode", c"0666"), (c"mode", c"620")];
    attach(
        &file_system(c"devpts", &options, attribute::NO_SUID | attribute::NO_EXEC)?,
        c"/dev/pts",
    )?;
    let attributes = attribute::NO_SUID | attribute::NO_DEVICES | attribute::NO_EXEC;
    match file_system(c"mqueue", &[], attributes) {
        Err(Errno::ENODEV) => Ok(()),
        queues => attach(&queues?, c"/dev/mqueue"),
    }
}

fn bind(mount: &Mount, sources: &mut impl Iterator<Item = OwnedFd>) -> nix::Result<()> {
    let target = CString::new(mount.target.as_slice()).map_err(|_| Errno::EINVAL)?;
    let tree = match mount.source {
        Source::Empty(scratch) => empty(scratch, c"1777")?,
        Source::Inherited { read_only, .. } => {
            let tree = sources.next().ok_or(Errno::EBADF)?;
            let attributes = if read_only { attribute::READ_ONLY } else { 0 };
            let always = attribute::NO_SUID | attribute::NO_DEVICES;
            restrict(Some(tree.as_fd()), always | attributes, true)?;
            tree
        }
    };
    attach(&tree, &target)
}
