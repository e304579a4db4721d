//! Reads from the host what decides which disk holds a path: stat, mountinfo, sysfs. It must not interpret them, so
//! that tests can replay recorded hosts.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};

use crate::cgroup::disk::device::DeviceNumber;

/// The stat of an open file. The name of the file may have changed its meaning since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `st_dev`, stat(2).
    pub device: DeviceNumber,
    /// `st_rdev`, if the file is the node of a block device.
    pub block: Option<DeviceNumber>,
    /// The mount id, field 1 of proc_pid_mountinfo(5), as the kernel reports it. The longest matching prefix
    /// of the path is wrong behind symbolic links and for stacked mounts, and `st_dev` is wrong for the
    /// subvolumes of a btrfs.
    pub mount: u64,
    /// The file system is fuseblk: its own server process does the I/O, outside the limits of the job.
    pub is_fuse: bool,
}

impl Stat {
    /// The stat of a file opened with O_PATH or more.
    ///
    /// # Errors
    /// As fstat(2) and fstatfs(2); also if `/proc` is not mounted.
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
            // Only for a local device: statfs(2) of a network file system may block.
            is_fuse: device.major != 0 && fstatfs(file)?.filesystem_type() == FUSE_SUPER_MAGIC,
        })
    }
}

/// A view of a host; tests use recorded ones.
pub(crate) trait Host {
    /// The stat of a path from the mount table, symbolic links followed. Never called with a path from a user.
    ///
    /// # Errors
    /// As stat(2).
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// If `/proc` is not mounted.
    fn mountinfo(&self) -> io::Result<String>;

    /// The mount point of sysfs.
    fn sysfs(&self) -> PathBuf;

    /// A file in the sysfs directory of a device, if both exist.
    fn attribute(&self, device: DeviceNumber, file: &str) -> Option<String> {
        fs::read_to_string(self.directory(device).join(file)).ok()
    }

    /// The name of a device in `/dev`, if the device exists.
    fn name(&self, device: DeviceNumber) -> Option<String> {
        let target = fs::read_link(self.directory(device)).ok()?;
        // A slash in a name, as in cciss/c0d0, is "!" in sysfs.
        Some(target.file_name()?.to_str()?.replace('!', "/"))
    }

    /// The devices below a device of device-mapper, md or bcache, partitions included.
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

/// The numbers of all devices linked from a directory of sysfs.
fn numbers(directory: &Path) -> Vec<DeviceNumber> {
    let links = fs::read_dir(directory).into_iter().flatten().flatten();
    let number =
        |link: fs::DirEntry| fs::read_to_string(link.path().join("dev")).ok()?.trim().parse().ok();
    links.filter_map(number).collect()
}

/// This host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalHost;

impl Host for LocalHost {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        // With O_PATH no device wakes up and no FIFO blocks.
        Stat::of(&OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?)
    }

    fn mountinfo(&self) -> io::Result<String> {
        // One mount point that is not UTF-8 must not hide all the others.
        let text = fs::read("/proc/self/mountinfo")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn sysfs(&self) -> PathBuf {
        "/sys".into()
    }
}

/// The mount id of an open file, proc_pid_fdinfo(5).
fn mount(fd: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/thread-self/fdinfo/{fd}"))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "fdinfo without mnt_id"))
}
