//! Resolves the disks that a job's I/O limits name to device numbers. It must not follow a path given by a user:
//! `resolve` opens those paths as that user.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cgroup::disk;
use crate::cgroup::disk::{Stat, WeightPolicy};
use crate::cgroup::hierarchy::Hierarchy;
use crate::cgroup::limits::errors::Unenforceable;
use crate::cgroup::limits::file::{BFQ_WEIGHT, IO_MAX, IO_WEIGHT};
use crate::model::limits::{DiskName, LimitKind, Limits};

/// The largest weight of BFQ.
const MAX_BFQ_WEIGHT: u64 = 1_000;

/// The devices of a job's I/O limits, resolved when the job was requested.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolvedDisks {
    /// The devices of each rule, `MAJOR:MINOR`.
    pub devices: Vec<Vec<String>>,
    /// The weight policy of the working directory's disk.
    #[serde(rename = "weigher")]
    pub weight_policy: Option<WeightPolicy>,
}

impl ResolvedDisks {
    /// Resolves the disks of these limits. `stat_of` gives the stat of a path that a user gave.
    ///
    /// # Errors
    /// [`Unenforceable`].
    pub fn resolve<'a>(
        limits: &'a Limits,
        hierarchy: &Hierarchy,
        directory: &'a str,
        mut stat_of: impl FnMut(&'a str) -> Result<Stat, String>,
    ) -> Result<ResolvedDisks, Unenforceable> {
        let mut found = ResolvedDisks::default();
        let host = disk::LocalHost;
        let mut of_path = |path: &'a str| {
            disk::disks_of_path(&host, Path::new(path), &stat_of(path)?).map_err(|e| e.to_string())
        };
        for rule in &limits.io {
            IO_MAX.check(hierarchy)?;
            let disks = match &rule.disk {
                DiskName::WorkingDirectory => of_path(directory),
                DiskName::Path(path) => of_path(path),
                DiskName::Device(number) => {
                    disk::disks_of_device(&host, number).map_err(|e| e.to_string())
                }
            };
            let disks = disks.map_err(|reason| IO_MAX.unenforceable(reason))?;
            found.devices.push(disks.devices.iter().map(ToString::to_string).collect());
        }
        if let Some(weight) = limits.get(LimitKind::IoWeight) {
            if hierarchy.features().missing("io").is_some()
                || !hierarchy.features().has_file(BFQ_WEIGHT.name)
            {
                IO_WEIGHT.check(hierarchy)?;
            }
            let disks = of_path(directory).map_err(|reason| IO_WEIGHT.unenforceable(reason))?;
            found.weight_policy = disk::weight_policy(&host, &disks, &hierarchy.io_cost_qos());
            found.check_weight_policy(weight, &disks.devices)?;
        }
        Ok(found)
    }

    fn check_weight_policy(
        &self,
        weight: u64,
        devices: &[disk::Device],
    ) -> Result<(), Unenforceable> {
        let name = devices.last().map_or("", |device| &device.name);
        let reason = match self.weight_policy {
            None => format!(
                "the disk {name} has no weight policy (its scheduler is not bfq, and io.cost \
                 is not enabled for it)"
            ),
            Some(WeightPolicy::Bfq) if weight > MAX_BFQ_WEIGHT => {
                format!(
                    "weights on the disk {name} are at most {MAX_BFQ_WEIGHT} (its scheduler is bfq)"
                )
            }
            _ => return Ok(()),
        };
        Err(IO_WEIGHT.unenforceable(reason))
    }
}
