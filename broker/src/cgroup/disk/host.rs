//! What of a host decides which disk a path is on.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};

use crate::cgroup::disk::device::DeviceNumber;

/// What an open file is, whatever its name leads to by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `st_dev`, stat(2).
    pub device: DeviceNumber,
    /// The device itself, if it is the node of a block device.
    pub block: Option<DeviceNumber>,
    /// The mount it is on, field 1 of proc_pid_mountinfo(5). The kernel's own answer: a longest
    /// prefix of the path is wrong behind symbolic links and where mounts lie on each other, and
    /// `st_dev` is wrong for the subvolumes of a btrfs.
    pub mount: u64,
    /// On a device, but read and written by a process of its own (fuseblk), whom the limits of a
    /// job do not reach.
    pub is_fuse: bool,
}

impl Stat {
    /// Of a file that is opened, at least with O_PATH.
    ///
    /// # Errors
    /// As fstat(2) and fstatfs(2), and where `/proc` is not mounted.
    pub fn of(file: &File) -> io::Result<Stat> {
        let found = file.metadata()?;
        let number = |device| {
            let part = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
            DeviceNumber { major: part(major(device)), minor: part(minor(device)) }
        };
        let device = number(found.dev());
        Ok(Stat {
            device,
            block: found.file_type().is_block_device().then(|| number(found.rdev())),
            mount: mount(file.as_raw_fd())?,
            // Only of a local device, where the answer cannot wait for a network.
            is_fuse: device.major != 0 && fstatfs(file)?.filesystem_type() == FUSE_SUPER_MAGIC,
        })
    }
}

/// A view of a host; tests have recorded ones.
pub(crate) trait Host {
    /// What a path of the mount table leads to, symbolic links followed; never one that a user has given.
    ///
    /// # Errors
    /// As stat(2).
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    fn mountinfo(&self) -> io::Result<String>;

    /// Where sysfs is mounted.
    fn sysfs(&self) -> PathBuf;

    /// A file in the sysfs directory of a device, if both are there.
    fn attribute(&self, device: DeviceNumber, file: &str) -> Option<String> {
        fs::read_to_string(self.directory(device).join(file)).ok()
    }

    /// A device as it is called in `/dev`, if there is such a device.
    fn name(&self, device: DeviceNumber) -> Option<String> {
        let target = fs::read_link(self.directory(device)).ok()?;
        // A slash in a name, as in cciss/c0d0, is "!" in sysfs.
        Some(target.file_name()?.to_str()?.replace('!', "/"))
    }

    /// What a node of device-mapper, md or bcache lies on, partitions included.
    fn slaves(&self, device: DeviceNumber) -> Vec<DeviceNumber> {
        numbers(&self.directory(device).join("slaves"))
    }

    /// The devices of each mounted btrfs.
    fn btrfs(&self) -> Vec<Vec<DeviceNumber>> {
        let systems = fs::read_dir(self.sysfs().join("fs/btrfs")).into_iter().flatten().flatten();
        systems.map(|system| numbers(&system.path().join("devices"))).collect()
    }

    /// `/sys/dev/block/M:m`, a symbolic link.
    fn directory(&self, device: DeviceNumber) -> PathBuf {
        self.sysfs().join("dev/block").join(device.to_string())
    }
}

/// The numbers of all devices that a directory of sysfs links to.
fn numbers(directory: &Path) -> Vec<DeviceNumber> {
    let links = fs::read_dir(directory).into_iter().flatten().flatten();
    let number =
        |link: fs::DirEntry| fs::read_to_string(link.path().join("dev")).ok()?.trim().parse().ok();
    links.filter_map(number).collect()
}

/// This host, now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalHost;

impl Host for LocalHost {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        // O_PATH opens nothing: no device wakes up, no FIFO blocks.
        Stat::of(&OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?)
    }

    fn mountinfo(&self) -> io::Result<String> {
        // One mount point that is not UTF-8 must not keep all the others from being found.
        let text = fs::read("/proc/self/mountinfo")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn sysfs(&self) -> PathBuf {
        "/sys".into()
    }
}

/// The mount of an open file, proc_pid_fdinfo(5).
fn mount(fd: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/thread-self/fdinfo/{fd}"))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "fdinfo without mnt_id"))
}
