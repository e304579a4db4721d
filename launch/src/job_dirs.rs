//! The jobs' own directories: one for each job, its user's, on disk, and gone with the job; and for one that writes into
//! its root on disk another, only root's, under an overlay. Nothing of the broker's is in them, and it never reads what
//! is. Their size limits are `projects`'.

use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::model::account::Account;
use crate::model::id::JobId;
use crate::projects;
use crate::projects::{Projects, Space};
use crate::spares::Spares;

/// Where directories are on their way out, where they wait for a job, and where jobs' writes into their roots are. Not a
/// job's id.
const REMOVED: &str = "removed";
const SPARE: &str = "spare";
const LAYERS: &str = "layers";

/// All of them.
#[derive(Debug)]
pub struct JobDirs {
    root: PathBuf,
    /// Or why their size cannot be limited.
    projects: Result<Projects, String>,
    spares: Spares,
    /// To the thread that removes.
    remover: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

/// What one job has.
#[derive(Debug)]
pub(super) struct OwnDirs {
    /// Of its own directory, on the host.
    pub(super) path: PathBuf,
    /// Open.
    pub(super) job_dir: OwnedFd,
    /// Where it writes into its root, empty.
    pub(super) layer: Option<OwnedFd>,
}

/// What they may hold, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// `None`: what fits.
    pub(super) job_dir: Option<u64>,
    /// `None`: there is none.
    pub(super) layer: Option<u64>,
}

/// Why the size of the jobs' directories could not be limited in this one. Blocks as long as its file system.
pub fn why_unlimited(directory: &Path, range: (u32, u32)) -> Option<String> {
    let opened = File::open(directory).map_err(|e| e.to_string());
    opened
        .and_then(|opened| Projects::open(&opened, range))
        .err()
        .map(|why| reason(directory, &why))
}

fn reason(directory: &Path, why: &str) -> String {
    format!("{} needs a file system with project quotas: {why}", directory.display())
}

impl JobDirs {
    /// Uses this directory, and makes it if it is not there. What an earlier broker has not removed is removed.
    ///
    /// # Errors
    /// As mkdir(2) and chmod(2); `PermissionDenied` for another owner than this process's user, who could put another in its place.
    pub(super) fn open(root: &Path, range: (u32, u32)) -> io::Result<JobDirs> {
        let removed = root.join(REMOVED);
        // Everybody may pass, and nobody may look around: a job finds its own by its name.
        make(root, 0o711)?;
        make(&removed, 0o700)?;
        make(&root.join(LAYERS), 0o700)?;
        remove_layers_without_a_job(root, &removed)?;
        let (remover, asked) = mpsc::channel();
        let remove = move || {
            while asked.recv().is_ok() {
                if let Err(e) = remove_all_in(&removed) {
                    tracing::warn!("cannot remove {} yet: {e}", removed.display());
                }
            }
        };
        let thread = thread::Builder::new().name("job-dirs".into()).spawn(remove)?;
        let _ = remover.send(()); // the thread lives as long as this
        let projects = Projects::open(&File::open(root)?, range);
        let spares = Spares::open(root.join(SPARE), |_| Ok(()))?;
        Ok(JobDirs { root: root.into(), projects, spares, remover, thread })
    }

    /// Returns when what was taken away has been removed, as far as it can be. Blocks.
    pub(super) fn close(self) {
        drop((self.remover, self.spares));
        let _ = self.thread.join(); // it has said what it could not do
    }

    /// Why their size cannot be limited here, if it cannot.
    pub fn unlimited(&self) -> Option<String> {
        Some(reason(&self.root, self.projects.as_ref().err()?))
    }

    /// The limit of one and its use; `None` if it has none, or is not there.
    pub fn space(&self, id: JobId) -> Option<Space> {
        self.projects.as_ref().ok()?;
        projects::space(&File::open(self.path(id)).ok()?).ok()?
    }

    /// The path of one, on the host.
    pub(super) fn path(&self, id: JobId) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// Makes those of a new job.
    ///
    /// # Errors
    /// As mkdir(2): EDQUOT, ENOSPC; as [`Projects::limit`].
    pub(super) fn create(&self, id: JobId, account: &Account, sizes: Sizes) -> io::Result<OwnDirs> {
        let path = self.path(id);
        let job_dir = self.make_one(&path, sizes.job_dir)?;
        fchown(&job_dir, Some(account.uid), Some(account.gid))?;
        let layer = sizes.layer.map(|bytes| self.make_one(&self.layer(id), Some(bytes)));
        let layer = layer.transpose()?.map(OwnedFd::from);
        Ok(OwnDirs { path, job_dir: job_dir.into(), layer })
    }

    /// An empty directory, which may hold so many bytes.
    fn make_one(&self, path: &Path, limit: Option<u64>) -> io::Result<File> {
        if !self.spares.take(path) {
            DirBuilder::new().mode(0o700).create(path)?;
        }
        let directory = File::open(path)?;
        if let Some(bytes) = limit {
            let projects = self.projects.as_ref().map_err(|why| io::Error::other(why.clone()))?;
            projects.limit(&directory, bytes)?;
        }
        Ok(directory)
    }

