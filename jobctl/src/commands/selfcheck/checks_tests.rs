use job_api::v1::IoUsage;
use prost_types::{Duration as WireDuration, Timestamp};

use super::*;
use crate::commands::selfcheck::canary::Verdict;

fn after(ms: i64) -> WireDuration {
    WireDuration { seconds: ms / 1000, nanos: (ms % 1000) as i32 * 1_000_000 }
}

fn used(wall_ms: i64, cpu_usec: u64) -> Usage {
    Usage {
        cpu_usage_usec: Some(cpu_usec),
        wall_time: Some(after(wall_ms)),
        has_io: true,
        ..Usage::default()
    }
}

fn running(usage: Usage) -> Job {
    Job { state: State::Running.into(), usage: Some(usage), ..Job::default() }
}

fn ended(cause: Cause, by: &str, usage: Usage) -> Job {
    Job {
        state: State::Finished.into(),
        cause: cause.into(),
        ended_by_limit: by.into(),
        started_at: Some(Timestamp { seconds: 100, nanos: 0 }),
        ended_at: Some(Timestamp { seconds: 101, nanos: 20_000_000 }),
        usage: Some(usage),
        ..Job::default()
    }
}

fn exited(code: i32) -> Job {
    Job { exit_code: Some(code), ..ended(Cause::Exited, "", used(500, 0)) }
}

/// Readings a second apart.
fn seen(jobs: impl IntoIterator<Item = Job>) -> Evidence {
    let reading = |(at, job)| Reading { at: Duration::from_secs(at), job };
    Evidence { readings: (0..).zip(jobs).map(reading).collect(), ..Evidence::default() }
}

fn verdict(finding: &Finding) -> &'static str {
    match finding.verdict {
        Verdict::Enforced => "enforced",
        Verdict::NotEnforced => "not enforced",
        Verdict::Refused(_) => "refused",
        Verdict::Unchecked(_) => "unchecked",
    }
}

fn hog(cause: Cause, peak: Option<u64>) -> Job {
    let usage = Usage { memory_peak_bytes: peak, memory_oom_kills: Some(1), ..Usage::default() };
    let by = if cause == Cause::OutOfMemory { "memory.max" } else { "" };
    Job { signal: Some(9), stdout_bytes: STARTED_LINE, ..ended(cause, by, usage) }
}

#[test]
fn memory_is_enforced_when_the_hog_was_killed_within_its_limit() {
    let of = |cause, peak| memory(&seen([hog(cause, peak)]));
    let finding = of(Cause::OutOfMemory, Some(MEMORY));
    assert_eq!(finding.measured, "out_of_memory by memory.max at 64 MiB");
    assert_eq!(verdict(&finding), "enforced");
    assert_eq!(verdict(&of(Cause::OutOfMemory, None)), "enforced");
    assert_eq!(verdict(&of(Cause::OutOfMemory, Some(MEMORY + 4096))), "not enforced");
    assert_eq!(verdict(&of(Cause::Signaled, Some(MEMORY))), "not enforced");
    assert_eq!(verdict(&memory(&seen([exited(0)]))), "not enforced");
    let grown = |peak| {
        let usage = Usage { memory_peak_bytes: Some(peak), ..Usage::default() };
        verdict(&memory(&seen([running(usage)])))
    };
    assert_eq!((grown(MEMORY / 2), grown(MEMORY * 2)), ("unchecked", "not enforced"));
}

#[test]
fn a_neighbour_is_a_witness_only_where_something_was_killed_beside_it() {
    let beside = |hog: Job, neighbour: Job| {
        neighbour_of(Evidence { beside: Some(neighbour), ..seen([hog]) })
    };
    let alive = running(Usage::default());
    assert_eq!(beside(hog(Cause::OutOfMemory, None), alive.clone()), "enforced");
    let dead = hog(Cause::Signaled, None);
    assert_eq!(beside(hog(Cause::OutOfMemory, None), dead), "not enforced");
    assert_eq!(beside(exited(0), alive), "unchecked");
}

fn neighbour_of(evidence: Evidence) -> &'static str {
    verdict(&neighbour(&evidence))
}

#[test]
fn the_record_is_enforced_when_exit_and_output_are_there() {
    let whole = hog(Cause::OutOfMemory, None);
    assert_eq!(record(&seen([whole.clone()])).measured, "signal 9, output whole");
    assert_eq!(verdict(&record(&seen([whole.clone()]))), "enforced");
    let cut = Job { incomplete: true, ..whole.clone() };
    assert_eq!(verdict(&record(&seen([cut]))), "not enforced");
    let lost = Job { state: State::Lost.into(), signal: None, ..whole };
    assert_eq!(verdict(&record(&seen([lost]))), "not enforced");
}

fn bomb(peak: u64, refused: u64) -> Job {
    running(Usage {
        pids_peak: Some(peak),
        pids_max_events: Some(refused),
        pids_current: Some(peak),
        ..Usage::default()
    })
}

