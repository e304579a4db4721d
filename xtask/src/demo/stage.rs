//! What the demo shows: headings, the commands as one would type them, their output as it comes, and
//! whether it was as it should be.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::user::USER;
use crate::interrupt::Running;
use crate::process::quoted;
use crate::site::Site;

/// Whose line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// A line of output, without its end, and when it came.
pub(crate) struct Line {
    pub(crate) stream: Stream,
    pub(crate) text: String,
    at: Instant,
}

/// A command that was shown to its end.
pub(crate) struct Shown {
    pub(crate) status: ExitStatus,
    lines: Vec<Line>,
    ended: Instant,
}

impl Shown {
    pub(crate) fn out(&self) -> Vec<&str> {
        self.of(Stream::Out)
    }

    pub(crate) fn err(&self) -> Vec<&str> {
        self.of(Stream::Err)
    }

    fn of(&self, stream: Stream) -> Vec<&str> {
        self.lines.iter().filter(|line| line.stream == stream).map(|l| l.text.as_str()).collect()
    }

    /// How long before the command's end this line came.
    pub(crate) fn before_end(&self, text: &str) -> Option<Duration> {
        let line = self.lines.iter().find(|line| line.text == text)?;
        Some(self.ended.duration_since(line.at))
    }
}

const BOLD: &str = "\x1b[1m";

/// How the lines of claims begin.
const OK_MARK: &str = "  [ok] ";
const FAILED: &str = "  [FAILED] ";

/// Counts what did not hold.
pub(crate) struct Stage {
    scene: usize,
    held: usize,
    failed: usize,
    /// Of those that failed, the claims of guests.
    failed_elsewhere: usize,
    is_bold: bool,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let is_bold = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Stage::elsewhere(0, is_bold)
    }

    /// The stage of a [`Stage::guest`]: not the first scene, and the host's terminal.
    pub(crate) fn elsewhere(scene: usize, is_bold: bool) -> Self {
        Stage { scene, held: 0, failed: 0, failed_elsewhere: 0, is_bold }
    }

    /// Claims of its own that did not hold.
    pub(crate) fn failed(&self) -> usize {
        self.failed - self.failed_elsewhere
    }

    /// Scenes so far.
    pub(crate) fn scene(&self) -> usize {
        self.scene
    }

    pub(crate) fn is_bold(&self) -> bool {
        self.is_bold
    }

    pub(crate) fn heading(&mut self, text: &str) {
        self.scene += 1;
        let (on, off) = if self.is_bold { (BOLD, "\x1b[0m") } else { ("", "") };
        println!("\n{on}== {}. {text} =={off}\n", self.scene);
    }

    pub(crate) fn say(&self, text: &str) {
        println!("  {text}");
    }

    /// A command as one would type it.
    pub(crate) fn typed(&self, words: &[&str]) {
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        println!("  $ jobctl {}", words.join(" "));
    }

    /// Runs jobctl and shows its output line by line as it comes, and its exit status.
    pub(crate) fn live(&self, site: &Site, words: &[&str]) -> Result<Shown> {
        self.typed(words);
        let (running, arriving) = spawn(site, words)?;
        let mut lines = Vec::new();
        for line in arriving {
            self.line(line.stream, &line.text);
            lines.push(line);
        }
        let ended = Instant::now();
        let status = running.wait()?;
        match status.code() {
            Some(code) => println!("  exit status {code}\n"),
            None => println!("  {status}\n"),
        }
        Ok(Shown { status, lines, ended })
    }

    pub(crate) fn line(&self, stream: Stream, text: &str) {
        let margin = if stream == Stream::Out { "   " } else { "err" };
        // What a job writes is not for our terminal to act on.
        let text: String = text
            .chars()
            .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
            .collect();
        println!("  {margin} | {text}");
    }

    /// A piece of a line that is being built.
    pub(crate) fn piece(&self, text: &str) {
        print!("{text}");
        // A closed stdout shows with the next line.
        let _ = std::io::stdout().flush();
    }

    /// Something that was claimed, and whether it was so.
    pub(crate) fn holds(&mut self, claim: &str, held: bool) {
        let mark = if held { OK_MARK } else { FAILED };
        let line = format!("{mark}{claim}");
        println!("{line}");
        self.count(&line);
    }

    /// Whether a line is a claim, and held. None of a job's is: they have a margin.
    fn count(&mut self, line: &str) {
        self.held += usize::from(line.starts_with(OK_MARK));
        self.failed += usize::from(line.starts_with(FAILED));
    }

    /// Runs a program with a stage of its own: shows what it shows, line by line, and counts its scenes
    /// and claims here.
    ///
    /// # Errors
    /// It could not be run, or ended with a failure that is no claim's.
    pub(crate) fn guest(&mut self, command: &mut Command) -> Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut running = Running::spawn(command)?;
        let out = running.child.stdout.take().context("no stdout")?;
        let failed_before = self.failed;
        for line in BufReader::new(out).lines() {
            let line = line.context("cannot read what the VM shows")?;
            println!("{line}");
            self.scene += usize::from(line.trim_start_matches(BOLD).starts_with("== "));
            self.count(&line);
        }
        let status = running.wait()?;
        self.failed_elsewhere += self.failed - failed_before;
        if !status.success() && self.failed == failed_before {
            bail!("what was shown elsewhere ended with {status}");
        }
        Ok(())
    }

    /// The end of a log, for whoever looks into a failure.
    pub(crate) fn log(&self, path: &Path) {
        let log = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        println!("\n  The broker said last:");
        for line in &lines[lines.len().saturating_sub(20)..] {
            println!("      | {line}");
        }
    }

    pub(crate) fn verdict(&self) -> ExitCode {
        if self.failed == 0 {
            println!("  All {} claims held.", self.held);
            return ExitCode::SUCCESS;
        }
        println!("  {} of {} claims did NOT hold.", self.failed, self.held + self.failed);
        ExitCode::FAILURE
    }
}

