//! Reads back the limits of a job: the applied and the effective value of each. It must not write.

use std::fs;

use crate::cgroup::hierarchy::Hierarchy;
use crate::cgroup::job::{JobCgroup, Leaf};
use crate::cgroup::limits::file::{FILES, Format, IO_MAX, LimitFile};
use crate::cgroup::limits::value::Value;
use crate::model::limits::LimitStatus;

/// The kernel's value of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// `memory.max`; `io.max 8:0`.
    pub name: String,
    /// The value in the job's own cgroup.
    pub applied: Value,
    /// The tightest value of the job's cgroup and its ancestors.
    pub effective: Value,
    /// The ancestor cgroup with the effective value, if it is not the job's own.
    pub bound_by: Option<String>,
}

/// The limits of a job now. A file that this kernel lacks, or whose cgroup has been removed, is left out.
pub fn readings(hierarchy: &Hierarchy, cgroup: &JobCgroup) -> Vec<Reading> {
    let mut all = Vec::new();
    for file in FILES.iter().filter(|file| hierarchy.features().has_file(file.name)) {
        if file.format != Format::Rates {
            all.extend(reading(hierarchy, cgroup, file, None));
            continue;
        }
        for device in limited_devices(hierarchy, cgroup) {
            all.extend(reading(hierarchy, cgroup, file, Some(&device)));
        }
    }
    all
}

fn reading(
    hierarchy: &Hierarchy,
    cgroup: &JobCgroup,
    file: &LimitFile,
    device: Option<&str>,
) -> Option<Reading> {
    let applied = file.read(&cgroup.leaf(file.leaf), device).ok()?;
    let (mut effective, mut bound_by) = (applied, None);
    // The job's own cgroup lies between the leaf and the root cgroup. It has no such limit, but is read
    // like the others.
    let above = (file.leaf == Leaf::Work).then(|| cgroup.leaf(Leaf::Job));
    for directory in above.into_iter().chain(hierarchy.ancestors()).filter(|_| file.inherited) {
        let Ok(value) = file.read(&directory, device) else { continue };
        let tighter = effective.tighter(value);
        if tighter != effective {
            (effective, bound_by) = (tighter, Some(hierarchy.below_mount(&directory)));
        }
    }
    Some(Reading { name: file.label(device), applied, effective, bound_by })
}

/// The devices with a line in `io.max` of the job or of an ancestor cgroup.
fn limited_devices(hierarchy: &Hierarchy, cgroup: &JobCgroup) -> Vec<String> {
    let mut devices = Vec::new();
    for directory in std::iter::once(cgroup.leaf(IO_MAX.leaf)).chain(hierarchy.ancestors()) {
        let text = fs::read_to_string(directory.join(IO_MAX.name)).unwrap_or_default();
        devices.extend(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned));
    }
    devices.sort();
    devices.dedup();
    devices
}

impl From<Reading> for LimitStatus {
    fn from(reading: Reading) -> LimitStatus {
        LimitStatus {
            name: reading.name,
            applied: Some(reading.applied.to_string()),
            effective: Some(reading.effective.to_string()),
            bound_by: reading.bound_by.unwrap_or_default(),
            ..LimitStatus::default()
        }
    }
}
