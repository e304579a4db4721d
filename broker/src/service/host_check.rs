//! What `check-config` and `preflight` look at on this host for jobs: the views of the profiles, and limits of their directories.
//! A disk that hangs delays it for a moment only. It must not change anything.
//!
//! A process with a thread that hangs in the kernel cannot end before that thread does. So another process looks,
//! `job-broker check-host`, and is left behind if it hangs.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::config::Config;
use crate::launch;
use crate::model::limits::LimitKind;

/// What the kernel executes as this very program.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// For each look. What hangs is not waited for.
const TIMEOUT: Duration = Duration::from_secs(5);
/// From one answer of the other process to the next: no more looks than a few lie between.
const PATIENCE: Duration = Duration::from_secs(30);
/// After the last answer. Answers are sentences.
const END: &str = "";

/// What jobs would be refused for, in sentences, with the configuration of this file. For root; others cannot look.
pub(super) fn warnings(file: &Path) -> Vec<String> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let (mut found, why) = match ask(file) {
        Ok(answered) => answered,
        Err(e) => (Vec::new(), Some(e.to_string())),
    };
    found.extend(why.map(|why| format!("what jobs need of this host was not looked at: {why}")));
    found
}

/// What the other process says, and why that is not all.
fn ask(file: &Path) -> io::Result<(Vec<String>, Option<String>)> {
    let mut command = Command::new(OWN_PROGRAM);
    command.arg("--config").arg(file).arg("check-host");
    // What is left behind keeps no descriptor of the caller's.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (answer, answers) = mpsc::channel();
    let read = move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.for_each(|line| _ = answer.send(line)); // nobody may wait any more
    };
    thread::Builder::new().name("host-check".into()).spawn(read)?;
    let mut found = Vec::new();
    let why = loop {
        match answers.recv_timeout(PATIENCE) {
            Ok(line) if line == END => break None,
            Ok(line) => found.push(line),
            Err(e) => break Some(format!("job-broker check-host has not said all: {e}")),
        }
    };
    let _ = child.kill(); // it has ended, or ends when the kernel lets it
    Ok((found, why))
}

/// `job-broker check-host`: says what it finds, a line each and at once, and then [`END`].
pub(super) fn run(file: &Path) -> ExitCode {
    let Ok(config) = Config::read(file) else { return ExitCode::FAILURE };
    let mut output = io::stdout();
    let mut say = |sentence: String| {
        let words: Vec<_> = sentence.split_whitespace().collect();
        writeln!(output, "{}", words.join(" ")).and_then(|()| output.flush())
    };
    match look(&config, &mut say).and_then(|()| say(END.into())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE, // nobody listens
    }
}

fn look(config: &Config, say: &mut impl FnMut(String) -> io::Result<()>) -> io::Result<()> {
    if let Ok(rules) = config.isolation.rules() {
        for path in &rules.shared {
            directory("isolation.shared", path.clone()).map_or(Ok(()), &mut *say)?;
        }
        launch::missing_profiles(&rules).into_iter().try_for_each(|(_, why)| say(why))?;
    }
    job_dir(config).map_or(Ok(()), say)
}

fn directory(key: &str, path: String) -> Option<String> {
    let shown = path.clone();
    let looked = within_time(move || File::open(&path).map(drop));
    match looked {
        Some(Ok(())) => None,
        Some(Err(e)) => Some(format!("{key}: jobs do not see {shown}: {e}")),
        None => Some(format!("{key}: {shown} does not answer: a disk may hang")),
    }
}

/// A default or ceiling of `job_dir` that this host cannot enforce.
fn job_dir(config: &Config) -> Option<String> {
    let tables = config.limits.tables().ok()?;
    let sets = [(&tables.default, "[limits.default]"), (&tables.max, "[limits.max]")];
    let (_, section) =
        sets.into_iter().find(|(table, _)| table.get(LimitKind::JobDir).is_some())?;
    let (path, range) = (config.jobs.work_dir(), config.jobs.job_dir_projects);
    let why = within_time(move || launch::why_unlimited(existing(&path), range));
    let why =
        why.unwrap_or_else(|| Some("jobs.work_dir does not answer: a disk may hang".into()))?;
    Some(format!("{section} sets job_dir, so jobs are refused: {why}"))
}

/// The directory, or the next above it that is there: the broker will make it.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| fs::metadata(path).is_ok()).unwrap_or(path)
}

/// The answer, if there is one in time.
fn within_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = mpsc::channel();
    let look = move || _ = answer.send(look());
    thread::Builder::new().name("look".into()).spawn(look).ok()?;
    answered.recv_timeout(TIMEOUT).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_not_waited_for() {
        assert_eq!(within_time(|| 7), Some(7));
        let (never, waits) = mpsc::channel::<()>();
        assert_eq!(within_time(move || waits.recv().is_ok()), None);
        drop(never);
    }
}