    fn layer(&self, id: JobId) -> PathBuf {
        self.root.join(LAYERS).join(id.to_string())
    }

    /// Takes away those of a job, if it has any. The files go in the background.
    ///
    /// # Errors
    /// As rename(2); ENOENT is none.
    pub(super) fn remove(&self, id: JobId) -> io::Result<()> {
        let removed = self.root.join(REMOVED);
        let mut any = false;
        for (path, name) in
            [(self.layer(id), format!("{id}.layer")), (self.path(id), id.to_string())]
        {
            any |= is_moved(&path, &removed.join(name))?;
        }
        if any {
            let _ = self.remover.send(());
        }
        Ok(())
    }
}

/// False if it was not there.
fn is_moved(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        renamed => renamed.map(|()| true),
    }
}

/// A broker of an earlier release takes away a job's own directory only.
fn remove_layers_without_a_job(root: &Path, removed: &Path) -> io::Result<()> {
    for layer in fs::read_dir(root.join(LAYERS))? {
        let name = layer?.file_name();
        if !root.join(&name).exists() {
            let to = removed.join(format!("{}.layer", name.to_string_lossy()));
            is_moved(&root.join(LAYERS).join(&name), &to)?;
        }
    }
    Ok(())
}

fn make(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let owner = fs::metadata(path)?.uid();
    let own = geteuid().as_raw();
    if owner != own {
        let path = path.display();
        let fault = format!("it belongs to uid {owner}, not to uid {own}: chown {own} {path}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, fault));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Empties a directory whatever is in it: a tree may be deeper than a stack or the number of descriptors allows, so
/// that each directory found is first brought up to here.
fn remove_all_in(directory: &Path) -> io::Result<()> {
    let top = File::open(directory)?;
    let mut brought = 0_u64;
    loop {
        let found = names(top.as_fd())?;
        let remove = |name: &CString| remove(top.as_fd(), name, &mut brought).err();
        // What cannot be removed keeps nothing else.
        let failures: Vec<_> = found.iter().filter_map(remove).collect();
        if failures.len() == found.len() {
            return failures.into_iter().next().map_or(Ok(()), Err);
        }
    }
}

fn remove(top: BorrowedFd<'_>, name: &CStr, brought: &mut u64) -> io::Result<()> {
    if !is_directory(top, name)? {
        return Ok(unlinkat(top, name, UnlinkatFlags::NoRemoveDir)?);
    }
    empty(top, name, brought)?;
    Ok(unlinkat(top, name, UnlinkatFlags::RemoveDir)?)
}

fn empty(top: BorrowedFd<'_>, name: &CStr, brought: &mut u64) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let own = openat(top, name, flags, Mode::empty())?;
    loop {
        let found = names(own.as_fd())?;
        if found.is_empty() {
            return projects::release(own.as_fd());
        }
        for name in found {
            match unlinkat(&own, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) => {}
                Err(Errno::EISDIR | Errno::EPERM) => bring_up(own.as_fd(), &name, top, brought)?,
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn bring_up(
    from: BorrowedFd<'_>,
    name: &CStr,
    top: BorrowedFd<'_>,
    brought: &mut u64,
) -> io::Result<()> {
    loop {
        *brought += 1;
        match renameat(from, name, top, brought.to_string().as_str()) {
            Err(Errno::EEXIST | Errno::ENOTEMPTY) => {}
            renamed => return Ok(renamed?),
        }
    }
}

fn is_directory(top: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    let status = fstatat(top, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

/// Names in a directory, some thousand at most.
fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    const AT_ONCE: usize = 4096;
    let mut entries =
        Dir::openat(directory, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let is_own = |name: &CStr| name != c"." && name != c"..";
    let names = entries.iter().filter_map(|entry| match entry {
        Ok(entry) if !is_own(entry.file_name()) => None,
        entry => Some(entry.map(|entry| entry.file_name().to_owned())),
    });
    Ok(names.take(AT_ONCE).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn whatever_a_job_has_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, inside) = (dir.path().join("outside"), dir.path().join("removed"));
        fs::create_dir_all(outside.join("kept")).unwrap();
        fs::create_dir_all(inside.join("job/a/b")).unwrap();
        fs::create_dir_all(inside.join("job/1/2")).unwrap();
        fs::write(inside.join("job/a/file"), "").unwrap();
        symlink(&outside, inside.join("job/link")).unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        // Deeper than a path may be long, than descriptors, and than a recursion should be.
        let deep = inside.join("job/deep");
        fs::create_dir(&deep).unwrap();
        let mut at = File::open(&deep).unwrap();
        for _ in 0..5000 {
            nix::sys::stat::mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            at = openat(&at, "d", flags, Mode::empty()).unwrap().into();
        }
        remove_all_in(&inside).unwrap();
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
    }
}
