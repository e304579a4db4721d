//! Converts limits and usage between gRPC messages and the supervisor's types. It must not check ranges: `model` does.

use job_api::v1;
use tonic::Status;

use crate::grpc::status;
use crate::grpc::time::{duration, timestamp};
use crate::jobs::commands::update::Change;
use crate::jobs::job::Job;
use crate::jobs::stats::JobStats;
use crate::model::limits::{
    DiskName, IoRule, LimitKind, LimitStatus, Limits, MAX, MAX_IO_RULES, Rlimit,
};
use crate::model::usage;
use crate::model::usage::Usage;
use crate::store::records::ChangeRecord;
use job_launch::cgroup::features::{CONTROLLERS, Features};

/// Limits outside the API's message `Limits` that the model's `Limits` contains: the times and the output.
pub(super) struct TopLevelLimits {
    pub(super) time: Option<prost_types::Duration>,
    pub(super) cpu_time: Option<prost_types::Duration>,
    pub(super) output: u64,
}

/// Converts the limits of the message at `path`; the supervisor checks their ranges.
pub(super) fn limits(
    path: &'static str,
    message: v1::Limits,
    top_level: TopLevelLimits,
) -> Result<Limits, Status> {
    let mut all = Limits::default();
    let whole = |value: u128| u64::try_from(value).unwrap_or(MAX);
    let time = duration(&format!("{path}time_limit"), top_level.time)?;
    let cpu_time = duration(&format!("{path}cpu_time_limit"), top_level.cpu_time)?;
    for kind in LimitKind::ALL.iter().copied() {
        let value = match kind {
            LimitKind::CpuQuota => message.cpu_max_quota_usec,
            LimitKind::CpuPeriod => message.cpu_max_period_usec,
            LimitKind::CpuWeight => message.cpu_weight,
            LimitKind::MemoryMax => message.memory_max_bytes,
            LimitKind::MemoryHigh => message.memory_high_bytes,
            LimitKind::MemorySwapMax => message.memory_swap_max_bytes,
            LimitKind::PidsMax => message.pids_max,
            LimitKind::IoWeight => message.io_weight,
            LimitKind::Time => time.map(|time| whole(time.as_millis())),
            LimitKind::CpuTime => cpu_time.map(|time| whole(time.as_micros())),
            LimitKind::Output => Some(top_level.output).filter(|bytes| *bytes != 0),
            LimitKind::JobDir => message.job_dir_bytes,
        };
        all.set(kind, value);
    }
    let field = |name: &str, fault| status::field(&format!("{path}limits.{name}"), fault);
    // Checked before the entries are read: a change inserts each among the others.
    let count = message.io_max.len();
    if count > MAX_IO_RULES {
        let fault = format!("has {count} entries; at most {MAX_IO_RULES} are allowed");
        return Err(field("io_max", fault));
    }
    let io = message.io_max.into_iter().map(io_rule).collect::<Result<_, _>>();
    all.io = io.map_err(|fault| field("io_max", fault))?;
    for rlimit in message.rlimits {
        let fault = |fault| field("rlimits", fault);
        let name = Rlimit::parse(&rlimit.name).map_err(fault)?;
        if all.rlimits.insert(name, (rlimit.soft, rlimit.hard)).is_some() {
            return Err(fault(format!("has {} twice", name.name())));
        }
    }
    Ok(all)
}

fn io_rule(message: v1::IoMax) -> Result<IoRule, String> {
    let disk = match (message.path.is_empty(), message.device.is_empty()) {
        (true, true) => DiskName::WorkingDirectory,
        (false, true) => DiskName::Path(message.path),
        (true, false) => DiskName::Device(message.device),
        (false, false) => {
            return Err("has an entry with both a path and a device; it must have one".into());
        }
    };
    Ok(IoRule { disk, rates: [message.rbps, message.wbps, message.riops, message.wiops] })
}

/// Limits as the API shows them.
pub(super) fn limits_message(limits: &Limits) -> v1::Limits {
    v1::Limits {
        cpu_max_quota_usec: limits.get(LimitKind::CpuQuota),
        cpu_max_period_usec: limits.get(LimitKind::CpuPeriod),
        cpu_weight: limits.get(LimitKind::CpuWeight),
        memory_max_bytes: limits.get(LimitKind::MemoryMax),
        memory_high_bytes: limits.get(LimitKind::MemoryHigh),
        memory_swap_max_bytes: limits.get(LimitKind::MemorySwapMax),
        pids_max: limits.get(LimitKind::PidsMax),
        io_max: limits.io.iter().map(io_rule_message).collect(),
        io_weight: limits.get(LimitKind::IoWeight),
        rlimits: limits
            .rlimits
            .iter()
            .map(|(name, (soft, hard))| v1::Rlimit {
                name: name.name().into(),
                soft: *soft,
                hard: *hard,
            })
            .collect(),
        job_dir_bytes: limits.get(LimitKind::JobDir),
    }
}

fn io_rule_message(rule: &IoRule) -> v1::IoMax {
    let [rbps, wbps, riops, wiops] = rule.rates;
    let (path, device) = match &rule.disk {
        DiskName::WorkingDirectory => Default::default(),
        DiskName::Path(path) => (path.clone(), String::new()),
        DiskName::Device(device) => (String::new(), device.clone()),
    };
    v1::IoMax { path, device, rbps, wbps, riops, wiops }
}

/// A limit that is a duration.
pub(super) fn duration_of(limits: &Limits, kind: LimitKind) -> Option<prost_types::Duration> {
    limits.time(kind).and_then(|time| time.try_into().ok())
}

