//! One virtual machine: its disks, its command line, its process, its exit. It must not change the host's tree or a
//! cached image.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::relay::{End, Signals, relay};
use super::rundir::RunDir;
use crate::size::Size;
use crate::{process, workspace};

/// Space for the command's files; sparse.
const SCRATCH: Size = Size(16 << 30);

/// The machine's root file system.
pub(crate) enum Root {
    /// The host's tree; all writes are discarded.
    Host,
    /// A cached image with systemd; each run has a copy-on-write view of it.
    Image(PathBuf),
}

/// The second block device, /dev/ubdb.
pub(crate) enum Disk {
    /// A new ext4 of this size.
    New(Size),
    /// An existing ext4, which the run changes.
    File(PathBuf),
}

impl From<Size> for Disk {
    fn from(size: Size) -> Self {
        Self::New(size)
    }
}

/// A machine that runs `command.sh` of its directory.
pub(crate) struct Machine<'a> {
    pub(crate) dir: &'a RunDir,
    pub(crate) target: &'a Path,
    pub(crate) root: Root,
    pub(crate) mem: Size,
    pub(crate) disk: Option<Disk>,
}

impl Machine<'_> {
    /// Makes the disks, once for all boots.
    ///
    /// # Errors
    /// A disk cannot be made.
    pub(crate) fn make_disks(&self) -> Result<()> {
        if let Root::Host = &self.root {
            make_ext4(&self.scratch(), SCRATCH, &["-O", "^has_journal"])?;
        }
        if let Some(Disk::New(size)) = &self.disk {
            // Of the kernels' modules only the host's tree has that for quotas.
            let quotas: &[&str] = match &self.root {
                Root::Host => &["-O", "quota,project", "-E", "quotatype=prjquota"],
                Root::Image(_) => &[],
            };
            make_ext4(&self.new_disk(), *size, quotas)?;
        }
        Ok(())
    }

    /// Boots, runs, and returns the command's exit status, or 128+n if signal n stopped xtask. `None` if the machine
    /// went down while its command ran.
    ///
    /// # Errors
    /// The machine cannot be started, or exceeded its timeout.
    pub(crate) fn boot(&self, timeout: Duration) -> Result<Option<u8>> {
        self.write_scripts()?;
        let signals = Signals::block()?;
        let child = self.spawn(&self.arguments())?;
        match relay(child, &signals, timeout)? {
            End::Exited => self.status(),
            End::TimedOut => bail!(
                "the VM did not end within {} and was killed (--timeout){}",
                humantime::format_duration(timeout),
                self.log_tail()
            ),
            End::Interrupted(signal) => {
                eprintln!("xtask: {signal}: the VM was ended");
                Ok(Some(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)))
            }
            End::OutputClosed => bail!("nobody reads the output any more; the VM was ended"),
        }
    }

    fn write_scripts(&self) -> Result<()> {
        let root = workspace::root();
        let paths = format!(
            "RUN={}\nTARGET={}\nWORKSPACE={}\n",
            self.dir.path().display(),
            self.target.display(),
            root.display()
        );
        let init = format!("#!/bin/sh\n{paths}{}", include_str!("init.sh"));
        self.dir.write("init.sh", &init)?;
        self.dir.write("mounts.sh", &paths)?;
        self.dir.write("run.sh", include_str!("run.sh"))?;
        let executable = fs::Permissions::from_mode(0o700);
        fs::set_permissions(self.dir.file("init.sh"), executable).context("cannot chmod init.sh")
    }

    /// The kernel's command line.
    fn arguments(&self) -> Vec<String> {
        let run = self.dir.path().display();
        let mut arguments = vec![
            format!("mem={}", self.mem),
            // Unique, so that machines can run side by side.
            format!("umid={}", self.dir.path().file_name().unwrap_or_default().to_string_lossy()),
            format!("uml_dir={run}"),
            // The kernel's messages, the command's stdout and stderr, xtask's liveness pipe (see run.sh).
            "con=null con0=null,fd:1 con5=null,fd:3 con6=null,fd:4 con7=fd:0,null quiet".to_owned(),
        ];
        match &self.root {
            Root::Host => {
                arguments.push(format!("ubd0={}", self.scratch().display()));
                arguments.push("root=/dev/root rootfstype=hostfs rootflags=/ ro".to_owned());
                arguments.push(format!("init={run}/init.sh"));
            }
            Root::Image(image) => {
                let view = self.dir.file("root.cow");
                arguments.push(format!("ubd0={},{}", view.display(), image.display()));
                arguments.push("root=/dev/ubda rw init=/lib/systemd/systemd".to_owned());
                arguments.push(format!("testbed={run}"));
            }
        }
        match &self.disk {
            Some(Disk::File(path)) => arguments.push(format!("ubd1={}", path.display())),
            Some(Disk::New(_)) => arguments.push(format!("ubd1={}", self.new_disk().display())),
            None => {}
        }
        arguments.iter().flat_map(|words| words.split(' ')).map(str::to_owned).collect()
    }

    fn scratch(&self) -> PathBuf {
        self.dir.file("scratch.ext4")
    }

    fn new_disk(&self) -> PathBuf {
        self.dir.file("disk.ext4")
    }

    fn spawn(&self, arguments: &[String]) -> Result<Child> {
        let linux = process::find("linux.uml").context("linux.uml is not installed")?;
        // The kernel writes its own messages to 1 and 2 at start and at a crash, so the command's two pipes have
        // other numbers.
        Command::new("sh")
            .args(["-c", r#"exec "$@" 3>&1 4>&2 >"$0" 2>&1"#])
            .arg(self.log())
            .arg(linux)
            .args(arguments)
            .env("TMPDIR", self.memory_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A crashing kernel sends SIGTERM to its whole process group, which must not contain xtask.
            .process_group(0)
            .spawn()
            .context("cannot start the VM")
    }

    /// The directory of the machine's memory, a file that the kernel unlinks at once and maps executable: /dev/shm if
    /// it has enough space, else the disks' directory.
    fn memory_dir(&self) -> PathBuf {
        let shm = PathBuf::from("/dev/shm");
        match statvfs(&shm) {
            Ok(fs)
                if fs.blocks_available() * fs.fragment_size() >= self.mem.0
                    && !fs.flags().contains(FsFlags::ST_NOEXEC) =>
            {
                shm
            }
            _ => self.dir.path().to_owned(),
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.file("console.log")
    }

    fn status(&self) -> Result<Option<u8>> {
        let Ok(text) = fs::read_to_string(self.dir.file("status")) else { return Ok(None) };
        let status = text.trim().parse().with_context(|| format!("bad exit status {text:?}"))?;
        Ok(Some(status))
    }

    /// The end of the kernel's messages, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("; its console said last:\n  {}", tail.join("\n  "))
    }
}

/// Makes a sparse file with an empty ext4, without the 5 % that ext4 reserves for root: a full disk must be full for
/// every user.
pub(crate) fn make_ext4(path: &Path, size: Size, options: &[&str]) -> Result<()> {
    let file =
        File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.set_len(size.0).with_context(|| format!("cannot make {} {size} large", path.display()))?;
    let mkfs = process::find("mkfs.ext4").context("mkfs.ext4 is not installed")?;
    let lazy = "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0";
    let mut command = Command::new(mkfs);
    command.args(["-q", "-F", "-m", "0", "-E", lazy]).args(options).arg(path);
    process::check(command.stdout(std::io::stderr()))
}
