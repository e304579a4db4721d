//! What a command may have, as it is asked for. Judges nothing: `build` does, with the system at hand.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

/// Most bytes of output that are kept, of a command without a limit of its own.
const OUTPUT: u64 = 64 << 20;
/// Most bytes of temporary files, of a command without a limit of its own.
const TEMPORARY: u64 = 256 << 20;

/// How much a command is kept from the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    /// Files, processes and network are the host's, as the user may use them.
    Host,
    /// The host's files, read-only; its own processes, temporary files, devices, IPC, and a filter of system calls.
    Private,
    /// A base system (programs and libraries) read-only, and what is named; no network; a stricter filter.
    #[default]
    Strict,
}

/// A directory or file that is seen besides.
#[derive(Debug, Clone)]
pub(crate) enum Mount {
    Bind { source: String, target: String, read_only: bool },
    Tmpfs { target: String, bytes: u64 },
}

/// The caller's own streams; each is used once.
#[derive(Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub(crate) stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub(crate) stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
}

/// Asks for a [`Sandbox`](crate::Sandbox). What is not said: isolation `strict`, no other limits than 64 MiB of output and 256 MiB of
/// temporary files, an empty standard input, and the user `nobody`.
#[derive(Debug)]
#[must_use = "`build` makes a sandbox of it"]
pub struct Builder {
    pub(crate) isolation: Isolation,
    pub(crate) cpu_percent: Option<u64>,
    pub(crate) cpu_weight: Option<u64>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) memory: Option<u64>,
    pub(crate) processes: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) output: u64,
    pub(crate) temporary: u64,
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) network: Option<bool>,
    pub(crate) hostname: String,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) directory: String,
    pub(crate) user: Option<String>,
    pub(crate) streams: Streams,
    pub(crate) shim: Option<PathBuf>,
    pub(crate) shim_bytes: Option<&'static [u8]>,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) state: Option<PathBuf>,
    /// Paths that are not UTF-8, by the method that had them.
    pub(crate) unreadable: Vec<&'static str>,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            isolation: Isolation::default(),
            cpu_percent: None,
            cpu_weight: None,
            cpu_time: None,
            memory: None,
            processes: None,
            open_files: None,
            output: OUTPUT,
            temporary: TEMPORARY,
            timeout: None,
            grace: Duration::ZERO,
            network: None,
            hostname: String::new(),
            mounts: Vec::new(),
            env: BTreeMap::new(),
            directory: String::new(),
            user: None,
            streams: Streams::default(),
            shim: None,
            shim_bytes: None,
            cgroup: None,
            state: None,
            unreadable: Vec::new(),
        }
    }
}

impl Builder {
    /// How much it is kept from the host; `Strict` if nothing is said.
    pub fn isolation(mut self, isolation: Isolation) -> Builder {
        self.isolation = isolation;
        self
    }

    /// The CPUs that it may use at once, all processes together, in percent of one: 50 is half a CPU, 200 are two.
    pub fn cpu_percent(mut self, percent: u32) -> Builder {
        self.cpu_percent = Some(percent.into());
        self
    }

    /// Its share of the CPUs where they are scarce, 1 to 10000; others have 100.
    pub fn cpu_weight(mut self, weight: u32) -> Builder {
        self.cpu_weight = Some(weight.into());
        self
    }

    /// The CPU time of all its processes together; then it is killed.
    pub fn cpu_time(mut self, time: Duration) -> Builder {
        self.cpu_time = Some(time);
        self
    }

    /// Bytes of memory, page cache and files in memory included; it cannot swap. A process that needs more is killed, and
    /// all others of the command with it.
    pub fn memory(mut self, bytes: u64) -> Builder {
        self.memory = Some(bytes);
        self
    }

    /// Processes and threads at once.
    pub fn processes(mut self, count: u64) -> Builder {
        self.processes = Some(count);
        self
    }

    /// Open files of each process.
    pub fn open_files(mut self, count: u64) -> Builder {
        self.open_files = Some(count);
        self
    }

    /// Bytes of output that are kept, both streams together: 64 MiB if nothing is said. What is written beyond is
    /// dropped, and counted in [`Outcome::dropped`](crate::Outcome::dropped).
    pub fn output_limit(mut self, bytes: u64) -> Builder {
        self.output = bytes;
        self
    }

    /// Bytes of its temporary files, which are in memory, and so count as [`Builder::memory`], too: 256 MiB if nothing
    /// is said. Nothing of it applies with `Host`, where temporary files are the host's.
    pub fn temporary_files(mut self, bytes: u64) -> Builder {
        self.temporary = bytes;
        self
    }

    /// Wall-clock time from its exec; then it is ended.
    pub fn timeout(mut self, time: Duration) -> Builder {
        self.timeout = Some(time);
        self
    }

