//! Runs test executables one after the other, and repeats a failed test once, alone.
//!
//! A shared machine stalls for seconds at times. A test that fails for that does not fail the run; the
//! summary calls it flaky. Its output is further up: most flaky tests expect too much of a clock, and
//! some have found a race in the program.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::programs::Executable;
use crate::{process, workspace};

/// The most failed tests of one executable that are repeated.
const MAX_RETRIED: usize = 3;
/// The prefix of a line that reports a flaky test.
const FLAKY: &str = "=== flaky: ";

/// The arguments of `cargo xtask test-run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The package whose tests they are
    #[arg(long)]
    package: PathBuf,
    /// Only tests whose name contains one of these
    #[arg(long)]
    only: Vec<String>,
    /// Leave out what another process has taken, by this directory
    #[arg(long)]
    taken: Option<PathBuf>,
    executables: Vec<PathBuf>,
}

/// Runs all executables in their package's directory, as cargo does. Exits 1 when a test has failed
/// twice, or in a way that names no test.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut all_passed = true;
    for executable in &args.executables {
        if !args.taken.as_deref().map_or(Ok(true), |directory| take(directory, executable))? {
            continue;
        }
        println!("\nRunning {}", executable.display());
        all_passed &= passes(executable, &args.package, &args.only)?;
    }
    Ok(if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether this process is the first that takes it. A directory, since mkdir(2) is atomic on hostfs, too, where
/// O_EXCL is not.
fn take(directory: &Path, executable: &Path) -> Result<bool> {
    let mark = directory.join(executable.file_name().context("an executable without a name")?);
    match fs::create_dir(&mark) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot create {}", mark.display())),
    }
}

/// The arguments with which xtask runs these executables of one package.
pub(super) fn words(executables: &[Executable], only: &[String]) -> Vec<String> {
    let mut words = vec!["test-run".to_owned()];
    let text = |path: &Path| path.to_string_lossy().into_owned();
    words.extend(executables.first().map(|first| format!("--package={}", text(&first.package))));
    words.extend(only.iter().map(|word| format!("--only={word}")));
    words.extend(executables.iter().map(|executable| text(&executable.path)));
    words
}

/// Runs xtask with those arguments, here or in a VM, and collects the flaky tests.
///
/// # Errors
/// Tests have failed, or the VM.
pub(super) fn check_outcome(command: &mut Command, flaky: &mut Vec<String>) -> Result<()> {
    let see = |line: &str| flaky.extend(self::flaky(line).map(str::to_owned));
    judge(lines(command, see)?.code())
}

/// What a line says of a flaky test.
pub(super) fn flaky(line: &str) -> Option<&str> {
    line.strip_prefix(FLAKY)
}

/// What such an exit status means.
///
/// # Errors
/// Tests have failed, or the VM.
pub(super) fn judge(status: Option<i32>) -> Result<()> {
    match status {
        Some(0) => Ok(()),
        Some(125) => bail!("the VM failed"),
        _ => bail!("some tests failed"),
    }
}

fn passes(executable: &Path, package: &Path, only: &[String]) -> Result<bool> {
    let tests = || {
        let mut command = Command::new(executable);
        command.current_dir(package).env("CARGO_MANIFEST_DIR", package);
        // Snapshots are compared, never written: in the VM the workspace cannot be changed.
        command.env("INSTA_WORKSPACE_ROOT", workspace::root()).env("INSTA_UPDATE", "no");
        command
    };
    let mut said = String::new();
    let status = lines(tests().args(only), |line| _ = writeln!(said, "{line}"))?;
    if status.success() {
        return Ok(true);
    }
    let failed = failures(&said);
    if failed.is_empty() || failed.len() > MAX_RETRIED {
        return Ok(false);
    }
    let mut all_passed = true;
    for name in failed {
        println!("=== once more, alone: {name}");
        let mut has_run = false; // a name that is not found passes, too
        let status =
            lines(tests().args(["--exact", name]), |line| has_run |= line == "running 1 test")?;
        let passed = has_run && status.success();
        if passed {
            println!("{FLAKY}{name} failed beside others, and passed alone");
        }
        all_passed &= passed;
    }
    Ok(all_passed)
}

/// The names in the list that libtest ends its report with.
fn failures(said: &str) -> Vec<&str> {
    let Some((_, list)) = said.rsplit_once("\nfailures:\n") else { return Vec::new() };
    list.lines().map_while(|line| line.strip_prefix("    ")).collect()
}

