//! The roots of jobs: a view's directories in one of memory; or a directory that is given, read-only or under an overlay
//! in memory or on disk. It must not follow a symbolic link of such a directory before it is the root, from which none
//! leads out.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use job_shim::isolation::Scratch;
use job_shim::wire::Step;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::{chdir, pivot_root};

use super::failure::{At, Failure};
use crate::sys::mount::{attach, attribute, file_system, open_tree, restrict};

/// What a job has of its own, whatever the directory has there; but for `/sys`, which is empty, its places.
const OWN: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];
/// Where a new root is, until it is the root: a directory that every view has, and that gets a mount of its own later.
const NEW_ROOT: &CStr = c"/tmp";
/// Where the tree is while its entries are taken from it: there in every view, and outside of the new root.
const STAGE: &CStr = c"/run/job";
/// No devices and no setuid programs.
const HARMLESS: u64 = attribute::NO_SUID | attribute::NO_DEVICES;
/// Most entries of a directory that is a root, each of which is a mount.
const MOST_ENTRIES: usize = 128;

/// Where a job's writes into its root go.
pub(super) enum Layer {
    InMemory(Scratch),
    /// Into this empty directory.
    OnDisk(OwnedFd),
}

/// Makes the tree the root, with the places of what a job has of its own. Its `/dev` is the view's.
///
/// # Errors
/// `MountRoot`: E2BIG for too many entries; ENODEV where the kernel has no overlays. `PivotRoot`.
pub(super) fn enter(tree: &OwnedFd, writes: Option<&Layer>) -> Result<(), Failure> {
    restrict(Some(tree.as_fd()), attribute::READ_ONLY | HARMLESS, true).at(Step::MountRoot)?;
    let devices = open_tree(None, c"/dev").at(Step::MountRoot)?;
    match writes {
        None => read_only(tree, &devices).at(Step::MountRoot)?,
        Some(layer) => overlay(layer, tree).at(Step::MountRoot)?,
    }
    enter_new_root().at(Step::PivotRoot)?;
    match writes {
        None => Ok(()),
        Some(_) => own_places(&devices).at(Step::MountRoot),
    }
}

/// A directory in memory with the entries of the tree, since nothing can be made in the tree itself.
fn read_only(tree: &OwnedFd, devices: &OwnedFd) -> io::Result<()> {
    let root = Path::new(OsStr::from_bytes(NEW_ROOT.to_bytes()));
    attach(tree, STAGE)?;
    let mut entries = entries(Path::new(OsStr::from_bytes(STAGE.to_bytes())))?;
    entries.retain(|entry| !OWN.iter().any(|own| entry.file_name() == Some(OsStr::new(own))));
    if entries.len() > MOST_ENTRIES {
        return Err(Errno::E2BIG.into());
    }
    let trees = entries.iter().map(|entry| tree_of(entry)).collect::<Result<Vec<_>, _>>()?;
    attach(&file_system(c"tmpfs", &[(c"size", c"1m"), (c"mode", c"755")], 0)?, NEW_ROOT)?;
    for (entry, tree) in entries.iter().zip(&trees) {
        place(entry, &root.join(entry.file_name().unwrap_or_default()), tree.as_ref())?;
    }
    for own in OWN {
        fs::create_dir(root.join(own))?;
    }
    fs::create_dir(root.join("run/job"))?;
    Ok(attach(devices, c"/tmp/dev")?)
}

/// The tree as the lower layer, by its path in this namespace: an overlay takes no detached mount before Linux 6.15. The
/// upper layer is a directory that nothing but the overlay can reach.
fn overlay(layer: &Layer, tree: &OwnedFd) -> io::Result<()> {
    match layer {
        Layer::InMemory(scratch) => attach(&empty(*scratch, c"755")?, NEW_ROOT)?,
        Layer::OnDisk(directory) => {
            restrict(Some(directory.as_fd()), HARMLESS, true)?;
            attach(directory, NEW_ROOT)?;
        }
    }
    for layer in ["lower", "upper", "work"] {
        fs::create_dir(Path::new("/tmp").join(layer))?;
    }
    attach(tree, c"/tmp/lower")?;
    // Owner and mode of the root are those of the upper layer.
    let lower = fs::metadata("/tmp/lower")?;
    std::os::unix::fs::chown("/tmp/upper", Some(lower.uid()), Some(lower.gid()))?;
    fs::set_permissions("/tmp/upper", lower.permissions())?;
    let layers =
        [(c"lowerdir", c"/tmp/lower"), (c"upperdir", c"/tmp/upper"), (c"workdir", c"/tmp/work")];
    Ok(attach(&file_system(c"overlay", &layers, HARMLESS)?, NEW_ROOT)?)
}

/// What the overlay lacks, which is the root by now: every link leads to something in it.
fn own_places(devices: &OwnedFd) -> io::Result<()> {
    for own in OWN {
        let place = Path::new("/").join(OsString::from(own));
        if !place.is_dir() {
            fs::create_dir(&place)?;
        }
    }
    attach(devices, c"/dev")?;
    // Empty, as in every view: sockets of a host's service may be below it.
    attach(&file_system(c"tmpfs", &[(c"size", c"64k"), (c"mode", c"755")], 0)?, c"/run")?;
    fs::create_dir("/run/job")?;
    Ok(())
}

/// A root in memory, with the directories of the view.
pub(super) fn of_view() -> Result<(), Failure> {
    let root = Path::new(OsStr::from_bytes(NEW_ROOT.to_bytes()));
    let entries = entries(Path::new("/")).at(Step::MountRoot)?;
    let trees = entries.iter().map(|entry| tree_of(entry)).collect::<Result<Vec<_>, _>>();
    let trees = trees.at(Step::MountRoot)?;
    let made = file_system(c"tmpfs", &[(c"size", c"1m"), (c"mode", c"755")], 0);
    made.and_then(|new| attach(&new, NEW_ROOT)).at(Step::MountRoot)?;
    for (entry, tree) in entries.iter().zip(&trees) {
        place(entry, &root.join(entry.file_name().unwrap_or_default()), tree.as_ref())
            .at(Step::MountRoot)?;
    }
    enter_new_root().at(Step::PivotRoot)
}

/// Makes [`NEW_ROOT`] the root, and takes the former one away.
fn enter_new_root() -> nix::Result<()> {
    chdir(NEW_ROOT)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
}

/// A symbolic link has none: it is made anew.
fn tree_of(entry: &Path) -> io::Result<Option<OwnedFd>> {
    if entry.is_symlink() {
        return Ok(None);
    }
    let path = CString::new(entry.as_os_str().as_bytes())?;
    Ok(Some(open_tree(None, &path)?))
}

fn place(entry: &Path, target: &Path, tree: Option<&OwnedFd>) -> io::Result<()> {
    let Some(tree) = tree else {
        return std::os::unix::fs::symlink(fs::read_link(entry)?, target);
    };
    if entry.is_dir() {
        fs::create_dir(target)?;
    } else {
        fs::File::create(target)?;
    }
    Ok(attach(tree, &CString::new(target.as_os_str().as_bytes())?)?)
}

/// An empty file system in memory. No devices and no setuid programs.
pub(super) fn empty(scratch: Scratch, mode: &CStr) -> nix::Result<OwnedFd> {
    let number = |value: u64| CString::new(value.to_string()).map_err(|_| Errno::EINVAL);
    let (bytes, inodes) = (number(scratch.bytes)?, number(scratch.inodes)?);
    let options = [(c"size", bytes.as_c_str()), (c"nr_inodes", &inodes), (c"mode", mode)];
    file_system(c"tmpfs", &options, HARMLESS)
}
