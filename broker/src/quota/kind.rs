//! The quotas: a row for each, with its key in the configuration, its unit and its words. Pure; limits nothing.

use job_api::units::show_size;

/// A quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaKind {
    /// Jobs that have not ended.
    RunningJobs,
    /// Jobs started in a minute, with a burst.
    StartsPerMinute,
    /// The sum of the CPU quotas of running jobs, in thousandths of a CPU.
    Cpus,
    /// The sum of the memory limits of running jobs, in bytes.
    Memory,
    /// The sum of the pids limits of running jobs.
    Pids,
    /// Output of finished jobs, with its index, in bytes.
    KeptBytes,
    /// Finished jobs.
    KeptJobs,
    /// Open streams of output.
    Streams,
    /// Calls that wait for a job.
    Waits,
    /// Connections.
    Connections,
    /// Bytes of requests at a time.
    RequestBytes,
}

/// What a quota is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Count,
    Bytes,
    /// Thousandths of a CPU.
    MilliCpus,
}

/// The value that stands for no limit.
pub(crate) const UNLIMITED: u64 = u64::MAX;

impl QuotaKind {
    /// All of them, in the order in which they are shown; [`QuotaKind::index`] is the place in it.
    pub(crate) const ALL: [QuotaKind; 11] = [
        QuotaKind::RunningJobs,
        QuotaKind::StartsPerMinute,
        QuotaKind::Cpus,
        QuotaKind::Memory,
        QuotaKind::Pids,
        QuotaKind::KeptBytes,
        QuotaKind::KeptJobs,
        QuotaKind::Streams,
        QuotaKind::Waits,
        QuotaKind::Connections,
        QuotaKind::RequestBytes,
    ];

    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// The key in the configuration, and the name in answers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            QuotaKind::RunningJobs => "running_jobs",
            QuotaKind::StartsPerMinute => "starts_per_minute",
            QuotaKind::Cpus => "cpus",
            QuotaKind::Memory => "memory",
            QuotaKind::Pids => "pids",
            QuotaKind::KeptBytes => "kept_bytes",
            QuotaKind::KeptJobs => "kept_jobs",
            QuotaKind::Streams => "streams",
            QuotaKind::Waits => "waits",
            QuotaKind::Connections => "connections",
            QuotaKind::RequestBytes => "request_bytes",
        }
    }

    /// What is counted, in the plural.
    pub(crate) fn what(self) -> &'static str {
        match self {
            QuotaKind::RunningJobs => "running jobs",
            QuotaKind::StartsPerMinute => "starts",
            QuotaKind::Cpus => "CPUs of running jobs",
            QuotaKind::Memory => "memory of running jobs",
            QuotaKind::Pids => "processes of running jobs",
            QuotaKind::KeptBytes => "output of finished jobs",
            QuotaKind::KeptJobs => "finished jobs",
            QuotaKind::Streams => "open streams of output",
            QuotaKind::Waits => "calls that wait for a job",
            QuotaKind::Connections => "connections",
            QuotaKind::RequestBytes => "bytes of requests at a time",
        }
    }

    /// The limit of a job that is summed up, for a quota that sums up limits.
    pub(crate) fn limit_of_a_job(self) -> Option<&'static str> {
        match self {
            QuotaKind::Cpus => Some("cpus"),
            QuotaKind::Memory => Some("memory"),
            QuotaKind::Pids => Some("pids"),
            _ => None,
        }
    }

    pub(crate) fn unit(self) -> Unit {
        match self {
            QuotaKind::Cpus => Unit::MilliCpus,
            QuotaKind::Memory | QuotaKind::KeptBytes | QuotaKind::RequestBytes => Unit::Bytes,
            _ => Unit::Count,
        }
    }

    /// A value in words: `1.5`, `20 MiB`, `7`; `no limit`.
    pub(crate) fn show(self, value: u64) -> String {
        match self.unit() {
            _ if value == UNLIMITED => "no limit".into(),
            Unit::Count => value.to_string(),
            Unit::Bytes => show_size(value),
            Unit::MilliCpus => (value as f64 / 1000.0).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quota_has_its_own_place_and_name() {
        let mut names: Vec<_> = QuotaKind::ALL.iter().map(|kind| kind.name()).collect();
        assert!(QuotaKind::ALL.iter().enumerate().all(|(at, kind)| kind.index() == at));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), QuotaKind::ALL.len());
    }

    #[test]
    fn values_are_shown_in_the_units_of_people() {
        assert_eq!(QuotaKind::Cpus.show(1500), "1.5");
        assert_eq!(QuotaKind::Memory.show(20 << 20), "20 MiB");
        assert_eq!(QuotaKind::RunningJobs.show(7), "7");
        assert_eq!(QuotaKind::Pids.show(UNLIMITED), "no limit");
    }
}
