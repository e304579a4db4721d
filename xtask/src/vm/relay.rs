//! Copies a running machine's output to stdout and stderr; signals and the deadline end the machine. It must never
//! leave a process of the machine behind.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdout};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// How a machine ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It powered off or crashed; its status file tells which.
    Exited,
    /// It was killed at its deadline.
    TimedOut,
    /// It was killed because xtask received this signal.
    Interrupted(Signal),
    /// It was killed because xtask's output was closed.
    OutputClosed,
}

/// A machine's end closes its output. Only after a crash can processes remain that hold the pipes open: this is the
/// interval of checks that the kernel lives.
const CHECK: Duration = Duration::from_millis(500);

/// SIGINT, SIGTERM and SIGHUP as a signalfd, while this value lives. The calling thread must be the process's only
/// one: another thread would take the signals.
///
/// Create it before the child, so that no signal is lost in between. The child inherits the blocked signals, which is
/// harmless: only SIGKILL ends it.
pub(crate) struct Signals {
    before: SigSet,
    fd: SignalFd,
}

impl Signals {
    pub(crate) fn block() -> Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).context("cannot block signals")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&set, flags).context("cannot make a signalfd")?;
        Ok(Self { before, fd })
    }

    fn next(&self) -> Result<Option<Signal>> {
        let info = self.fd.read_signal().context("cannot read the signalfd")?;
        Ok(info.and_then(|info| Signal::try_from(info.ssi_signo as i32).ok()))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Fails only for an invalid `how`.
        let _ = self.before.thread_set_mask();
    }
}

/// Copies the child's output until the child has ended; kills the child at the deadline or at a signal. The child
/// must be the leader of its own process group. On return the child is reaped.
pub(crate) fn relay(mut child: Child, signals: &Signals, timeout: Duration) -> Result<End> {
    let result = copy_until_end(&mut child, signals, Instant::now() + timeout);
    kill_group(&child);
    child.wait().context("cannot wait for the VM")?;
    result
}

/// A machine is a process group: its kernel, and one process for each process inside.
fn kill_group(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // ESRCH: all have ended already.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn copy_until_end(child: &mut Child, signals: &Signals, deadline: Instant) -> Result<End> {
    let mut out = child.stdout.take();
    let mut err = child.stderr.take();
    while out.is_some() || err.is_some() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(End::TimedOut);
        }
        let [has_signal, has_out, has_err] =
            wait(signals, out.as_ref(), err.as_ref(), left.min(CHECK))?;
        if has_signal && let Some(signal) = signals.next()? {
            return Ok(End::Interrupted(signal));
        }
        if child.try_wait().context("cannot wait for the VM")?.is_some() {
            kill_group(child);
        }
        let is_open = (!has_out || pass_on(&mut out, &mut io::stdout().lock())?)
            && (!has_err || pass_on(&mut err, &mut io::stderr().lock())?);
        if !is_open {
            return Ok(End::OutputClosed);
        }
    }
    Ok(End::Exited)
}

/// Waits until one of the three is ready; a closed stream is not polled.
fn wait(
    signals: &Signals,
    out: Option<&ChildStdout>,
    err: Option<&ChildStderr>,
    timeout: Duration,
) -> Result<[bool; 3]> {
    let mut fds = vec![PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN)];
    fds.extend(out.map(|out| PollFd::new(out.as_fd(), PollFlags::POLLIN)));
    fds.extend(err.map(|err| PollFd::new(err.as_fd(), PollFlags::POLLIN)));
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error).context("cannot poll the VM's output"),
    }
    let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
    let has_out = out.is_some() && ready[1];
    let has_err = err.is_some() && ready[ready.len() - 1];
    Ok([ready[0], has_out, has_err])
}

/// Copies the available bytes; closes the stream at its end. Returns false if the reader has closed its end.
fn pass_on(stream: &mut Option<impl Read>, to: &mut impl Write) -> Result<bool> {
    let mut buffer = [0; 65536];
    let Some(from) = stream else { return Ok(true) };
    let length = from.read(&mut buffer).context("cannot read the VM's output")?;
    if length == 0 {
        *stream = None;
    }
    match to.write_all(&buffer[..length]).and_then(|()| to.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write the VM's output"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    fn start(script: &str) -> Child {
        Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("sh runs")
    }

    #[test]
    fn a_machine_that_ends_by_itself_has_exited() {
        let signals = Signals::block().expect("signals");
        let end = relay(start("exit 3"), &signals, Duration::from_secs(60)).expect("relay");
        assert_eq!(end, End::Exited);
    }

    #[test]
    fn a_machine_that_hangs_is_killed_at_its_deadline() {
        let signals = Signals::block().expect("signals");
        let end = relay(start("exec sleep 600"), &signals, Duration::from_millis(50));
        assert_eq!(end.expect("relay"), End::TimedOut);
    }

    #[test]
    fn processes_that_a_crashed_machine_leaves_do_not_hold_us_up() {
        let signals = Signals::block().expect("signals");
        let end = relay(start("sleep 600 & exit 1"), &signals, Duration::from_secs(60));
        assert_eq!(end.expect("relay"), End::Exited);
    }
}
