//! Resolves a path to the block devices for `io.max`. It must not guess: the kernel rejects everything but whole
//! disks with ENODEV (partitions, anonymous and absent devices), and a limit on the wrong device is accepted and
//! not enforced. A path whose device is uncertain is therefore an error.
//!
//! # Which devices a limit must be on
//! The kernel throttles a bio on the device where it is submitted, and again on each device that it is remapped
//! to, since bio_set_dev() clears BIO_BPS_THROTTLED. Measured on Linux 6.1 with 5 MB/s and direct writes, over
//! dm-linear, dm-crypt, dm-striped, loop, and md as raid0 and raid1:
//! - A limit on the device of the file system is always enforced, though most such devices have no request queue.
//! - A limit on the disk below is enforced as long as the bio keeps its cgroup. It did in these tests, but
//!   buffered writes lose it in a device-mapper with commit ca522482e3ea and without its fix
//!   (bugzilla.kernel.org 220985). There a limit on the lowest disk has no effect, and systemd's
//!   `IOWriteBandwidthMax=` sets it on that disk.
//! - If a volume has several disks below, a limit on each of two allows a stripe twice the rate.
//! - A limit on both the volume and its one disk keeps the rate. So if a volume lies on one disk, that disk gets
//!   the limit as well: it then covers writes of the job that bypass the volume, and counts operations as the
//!   disk sees them, after splitting.

mod device;
mod error;
mod host;
pub(super) mod mounts;

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cgroup::disk::device::InvalidDeviceNumber;
pub(crate) use crate::cgroup::disk::device::{Device, DeviceNumber};
pub(crate) use crate::cgroup::disk::error::DiskError;
pub(crate) use crate::cgroup::disk::host::{Host, LocalHost, Stat};
use crate::cgroup::disk::mounts::Mount;

/// The deepest stack of overlays: the kernel's FILESYSTEM_MAX_STACK_DEPTH. A deeper one means that the paths in
/// the mount options have another meaning in this mount namespace.
const MAX_OVERLAY_DEPTH: u32 = 2;

/// The devices that a limit is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disks {
    /// Never empty. The first is the device of the file system, which users see; the second, if any, is the
    /// only disk below it.
    pub devices: Vec<Device>,
}

/// The kernel's policy for `io.weight` of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightPolicy {
    /// io.cost: `io.weight`, 1 to 10000.
    Cost,
    /// The scheduler BFQ: `io.bfq.weight`, 1 to 1000. BFQ ignores `io.weight`.
    Bfq,
}

impl WeightPolicy {
    /// The interface file that the policy reads.
    pub(crate) fn file(self) -> &'static str {
        match self {
            WeightPolicy::Cost => "io.weight",
            WeightPolicy::Bfq => "io.bfq.weight",
        }
    }
}

/// The devices of the file system that holds a file or directory; for the node of a block device, that device.
/// `path` is only for messages and is not looked up: the user may have replaced the file.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn disks_of_path(
    host: &impl Host,
    path: &Path,
    found: &Stat,
) -> Result<Disks, DiskError> {
    resolve(host, path, found, MAX_OVERLAY_DEPTH)
}

/// The device with this number, written `MAJOR:MINOR`.
///
/// # Errors
/// [`DiskError`]: not a device number, no such device, or a partition.
pub(crate) fn disks_of_device(host: &impl Host, number: &str) -> Result<Disks, DiskError> {
    let number = number
        .parse()
        .map_err(|InvalidDeviceNumber| DiskError::InvalidDeviceNumber(number.to_owned()))?;
    block_device(host, number)
}

/// The weight policy of the disk, if it has one. `io_cost_qos` is the text of that file of the root cgroup and may
/// be empty. The lowest device decides: devices without a request queue have neither a scheduler nor io.cost.
pub(crate) fn weight_policy(
    host: &impl Host,
    disks: &Disks,
    io_cost_qos: &str,
) -> Option<WeightPolicy> {
    let lowest_disks = disks.devices.last()?;
    let number = lowest_disks.to_string();
    let costs = io_cost_qos.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(&number) && words.any(|word| word == "enable=1")
    });
    if costs {
        return Some(WeightPolicy::Cost);
    }
    let number = DeviceNumber { major: lowest_disks.major, minor: lowest_disks.minor };
    let schedulers = host.attribute(number, "queue/scheduler")?;
    schedulers.split_whitespace().any(|word| word == "[bfq]").then_some(WeightPolicy::Bfq)
}

