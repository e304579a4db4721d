//! The limits that the shim sees to, as it is told them. Pure; `cgroup` has those of the kernel.

use job_shim::wire;

use crate::host;
use crate::model::limits::{LimitKind, Limits, MAX};

/// What the shim is to see to.
pub fn shim_limits(limits: &Limits) -> wire::Limits {
    wire::Limits {
        time_ms: limits.get(LimitKind::Time),
        cpu_time_us: limits.get(LimitKind::CpuTime),
        cpus_milli: cpus_milli(limits),
        output: limits.get(LimitKind::Output),
    }
}

/// How many CPUs the job can use at once, in thousandths: those of the host, or its quota.
fn cpus_milli(limits: &Limits) -> u32 {
    let online = host::cpus() * 1_000;
    let quota = limits.cpu_max().filter(|(quota, _)| *quota != MAX);
    let quota = quota.map_or(online, |(quota, period)| (quota * 1_000).div_ceil(period.max(1)));
    u32::try_from(online.min(quota).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(kinds: &[(LimitKind, u64)]) -> Limits {
        Limits { values: kinds.iter().copied().collect(), ..Limits::default() }
    }

    #[test]
    fn a_job_cannot_use_more_cpus_than_its_quota() {
        let quota = limits(&[(LimitKind::CpuQuota, 20_000)]);
        assert_eq!(cpus_milli(&quota), 200);
        assert!(cpus_milli(&limits(&[])) >= 1_000);
    }
}
