//! Project quotas: the size limit of a job's own directory, where its file system can. It must never limit a project that
//! somebody else uses.
//!
//! Nothing is kept of which ids are lent: one is free while nothing on the file system has it and it has no limits. The
//! kernel knows that, also after a restart. A directory carries its id in an attribute that only root can set: the id that
//! the kernel shows is its owner's to change.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use crate::sync::lock;
use crate::sys::{self, ProjectQuota};

/// The attribute of a directory with a limit: its project.
const PROJECT: &std::ffi::CStr = c"trusted.job-broker.project";
/// A file or directory for each of this many bytes, and some at least: as in directories in memory.
const BYTES_PER_INODE: u64 = 16 << 10;
const FEWEST_INODES: u64 = 1024;
/// The kernel's unit of limits.
const BLOCK: u64 = 1024;
/// Ids that a start looks at.
const TRIES: u32 = 1024;
/// Where administrators name theirs, projid(5) and projects(5): the place of the id between colons.
const NAMED: [(&str, usize); 2] = [("/etc/projid", 1), ("/etc/projects", 0)];

/// The ids that this broker may use on one file system.
#[derive(Debug)]
pub(crate) struct Projects {
    first: u32,
    last: u32,
    /// The next to look at. Held until a directory has the id, so that no two get one.
    next: Mutex<u32>,
    /// Ids that have a name.
    named: HashSet<u32>,
}

/// What a directory may hold, and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Most bytes.
    pub limit: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and directories, itself among them.
    pub inodes: u64,
}

/// What the kernel makes of a limit.
pub fn whole_blocks(bytes: u64) -> u64 {
    bytes / BLOCK * BLOCK
}

impl Projects {
    /// `range` is the operator's, both included.
    ///
    /// # Errors
    /// Why this file system has no such limits, in words.
    pub(crate) fn open(directory: &File, range: (u32, u32)) -> Result<Projects, String> {
        match sys::enforces_project_quotas(directory.as_fd()) {
            Ok(true) => {}
            Ok(false) => return Err("it is mounted without project quotas (prjquota)".into()),
            Err(e) => return Err(format!("it has no project quotas (quotactl_fd(2): {e})")),
        }
        let named = NAMED.iter().flat_map(|(path, place)| named(path, *place)).collect();
        Ok(Projects { first: range.0, last: range.1, next: Mutex::new(range.0), named })
    }

    /// Gives an empty directory a project of its own with this limit, which all that is made in it belongs to.
    ///
    /// # Errors
    /// As quotactl(2); `QuotaExceeded` where no id is free; `Other` if the kernel made another limit of it.
    pub(crate) fn limit(&self, directory: &File, bytes: u64) -> io::Result<()> {
        let fd = directory.as_fd();
        let mut next = lock(&self.next);
        let project = self.free(fd, *next)?;
        *next = if project == self.last { self.first } else { project + 1 };
        // First, so that whoever removes the directory takes the limits away.
        sys::set_attribute(fd, PROJECT, &project.to_le_bytes())?;
        sys::set_project(fd, project)?;
        drop(next);
        let inodes = (bytes / BYTES_PER_INODE).max(FEWEST_INODES);
        let asked = (bytes / BLOCK, inodes);
        sys::set_project_quota(fd, project, &ProjectQuota::of(asked.0, asked.1))?;
        let applied = sys::project_quota(fd, project)?;
        let is_ours = sys::project(fd)? == Some(project);
        if !is_ours || (applied.hard_blocks, applied.hard_inodes) != asked {
            let fault = format!("project {project} was limited to {asked:?}, and has {applied:?}");
            return Err(io::Error::other(fault));
        }
        Ok(())
    }

    /// From `next` on. One that cannot be asked is not free.
    fn free(&self, fs: BorrowedFd<'_>, next: u32) -> io::Result<u32> {
        let all = (next..=self.last).chain(self.first..next).take(TRIES as usize);
        for project in all.filter(|project| !self.named.contains(project)) {
            let quota = sys::project_quota(fs, project)?;
            if quota.is_unused() {
                return Ok(project);
            }
        }
        let fault = "no id of jobs.job_dir_projects is free: other files have them, or limits";
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, fault))
    }
}

/// The limit of a directory and its use; `None` if it has none.
///
/// # Errors
/// As quotactl(2).
pub(crate) fn space(directory: &File) -> io::Result<Option<Space>> {
    let Some(project) = project_of(directory)? else { return Ok(None) };
    let quota = sys::project_quota(directory.as_fd(), project)?;
    let limit = quota.hard_blocks.saturating_mul(BLOCK);
    Ok(Some(Space { limit, bytes: quota.used_bytes, inodes: quota.used_inodes }))
}

/// Takes the limits of a directory's project away, before the directory goes.
///
/// # Errors
/// As quotactl(2).
pub(crate) fn release(directory: BorrowedFd<'_>) -> io::Result<()> {
    let Some(project) = project_of(directory)? else { return Ok(()) };
    sys::set_project_quota(directory, project, &ProjectQuota::default())
}

fn project_of(directory: impl AsFd) -> io::Result<Option<u32>> {
    let mut id = [0; 4];
    match sys::attribute(directory.as_fd(), PROJECT, &mut id) {
        Ok(4) => Ok(Some(u32::from_le_bytes(id))),
        Ok(_) => Ok(None),
        // A file system without attributes has no quotas either.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
        Err(e) => Err(e),
    }
}

fn named(path: &str, place: usize) -> Vec<u32> {
    let text = fs::read_to_string(path).unwrap_or_default(); // most hosts have none
    let id = |line: &str| line.split(':').nth(place)?.trim().parse().ok();
    text.lines().filter(|line| !line.starts_with('#')).filter_map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_project_quotas_says_so() {
        let memory = File::open("/dev/shm").unwrap();
        let fault = Projects::open(&memory, (1, 2)).unwrap_err();
        assert!(fault.contains("project quotas"), "{fault}");
        let directory = tempfile::tempdir().unwrap();
        let directory = File::open(directory.path()).unwrap();
        assert_eq!(space(&directory).unwrap(), None);
        release(directory.as_fd()).unwrap();
    }

    #[test]
    fn ids_with_a_name_are_somebodys() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# a comment: 7\nweb:42\n\nbad\n").unwrap();
        assert_eq!(named(file.path().to_str().unwrap(), 1), [42]);
        fs::write(file.path(), "42:/srv/web\n").unwrap();
        assert_eq!(named(file.path().to_str().unwrap(), 0), [42]);
    }
}
