//! Judges the evidence of a canary. Pure.

use std::time::Duration;

use job_api::units::show_size;
use job_api::v1::job::State;
use job_api::v1::{Cause, Job, Usage};

use super::canary::{Evidence, Finding, Reading};

pub(crate) const MEMORY: u64 = 64 << 20;
pub(crate) const PIDS: u64 = 16;
pub(crate) const CPUS: f64 = 0.2;
pub(crate) const WRITE_BPS: u64 = 5_000_000;
pub(crate) const OUTPUT: u64 = 1 << 20;
pub(crate) const NOFILE: u64 = 16;

/// The period of cpu.max and the moment of a reading do not fall together.
const CPU_SLACK: f64 = 0.1;
/// A request more or less in the time measured.
const IO_SLACK: f64 = 0.2;
/// From the shim's look at the clock to the death of the job.
const CPU_TIME_SLACK: Duration = Duration::from_millis(500);
const DEADLINE_SLACK: Duration = Duration::from_secs(2);
/// What a processor's tick may still book on a job that has just been frozen, in microseconds.
const FROZEN_SLACK: u64 = 1_000;
const SECOND: Duration = Duration::from_secs(1);
/// "begun" and a newline, see the canary.
const STARTED_LINE: u64 = 6;

fn usage(job: &Job) -> Usage {
    job.usage.clone().unwrap_or_default()
}

fn wall(job: &Job) -> Option<Duration> {
    Duration::try_from(job.usage.as_ref()?.wall_time?).ok()
}

fn cpu_usec(job: &Job) -> Option<u64> {
    job.usage.as_ref()?.cpu_usage_usec
}

fn ran(job: &Job) -> Option<Duration> {
    let since = |time: prost_types::Timestamp| std::time::SystemTime::try_from(time).ok();
    since(job.ended_at?)?.duration_since(since(job.started_at?)?).ok()
}

fn written(job: &Job) -> u64 {
    let usage = usage(job);
    let (out, err) = (job.stdout_bytes.max(usage.stdout_bytes), usage.stderr_bytes);
    out + job.stderr_bytes.max(err)
}

fn is_over(job: &Job) -> bool {
    matches!(job.state(), State::Finished | State::Lost)
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// The cause, or the state of what has not ended.
fn cause_of(job: &Job) -> String {
    match job.cause() {
        Cause::Unspecified => job.state().as_str_name().to_owned(),
        Cause::Exited => format!("exited with {}", job.exit_code.unwrap_or_default()),
        cause => cause.as_str_name().to_owned(),
    }
}

/// `timed_out by cpu_time_limit`.
fn cause_and_limit(job: &Job) -> String {
    match job.ended_by_limit.as_str() {
        "" => cause_of(job),
        limit => format!("{} by {limit}", cause_of(job)),
    }
}

fn last(evidence: &Evidence) -> Job {
    evidence.readings.last().map(|reading| reading.job.clone()).unwrap_or_default()
}

/// What a canary that failed by itself says.
fn failed(evidence: &Evidence) -> Finding {
    let why = match evidence.said.as_str() {
        "" => cause_of(&last(evidence)),
        said => said.to_owned(),
    };
    Finding::unchecked("", format!("the canary failed: {why}"))
}

fn unfinished() -> Finding {
    Finding::unchecked("", "the canary was not seen to its end")
}

pub(crate) fn has_met_pids_max(job: &Job) -> bool {
    usage(job).pids_max_events.is_some_and(|events| events > 0)
}

pub(crate) fn has_said_something(job: &Job) -> bool {
    written(job) > 0
}

pub(crate) fn memory(evidence: &Evidence) -> Finding {
    let job = last(evidence);
    let usage = usage(&job);
    let peak = usage.memory_peak_bytes.map(|peak| format!(" at {}", show_size(peak)));
    let measured = format!("{}{}", cause_and_limit(&job), peak.unwrap_or_default());
    if !is_over(&job) && usage.memory_peak_bytes.is_some_and(|peak| peak < MEMORY) {
        return Finding::unchecked(measured, "it did not grow so far in time");
    }
    let is_killed = job.cause() == Cause::OutOfMemory
        && usage.memory_oom_kills != Some(0)
        && usage.memory_peak_bytes.is_none_or(|peak| peak <= MEMORY);
    Finding::of(is_killed, measured)
}

/// Only a job that was killed beside it can have harmed it.
pub(crate) fn neighbour(evidence: &Evidence) -> Finding {
    let Some(neighbour) = &evidence.beside else { return unfinished() };
    if last(evidence).cause() != Cause::OutOfMemory {
        return Finding::unchecked(cause_of(neighbour), "nothing was killed beside it");
    }
    Finding::of(neighbour.state() == State::Running, cause_of(neighbour))
}

/// The shim outlives what happens to the job: it tells the end, and what was written.
pub(crate) fn record(evidence: &Evidence) -> Finding {
    let job = last(evidence);
    if !is_over(&job) {
        return unfinished();
    }
    let exit = match (job.signal, job.exit_code) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit {code}"),
        (None, None) => "no exit".to_owned(),
    };
    let is_told = job.signal.is_some() || job.exit_code.is_some();
    let is_whole = !job.incomplete && written(&job) == STARTED_LINE;
    let output = if is_whole { "whole" } else { "not whole" };
    let is_finished = job.state() == State::Finished;
    Finding::of(is_finished && is_told && is_whole, format!("{exit}, output {output}"))
}