fn resolve(host: &impl Host, path: &Path, found: &Stat, depth: u32) -> Result<Disks, DiskError> {
    if !path.is_absolute() {
        return Err(DiskError::Relative(path.into()));
    }
    if let Some(number) = found.block {
        return block_device(host, number);
    }
    if found.is_fuse {
        return Err(DiskError::FileSystem { path: path.into(), kind: "fuse".into() });
    }
    if found.device.major != 0 {
        return stack(host, whole_disk(host, found.device)?);
    }
    let mountinfo = host.mountinfo().map_err(DiskError::Mounts)?;
    let mount = Mount::find(&mountinfo, found.mount)
        .ok_or_else(|| DiskError::UnknownMount { path: path.into(), mount: found.mount })?;
    match mount.kind {
        "btrfs" => btrfs(host, path, &mount),
        "overlay" => overlay(host, path, &mount, depth),
        kind => Err(DiskError::FileSystem { path: path.into(), kind: kind.into() }),
    }
}

/// The block device that the user named itself; a partition is an error.
fn block_device(host: &impl Host, number: DeviceNumber) -> Result<Disks, DiskError> {
    let disk = whole_disk(host, number)?;
    if disk != number {
        let partition = device(host, number)?;
        return Err(DiskError::Partition { partition, disk: device(host, disk)? });
    }
    Ok(Disks { devices: vec![device(host, number)?] })
}

/// The subvolumes of a btrfs have anonymous devices. The mount table names one real device, and sysfs lists all of
/// them.
fn btrfs(host: &impl Host, path: &Path, mount: &Mount<'_>) -> Result<Disks, DiskError> {
    let source = mount.source();
    let gone = || DiskError::UnknownBtrfsDevice { path: path.into(), device: source.clone() };
    let number = host.stat(&source).ok().and_then(|found| found.block).ok_or_else(gone)?;
    let members = host.btrfs().into_iter().find(|members| members.contains(&number));
    match members.ok_or_else(gone)?[..] {
        [one] => stack(host, whole_disk(host, one)?),
        ref several => {
            let disks = several.iter().map(|one| device(host, whole_disk(host, *one)?));
            let disks = disks.collect::<Result<_, _>>()?;
            Err(DiskError::SeveralDisks { path: path.into(), disks })
        }
    }
}

/// Writes to an overlay go to its upper layer; an overlay without one is read-only.
fn overlay(
    host: &impl Host,
    path: &Path,
    mount: &Mount<'_>,
    depth: u32,
) -> Result<Disks, DiskError> {
    let path = path.to_owned();
    let Some(layer) = mount.layer() else {
        return Err(DiskError::FileSystem { path, kind: "overlay".into() });
    };
    // The path in the option belongs to the mount namespace of mount(8). In a container or after a chroot it
    // may name nothing, or the overlay itself.
    if depth == 0 || !layer.is_absolute() {
        return Err(DiskError::HiddenLayer { path, layer });
    }
    let resolved = match host.stat(&layer) {
        Ok(found) if found.device != mount.device => resolve(host, &layer, &found, depth - 1),
        _ => return Err(DiskError::HiddenLayer { path, layer }),
    };
    resolved.map_err(|source| DiskError::Layer { path, layer, source: Box::new(source) })
}

/// A device and, if all devices below it lie on one other disk, that disk.
fn stack(host: &impl Host, number: DeviceNumber) -> Result<Disks, DiskError> {
    let mut devices = vec![device(host, number)?];
    let mut below = BTreeSet::new();
    lowest_disks(host, number, &mut below)?;
    if let (Some(disk), 1) = (below.first(), below.len())
        && *disk != number
    {
        devices.push(device(host, *disk)?);
    }
    Ok(Disks { devices })
}

/// The whole disks below a device: its `slaves` in sysfs, or the device itself if it has none.
fn lowest_disks(
    host: &impl Host,
    number: DeviceNumber,
    disks: &mut BTreeSet<DeviceNumber>,
) -> Result<(), DiskError> {
    let slaves = host.slaves(number);
    if slaves.is_empty() {
        disks.insert(number);
    }
    slaves.into_iter().try_for_each(|slave| lowest_disks(host, whole_disk(host, slave)?, disks))
}

/// The disk of a partition; any other device itself.
fn whole_disk(host: &impl Host, number: DeviceNumber) -> Result<DeviceNumber, DiskError> {
    if host.attribute(number, "partition").is_none() {
        return Ok(number);
    }
    host.attribute(number, "../dev")
        .and_then(|text| text.trim().parse().ok())
        .ok_or(DiskError::NoDevice(number))
}

fn device(host: &impl Host, number: DeviceNumber) -> Result<Device, DiskError> {
    let name = host.name(number).ok_or(DiskError::NoDevice(number))?;
    Ok(Device { major: number.major, minor: number.minor, name })
}

#[cfg(test)]
mod tests;