/// Runs to the end, and copies stdout, after showing each line to `see`. A process that is left over
/// with the pipe is not waited for.
fn lines(command: &mut Command, mut see: impl FnMut(&str)) -> Result<ExitStatus> {
    const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", process::shown(command)))?;
    let stdout = child.stdout.take().context("stdout is not piped")?;
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    let mut last = None;
    while last.is_none_or(|last| Instant::now() < last) {
        match receive.recv_timeout(DRAIN_TIMEOUT) {
            Ok(line) => {
                println!("{line}");
                see(&line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if last.is_none() && child.try_wait()?.is_some() {
            last = Some(Instant::now() + DRAIN_TIMEOUT);
        }
    }
    Ok(child.wait()?)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// An executable that is one test, `is_stable`, with this script.
    fn test_executable(directory: &Path, script: &str) -> PathBuf {
        let path = directory.join("tests");
        let report = r#"said() { printf 'test is_stable ... %s\n\nfailures:\n' "$1"; }"#;
        // Not by this process: what another thread starts meanwhile has the file open for writing for a
        // moment, and it could not be executed (ETXTBSY in execve(2)).
        let mut writer = Command::new("sh");
        writer.args(["-c", r#"cat >"$0" && chmod 755 "$0""#]).arg(&path).stdin(Stdio::piped());
        let mut writer = writer.spawn().expect("a shell");
        let mut text = writer.stdin.take().expect("it is piped");
        write!(text, "#!/bin/sh\n{report}\n{script}\n").expect("it is read");
        drop(text);
        assert!(writer.wait().expect("it ends").success());
        path
    }

    fn passes_in_the_end(script: &str) -> bool {
        let directory = tempfile::tempdir().expect("a directory");
        let executable = test_executable(directory.path(), script);
        passes(&executable, directory.path(), &["is".to_owned()]).expect("it runs")
    }

    #[test]
    fn a_test_that_fails_twice_has_failed() {
        assert!(!passes_in_the_end("said FAILED; printf '    is_stable\n\n'; exit 101"));
    }

    #[test]
    fn a_test_that_fails_beside_others_and_passes_alone_is_flaky() {
        let script = r#"[ "$*" = "--exact is_stable" ] && { echo running 1 test; exit 0; }
            [ "$*" = is ] && said FAILED; printf '    is_stable\n\n'; exit 101"#;
        assert!(passes_in_the_end(script));
    }

    #[test]
    fn a_test_that_is_not_found_again_has_failed() {
        let script = r#"[ "$*" = "--exact is_stable" ] && { echo running 0 tests; exit 0; }
            said FAILED; printf '    is_stable\n\n'; exit 101"#;
        assert!(!passes_in_the_end(script));
    }

    #[test]
    fn what_one_has_taken_another_leaves_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut take = |name: &str| take(directory.path(), Path::new(name)).expect("writable");
        assert_eq!(["/a/one", "/a/two", "/a/one"].map(&mut take), [true, true, false]);
    }

    #[test]
    fn a_failure_that_names_no_test_is_one() {
        assert!(!passes_in_the_end("[ $# = 2 ] && exit 0; kill -9 $$"));
    }

    #[test]
    fn many_failures_are_not_looked_at_again() {
        let names = "printf '    %s\\n' a b c d; echo";
        assert!(!passes_in_the_end(&format!(
            "[ $# = 2 ] && exit 0; said FAILED; {names}; exit 101"
        )));
    }

    #[test]
    fn the_last_list_of_failures_counts() {
        let said = "x\n\nfailures:\n\n---- a::b stdout ----\nfailures: none\n\nfailures:\n    a::b\n    c\n\ntest result: FAILED.\n";
        assert_eq!(failures(said), ["a::b", "c"]);
        assert_eq!(failures("test result: ok.\n"), [""; 0]);
    }

    #[test]
    fn flaky_tests_are_heard_of_and_leftovers_are_not_waited_for() {
        let begin = Instant::now();
        let script = "echo '=== flaky: a::b'; echo on; sleep 60 2>/dev/null &";
        let mut flaky = Vec::new();
        check_outcome(Command::new("sh").args(["-c", script]), &mut flaky).expect("it succeeds");
        assert_eq!(flaky, ["a::b"]);
        assert!(begin.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn a_vm_that_fails_is_told_from_tests_that_fail() {
        for (status, words) in [(1, "some tests failed"), (125, "the VM failed")] {
            let script = format!("echo '=== flaky: a'; exit {status}");
            let (mut command, mut flaky) = (Command::new("sh"), Vec::new());
            let error =
                check_outcome(command.args(["-c", &script]), &mut flaky).expect_err("it failed");
            assert_eq!((error.to_string().as_str(), flaky), (words, vec!["a".to_owned()]));
        }
    }
}
