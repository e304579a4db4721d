//! A site's broker: started so that it outlives xtask, awaited, ended. It must signal no other process: a pid counts
//! only with the site's configuration on its command line.

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

/// $1 log, $2 pid file, $3 broker, $4 configuration. The broker has its own session and none of xtask's descriptors,
/// so that it survives xtask and its terminal.
const START: &str = r#"
    exec setsid --fork sh -c '
        exec </dev/null >>"$1" 2>&1
        echo $$ >"$2"
        shift 2
        cd /
        exec "$1" --config "$2"' sh "$@""#;

/// How to end a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGTERM.
    Asked,
    /// SIGKILL.
    Killed,
}

/// The timeout of a start and of a clean exit. No event reports either: the broker is not a child of xtask.
const TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

impl Site {
    /// The broker's pid, while it runs.
    pub(crate) fn broker_pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.file("broker.pid")).ok()?;
        let pid: u32 = pid.trim().parse().ok()?;
        // The kernel reuses pids: the process must have the site's configuration on its command line. A zombie has no
        // command line.
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let config = self.file("config.toml");
        let is_ours = words.split(|byte| *byte == 0).any(|w| w == config.as_os_str().as_bytes());
        is_ours.then_some(pid)
    }

    /// Starts the broker. Returns when it has answered a call.
    ///
    /// # Errors
    /// The broker ended, or did not answer in time; with its last log lines.
    pub(crate) fn start(&self, programs: &Programs) -> Result<()> {
        self.start_until(programs, Self::answers)
    }

    /// Starts the broker. Returns when it accepts connections, before its first call.
    ///
    /// # Errors
    /// As [`Site::start`].
    pub(crate) fn start_unasked(&self, programs: &Programs) -> Result<()> {
        self.start_until(programs, |site| TcpStream::connect(site.addr()).is_ok())
    }

    fn start_until(&self, programs: &Programs, is_up: impl Fn(&Self) -> bool) -> Result<()> {
        // xtask creates the log, so that its user owns it; root writes to it.
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
        // sudo drops its caller's variables.
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

    /// The broker's log from a position on, for an error message.
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

    /// Ends the broker. Returns when the process is gone. Its jobs keep running.
    ///
    /// # Errors
    /// The broker does not end.
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

    /// Stops all jobs by the broker if possible, then ends the broker and removes the cgroups. Continues after a
    /// failure, and returns the first error.
    ///
    /// # Errors
    /// Something could not be removed.
    pub(crate) fn tear_down(&self) -> Result<()> {
        if self.broker_pid().is_some() {
            self.stop_jobs();
        }
        let ended = self.end(Ending::Asked).or_else(|_| self.end(Ending::Killed));
        let cleared = self.clear_cgroup();
        ended.and(cleared)
    }

    /// [`Site::clear_cgroup`] ends what this cannot stop.
    fn stop_jobs(&self) {
        let list = bounded(self.jobctl(IDENTITIES[0]), &["ps", "-q"]).output();
        let list = list.map(|output| output.stdout).unwrap_or_default();
        let list = String::from_utf8_lossy(&list);
        let jobs: Vec<&str> = list.split_whitespace().collect();
        for some in jobs.chunks(500) {
            let stop = [&["-q", "stop", "-t", "2s", "--reconnect-timeout", "0"], some].concat();
            let mut stop = bounded(self.jobctl(IDENTITIES[0]), &stop);
            // The job may end meanwhile; [`Site::clear_cgroup`] covers a failure.
            let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// Whether no thread of a process can still hold the lock on the state directory. At exit the kernel removes the
/// command line first, and closes the files later, thread by thread. The first thread remains as a zombie until its
/// parent reaps it.
fn is_gone(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_zombie = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
    is_zombie && threads <= 1
}

/// jobctl with a timeout: it would wait for a broker that hangs.
fn bounded(jobctl: Command, arguments: &[&str]) -> Command {
    use std::os::unix::process::CommandExt;

    let mut command = Command::new("timeout");
    let environment = jobctl.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.arg("30").envs(environment).arg(jobctl.get_program()).args(arguments);
    // As in `root`: Ctrl-C must not end the cleanup.
    command.stdin(Stdio::null()).process_group(0);
    command
}
