//! Where the output goes, and what happens when it cannot.

use job_shim::index::Stream;
use job_shim::launch::{Launch, OutputPolicy};
use job_shim::wire::{Blocked, Cause, Ended, Limits, Progress, Source};

use crate::broker::{Shim, script};
use crate::host::Host;

fn limited(text: &str, policy: OutputPolicy) -> Launch {
    let mut launch = Launch { output_policy: policy, ..script(text) };
    launch.limits.output = Some(1000);
    launch
}

#[test]
fn output_is_kept_and_indexed_in_order() {
    let Some(host) = Host::new() else { return };
    let mut launch = script("echo 1; read x; echo 22 >&2; read x; echo 333");
    launch.stdin = true;
    let mut shim = Shim::start(host, &launch);
    shim.watch(|p| p.stdout == 2);
    shim.input(0, b"\n", false);
    shim.watch(|p| p.stderr == 3);
    shim.input(1, b"\n", false);
    let Ended { progress } = shim.ended();
    assert_eq!((progress.stdout, progress.stderr, progress.entries), (6, 3, 3));
    let entries = shim.entries();
    let order: Vec<_> = entries.iter().map(|e| (e.stream, e.ends)).collect();
    use Stream::{Stderr, Stdout};
    assert_eq!(order, [(Stdout, [2, 0]), (Stderr, [2, 3]), (Stdout, [6, 3])]);
    assert!(entries.is_sorted_by_key(|e| e.time_ns));
    assert_eq!(shim.stdout(), "1\n333\n");
}

#[test]
fn much_output_on_both_streams_arrives_whole() {
    let Some(host) = Host::new() else { return };
    let text = "seq 1 300000 & seq 300001 600000 >&2; wait";
    let mut shim = Shim::start(host, &script(text));
    let progress = shim.ended().progress;
    let numbers = |from: u32, to: u32| (from..=to).map(|n| format!("{n}\n")).collect::<String>();
    assert!(shim.stdout() == numbers(1, 300_000));
    assert!(shim.file("stderr.log") == numbers(300_001, 600_000).into_bytes());
    let entries = shim.entries();
    assert_eq!(entries.len() as u64, progress.entries);
    assert_eq!(entries.last().unwrap().ends, [progress.stdout, progress.stderr]);
}

/// However fast the shim is: a single byte for each read would be 32 MB of index.
#[test]
fn a_job_that_writes_single_bytes_has_an_index_not_much_larger_than_its_output() {
    let Some(host) = Host::new() else { return };
    let bytes = 1_000_000;
    let text = format!("exec dd if=/dev/zero bs=1 count={bytes} status=none");
    let mut shim = Shim::start(host, &script(&text));
    let progress = shim.ended().progress;
    assert_eq!((progress.stdout, progress.dropped), (bytes, 0));
    let index = shim.file("output.idx").len() as u64;
    // 1 MiB more than the output is when it begins to read less often, 1 MiB for a slow machine.
    assert!(index < bytes + (2 << 20), "{index} bytes of index");
    assert_eq!(shim.entries().last().unwrap().ends, [bytes, 0]);
}

#[test]
fn without_a_question_there_is_no_answer() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &script("for i in 1 2 3 4 5 6 7 8 9; do echo $i; done"));
    let next = shim.wire.next();
    assert!(matches!(next, Some(job_shim::wire::FromShim::Exited(_))), "{next:?}");
}

#[test]
fn the_output_limit_discards_and_counts() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &limited("seq 1 100000", OutputPolicy::Discard));
    assert_eq!(shim.exited().wait_status, 0);
    let progress = shim.ended().progress;
    assert_eq!((progress.stdout, progress.dropped), (1000, 588_895 - 1000));
    assert_eq!(shim.stdout().len(), 1000);
}

#[test]
fn the_output_limit_kills() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &limited("trap '' TERM; yes", OutputPolicy::Kill));
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.source), (Cause::OutputLimit, Source::System));
    assert_eq!(exited.wait_status, libc::SIGKILL);
    let progress = shim.ended().progress;
    assert_eq!(progress.stdout, 1000);
    assert!(progress.dropped > 0);
}

#[test]
fn the_output_limit_blocks() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &limited("exec yes", OutputPolicy::Block));
    let progress = shim.watch(|p| p.blocked.is_some());
    let expected = Progress { stdout: 1000, entries: 1, blocked: Some(Blocked::Limit), ..progress };
    assert_eq!(progress, expected);
    assert_eq!(progress.dropped, 0);
    shim.stop(10_000);
    assert_eq!(shim.exited().cause, Cause::Stopped);
    let ended = shim.ended().progress;
    assert_eq!((ended.stdout, ended.blocked), (1000, None));
    assert!(ended.dropped > 0, "what was in the pipe is counted");
}

#[test]
fn a_job_that_writes_just_the_limit_is_not_blocked() {
    let Some(host) = Host::new() else { return };
    let launch = limited("head -c 1000 /dev/zero; exit 5", OutputPolicy::Block);
    let mut shim = Shim::start(host, &launch);
    assert_eq!(shim.exited().wait_status, 5 << 8);
    assert_eq!(shim.ended().progress.blocked, None);
}

#[test]
fn a_full_disk_blocks_the_job_until_there_is_room() {
    let Some(mut host) = Host::new() else { return };
    host.disk("512k"); // with pipe and buffer less than half of what is written
    let mut shim = Shim::start(host, &script("seq 1 600000; echo end >&2"));
    let progress = shim.watch(|p| p.blocked.is_some());
    assert_eq!(progress.blocked, Some(Blocked::Disk(libc::ENOSPC)));
    shim.host.disk("8m");
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.wait_status), (Cause::Exited, 0));
    assert_eq!(shim.ended().progress.blocked, None);
    assert!(shim.stdout() == (1..=600_000).map(|n| format!("{n}\n")).collect::<String>());
    assert_eq!(shim.entries().last().unwrap().ends, [4_088_895, 4]);
}

#[test]
fn a_full_disk_cannot_lose_how_the_job_ended() {
    let Some(mut host) = Host::new() else { return };
    host.disk("512k");
    let mut shim = Shim::start(host, &script("exec yes"));
    shim.watch(|p| p.blocked.is_some());
    shim.limit(Limits { time_ms: Some(1), ..Limits::default() });
    let exited = shim.exited();
    assert_eq!(exited.cause, Cause::TimedOut);
    let bytes = shim.file("exit");
    let file = job_shim::record::ExitFile::from_bytes(&bytes, &[3; 16]);
    assert_eq!(file.outcome, Some(job_shim::record::Outcome::Exited(exited)));
    // Past its deadline, what the disk does not take is dropped and told.
    let ended = shim.ended();
    assert_eq!(ended.progress.blocked, Some(Blocked::Disk(libc::ENOSPC)));
    assert!(ended.progress.dropped > 0);
    assert_eq!(shim.exit_file().ended, Some(ended));
}
