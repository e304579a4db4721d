//! Imports and removes images: the part that is root. It never reads an archive; [`crate::unpack()`] does, which can reach
//! one directory alone.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use job_grammar::names::check_image_name;
use nix::fcntl::FlockArg;
use uuid::Uuid;

use crate::confine::UID;
use crate::seal::seal;
use crate::store::{Image, Store, lock};
use crate::unpack::{Made, Report};
use crate::{Bounds, Doing, Fault, Result, fault};

/// Most bytes of a report.
const LARGEST_REPORT: u64 = 1 << 20;

/// Makes an image of an archive, in the place of one that has this name. `unpacker` is the command that calls
/// [`crate::unpack()`]; a directory and two numbers are appended. Gives the image, and how many devices, FIFOs and sockets
/// were left out. Blocks for as long as it takes.
///
/// # Errors
/// In words for an operator. The image that had the name stays.
pub fn import(
    store: &Store,
    name: &str,
    archive: File,
    bounds: Bounds,
    unpacker: &[&std::ffi::OsStr],
) -> Result<(Image, u64)> {
    check_image_name(name).map_err(|what| Fault(format!("the name of an image {what}")))?;
    if !archive.metadata().doing(|| "cannot read the archive".into())?.is_file() {
        return fault("the archive must be a regular file");
    }
    let _held = hold(store)?;
    let id = Uuid::new_v4();
    let work = store.work().join(id.to_string());
    let make = || -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&work)?;
        fs::set_permissions(&work, fs::Permissions::from_mode(0o700))?;
        lchown(&work, Some(UID), Some(UID))
    };
    make().doing(|| format!("cannot make {}", work.display()))?;
    let made = run(unpacker, &work, archive, bounds).and_then(|made| {
        let sealed = seal(&work).doing(|| "cannot use what was unpacked".into())?;
        Ok((made, sealed))
    });
    let finish = made.and_then(|(Made { digest, config, left_out }, sealed)| {
        config.check()?;
        let (name, bytes, files) = (name.into(), sealed.bytes, sealed.files);
        let image = Image { name, digest, tree: id, imported: now(), bytes, files, config };
        sync(&work).doing(|| "cannot write the image".into())?;
        fs::rename(&work, store.tree(id)).doing(|| "cannot keep the image".into())?;
        save(store, &image).doing(|| "cannot keep the image".into())?;
        Ok((image, left_out))
    });
    sweep(store);
    finish
}

/// Takes an image's name away, and its files as soon as no job uses them. Blocks.
///
/// # Errors
/// There is none; or the disk.
pub fn remove(store: &Store, name: &str) -> Result<()> {
    check_image_name(name).map_err(|what| Fault(format!("the name of an image {what}")))?;
    store.read(name)?;
    let _held = hold(store)?;
    fs::remove_file(store.record(name)).doing(|| format!("cannot remove {name}"))?;
    sweep(store);
    Ok(())
}

/// One import or removal at a time.
fn hold(store: &Store) -> Result<File> {
    store.make()?;
    let path = store.dir.join("lock");
    let mut options = fs::OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let file = file.doing(|| format!("cannot open {}", path.display()))?;
    lock(&file, FlockArg::LockExclusive).doing(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// The process that unpacks, and what it says. Nothing of this one's environment and descriptors goes there.
fn run(unpacker: &[&std::ffi::OsStr], work: &Path, archive: File, bounds: Bounds) -> Result<Made> {
    let Some((program, arguments)) = unpacker.split_first() else {
        return fault("there is nothing that unpacks");
    };
    let mut child = Command::new(program)
        .args(arguments)
        .arg(work)
        .args([bounds.bytes.to_string(), bounds.files.to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(archive))
        .stdout(Stdio::piped())
        .spawn()
        .doing(|| "cannot start the process that unpacks".into())?;
    let mut said = Vec::new();
    let stdout = child.stdout.take();
    let read = stdout.map_or(Ok(0), |out| out.take(LARGEST_REPORT).read_to_end(&mut said));
    let status = child.wait().doing(|| "the process that unpacks is lost".into())?;
    read.doing(|| "the process that unpacks says nothing".into())?;
    match serde_json::from_slice(&said) {
        Ok(Report::Made(made)) if status.success() => Ok(made),
        Ok(Report::Failed(why)) => fault(why),
        _ => fault(format!("the process that unpacks has failed ({status})")),
    }
}

/// The record, which is the image's name: all of it or that of before.
fn save(store: &Store, image: &Image) -> io::Result<()> {
    let new = store.work().join(format!("{}.json", image.tree));
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(image)?)?;
    file.sync_all()?;
    fs::rename(new, store.record(&image.name))?;
    File::open(store.names())?.sync_all()
}

/// Everything of its file system: thousands of files are faster so than one by one.
fn sync(tree: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(tree)?)?)
}

/// Removes trees without a name that no job uses, and what dead imports have left. What cannot be removed now is tried
/// again by the next import or removal.
fn sweep(store: &Store) {
    let Ok(images) = store.list() else { return };
    for entry in fs::read_dir(store.trees()).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if images.iter().any(|image| image.tree.to_string() == name) {
            continue;
        }
        let Ok(tree) = File::open(entry.path()) else { continue };
        // The lock is held until the tree has no path any more: a broker that has just read its name gives up.
        if let Ok(true) = lock(&tree, FlockArg::LockExclusiveNonblock) {
            let _ = fs::rename(entry.path(), store.work().join(name)); // removed below
        }
    }
    for entry in fs::read_dir(store.work()).into_iter().flatten().flatten() {
        let removed = match entry.path().is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        let _ = removed; // the next sweep tries again
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