/// Starts jobctl; its lines arrive until both its streams have ended.
pub(crate) fn spawn(site: &Site, words: &[&str]) -> Result<(Running, Receiver<Line>)> {
    let mut command = site.jobctl(USER);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::spawn(&mut command)?;
    let (sender, arriving) = mpsc::channel();
    let out = running.child.stdout.take().context("no stdout")?;
    let err = running.child.stderr.take().context("no stderr")?;
    read_lines(out, Stream::Out, sender.clone());
    read_lines(err, Stream::Err, sender);
    Ok((running, arriving))
}

fn read_lines(from: impl Read + Send + 'static, stream: Stream, to: Sender<Line>) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        while from.read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes));
            if to.send(Line { stream, text: text.into_owned(), at: Instant::now() }).is_err() {
                break;
            }
            bytes.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(script: &str) -> (Stage, Result<()>) {
        let mut stage = Stage::elsewhere(0, false);
        let result = stage.guest(Command::new("sh").args(["-c", script]));
        (stage, result)
    }

    #[test]
    fn a_guests_claims_count_and_its_jobs_words_do_not() {
        let script = "echo '== 1. A scene =='; echo '  [ok] one'; echo '      | [ok] no'; echo '  [FAILED] two'; exit 1";
        let (stage, result) = guest(script);
        result.expect("the failure is a claim's");
        assert_eq!((stage.scene, stage.held, stage.failed), (1, 1, 1));
        assert_eq!(stage.verdict(), ExitCode::FAILURE);
    }

    #[test]
    fn a_guest_that_breaks_down_is_a_failure() {
        let (stage, result) = guest("echo '  [ok] one'; exit 125");
        assert!(result.is_err());
        assert_eq!((stage.held, stage.failed), (1, 0));
    }
}