#[test]
fn pids_are_enforced_when_forks_were_refused_and_the_peak_is_the_limit() {
    let of = |job: Job| pids(&seen([job.clone(), job]));
    assert_eq!(of(bomb(16, 9)).measured, "16 at most, forks refused: 9");
    assert_eq!(verdict(&of(bomb(16, 9))), "enforced");
    assert_eq!(verdict(&of(bomb(127, 0))), "not enforced");
    assert_eq!(verdict(&of(bomb(17, 3))), "not enforced");
    assert_eq!(verdict(&of(bomb(16, 0))), "not enforced");
    assert_eq!(verdict(&of(bomb(5, 0))), "unchecked");
    assert_eq!(verdict(&of(running(Usage::default()))), "unchecked");
}

#[test]
fn a_stop_is_enforced_when_nothing_is_left() {
    let of = |end: Job| bomb_gone(&seen([bomb(16, 1), bomb(16, 1), bomb(16, 1), end]));
    let left = |count| {
        let usage = Usage { pids_current: Some(count), ..Usage::default() };
        ended(Cause::Stopped, "", usage)
    };
    assert_eq!(of(left(0)).measured, "gone after 2.00 s");
    assert_eq!(verdict(&of(left(0))), "enforced");
    assert_eq!(verdict(&of(ended(Cause::Stopped, "", Usage::default()))), "enforced");
    assert_eq!(of(left(2)).measured, "2 left after 2.00 s");
    assert_eq!(verdict(&of(left(2))), "not enforced");
    assert_eq!(verdict(&of(bomb(16, 1))), "not enforced");
}

#[test]
fn escapees_must_have_escaped_before_they_can_be_caught() {
    let ready = || Job { stdout_bytes: 6, ..running(Usage::default()) };
    let gone = || ended(Cause::Stopped, "", Usage::default());
    let of = |first: Job| verdict(&escape(&seen([first, ready(), ready(), gone()])));
    assert_eq!(of(ready()), "enforced");
    assert_eq!(of(running(Usage::default())), "unchecked");
}

fn burnt(rate: f64, throttled: u64) -> Finding {
    let with = |wall_ms, cpu: f64, throttled| {
        running(Usage {
            cpu_nr_periods: Some(wall_ms as u64 / 100),
            cpu_nr_throttled: Some(throttled),
            ..used(wall_ms, cpu as u64)
        })
    };
    cpu(&seen([with(300, 60_000.0, 2), with(5_300, 60_000.0 + rate * 5e6, 2 + throttled)]))
}

#[test]
fn cpu_is_enforced_unless_more_was_used_than_asked() {
    assert_eq!(burnt(0.2, 50).measured, "0.200 CPUs, held up in 50 of 50 periods");
    assert_eq!(verdict(&burnt(0.2, 50)), "enforced");
    assert_eq!(verdict(&burnt(0.219, 50)), "enforced");
    assert_eq!(verdict(&burnt(0.23, 50)), "not enforced");
    assert_eq!(verdict(&burnt(1.0, 0)), "not enforced");
    // On a busy host: only what was held up proves anything.
    assert_eq!(verdict(&burnt(0.1, 3)), "enforced");
    assert_eq!(verdict(&burnt(0.1, 0)), "unchecked");
}

#[test]
fn cpu_time_is_enforced_when_it_ended_the_job_in_time() {
    let of = |cause, by, cpu| cpu_time(&seen([ended(cause, by, used(1_100, cpu))]));
    let finding = of(Cause::TimedOut, "cpu_time_limit", 1_050_000);
    assert_eq!(finding.measured, "timed_out by cpu_time_limit after 1.05 s");
    assert_eq!(verdict(&finding), "enforced");
    assert_eq!(verdict(&of(Cause::TimedOut, "cpu_time_limit", 3_000_000)), "not enforced");
    assert_eq!(verdict(&of(Cause::TimedOut, "time_limit", 3_000_000)), "not enforced");
    assert_eq!(verdict(&of(Cause::TimedOut, "time_limit", 300_000)), "unchecked");
    assert_eq!(verdict(&cpu_time(&seen([running(used(15_000, 15_000_000))]))), "not enforced");
}

#[test]
fn a_deadline_is_enforced_when_it_ended_the_job_in_time() {
    let job = ended(Cause::TimedOut, "time_limit", used(1_020, 0));
    assert_eq!(deadline(&seen([job.clone()])).measured, "timed_out by time_limit after 1.02 s");
    assert_eq!(verdict(&deadline(&seen([job.clone()]))), "enforced");
    let late = Job { ended_at: Some(Timestamp { seconds: 110, nanos: 0 }), ..job };
    assert_eq!(verdict(&deadline(&seen([late]))), "not enforced");
    assert_eq!(verdict(&deadline(&seen([running(used(9_000, 0))]))), "not enforced");
}

