//! Project quotas, quotactl_fd(2) and ioctl_xfs_fsgetxattr(2), and the extended attributes that say whose a project is.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_int;

use super::check;

/// The quota of a project, `struct if_dqblk` of quotactl(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProjectQuota {
    /// In blocks of 1 KiB; 0 is no limit.
    pub hard_blocks: u64,
    soft_blocks: u64,
    /// On disk.
    pub used_bytes: u64,
    /// 0 is no limit.
    pub hard_inodes: u64,
    soft_inodes: u64,
    /// Files and directories.
    pub used_inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

impl ProjectQuota {
    /// Limits, in blocks of 1 KiB and inodes.
    pub fn of(hard_blocks: u64, hard_inodes: u64) -> ProjectQuota {
        ProjectQuota { hard_blocks, hard_inodes, ..ProjectQuota::default() }
    }

    /// Whether nothing has the project, and nobody has given it a limit.
    pub fn is_unused(&self) -> bool {
        let limits = [self.hard_blocks, self.soft_blocks, self.hard_inodes, self.soft_inodes];
        self.used_bytes == 0 && self.used_inodes == 0 && limits == [0; 4]
    }
}

/// Of quotactl(2): a command for projects.
const fn project_command(command: c_int) -> c_int {
    const PRJQUOTA: c_int = 2;
    command << 8 | PRJQUOTA
}

/// The quota of a project on the file system of this descriptor, quotactl_fd(2). One that the file system does not know
/// is empty.
///
/// # Errors
/// ESRCH, ENOSYS and others without quotas.
pub fn project_quota(fs: BorrowedFd<'_>, project: u32) -> io::Result<ProjectQuota> {
    const GET: c_int = project_command(libc::Q_GETQUOTA);
    let mut quota = ProjectQuota::default();
    // SAFETY: the kernel writes one `if_dqblk`, which this is.
    let result = check(unsafe {
        let into = &raw mut quota;
        libc::syscall(libc::SYS_quotactl_fd, fs.as_raw_fd(), GET, project, into)
    });
    match result {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(ProjectQuota::default()),
        result => result.map(|_| quota),
    }
}

/// Sets the limits of a project.
///
/// # Errors
/// As [`project_quota`]; EPERM without CAP_SYS_ADMIN.
pub fn set_project_quota(fs: BorrowedFd<'_>, project: u32, quota: &ProjectQuota) -> io::Result<()> {
    const SET: c_int = project_command(libc::Q_SETQUOTA);
    const QIF_LIMITS: u32 = 1 | 4;
    let quota = ProjectQuota { valid: QIF_LIMITS, ..*quota };
    // SAFETY: the kernel reads one `if_dqblk`, which this is.
    check(unsafe {
        libc::syscall(libc::SYS_quotactl_fd, fs.as_raw_fd(), SET, project, &raw const quota)
    })?;
    Ok(())
}

/// Whether the file system counts for each project, and refuses what is above its limits: Q_XGETQSTATV, which ext4 has,
/// too.
///
/// # Errors
/// ENOSYS, EOPNOTSUPP, EINVAL without quotas.
pub fn enforces_project_quotas(fs: BorrowedFd<'_>) -> io::Result<bool> {
    /// `struct fs_quota_statv`: version, flags at byte 2, and what is not looked at.
    #[repr(C, align(8))]
    struct State([u8; 160]);
    const STATE: c_int = project_command((b'X' as c_int) << 8 | 8);
    const VERSION: u8 = 1;
    const ACCOUNTED_AND_ENFORCED: u16 = 1 << 4 | 1 << 5;
    let mut state = State([0; 160]);
    state.0[0] = VERSION;
    // SAFETY: the kernel writes one `fs_quota_statv` of this version, which has 160 bytes.
    check(unsafe {
        let into = &raw mut state;
        libc::syscall(libc::SYS_quotactl_fd, fs.as_raw_fd(), STATE, 0, into)
    })?;
    let flags = u16::from_ne_bytes([state.0[2], state.0[3]]);
    Ok(flags & ACCOUNTED_AND_ENFORCED == ACCOUNTED_AND_ENFORCED)
}

/// `struct fsxattr` of ioctl_xfs_fsgetxattr(2), which ext4 has, too.
#[repr(C)]
#[derive(Default)]
struct FileAttributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR.
const GET_FILE_ATTRIBUTES: libc::Ioctl = 0x801c_581f;
const SET_FILE_ATTRIBUTES: libc::Ioctl = 0x401c_5820;

/// What is made in such a directory has its project.
const INHERITED: u32 = 0x200;

/// The project of a directory that hands it down.
///
/// # Errors
/// As ioctl_xfs_fsgetxattr(2).
pub fn project(directory: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let attributes = file_attributes(directory)?;
    Ok((attributes.flags & INHERITED != 0).then_some(attributes.project))
}

/// Gives a directory, and all that is made in it, a project.
///
/// # Errors
/// As ioctl_xfs_fsgetxattr(2): EOPNOTSUPP.
pub fn set_project(directory: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut attributes = file_attributes(directory)?;
    attributes.project = project;
    attributes.flags |= INHERITED;
    // SAFETY: the kernel reads one `fsxattr`, which this is.
    check(unsafe {
        let fd = directory.as_raw_fd();
        libc::ioctl(fd, SET_FILE_ATTRIBUTES, &raw const attributes) as libc::c_long
    })?;
    Ok(())
}

fn file_attributes(file: BorrowedFd<'_>) -> io::Result<FileAttributes> {
    let mut attributes = FileAttributes::default();
    // SAFETY: the kernel writes one `fsxattr`, which this is.
    check(unsafe {
        let fd = file.as_raw_fd();
        libc::ioctl(fd, GET_FILE_ATTRIBUTES, &raw mut attributes) as libc::c_long
    })?;
    Ok(attributes)
}

/// Reads an attribute, fgetxattr(2), and answers its length.
///
/// # Errors
/// ENODATA if there is none, ERANGE if it is longer.
pub fn attribute(file: BorrowedFd<'_>, name: &CStr, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: length and pointer are those of the slice, which is borrowed for writing.
    let read = check(unsafe {
        let (into, length) = (into.as_mut_ptr().cast(), into.len());
        libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), into, length) as libc::c_long
    })?;
    Ok(read as usize)
}

/// Sets an attribute, fsetxattr(2).
///
/// # Errors
/// EPERM, EOPNOTSUPP.
pub fn set_attribute(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: length and pointer are those of the slice, which the kernel only reads.
    check(unsafe {
        let (value, length) = (value.as_ptr().cast(), value.len());
        libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value, length, 0) as libc::c_long
    })?;
    Ok(())
}