/// The operator's defaults or ceilings.
pub(super) fn limit_table(limits: &Limits) -> v1::LimitTable {
    v1::LimitTable {
        limits: Some(limits_message(limits)),
        time_limit: duration_of(limits, LimitKind::Time),
        cpu_time_limit: duration_of(limits, LimitKind::CpuTime),
        output_limit_bytes: limits.get(LimitKind::Output).unwrap_or(0),
    }
}

/// Converts an UpdateJob request.
pub(super) fn change(request: v1::UpdateJobRequest) -> Result<Change, Status> {
    let top_level = TopLevelLimits {
        time: request.time_limit,
        cpu_time: request.cpu_time_limit,
        output: request.output_limit_bytes,
    };
    let change = Change {
        limits: limits("", request.limits.unwrap_or_default(), top_level)?,
        extension: duration("time_limit_extension", request.time_limit_extension)?,
        force: request.force,
    };
    if change.limits == Limits::default() && change.extension.is_none() {
        return Err(status::field("limits", "nothing is to be changed".into()));
    }
    Ok(change)
}

pub(super) fn changes(changes: &[ChangeRecord]) -> Vec<v1::LimitChange> {
    let show = |change: &ChangeRecord| v1::LimitChange {
        time: Some(timestamp(change.time_ns)),
        by: change.by.clone(),
        name: change.name.clone(),
        from: change.from.clone(),
        to: change.to.clone(),
    };
    changes.iter().map(show).collect()
}

/// Adds the JobStats that were read for this response.
pub(super) fn add_stats(message: &mut v1::Job, job: &Job, stats: JobStats) {
    message.limits = stats.limits.into_iter().map(limit_status).collect();
    message.pids = stats.pids;
    message.usage = Some(usage(job, stats.usage));
}

pub(super) fn limit_status(status: LimitStatus) -> v1::Limit {
    v1::Limit {
        name: status.name,
        requested: status.requested,
        applied: status.applied,
        effective: status.effective,
        bound_by: status.bound_by,
        is_default: status.is_default,
    }
}

pub(super) fn usage(job: &Job, usage: Usage) -> v1::Usage {
    let progress = job.progress();
    v1::Usage {
        cpu_usage_usec: usage.cpu_usage_usec,
        cpu_user_usec: usage.cpu_user_usec,
        cpu_system_usec: usage.cpu_system_usec,
        cpu_nr_periods: usage.cpu_nr_periods,
        cpu_nr_throttled: usage.cpu_nr_throttled,
        cpu_throttled_usec: usage.cpu_throttled_usec,
        memory_current_bytes: usage.memory_current_bytes,
        memory_peak_bytes: usage.memory_peak_bytes,
        memory_swap_current_bytes: usage.memory_swap_current_bytes,
        memory_oom_kills: usage.memory_oom_kills,
        memory_high_events: usage.memory_high_events,
        memory_max_events: usage.memory_max_events,
        pids_current: usage.pids_current,
        pids_peak: usage.pids_peak,
        pids_max_events: usage.pids_max_events,
        has_io: usage.has_io,
        io: usage.io.into_iter().map(io_usage).collect(),
        cpu_pressure: usage.cpu_pressure.map(pressure),
        memory_pressure: usage.memory_pressure.map(pressure),
        io_pressure: usage.io_pressure.map(pressure),
        stdout_bytes: progress.stdout,
        stderr_bytes: progress.stderr,
        dropped_bytes: progress.dropped,
        job_dir_bytes: usage.job_dir_bytes,
        job_dir_inodes: usage.job_dir_inodes,
        wall_time: job.wall_time().and_then(|time| time.try_into().ok()),
    }
}

fn io_usage(io: usage::IoUsage) -> v1::IoUsage {
    v1::IoUsage {
        device: io.device,
        name: io.name,
        rbytes: io.rbytes,
        wbytes: io.wbytes,
        rios: io.rios,
        wios: io.wios,
    }
}

fn pressure(pressure: usage::Pressure) -> v1::Pressure {
    v1::Pressure {
        some_total_usec: pressure.some_total_usec,
        some_avg10: pressure.some_avg10,
        full_total_usec: pressure.full_total_usec,
        full_avg10: pressure.full_avg10,
    }
}

/// The kernel features that limits and usage need.
pub(super) fn features(features: &Features) -> Vec<v1::Feature> {
    let file =
        |name: &str, without: &str| (name.to_owned(), features.has_file(name), without.to_owned());
    let mut all: Vec<_> = CONTROLLERS
        .into_iter()
        .map(|name| {
            let reason = features.missing(name);
            (format!("controller {name}"), reason.is_none(), reason.unwrap_or("").to_owned())
        })
        .collect();
    all.extend([
        file("memory.oom.group", "out of memory may leave a part of a job behind"),
        file("memory.peak", "the most memory that a job has used is not known"),
        file("memory.swap.max", "swap cannot be limited"),
        file("pids.peak", "the most processes that a job has had are not known"),
        file("cgroup.freeze", "jobs cannot be paused"),
        file("cpu.pressure", "there is no pressure information (PSI)"),
    ]);
    let weighs = features.has_file("io.weight") || features.has_file("io.bfq.weight");
    all.push(("io.weight".into(), weighs, "disks cannot be divided by weight".into()));
    all.into_iter()
        .map(|(name, available, reason)| {
            let reason = if available { String::new() } else { reason };
            v1::Feature { name, available, reason }
        })
        .collect()
}
