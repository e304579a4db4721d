//! Why a path has no disk that could be limited, in words for whoever gave it.

use std::io;
use std::path::PathBuf;

use crate::cgroup::disk::device::{Device, DeviceNumber};

/// No disk, or none that `io.max` can take.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// It would mean another file for each reader.
    #[error("{} is not an absolute path: begin it with a slash", .0.display())]
    Relative(PathBuf),
    /// Not `MAJOR:MINOR`.
    #[error("{0:?} is not a device number: write MAJOR:MINOR, e.g. 8:0 (lsblk lists them)")]
    InvalidDeviceNumber(String),
    /// Not in sysfs.
    #[error("there is no block device {0} on this host (lsblk lists them)")]
    NoDevice(DeviceNumber),
    /// The kernel limits whole disks alone.
    #[error(
        "{partition} is the partition {} of a disk, and only whole disks can be limited: name the disk, {disk} ({})",
        partition.name, disk.name
    )]
    Partition {
        /// What was named.
        partition: Device,
        /// What would do.
        disk: Device,
    },
    /// A file system that has no disk, or none that the job itself reads and writes.
    #[error(
        "{path} lies on {kind}, {}: give a path on a local disk, or a disk as MAJOR:MINOR (lsblk lists them)",
        why_no_disk(kind)
    )]
    FileSystem {
        /// What was given.
        path: PathBuf,
        /// As mount(8) calls it.
        kind: String,
    },
    /// A file system over more than one.
    #[error("{path} lies on several disks: give a limit for each, {}", list_disks(disks))]
    SeveralDisks {
        /// What was given.
        path: PathBuf,
        /// All of them.
        disks: Vec<Device>,
    },
    /// btrfs, whose device cannot be found under the name that it was mounted by.
    #[error(
        "{path} lies on a btrfs that was mounted from {device}, which is not known here as one of its devices: give the disk as MAJOR:MINOR (lsblk lists them)"
    )]
    UnknownBtrfsDevice {
        /// What was given.
        path: PathBuf,
        /// As in mountinfo.
        device: PathBuf,
    },
    /// overlayfs, on a layer that has no disk.
    #[error("{path} lies on an overlay with its files in {layer}: {source}")]
    Layer {
        /// What was given.
        path: PathBuf,
        /// The upper or, without one, the topmost lower directory.
        layer: PathBuf,
        /// What is wrong with that.
        source: Box<DiskError>,
    },
    /// overlayfs, on a layer whose path means nothing here.
    #[error(
        "{path} lies on an overlay with its files in {layer}, which cannot be seen from here (it was mounted outside of this container, or before the root was changed): give the disk as MAJOR:MINOR (lsblk lists them)"
    )]
    HiddenLayer {
        /// What was given.
        path: PathBuf,
        /// As in mountinfo.
        layer: PathBuf,
    },
    /// The mount table could not be read.
    #[error("cannot read /proc/self/mountinfo: {0}")]
    Mounts(io::Error),
    /// The mount table has no such mount: it has just gone, or lies outside the broker's root.
    #[error(
        "{path} is on mount {mount}, which is not in /proc/self/mountinfo: give the disk as MAJOR:MINOR (lsblk lists them)"
    )]
    UnknownMount {
        /// What was given.
        path: PathBuf,
        /// Its id.
        mount: u64,
    },
}

fn why_no_disk(kind: &str) -> &'static str {
    match kind {
        "tmpfs" | "ramfs" | "devtmpfs" | "hugetlbfs" => "which keeps files in memory",
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "afs" | "9p" | "virtiofs" | "hostfs" => {
            "whose disks are another machine's"
        }
        // Its threads write for all processes together.
        "zfs" => "which io.max does not reach",
        kind if kind.starts_with("fuse") => "which a process outside the job reads and writes",
        _ => "which has no disk of its own",
    }
}

fn list_disks(disks: &[Device]) -> String {
    let one = |disk: &Device| format!("{disk} ({})", disk.name);
    disks.iter().map(one).collect::<Vec<_>>().join(", ")
}