pub(crate) fn pids(evidence: &Evidence) -> Finding {
    let [_, full, ..] = evidence.readings.as_slice() else { return unfinished() };
    let usage = usage(&full.job);
    let Some(most) = usage.pids_peak.or(usage.pids_current) else {
        return Finding::unchecked("", "the host's kernel counts no processes");
    };
    let refused = usage.pids_max_events.unwrap_or(0);
    let measured = format!("{most} at most, forks refused: {refused}");
    if most < PIDS && refused == 0 {
        return Finding::unchecked(measured, "it did not come to so many processes");
    }
    Finding::of(most <= PIDS && refused > 0, measured)
}

pub(crate) fn bomb_gone(evidence: &Evidence) -> Finding {
    let [_, full, _, end] = evidence.readings.as_slice() else { return unfinished() };
    if is_over(&full.job) {
        return failed(evidence);
    }
    gone(full, end)
}

pub(crate) fn escape(evidence: &Evidence) -> Finding {
    let [ready, full, _, end] = evidence.readings.as_slice() else { return unfinished() };
    if !has_said_something(&ready.job) || is_over(&full.job) {
        return failed(evidence);
    }
    gone(full, end)
}

/// Ended, and no process left that the kernel still counts; `before` is from before the stop.
fn gone(before: &Reading, end: &Reading) -> Finding {
    let left = usage(&end.job).pids_current;
    let took = end.at.saturating_sub(before.at);
    let is_gone = end.job.state() == State::Finished && left.unwrap_or(0) == 0;
    let measured = match (is_gone, left) {
        (true, _) => format!("gone after {}", seconds(took)),
        (false, Some(left)) => format!("{left} left after {}", seconds(took)),
        (false, None) => format!("{} after {}", cause_of(&end.job), seconds(took)),
    };
    Finding::of(is_gone, measured)
}

/// Not above the limit; below it only where nothing has held it up is no proof.
pub(crate) fn cpu(evidence: &Evidence) -> Finding {
    let [first, second] = evidence.readings.as_slice() else { return unfinished() };
    if is_over(&second.job) {
        return failed(evidence);
    }
    let Some((used, wall)) = difference(&first.job, &second.job, cpu_usec) else {
        return Finding::unchecked("", "the broker tells no CPU time");
    };
    let rate = used as f64 / wall.as_micros() as f64;
    let throttled = difference(&first.job, &second.job, |job| usage(job).cpu_nr_throttled);
    let periods = difference(&first.job, &second.job, |job| usage(job).cpu_nr_periods);
    let counts = [throttled, periods].map(|count| count.map_or(0, |(count, _)| count));
    let measured = format!("{rate:.3} CPUs, held up in {} of {} periods", counts[0], counts[1]);
    if rate > CPUS * (1.0 + CPU_SLACK) {
        return Finding::of(false, measured);
    }
    if rate < CPUS * (1.0 - CPU_SLACK) && counts[0] == 0 {
        return Finding::unchecked(measured, "the host had less to give than the limit");
    }
    Finding::of(true, measured)
}

/// By how much it grew, in how much time by the broker's clock.
fn difference(
    first: &Job,
    second: &Job,
    count: impl Fn(&Job) -> Option<u64>,
) -> Option<(u64, Duration)> {
    let time = wall(second)?.checked_sub(wall(first)?).filter(|time| !time.is_zero())?;
    Some((count(second)?.checked_sub(count(first)?)?, time))
}

pub(crate) fn cpu_time(evidence: &Evidence) -> Finding {
    let job = last(evidence);
    let Some(used) = cpu_usec(&job).map(Duration::from_micros) else {
        return Finding::unchecked(cause_and_limit(&job), "the host's kernel counts no CPU time");
    };
    let measured = format!("{} after {}", cause_and_limit(&job), seconds(used));
    let is_ended = job.cause() == Cause::TimedOut && job.ended_by_limit == "cpu_time_limit";
    if !is_ended && used < SECOND {
        return Finding::unchecked(measured, "it was not given so much CPU time");
    }
    Finding::of(is_ended && used <= SECOND + CPU_TIME_SLACK, measured)
}

