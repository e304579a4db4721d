//! From birth to exec.

use std::time::{Duration, Instant};

use job_shim::launch::OutputPolicy;
use job_shim::record::{ExitFile, Outcome};
use job_shim::wire::{Cause, Failed, FromShim, Source, Step, ToShim};

use crate::broker::{NOBODY, SHIM, Shim, program, script};
use crate::host::{Host, TIMEOUT};

fn fails_to_start(launch: &job_shim::launch::Launch) -> Option<(Failed, ExitFile)> {
    let mut shim = Shim::spawn(Host::new()?, launch);
    let failed = match shim.wire.next() {
        Some(FromShim::Failed(failed)) => failed,
        Some(FromShim::Hello(_)) => {
            shim.wire.send(&ToShim::Go);
            shim.failed()
        }
        other => panic!("{other:?}"),
    };
    shim.gone();
    let file = shim.exit_file();
    assert!(shim.host.is_empty());
    Some((failed, file))
}

#[test]
fn a_job_runs_and_its_streams_and_status_are_kept() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &script("echo out; echo err >&2; exit 7"));
    let exited = shim.exited();
    assert_eq!((exited.wait_status, exited.cause), (7 << 8, Cause::Exited));
    assert_eq!((exited.source, exited.by.as_str()), (Source::None, ""));
    let progress = shim.ended().progress;
    assert_eq!((progress.stdout, progress.stderr, progress.dropped), (4, 4, 0));
    shim.gone();
    assert_eq!(shim.file("stdout.log"), b"out\n");
    assert_eq!(shim.file("stderr.log"), b"err\n");
}

#[test]
fn hello_says_who_it_is() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::spawn(host, &script("true"));
    let hello = shim.hello();
    assert_eq!((hello.job, hello.nonce, hello.pid), ([1; 16], [2; 16], shim.process.id()));
    assert_eq!((hello.started, hello.exited), (None, None));
    assert!(hello.input.closed);
}

#[test]
fn a_missing_program_fails_at_exec_with_enoent() {
    for argv0 in ["/no/such", "no-such-program", ""] {
        let Some((failed, file)) = fails_to_start(&program(&[argv0])) else { return };
        assert_eq!(failed, Failed { step: Step::Exec, errno: libc::ENOENT }, "{argv0:?}");
        assert_eq!(file.outcome, Some(Outcome::Failed(failed)));
    }
}

#[test]
fn a_file_that_may_not_be_executed_fails_at_exec_with_eacces() {
    let Some((failed, _)) = fails_to_start(&program(&["/etc/passwd"])) else { return };
    assert_eq!(failed, Failed { step: Step::Exec, errno: libc::EACCES });
}

#[test]
fn a_working_directory_that_the_user_may_not_enter_fails_at_chdir() {
    let mut launch = script("true");
    launch.working_directory = b"/proc/1/task/1/fd".to_vec();
    let Some((failed, _)) = fails_to_start(&launch) else { return };
    assert_eq!(failed, Failed { step: Step::Chdir, errno: libc::EACCES });
}

#[test]
fn a_program_that_exits_with_127_is_no_failed_exec() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &script("exit 127"));
    assert_eq!(shim.exited().wait_status, 127 << 8);
}

#[test]
fn nobody_is_started_as_root() {
    let eperm = |step| Failed { step, errno: libc::EPERM };
    let mut launch = script("true");
    launch.uid = 0;
    let mut shim_is_root = script("true");
    shim_is_root.shim_uid = 0;
    let mut same_user = script("true");
    same_user.uid = SHIM;
    let cases = [
        (launch, Step::User),
        (shim_is_root, Step::DropPrivileges),
        (same_user, Step::DropPrivileges),
    ];
    for (launch, step) in cases {
        let Some(host) = Host::new() else { return };
        let mut shim = Shim::spawn(host, &launch);
        assert_eq!(shim.failed(), eperm(step));
    }
}

#[test]
fn a_shim_whose_broker_dies_before_go_runs_nothing() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::spawn(host, &script("echo ran"));
    shim.hello();
    shim.wire.hang_up();
    let abandoned = Failed { step: Step::Abandoned, errno: libc::ECANCELED };
    let outcome = Some(Outcome::Failed(abandoned));
    assert_eq!(shim.exit_file(), ExitFile { outcome, ..ExitFile::default() });
    assert_eq!(shim.stdout(), "");
    assert!(shim.host.is_empty());
}

#[test]
fn a_shim_with_another_order_than_go_runs_nothing() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::spawn(host, &script("echo ran"));
    shim.hello();
    shim.stop(0);
    shim.gone();
    assert_eq!(shim.stdout(), "");
}

#[test]
fn a_directory_in_which_a_job_ran_is_not_used_again() {
    let Some(host) = Host::new() else { return };
    std::fs::write(host.state().join("stdout.log"), "kept").unwrap();
    let mut shim = Shim::spawn(host, &script("echo ran"));
    assert_eq!(shim.failed(), Failed { step: Step::OpenState, errno: libc::EEXIST });
    shim.gone();
    assert_eq!(shim.stdout(), "kept");
}

#[test]
fn the_exit_record_is_complete() {
    let Some(host) = Host::new() else { return };
    let mut launch = script("printf 0123456789; printf 0123456789 >&2; kill -9 $$");
    launch.limits.output = Some(15);
    launch.output_policy = OutputPolicy::Discard;
    let mut shim = Shim::start(host, &launch);
    let (exited, ended) = (shim.exited(), shim.ended());
    let file = shim.exit_file();
    assert_eq!(exited.wait_status, libc::SIGKILL);
    assert_eq!((exited.cause, exited.source), (Cause::Signaled, Source::System));
    assert_eq!(file.outcome, Some(Outcome::Exited(exited)));
    assert_eq!(ended.progress.dropped, 5);
    assert_eq!(file.ended, Some(ended));
}

#[test]
fn supplementary_groups_are_those_of_the_launch() {
    let Some(host) = Host::new() else { return };
    let mut launch = script("id -G");
    launch.groups = vec![NOBODY, 4242];
    let mut shim = Shim::start(host, &launch);
    shim.ended();
    assert_eq!(shim.stdout(), format!("{NOBODY} 4242\n"));
}

/// A job that sleeps for a week costs its shim a few pages, without a byte of output.
#[test]
fn what_the_start_has_used_is_given_back_while_the_job_is_idle_and_all_goes_on_after_that() {
    let Some(host) = Host::new() else { return };
    let mut launch = script("read x; echo $x; exit 3");
    launch.stdin = true;
    let mut shim = Shim::start(host, &launch);
    let statm = format!("/proc/{}/statm", shim.process.id()); // proc_pid_statm(5): size, resident
    let resident = || {
        let text = std::fs::read_to_string(&statm).unwrap();
        text.split(' ').nth(1).and_then(|pages| pages.parse::<u32>().ok()).unwrap()
    };
    let (first, end) = (resident(), Instant::now() + TIMEOUT);
    while resident() + 40 > first {
        assert!(Instant::now() < end, "{} of {first} pages after a minute", resident());
        std::thread::sleep(Duration::from_millis(20)); // no event tells of it
    }
    shim.input(0, b"y\n", true);
    assert_eq!(shim.exited().wait_status, 3 << 8);
    shim.ended();
    assert_eq!(shim.stdout(), "y\n");
}
