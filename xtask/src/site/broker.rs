//! A site's broker: started so that it outlives us, waited for, ended.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{IDENTITIES, ROOT_REASON, Site};
use crate::programs::Programs;
use crate::{interrupt, process, root};

/// $1 log, $2 pid file, $3 broker, $4 configuration. A session of its own and no descriptor of ours,
/// so that it lives on when we and our terminal are gone.
const START: &str = r#"
    exec setsid --fork sh -c '
        exec </dev/null >>"$1" 2>&1
        echo $$ >"$2"
        shift 2
        cd /
        exec "$1" --config "$2"' sh "$@""#;

/// How a broker is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGTERM.
    Asked,
    /// SIGKILL.
    Killed,
}

/// A start or a clean end that takes longer has gone wrong. Nothing tells us of either: the broker
/// is not our child.
const TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

impl Site {
    /// The broker's pid, while it runs.
    pub(crate) fn broker_pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.file("broker.pid")).ok()?;
        let pid: u32 = pid.trim().parse().ok()?;
        // Numbers are used again: the process must have our configuration on its command line. One
        // that has ended and was not reaped has none.
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let config = self.file("config.toml");
        let is_ours = words.split(|byte| *byte == 0).any(|w| w == config.as_os_str().as_bytes());
        is_ours.then_some(pid)
    }

    /// Starts the broker and returns when it has answered a call.
    ///
    /// # Errors
    /// It ended, or did not answer in time; with what it said last.
    pub(crate) fn start(&self, programs: &Programs) -> Result<()> {
        self.start_until(programs, Self::answers)
    }

    /// Starts the broker and returns when it accepts connections, before its first call.
    ///
    /// # Errors
    /// As [`Site::start`].
    pub(crate) fn start_unasked(&self, programs: &Programs) -> Result<()> {
        self.start_until(programs, |site| TcpStream::connect(site.addr()).is_ok())
    }

    fn start_until(&self, programs: &Programs, is_up: impl Fn(&Self) -> bool) -> Result<()> {
        // Ours, though what writes to it is root's.
        let log = self.file("broker.log");
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let said_before = log.seek(SeekFrom::End(0))?;
        self.spawn(programs)?;
        let until = Instant::now() + TIMEOUT;
        let mut seen = false;
        loop {
            thread::sleep(POLL_INTERVAL);
            let runs = self.broker_pid().is_some();
            if runs && is_up(self) {
                return Ok(());
            }
            if seen && !runs {
                bail!("the broker ended at once{}", self.log_since(said_before));
            }
            seen |= runs || !self.log_since(said_before).is_empty();
            if Instant::now() > until {
                bail!("the broker does not answer{}", self.log_since(said_before));
            }
            interrupt::check()?;
        }
    }

    fn spawn(&self, programs: &Programs) -> Result<()> {
        let mut words = Vec::new();
        let paths = [self.file("broker.log"), self.file("broker.pid"), programs.broker.clone()];
        for path in paths.iter().chain([&self.file("config.toml")]) {
            words.push(path.to_str().context("a path is not UTF-8")?.to_owned());
        }
        let mut script = String::new();
        // sudo drops the variables of its caller.
        if let Ok(level) = std::env::var("JOB_BROKER_LOG") {
            script = format!("export JOB_BROKER_LOG={}\n", process::quoted(&level));
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        process::check(&mut root::script(&(script + START), &words, ROOT_REASON)?)
    }

    fn answers(&self) -> bool {
        let mut command = self.jobctl(IDENTITIES[0]);
        command.args(["-q", "auth", "whoami"]).stdout(Stdio::null()).stderr(Stdio::null());
        process::status(&mut command).is_ok_and(|status| status.success())
    }

    /// What the broker said from a position of its log on, for an error message.
    fn log_since(&self, position: u64) -> String {
        let mut said = String::new();
        let read = File::open(self.file("broker.log")).and_then(|mut log| {
            log.seek(SeekFrom::Start(position))?;
            log.read_to_string(&mut said)
        });
        match read {
            Ok(_) if !said.is_empty() => format!("; it said:\n{}", said.trim_end()),
            _ => String::new(),
        }
    }

    /// Ends the broker, and returns when it is gone. Its jobs go on.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) fn end(&self, how: Ending) -> Result<()> {
        let Some(pid) = self.broker_pid() else { return Ok(()) };
        let signal = match how {
            Ending::Asked => "TERM",
            Ending::Killed => "KILL",
        };
        let mut kill =
            root::script("kill -s \"$1\" \"$2\"", &[signal, &pid.to_string()], ROOT_REASON)?;
        if let Err(error) = process::check(&mut kill)
            && self.broker_pid() == Some(pid)
        {
            return Err(error);
        }
        let until = Instant::now() + TIMEOUT;
        while !is_gone(pid) {
            if Instant::now() > until {
                bail!("the broker (pid {pid}) has not ended {TIMEOUT:?} after SIG{signal}");
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Ends all jobs, in good order as long as the broker helps; then the broker; and removes the
    /// cgroups. Goes on after a failure, and returns the first.
    ///
    /// # Errors
    /// Something is left.
    pub(crate) fn tear_down(&self) -> Result<()> {
        if self.broker_pid().is_some() {
            self.stop_jobs();
        }
        let ended = self.end(Ending::Asked).or_else(|_| self.end(Ending::Killed));
        let cleared = self.clear_cgroup();
        ended.and(cleared)
    }

    /// Whatever does not work here is done by [`Site::clear_cgroup`] without asking.
    fn stop_jobs(&self) {
        let list = bounded(self.jobctl(IDENTITIES[0]), &["ps", "-q"]).output();
        let list = list.map(|output| output.stdout).unwrap_or_default();
        let list = String::from_utf8_lossy(&list);
        let jobs: Vec<&str> = list.split_whitespace().collect();
        for some in jobs.chunks(500) {
            let stop = [&["-q", "stop", "-t", "2s", "--reconnect-timeout", "0"], some].concat();
            let mut stop = bounded(self.jobctl(IDENTITIES[0]), &stop);
            // A job that ends meanwhile is as good; a failure is made good for.
            let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// Whether no thread of a process is left that could hold its lock on the state directory: the
/// kernel takes the command line away first, the files later, thread by thread. What stays until
/// somebody reaps it is the first thread, as a zombie.
fn is_gone(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_zombie = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
    is_zombie && threads <= 1
}

/// jobctl would wait for a broker that hangs.
fn bounded(jobctl: Command, arguments: &[&str]) -> Command {
    use std::os::unix::process::CommandExt;

    let mut command = Command::new("timeout");
    let environment = jobctl.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.arg("30").envs(environment).arg(jobctl.get_program()).args(arguments);
    // As in `root`: Ctrl-C does not end the cleaning up.
    command.stdin(Stdio::null()).process_group(0);
    command
}