fn wrote(wall_ms: i64, disks: &[(&str, u64)]) -> Usage {
    let disk = |(name, wbytes): &(&str, u64)| IoUsage {
        device: (*name).into(),
        name: (*name).into(),
        wbytes: *wbytes,
        ..IoUsage::default()
    };
    Usage { io: disks.iter().map(disk).collect(), ..used(wall_ms, 0) }
}

#[test]
fn io_is_enforced_at_the_rate_asked() {
    let of = |bytes| {
        let before = running(wrote(300, &[]));
        io(&seen([before, running(wrote(3_300, &[("sda", bytes), ("dm-0", bytes)]))]))
    };
    assert!(of(15_000_000).measured.starts_with("5.00 MB/s on "));
    assert_eq!(verdict(&of(15_000_000)), "enforced");
    assert_eq!(verdict(&of(17_900_000)), "enforced");
    assert_eq!(verdict(&of(18_500_000)), "not enforced");
    assert_eq!(verdict(&of(5_000_000)), "unchecked");
}

#[test]
fn a_writer_that_was_done_at_once_met_no_limit() {
    let done = Job { usage: Some(wrote(400, &[("sda", 50_331_648)])), ..exited(0) };
    let finding = io(&seen([done.clone(), done]));
    assert_eq!(finding.measured, "125.83 MB/s on sda");
    assert_eq!(verdict(&finding), "not enforced");
}

#[test]
fn a_writer_that_could_not_write_says_why() {
    let said = "mktemp: failed to create file".to_owned();
    let finding = io(&Evidence { said, ..seen([exited(1), exited(1)]) });
    let why = "the canary failed: mktemp: failed to create file".to_owned();
    assert_eq!(finding.verdict, Verdict::Unchecked(why));
}

#[test]
fn output_is_enforced_when_no_more_is_kept() {
    let of = |cause, bytes| {
        let job = ended(cause, "output_limit", Usage::default());
        output(&seen([Job { stdout_bytes: bytes, ..job }]))
    };
    assert_eq!(of(Cause::OutputLimit, OUTPUT).measured, "output_limit with 1 MiB kept");
    assert_eq!(verdict(&of(Cause::OutputLimit, OUTPUT)), "enforced");
    assert_eq!(verdict(&of(Cause::OutputLimit, OUTPUT + 1)), "not enforced");
    assert_eq!(verdict(&of(Cause::Exited, 64 << 20)), "not enforced");
}

#[test]
fn a_ulimit_is_what_the_job_itself_reads() {
    assert_eq!(verdict(&nofile(&seen([exited(0)]))), "enforced");
    let finding = nofile(&Evidence { said: "it says 1024".into(), ..seen([exited(1)]) });
    assert_eq!((finding.measured.as_str(), verdict(&finding)), ("it says 1024", "not enforced"));
    assert_eq!(verdict(&nofile(&seen([exited(127)]))), "unchecked");
    assert_eq!(verdict(&isolation(&seen([exited(0)]))), "enforced");
    let finding = isolation(&Evidence { said: "it shares /tmp".into(), ..seen([exited(1)]) });
    assert_eq!((verdict(&finding), finding.measured.as_str()), ("not enforced", "it shares /tmp"));
}

#[test]
fn a_pause_is_enforced_when_cpu_time_stands_still_and_goes_on_afterwards() {
    let of = |meanwhile: u64, afterwards: u64| {
        let paused = |ms, cpu| Job { state: State::Paused.into(), ..running(used(ms, cpu)) };
        pause(&seen([
            paused(300, 290_000),
            paused(310, 290_000),
            paused(1_310, 290_000 + meanwhile),
            running(used(1_320, 290_000 + meanwhile)),
            running(used(1_820, 290_000 + meanwhile + afterwards)),
        ]))
    };
    assert_eq!(of(0, 480_000).measured, "0.0 ms, 480 ms when resumed");
    assert_eq!(verdict(&of(0, 480_000)), "enforced");
    assert_eq!(verdict(&of(900_000, 480_000)), "not enforced");
    assert_eq!(verdict(&of(0, 0)), "not enforced");
}

#[test]
fn who_holds_stdout_holds_neither_the_exit_status_nor_the_end() {
    let draining = Job { state: State::Stopping.into(), exit_code: Some(0), ..Job::default() };
    let finding = holder(&seen([draining.clone(), exited(0)]));
    assert_eq!(finding.measured, "exit 0 after 0.00 s, ended after 1.00 s");
    assert_eq!(verdict(&finding), "enforced");
    assert_eq!(verdict(&holder(&seen([draining.clone(), draining]))), "not enforced");
    let hung = running(Usage::default());
    assert_eq!(verdict(&holder(&seen([hung.clone(), hung]))), "not enforced");
}
