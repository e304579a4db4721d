//! From a path to the disk that `io.max` takes. The kernel takes whole disks alone (a partition, an
//! anonymous or an absent device is ENODEV), and a limit on the wrong node is taken and does not
//! bind: hence what cannot be told for certain is refused.
//!
//! # Which nodes a limit must be on
//! A bio is throttled where it is submitted, and again on each node that it is passed on to, since
//! bio_set_dev() clears BIO_BPS_THROTTLED. Measured on Linux 6.1 with 5 MB/s and direct writes, over
//! dm-linear, dm-crypt, dm-striped, loop, and md as raid0 and raid1:
//! - The node on which the file system lies binds, each time, though most have no requests.
//! - The disk below binds as long as the bio keeps its cgroup. It did in these tests, but buffered
//!   writes lose it in a device-mapper with commit ca522482e3ea and without its repair
//!   (bugzilla.kernel.org 220985): there a limit does nothing on the lowest disk, which is where
//!   systemd's `IOWriteBandwidthMax=` puts it.
//! - With more disks below, a limit on each of them lets a stripe over two write twice as much.
//! - On both, the rate stays what it is: two sieves of the same width. So where all lies on one
//!   disk, that is limited as well: what a job writes there past the volume counts, and operations
//!   count as the disk sees them, split.

mod device;
mod error;
mod host;
mod mounts;

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cgroup::disk::device::InvalidDeviceNumber;
pub(crate) use crate::cgroup::disk::device::{Device, DeviceNumber};
pub(crate) use crate::cgroup::disk::error::DiskError;
pub(crate) use crate::cgroup::disk::host::{Host, LocalHost, Stat};
use crate::cgroup::disk::mounts::Mount;

/// How deep overlays may lie on overlays: FILESYSTEM_MAX_STACK_DEPTH of the kernel. More means that
/// the mount options name something else here than where they were given.
const MAX_OVERLAY_DEPTH: u32 = 2;

/// What a limit is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disks {
    /// Never empty. The first is what the file system lies on and what users are shown; the second,
    /// if there is one, is the only disk below it.
    pub devices: Vec<Device>,
}

/// Who divides a disk by weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightPolicy {
    /// io.cost: `io.weight`, 1 to 10000.
    Cost,
    /// The scheduler BFQ: `io.bfq.weight`, 1 to 1000. It does not look at `io.weight`.
    Bfq,
}

impl WeightPolicy {
    /// The file of a cgroup that it looks at.
    pub(crate) fn file(self) -> &'static str {
        match self {
            WeightPolicy::Cost => "io.weight",
            WeightPolicy::Bfq => "io.bfq.weight",
        }
    }
}

/// The disk of a file or directory, or of the file system in which it lies. That of a block device is
/// that device and no other. `path` is its name for words alone: whoever gave it may have put something
/// else there by now, so it is not looked up.
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

/// The device with this number, written `MAJOR:MINOR`, and no other.
///
/// # Errors
/// [`DiskError`]: no number, no such device, or a partition.
pub(crate) fn disks_of_device(host: &impl Host, number: &str) -> Result<Disks, DiskError> {
    let number = number
        .parse()
        .map_err(|InvalidDeviceNumber| DiskError::InvalidDeviceNumber(number.to_owned()))?;
    block_device(host, number)
}

/// Who divides the disk by weight, if anybody does; `io_cost_qos` is that file of the root cgroup
/// and may be empty. It is the lowest device that counts: nodes without requests have neither a
/// scheduler nor io.cost.
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

/// The device that somebody has named, not where files lie: nothing is resolved.
fn block_device(host: &impl Host, number: DeviceNumber) -> Result<Disks, DiskError> {
    let disk = whole_disk(host, number)?;
    if disk != number {
        let partition = device(host, number)?;
        return Err(DiskError::Partition { partition, disk: device(host, disk)? });
    }
    Ok(Disks { devices: vec![device(host, number)?] })
}

/// The subvolumes of a btrfs have anonymous devices of their own. Its mount tells one of the real
/// ones, and sysfs how many there are.
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

/// What is written to an overlay goes to its upper layer; one that has none is read-only.
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
    // The option is a path of where and when the overlay was mounted. Here it may be nothing, or
    // the overlay itself: in a container, or after the root was changed.
    if depth == 0 || !layer.is_absolute() {
        return Err(DiskError::HiddenLayer { path, layer });
    }
    let resolved = match host.stat(&layer) {
        Ok(found) if found.device != mount.device => resolve(host, &layer, &found, depth - 1),
        _ => return Err(DiskError::HiddenLayer { path, layer }),
    };
    resolved.map_err(|source| DiskError::Layer { path, layer, source: Box::new(source) })
}

/// A node and, if all that is below it lies on one other disk, that disk.
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

/// The whole disks under a node: its `slaves`, or itself where it has none.
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

/// A partition's disk; every other device is one.
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