    /// How long it has between SIGTERM and SIGKILL, once its time is over. None if nothing is said: SIGKILL at once.
    pub fn stop_timeout(mut self, time: Duration) -> Builder {
        self.grace = time;
        self
    }

    /// Whether it sees the host's network, or loopback only. If nothing is said: not with `Strict`.
    pub fn network(mut self, network: bool) -> Builder {
        self.network = Some(network);
        self
    }

    /// Its own host name.
    pub fn hostname(mut self, name: impl Into<String>) -> Builder {
        self.hostname = name.into();
        self
    }

    /// A directory or file of the host that it may read and write, as far as its user may; at the same path.
    pub fn allow_dir(self, path: impl Into<PathBuf>) -> Builder {
        self.same_path("allow_dir", path.into(), false)
    }

    /// A directory or file of the host that it may read, as far as its user may; at the same path.
    pub fn read_only_dir(self, path: impl Into<PathBuf>) -> Builder {
        self.same_path("read_only_dir", path.into(), true)
    }

    /// A directory or file of the host at another path.
    pub fn bind(
        mut self,
        source: impl Into<PathBuf>,
        target: impl Into<PathBuf>,
        read_only: bool,
    ) -> Builder {
        let source = self.text("bind", source.into());
        let target = self.text("bind", target.into());
        self.mounts.push(Mount::Bind { source, target, read_only });
        self
    }

    /// An empty directory in memory, of so many bytes.
    pub fn tmpfs(mut self, target: impl Into<PathBuf>, bytes: u64) -> Builder {
        let target = self.text("tmpfs", target.into());
        self.mounts.push(Mount::Tmpfs { target, bytes });
        self
    }

    /// A variable of its environment, which is otherwise `PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`, `LANG`, `JOB_ID` and
    /// `JOB_DIR`: nothing of this process's.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Builder {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Its working directory, absolute, as it sees it. If nothing is said: an empty one of its own (`JOB_DIR`), which
    /// is gone with it.
    pub fn workdir(mut self, path: impl Into<PathBuf>) -> Builder {
        self.directory = self.text("workdir", path.into());
        self
    }

    /// The account that it runs as, never root: `nobody` if nothing is said, and whoever this process is if that is
    /// not root.
    pub fn user(mut self, name: impl Into<String>) -> Builder {
        self.user = Some(name.into());
        self
    }

    /// Where its standard input comes from, for one run. `&[u8]` and `std::io::Cursor` are readers, too.
    pub fn stdin(mut self, from: impl AsyncRead + Send + Unpin + 'static) -> Builder {
        self.streams.stdin = Some(Box::new(from));
        self
    }

    /// Where its standard output goes as it comes, for one run; what does not take it makes nobody wait but itself.
    pub fn stdout(mut self, to: impl AsyncWrite + Send + Unpin + 'static) -> Builder {
        self.streams.stdout = Some(Box::new(to));
        self
    }

    /// Likewise its standard error.
    pub fn stderr(mut self, to: impl AsyncWrite + Send + Unpin + 'static) -> Builder {
        self.streams.stderr = Some(Box::new(to));
        self
    }

    /// The program `job-shim`. If nothing is said: `JOB_SANDBOX_SHIM` of the environment, or a file of that name beside
    /// this program, or `/usr/lib/job-broker/job-shim`.
    pub fn shim(mut self, path: impl Into<PathBuf>) -> Builder {
        self.shim = Some(path.into());
        self
    }

    /// The program `job-shim` itself, of an embedder that has it in its own: `include_bytes!`.
    pub fn shim_bytes(mut self, program: &'static [u8]) -> Builder {
        self.shim_bytes = Some(program);
        self
    }

    /// The cgroup that the sandbox makes its own in: absolute, or below the cgroup2 mount. If nothing is said: the
    /// nearest above this process's that holds no process itself.
    pub fn cgroup(mut self, path: impl Into<PathBuf>) -> Builder {
        self.cgroup = Some(path.into());
        self
    }

    /// The directory that the sandbox makes its own in, for output and the commands' own directories: the host's
    /// temporary directory if nothing is said.
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Builder {
        self.state = Some(path.into());
        self
    }

    fn same_path(mut self, method: &'static str, path: PathBuf, read_only: bool) -> Builder {
        let source = self.text(method, path);
        self.mounts.push(Mount::Bind { target: source.clone(), source, read_only });
        self
    }

    fn text(&mut self, method: &'static str, path: PathBuf) -> String {
        path.into_os_string().into_string().unwrap_or_else(|_| {
            self.unreadable.push(method);
            String::new()
        })
    }
}

impl Streams {
    /// Whether there is one.
    pub(crate) fn are_any(&self) -> bool {
        self.stdin.is_some() || self.stdout.is_some() || self.stderr.is_some()
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Streams { stdin, stdout, stderr } = self;
        let given = [stdin.is_some(), stdout.is_some(), stderr.is_some()];
        f.debug_tuple("Streams").field(&given).finish()
    }
}
