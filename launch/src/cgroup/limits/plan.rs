//! The values to write for one job: computed from its limits, written, read back and compared. It must not resolve
//! disks: `resolve` has done so.

use crate::cgroup::disk::WeightPolicy;
use crate::cgroup::hierarchy::Hierarchy;
use crate::cgroup::job::JobCgroup;
use crate::cgroup::limits::disks::ResolvedDisks;
use crate::cgroup::limits::errors::{LimitError, Unenforceable};
use crate::cgroup::limits::file::{FILES, Format, IO_MAX, LimitFile};
use crate::cgroup::limits::value::Value;
use crate::host;
use crate::model::limits::{CPU_PERIOD, LimitKind, Limits, MAX};

/// The values to write for one job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    settings: Vec<Setting>,
}

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    file: LimitFile,
    /// `MAJOR:MINOR`, for rates.
    device: Option<String>,
    value: Value,
}

impl Plan {
    /// Computes the values for these limits on these disks.
    pub fn new(limits: &Limits, disks: &ResolvedDisks) -> Plan {
        let mut plan = Plan::default();
        for file in FILES {
            if let Some(value) = value_for(limits, disks, &file) {
                plan.settings.push(Setting { file, device: None, value });
            }
        }
        for (rule, devices) in limits.io.iter().zip(&disks.devices) {
            devices.iter().for_each(|device| plan.limit_rates(device, &rule.rates));
        }
        plan
    }

    /// If two rules name the same disk, the later rule wins, rate by rate.
    fn limit_rates(&mut self, device: &str, rates: &[Option<u64>; 4]) {
        let known = self.settings.iter_mut().find(|s| s.device.as_deref() == Some(device));
        let old = match &known {
            Some(Setting { value: Value::Rates(old), .. }) => *old,
            _ => [MAX; 4],
        };
        let value = Value::Rates(std::array::from_fn(|n| rates[n].unwrap_or(old[n])));
        match known {
            Some(setting) => setting.value = value,
            None => {
                let device = Some(device.to_owned());
                self.settings.push(Setting { file: IO_MAX, device, value });
            }
        }
    }

    /// Whether this host can enforce every value.
    ///
    /// # Errors
    /// [`Unenforceable`].
    pub fn check(&self, hierarchy: &Hierarchy) -> Result<(), Unenforceable> {
        let written = self.settings.iter().filter(|setting| !setting.is_redundant(hierarchy));
        written.into_iter().try_for_each(|setting| setting.file.check(hierarchy))
    }

    /// Names and values as requested from the kernel.
    pub fn requested(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.settings.iter().map(|setting| {
            (setting.file.label(setting.device.as_deref()), setting.value.to_string())
        })
    }

    /// Writes every value, reads it back and compares.
    ///
    /// # Errors
    /// [`LimitError`] of the first value that differs.
    pub fn apply(&self, hierarchy: &Hierarchy, cgroup: &JobCgroup) -> Result<(), LimitError> {
        let written = self.settings.iter().filter(|setting| !setting.is_redundant(hierarchy));
        written.into_iter().try_for_each(|setting| setting.apply(cgroup))
    }

    /// As [`Plan::apply`], for a job that runs under `old`. Unchanged values are not written. A value that
    /// only `old` has is reset to the kernel's default.
    ///
    /// # Errors
    /// [`LimitError`]; some values may have been written.
    pub fn replace(
        &self,
        old: &Plan,
        hierarchy: &Hierarchy,
        cgroup: &JobCgroup,
    ) -> Result<(), LimitError> {
        let gone = old.settings.iter().filter(|old| !self.has(old)).map(Setting::unlimited);
        let new = self.settings.iter().filter(|new| !old.settings.contains(new)).cloned();
        Plan { settings: gone.chain(new).collect() }.apply(hierarchy, cgroup)
    }

    fn has(&self, other: &Setting) -> bool {
        self.settings.iter().any(|own| own.file == other.file && own.device == other.device)
    }

    /// The value of `memory.max`, if limited.
    pub fn memory_max(&self) -> Option<u64> {
        self.settings.iter().find_map(|setting| match (setting.file.name, setting.value) {
            ("memory.max", Value::Number(bytes)) if bytes != MAX => Some(bytes),
            _ => None,
        })
    }
}

/// The value for a file, except rates, which have a value for each device.
fn value_for(limits: &Limits, disks: &ResolvedDisks, file: &LimitFile) -> Option<Value> {
    if file.format == Format::Rates {
        return None;
    }
    let kind = LimitKind::named(file.name)?;
    match (kind, disks.weight_policy) {
        (LimitKind::CpuQuota, _) => {
            let (quota, period) = limits.cpu_max()?;
            return Some(Value::Bandwidth(quota, period));
        }
        (LimitKind::IoWeight, weight_policy)
            if weight_policy.map(WeightPolicy::file) != Some(file.name) =>
        {
            return None;
        }
        _ => {}
    }
    let value = limits.get(kind)?;
    Some(Value::Number(if file.format == Format::Bytes { whole_pages(value) } else { value }))
}

/// The kernel rounds memory limits down to whole pages: page_counter_memparse().
fn whole_pages(bytes: u64) -> u64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096);
    if bytes == MAX { MAX } else { bytes / page * page }
}

impl Setting {
    /// A swap limit of 0 on a host without swap and without swap accounting.
    fn is_redundant(&self, hierarchy: &Hierarchy) -> bool {
        self.file.name == "memory.swap.max"
            && self.value == Value::Number(0)
            && !hierarchy.features().has_file(self.file.name)
            && !host::has_swap()
    }

    fn apply(&self, cgroup: &JobCgroup) -> Result<(), LimitError> {
        let (limit, directory) = (self.file.name, cgroup.leaf(self.file.leaf));
        let text = match &self.device {
            Some(device) => format!("{device} {}", self.value),
            None => self.value.to_string(),
        };
        let io = |source| LimitError::Io { limit, value: text.clone(), source };
        let applied = self.file.write(&directory, &text, self.device.as_deref()).map_err(io)?;
        if applied != self.value {
            let (asked, applied) = (self.value.to_string(), applied.to_string());
            return Err(LimitError::Differs { limit, asked, applied });
        }
        Ok(())
    }

    fn unlimited(&self) -> Setting {
        let value = match self.value {
            Value::Bandwidth(..) => Value::Bandwidth(MAX, CPU_PERIOD),
            Value::Rates(_) => Value::Rates([MAX; 4]),
            Value::Number(_) if self.file.format == Format::Weight => Value::Number(100),
            Value::Number(_) => Value::Number(MAX),
        };
        Setting { value, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_the_kernel_has_a_file_to_be_written_to() {
        for kind in LimitKind::ALL.iter().copied() {
            for name in kind.names().iter().filter(|name| name.contains('.')) {
                assert!(FILES.iter().any(|file| file.name == *name), "{kind:?}: {name}");
            }
        }
        let rows = FILES.iter().filter(|file| LimitKind::named(file.name).is_some());
        assert_eq!(rows.count(), FILES.len() - 1, "io.max has rates in place of one number");
    }
}
