//! Why a path has no disk that `io.max` accepts, in sentences for the user who gave the path. It must not reveal
//! more than that user's rights allow.

use std::io;
use std::path::PathBuf;

use crate::cgroup::disk::device::{Device, DeviceNumber};

/// No disk, or none that `io.max` accepts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// The path is relative, so its meaning depends on the process.
    #[error("{} is not an absolute path: begin it with a slash", .0.display())]
    Relative(PathBuf),
    /// Not `MAJOR:MINOR`.
    #[error("{0:?} is not a device number: write MAJOR:MINOR, e.g. 8:0 (lsblk lists them)")]
    InvalidDeviceNumber(String),
    /// sysfs has no such device.
    #[error("there is no block device {0} on this host (lsblk lists them)")]
    NoDevice(DeviceNumber),
    /// The device is a partition; `io.max` accepts only whole disks.
    #[error(
        "{partition} is the partition {} of a disk, and only whole disks can be limited: name the disk, {disk} ({})",
        partition.name, disk.name
    )]
    Partition {
        /// The partition.
        partition: Device,
        /// Its disk.
        disk: Device,
    },
    /// The file system has no disk, or another process does its I/O.
    #[error(
        "{path} lies on {kind}, {}: give a path on a local disk, or a disk as MAJOR:MINOR (lsblk lists them)",
        why_no_disk(kind)
    )]
    FileSystem {
        /// The path that the user gave.
        path: PathBuf,
        /// The file system type of mount(8).
        kind: String,
    },
    /// The file system lies on several disks.
    #[error("{path} lies on several disks: give a limit for each, {}", list_disks(disks))]
    SeveralDisks {
        /// The path that the user gave.
        path: PathBuf,
        /// All of them.
        disks: Vec<Device>,
    },
    /// The mount source of a btrfs is not one of its devices in sysfs.
    #[error(
        "{path} lies on a btrfs that was mounted from {device}, which sysfs does not list as one of its devices: give the disk as MAJOR:MINOR (lsblk lists them)"
    )]
    UnknownBtrfsDevice {
        /// The path that the user gave.
        path: PathBuf,
        /// The path in mountinfo.
        device: PathBuf,
    },
    /// The layer of an overlay has no disk.
    #[error("{path} lies on an overlay with its files in {layer}: {source}")]
    Layer {
        /// The path that the user gave.
        path: PathBuf,
        /// The upper or, without one, the topmost lower directory.
        layer: PathBuf,
        /// The error of that layer.
        source: Box<DiskError>,
    },
    /// The layer of an overlay is not visible in this mount namespace.
    #[error(
        "{path} lies on an overlay with its files in {layer}, which is not visible to the broker (the overlay was mounted in another mount namespace, or before a chroot): give the disk as MAJOR:MINOR (lsblk lists them)"
    )]
    HiddenLayer {
        /// The path that the user gave.
        path: PathBuf,
        /// The path in mountinfo.
        layer: PathBuf,
    },
    /// /proc/self/mountinfo cannot be read.
    #[error("cannot read /proc/self/mountinfo: {0}")]
    Mounts(io::Error),
    /// /proc/self/mountinfo lacks the mount: it was unmounted, or lies outside the broker's root.
    #[error(
        "{path} is on mount {mount}, which is not in /proc/self/mountinfo: give the disk as MAJOR:MINOR (lsblk lists them)"
    )]
    UnknownMount {
        /// The path that the user gave.
        path: PathBuf,
        /// The mount id.
        mount: u64,
    },
}

fn why_no_disk(kind: &str) -> &'static str {
    match kind {
        "tmpfs" | "ramfs" | "devtmpfs" | "hugetlbfs" => "which keeps its files in memory",
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "afs" | "9p" | "virtiofs" | "hostfs" => {
            "whose disks belong to another machine"
        }
        // The threads of zfs write for all processes together.
        "zfs" => "whose writes io.max does not limit",
        kind if kind.starts_with("fuse") => "whose I/O a process outside the job does",
        _ => "which has no disk of its own",
    }
}

fn list_disks(disks: &[Device]) -> String {
    let one = |disk: &Device| format!("{disk} ({})", disk.name);
    disks.iter().map(one).collect::<Vec<_>>().join(", ")
}
