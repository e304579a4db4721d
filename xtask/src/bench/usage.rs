//! CPU time and memory of processes, from proc(5). It must not sample: each value is the kernel's own counter.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// A process's CPU time: its own, and with `children` that of its reaped children.
pub(crate) fn cpu(pid: u32, children: bool) -> Result<Duration> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    // Field 2 may contain spaces and parentheses; field 3 follows the last one.
    let after = stat.rsplit_once(") ").context("/proc/PID/stat: no name")?.1;
    let fields: Vec<&str> = after.split(' ').collect();
    // utime, stime, cutime, cstime are fields 14 to 17.
    let wanted = if children { 11..15 } else { 11..13 };
    let ticks = fields.get(wanted).context("/proc/PID/stat is too short")?;
    let ticks: u64 = ticks.iter().map(|field| field.parse().unwrap_or(0)).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no CLK_TCK")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// The CPU time of all jobs below a cgroup, including finished ones.
pub(crate) fn cgroup_cpu(cgroup: &std::path::Path) -> Result<Duration> {
    let stat = read(&cgroup.join("cpu.stat").display().to_string())?;
    let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(Duration::from_micros(usage.context("cpu.stat: no usage_usec")?.parse()?))
}

/// RSS in bytes.
pub(crate) fn rss(pid: u32) -> Result<f64> {
    kilobytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The peak RSS in bytes since [`forget_peak`].
pub(crate) fn peak_rss(pid: u32) -> Result<f64> {
    kilobytes(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// # Errors
/// As write(2).
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot write clear_refs")
}

/// (PSS, RSS) in bytes: PSS divides each page by the number of processes that share it.
pub(crate) fn pss_rss(pid: u32) -> Result<(f64, f64)> {
    let file = format!("/proc/{pid}/smaps_rollup");
    Ok((kilobytes(&file, "Pss:")?, kilobytes(&file, "Rss:")?))
}

fn kilobytes(file: &str, key: &str) -> Result<f64> {
    let text = read(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    let value = value.with_context(|| format!("{file}: no {key}"))?;
    let number: f64 = value.trim().trim_end_matches(" kB").parse().context(file.to_owned())?;
    Ok(number * 1024.0)
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {file}"))
}