pub(crate) fn deadline(evidence: &Evidence) -> Finding {
    let job = last(evidence);
    let Some(ran) = ran(&job) else { return Finding::of(false, cause_of(&job)) };
    let is_ended = job.cause() == Cause::TimedOut && job.ended_by_limit == "time_limit";
    let measured = format!("{} after {}", cause_and_limit(&job), seconds(ran));
    Finding::of(is_ended && ran <= SECOND + DEADLINE_SLACK, measured)
}

/// Between the readings; if it was over sooner, from its start to its end.
pub(crate) fn io(evidence: &Evidence) -> Finding {
    let [first, second] = evidence.readings.as_slice() else { return unfinished() };
    if is_over(&second.job) && second.job.exit_code != Some(0) {
        return failed(evidence);
    }
    if !usage(&second.job).has_io {
        return Finding::unchecked("", "the host's kernel counts no io");
    }
    let nothing = Job { usage: Some(started()), ..Job::default() };
    let first = if is_over(&second.job) { &nothing } else { &first.job };
    let disks = usage(&second.job).io.into_iter().filter_map(|disk| {
        let (bytes, time) = difference(first, &second.job, |job| bytes_on(job, &disk.device))?;
        let name = if disk.name.is_empty() { disk.device } else { disk.name };
        Some((bytes as f64 / time.as_secs_f64(), name))
    });
    // Of a volume and the disk below it both may be counted.
    let Some((rate, disk)) = disks.max_by(|a, b| a.0.total_cmp(&b.0)) else {
        return Finding::unchecked("0 MB/s", "nothing was written to a disk");
    };
    let measured = format!("{:.2} MB/s on {disk}", rate / 1e6);
    let asked = WRITE_BPS as f64;
    if rate < asked * (1.0 - IO_SLACK) {
        return Finding::unchecked(measured, "the disk is slower than the limit");
    }
    Finding::of(rate <= asked * (1.0 + IO_SLACK), measured)
}

fn started() -> Usage {
    Usage { wall_time: Some(prost_types::Duration::default()), ..Usage::default() }
}

fn bytes_on(job: &Job, device: &str) -> Option<u64> {
    let usage = usage(job);
    let disk = usage.io.iter().find(|disk| disk.device == device);
    // A disk is not listed before its first request.
    Some(disk.map_or(0, |disk| disk.wbytes))
}

pub(crate) fn output(evidence: &Evidence) -> Finding {
    let job = last(evidence);
    let kept = written(&job);
    let is_ended = job.cause() == Cause::OutputLimit && kept <= OUTPUT;
    Finding::of(is_ended, format!("{} with {} kept", cause_of(&job), show_size(kept)))
}

/// The canary compares what `ulimit -n` says.
pub(crate) fn nofile(evidence: &Evidence) -> Finding {
    let job = last(evidence);
    match (job.exit_code, evidence.said.as_str()) {
        (Some(0), _) => Finding::of(true, format!("{NOFILE} by its own ulimit")),
        (Some(_), said) if !said.is_empty() => Finding::of(false, said.to_owned()),
        _ => failed(evidence),
    }
}

pub(crate) fn isolation(evidence: &Evidence) -> Finding {
    let job = last(evidence);
    match (job.exit_code, evidence.said.as_str()) {
        (Some(0), _) => Finding::of(true, "it reaches nothing else".to_owned()),
        (Some(1), said) if !said.is_empty() => Finding::of(false, said.to_owned()),
        _ => failed(evidence),
    }
}

pub(crate) fn pause(evidence: &Evidence) -> Finding {
    let [_, frozen, later, _, awake] = evidence.readings.as_slice() else { return unfinished() };
    if is_over(&awake.job) {
        return failed(evidence);
    }
    let grown = |from: &Reading, to: &Reading| {
        difference(&from.job, &to.job, cpu_usec).map(|(used, _)| used)
    };
    let (Some(meanwhile), Some(afterwards)) = (grown(frozen, later), grown(later, awake)) else {
        return Finding::unchecked("", "the host's kernel counts no CPU time");
    };
    let ms = |usec: u64| usec as f64 / 1e3;
    let measured = format!("{:.1} ms, {:.0} ms when resumed", ms(meanwhile), ms(afterwards));
    let is_paused = later.job.state() == State::Paused;
    Finding::of(is_paused && meanwhile <= FROZEN_SLACK && afterwards > FROZEN_SLACK, measured)
}

/// The exit status is there before the job ends, and the job ends.
pub(crate) fn holder(evidence: &Evidence) -> Finding {
    let [exit, end] = evidence.readings.as_slice() else { return unfinished() };
    let Some(code) = exit.job.exit_code else {
        return Finding::of(false, format!("no exit status after {}", seconds(exit.at)));
    };
    let status = format!("exit {code} after {}", seconds(exit.at));
    if !is_over(&end.job) {
        return Finding::of(false, format!("{status}, not ended after {}", seconds(end.at)));
    }
    let is_finished = end.job.state() == State::Finished && code == 0;
    Finding::of(is_finished, format!("{status}, ended after {}", seconds(end.at)))
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
