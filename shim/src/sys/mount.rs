//! The mount calls of Linux 5.2 and later, which work on descriptors: open_tree(2), move_mount(2), mount_setattr(2),
//! fsopen(2) and its family.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_long, c_uint};
use nix::errno::Errno;

use super::Result;

const OPEN_TREE_CLONE: c_uint = 1;
const OPEN_TREE_CLOEXEC: c_uint = libc::O_CLOEXEC as c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;

/// What a mount does not allow, mount_setattr(2).
pub(crate) mod attribute {
    /// MOUNT_ATTR_RDONLY.
    pub(crate) const READ_ONLY: u64 = 1;
    /// MOUNT_ATTR_NOSUID.
    pub(crate) const NO_SUID: u64 = 2;
    /// MOUNT_ATTR_NODEV.
    pub(crate) const NO_DEVICES: u64 = 4;
    /// MOUNT_ATTR_NOEXEC.
    pub(crate) const NO_EXEC: u64 = 8;
}

/// A detached copy of the mount at this place and of all below it.
///
/// # Errors
/// ENOSYS before Linux 5.2; EINVAL for a mount of another mount namespace.
pub(crate) fn open_tree(directory: Option<BorrowedFd<'_>>, path: &CStr) -> Result<OwnedFd> {
    let empty = if path.is_empty() { libc::AT_EMPTY_PATH as c_uint } else { 0 };
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as c_uint | empty;
    // SAFETY: the path is a C string that outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, number(directory), path.as_ptr(), flags) })
}

/// Attaches a detached mount over this place. Symbolic links in its path are followed.
///
/// # Errors
/// ENOENT, ENOTDIR.
pub(crate) fn attach(mount: &OwnedFd, target: &CStr) -> Result<()> {
    const FOLLOW_TARGET: c_uint = 0x10 | 0x20; // MOVE_MOUNT_T_SYMLINKS, MOVE_MOUNT_T_AUTOMOUNTS
    // SAFETY: both paths are C strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | FOLLOW_TARGET,
        )
    };
    Errno::result(result).map(drop)
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets attributes of a mount and of all below it; and where `private`, what is mounted or unmounted elsewhere does
/// not happen here, nor the other way round.
///
/// # Errors
/// ENOSYS before Linux 5.12.
pub(crate) fn restrict(mount: Option<BorrowedFd<'_>>, set: u64, private: bool) -> Result<()> {
    let propagation = if private { libc::MS_PRIVATE } else { 0 };
    let attributes = MountAttr { set, propagation, ..MountAttr::default() };
    let (path, empty) = if mount.is_some() { (c"", libc::AT_EMPTY_PATH) } else { (c"/", 0) };
    // SAFETY: path and attributes outlive the call, and the size is that of the kernel's structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            number(mount),
            path.as_ptr(),
            c_long::from(libc::AT_RECURSIVE | empty),
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Gives a detached mount, but none below it, the owners that a user namespace says.
///
/// # Errors
/// EINVAL where the kernel or the file system cannot.
pub(crate) fn set_owner(mount: &OwnedFd, namespace: &OwnedFd) -> Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    let user_namespace = namespace.as_raw_fd() as u64;
    let attributes = MountAttr { set: MOUNT_ATTR_IDMAP, user_namespace, ..MountAttr::default() };
    // SAFETY: path and attributes outlive the call, and the size is that of the kernel's structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            c_long::from(libc::AT_EMPTY_PATH),
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// A detached mount of a new file system.
///
/// # Errors
/// ENODEV where the kernel lacks it; EINVAL for an option that it does not know.
pub(crate) fn file_system(
    kind: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: u64,
) -> Result<OwnedFd> {
    // SAFETY: a C string.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(context)?;
    let configure = |command: c_uint, key: *const libc::c_char, value: *const libc::c_char| {
        let fd = context.as_raw_fd();
        // SAFETY: key and value are null or C strings that outlive the call.
        let result = unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key, value, 0) };
        Errno::result(result).map(drop)
    };
    for (key, value) in options {
        configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?;
    }
    configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
    let fd = context.as_raw_fd();
    // SAFETY: touches no memory.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes as c_uint) })
}

fn owned(result: c_long) -> Result<OwnedFd> {
    let fd = Errno::result(result)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn number(directory: Option<BorrowedFd<'_>>) -> c_int {
    directory.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd())
}

/// Brings up the loopback interface of this network namespace.
///
/// # Errors
/// EPERM; ENODEV where there is none.
pub(crate) fn loopback_up() -> Result<()> {
    // SAFETY: touches no memory.
    let socket = owned(c_long::from(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    }))?;
    // SAFETY: plain integers and bytes, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which outlives the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    Errno::result(result).map(drop)
}
