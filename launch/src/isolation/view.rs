//! The views: mount namespaces that jobs copy, made once by the broker and again at each reload. What a job adds is its
//! shim's work; nothing here is made for one job.
//!
//! A copy of a view costs less than making its mounts for each job, and does not grow with what systemd, containers and
//! sessions have mounted below `/run`, `/sys` and `/dev`. The mounts of a view are slaves of the host's: what the host
//! unmounts goes away here, too. What it mounts comes in; where that is its own, as a second `/proc` is, it is taken away
//! again before the next job looks.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{chdir, pivot_root};

use super::mounts::{Hidden, Mounted, Table};
use crate::model::isolation::Profile;
use crate::sync::lock;
use crate::sys;

/// Where a part is made before it gets its place: there on every host, and covered in every job.
const STAGE: &str = "/tmp";
/// The devices of a job, by their numbers.
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// Besides them.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
/// The base system of `strict`: programs and libraries.
const BASE: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store"];
/// And what they look up: names, services, certificates, libraries.
const BASE_ETC: [&str; 24] = [
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "environment",
    "group",
    "host.conf",
    "hostname",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "machine-id",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki",
    "protocols",
    "resolv.conf",
    "services",
    "ssl",
    "timezone",
];

/// The mount namespace of a profile.
#[derive(Debug)]
pub(super) struct View {
    profile: Profile,
    /// Of nsfs.
    namespace: Arc<OwnedFd>,
    table: Mutex<Table>,
}

impl View {
    /// Makes it. Blocks for some milliseconds.
    ///
    /// # Errors
    /// What this host lacks, as the kernel says it: EPERM without CAP_SYS_ADMIN.
    pub(super) fn make(profile: Profile) -> io::Result<View> {
        if !sys::can_set_mounts()? {
            return Err(io::Error::other("this kernel is older than Linux 5.12: mount_setattr(2)"));
        }
        in_a_thread(|| make_here(profile))
    }

    /// A descriptor of it, without what the host has mounted of its own since the last call.
    ///
    /// # Errors
    /// This cannot be taken away.
    pub(super) fn namespace(&self) -> io::Result<Arc<OwnedFd>> {
        let table = lock(&self.table);
        if table.has_changed() && self.profile != Profile::Host {
            let hidden = Hidden::of(&Mounted::here()?);
            in_a_thread(|| {
                unshare(CloneFlags::CLONE_FS)?; // or the thread would share its root directory
                setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
                hide(&hidden, &table)
            })?;
        }
        Ok(Arc::clone(&self.namespace))
    }
}

/// A thread of its own: a mount namespace belongs to a thread, and this one ends with it.
fn in_a_thread<T: Send>(action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("view".into()).spawn_scoped(scope, action)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread of the view panicked")))
    })
}

fn make_here(profile: Profile) -> io::Result<View> {
    unshare(CloneFlags::CLONE_NEWNS)?; // and with it a umask of its own
    umask(Mode::from_bits_truncate(0o022));
    let hidden = Hidden::of(&Mounted::here()?);
    let thread = File::open("/proc/thread-self")?; // for when there is no `/proc`
    let namespace = File::open("/proc/thread-self/ns/mnt")?;
    mount_flags("/", MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
    match profile {
        Profile::Host => {}
        Profile::Private => make_private()?,
        Profile::Strict => make_strict()?,
    }
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    // Now, since its places are told from the root directory of whoever opens it.
    let table = Table::of(openat(&thread, "mountinfo", flags, Mode::empty())?.into());
    if profile != Profile::Host {
        hide(&hidden, &table)?;
    }
    Ok(View { profile, namespace: Arc::new(namespace.into()), table: Mutex::new(table) })
}

/// Takes away what is hidden. What another mount covers cannot be reached, and stays.
fn hide(hidden: &Hidden, table: &Table) -> io::Result<()> {
    let table = table.read()?;
    let places: Vec<&Path> = hidden.copies(&table).collect();
    for place in places.into_iter().rev() {
        match umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// The host's tree without what belongs to its processes.
fn make_private() -> io::Result<()> {
    let below_sys = mounts_below("/sys/")?;
    make_run()?;
    move_to("/run")?;
    make_dev(Path::new(STAGE))?;
    move_to("/dev")?;
    for path in below_sys.iter().rev().map(PathBuf::as_path).chain([Path::new("/proc")]) {
        detach(path)?;
    }
    Ok(())
}

/// A new tree.
fn make_strict() -> io::Result<()> {
    let resolver = fs::canonicalize("/etc/resolv.conf");
    tmpfs(Path::new(STAGE), "1m")?;
    let root = Path::new(STAGE);
    for path in BASE.iter().map(Path::new) {
        share(path, &below(root, path))?;
    }
    for name in BASE_ETC {
        let path = Path::new("/etc").join(name);
        match &resolver {
            Ok(file) if name == "resolv.conf" => share(file, &below(root, &path))?,
            _ => share(&path, &below(root, &path))?,
        }
    }
    for directory in ["dev", "proc", "run/job", "sys", "tmp", "var/tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    make_dev(&root.join("dev"))?;
    chdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

/// Of `/run`, whose sockets are the host's, only what resolves names.
fn make_run() -> io::Result<()> {
    tmpfs(Path::new(STAGE), "1m")?;
    fs::create_dir(Path::new(STAGE).join("job"))?;
    match fs::canonicalize("/etc/resolv.conf") {
        Ok(file) => match file.strip_prefix("/run") {
            Ok(name) => share(&file, &Path::new(STAGE).join(name)),
            Err(_) => Ok(()),
        },
        Err(_) => Ok(()), // this host has none
    }
}

/// A minimal `/dev`; terminals, shared memory and message queues get their places.
fn make_dev(dev: &Path) -> io::Result<()> {
    tmpfs(dev, "64k")?;
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    for (to, name) in DEVICE_LINKS {
        symlink(to, dev.join(name))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(name))?;
    }
    Ok(())
}

/// Binds a file or directory, with all below it; a symbolic link is made anew. What is not there is left out.
fn share(path: &Path, target: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if metadata.is_symlink() {
        return symlink(fs::read_link(path)?, target);
    }
    if metadata.is_dir() {
        fs::create_dir(target)?;
    } else {
        File::create(target)?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    Ok(mount(Some(path), target, None::<&str>, flags, None::<&str>)?)
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn tmpfs(target: &Path, size: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = format!("mode=755,size={size}");
    Ok(mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options.as_str()))?)
}

/// Puts what is mounted on the stage in the place of this path's mount.
fn move_to(path: &str) -> io::Result<()> {
    detach(Path::new(path))?;
    Ok(mount(Some(STAGE), path, None::<&str>, MsFlags::MS_MOVE, None::<&str>)?)
}

/// Takes all away that is mounted here, with all below it.
fn detach(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // Nothing is mounted here, or the place went away with a mount above it.
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

fn mount_flags(path: &str, flags: MsFlags) -> io::Result<()> {
    Ok(mount(None::<&str>, path, None::<&str>, flags, None::<&str>)?)
}

/// In the order in which they were mounted.
fn mounts_below(prefix: &str) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(places.filter(|place| place.starts_with(prefix)).map(PathBuf::from).collect())
}
