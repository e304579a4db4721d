//! Bringing a job to life, in the two phases of ARCHITECTURE.md: everything is on disk before GO;
//! after GO it is never run again. Up to GO this is blocking code, for a thread that may; what comes
//! after it takes no thread, since a program may hang in its execve(2).

pub(crate) mod accounts;
pub(crate) mod effective_limits;
mod errors;
pub(crate) mod failure;
mod handshake;

use std::ffi::{CString, NulError};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use job_shim::crash::{self, Point};
use job_shim::frame;
use job_shim::launch::{Launch, OutputPolicy, Rlimit};
use job_shim::wire::Started;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use uuid::Uuid;

use crate::cgroup::hierarchy::Hierarchy;
use crate::cgroup::job::JobCgroup;
use crate::config;
use crate::host;
use crate::host::BootId;
use crate::launch::effective_limits::EffectiveLimits;
pub(crate) use crate::launch::errors::{LaunchError, SetupError};
pub(crate) use crate::launch::handshake::Shim;
use crate::model::id::JobId;
use crate::model::spec;
use crate::quota::fair_queue::for_a_moment;
use crate::store;
use crate::store::StateDir;
use crate::store::records;
use crate::store::records::{FORMAT, RequestRecord, SpawnRecord, SpecRecord};
use crate::sys;

/// What every launch needs and none changes.
#[derive(Debug)]
pub(crate) struct Launcher {
    tree: Hierarchy,
    program: File,
    null: File,
    run_dir: File,
    boot_id: BootId,
    shim_account: (u32, u32),
    leftover_grace: Duration,
}

/// A job that has been told GO: its program runs, or will, or cannot.
#[derive(Debug)]
#[must_use = "its end has to be seen to: `started`, and `abandon` if that fails"]
pub(crate) struct Begun {
    shim: Shim,
    id: JobId,
    nonce: Uuid,
    spawned: SpawnRecord,
}

/// A job whose program runs.
#[derive(Debug)]
pub(crate) struct Launched {
    /// Its process, and the connection to it.
    pub shim: Shim,
    /// The program.
    pub started: Started,
    /// As it is on disk.
    pub spawned: SpawnRecord,
}

impl Begun {
    /// Its program runs.
    pub(crate) fn into_launched(self, started: Started) -> Launched {
        Launched { shim: self.shim, started, spawned: self.spawned }
    }
}

impl Launcher {
    /// Opens what every launch needs.
    ///
    /// # Errors
    /// [`SetupError`], in words for an operator.
    pub(crate) fn open(config: &config::Jobs, boot_id: BootId) -> Result<Launcher, SetupError> {
        let io = |step, path: &Path| {
            let path = path.to_owned();
            move |source| SetupError::Io { step, path, source }
        };
        let run_dir = &config.run_dir;
        crate::store::make_private(run_dir).map_err(io("create", run_dir))?;
        let null = Path::new("/dev/null");
        let mut read_write = OpenOptions::new();
        read_write.read(true).write(true);
        let program = File::open(&config.shim).map_err(io("open", &config.shim))?;
        Ok(Launcher {
            tree: Hierarchy::open(config.cgroup.as_deref(), &config.require_controllers, &program)?,
            program,
            null: read_write.open(null).map_err(io("open", null))?,
            run_dir: File::open(run_dir).map_err(io("open", run_dir))?,
            boot_id,
            shim_account: accounts::shim_account(&config.shim_user)?,
            leftover_grace: config.leftover_grace(),
        })
    }

    /// Where the jobs' cgroups are.
    pub(crate) fn hierarchy(&self) -> &Hierarchy {
        &self.tree
    }

    /// The uid of the shims.
    pub(crate) fn shim_uid(&self) -> u32 {
        self.shim_account.0
    }

    /// The socket of a job's shim. Through the directory's descriptor, since the path may be
    /// longer than the 107 bytes that unix(7) allows.
    pub(crate) fn socket(&self, id: JobId) -> PathBuf {
        format!("/proc/self/fd/{}/{id}", self.run_dir.as_raw_fd()).into()
    }

    /// From nothing to GO: spec, cgroup, shim, `spawn.json`, GO. Blocks; must be called within the
    /// runtime of the jobs.
    ///
    /// # Errors
    /// [`LaunchError`]; the program has not run, and nothing is left but the job's files.
    pub(crate) fn begin(&self, state: &StateDir, job: &SpecRecord) -> Result<Begun, LaunchError> {
        let dir = write_spec(state, job)?;
        let result = self.bring_shim(&dir, job).and_then(|(mut shim, pid, nonce)| {
            match self.send_off(&dir, job, &mut shim, (pid, nonce)) {
                Ok(spawned) => Ok(Begun { shim, id: job.id, nonce, spawned }),
                Err(error) => {
                    shim.end();
                    Err(error)
                }
            }
        });
        if result.is_err() {
            self.clean_failed(job.id);
        }
        result
    }

    /// HELLO and STARTED. GO has not waited for HELLO: which program that is and which process is
    /// known since the clone, and the shim finds GO when it has come so far. The turn is over with HELLO, or
    /// after a moment.
    ///
    /// # Errors
    /// [`LaunchError`], to be followed by [`Launcher::abandon`]: the program has not run, unless the
    /// error is `Go`.
    pub(crate) async fn started(
        &self,
        begun: &mut Begun,
        turn: impl Sized,
    ) -> Result<Started, LaunchError> {
        for_a_moment(turn, begun.shim.expect_hello(begun.id, begun.nonce)).await?;
        let started = begun.shim.expect_started().await?;
        crash::at(Point::StartedHeard);
        Ok(started)
    }

    /// Ends what has not started, and removes what is left of it but its files. Blocks.
    pub(crate) fn abandon(&self, begun: &Begun) {
        begun.shim.end();
        self.clean_failed(begun.id);
    }

    fn clean_failed(&self, id: JobId) {
        if let Err(e) = self.clean(id) {
            tracing::warn!(job = %id, "cannot remove its cgroup, a later start will: {e}");
        }
        crash::at(Point::StartFailed);
    }

    /// Ends and removes what is left of a job outside its directory. Blocks.
    ///
    /// # Errors
    /// Something is left; see [`cgroup::JobCgroup::kill_work`] and [`cgroup::JobCgroup::remove`].
    pub(crate) fn clean(&self, id: JobId) -> io::Result<()> {
        // Before the cgroup, whose presence tells a later broker that something is left.
        let _ = fs::remove_file(self.socket(id)); // absent is as good
        crash::at(Point::SocketRemoved);
        let cgroup = self.tree.job(id);
        cgroup.kill_work().and_then(|()| cgroup.remove())?;
        crash::at(Point::CgroupRemoved);
        Ok(())
    }

    /// The cgroup with its limits, and a shim in it.
    fn bring_shim(&self, dir: &Path, job: &SpecRecord) -> Result<(Shim, u32, Uuid), LaunchError> {
        let cgroup = self.tree.job(job.id);
        let create = |source| LaunchError::CreateCgroup { path: self.tree.path().into(), source };
        self.tree.ensure().and_then(|()| cgroup.create(self.tree.features())).map_err(create)?;
        crash::at(Point::CgroupMade);
        EffectiveLimits::of(job).plan().apply(&self.tree, &cgroup).map_err(LaunchError::Limits)?;
        crash::at(Point::LimitsSet);
        let nonce = Uuid::new_v4();
        let (child, control) = self.spawn(dir, &cgroup, job, nonce)?;
        let shim = Shim { pidfd: child.pidfd, control, reader: frame::Reader::default() };
        Ok((shim, child.pid, nonce))
    }

    /// From `spawn.json` to GO. While the disk makes the spec durable, the shim sets itself up.
    fn send_off(
        &self,
        dir: &Path,
        job: &SpecRecord,
        shim: &mut Shim,
        (pid, nonce): (u32, Uuid),
    ) -> Result<SpawnRecord, LaunchError> {
        let spawned = self.spawn_record(job, pid, nonce).map_err(LaunchError::Spawn)?;
        records::save(dir, records::SPAWN, &spawned)
            .map_err(|source| LaunchError::WriteSpawn { path: dir.join(records::SPAWN), source })?;
        crash::at(Point::SpawnWritten);
        // After this not even a crash of the host makes a repeated request run twice.
        store::make_durable(dir, records::SPEC)
            .map_err(|source| LaunchError::WriteSpec { path: dir.join(records::SPEC), source })?;
        crash::at(Point::SpecDurable);
        shim.go()?;
        crash::at(Point::GoSaid);
        Ok(spawned)
    }

    fn spawn(
        &self,
        dir: &Path,
        cgroup: &JobCgroup,
        job: &SpecRecord,
        nonce: Uuid,
    ) -> Result<(sys::Child, tokio::net::UnixStream), LaunchError> {
        let prepare = || -> io::Result<_> {
            let (control, theirs) = UnixStream::pair()?;
            control.set_nonblocking(true)?;
            // Before GO: what cannot be listened to is not started.
            let control = tokio::net::UnixStream::from_std(control)?;
            let listener = self.bind(job.id)?;
            crash::at(Point::SocketBound);
            let launch = memory_file(&self.launch_message(job, nonce).to_bytes())?;
            let (state, work) = (File::open(dir)?, cgroup.work()?);
            Ok((control, theirs, listener, launch, state, work, cgroup.shim()?))
        };
        let (control, theirs, listener, launch, state, work, leaf) =
            prepare().map_err(LaunchError::Descriptors)?;
        let null = self.null.as_raw_fd();
        let name = c_string(&job.id.to_string()).map_err(LaunchError::Descriptors)?;
        let birth = sys::Birth {
            program: self.program.as_fd(),
            argv: &[c"job-shim", &name],
            // In the order of job_shim::launch: CONTROL_FD, STATE_FD, WORK_FD, LISTEN_FD, LAUNCH_FD.
            descriptors: &[
                null,
                null,
                null,
                theirs.as_raw_fd(),
                state.as_raw_fd(),
                work.as_raw_fd(),
                listener.as_raw_fd(),
                launch.as_raw_fd(),
            ],
            cgroup: leaf.as_fd(),
        };
        let child = sys::spawn(&birth).map_err(LaunchError::Spawn)?;
        crash::at(Point::ShimCloned);
        Ok((child, control))
    }

    fn bind(&self, id: JobId) -> io::Result<OwnedFd> {
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&self.socket(id))?)?;
        Ok(fd)
    }

    fn spawn_record(&self, job: &SpecRecord, pid: u32, nonce: Uuid) -> io::Result<SpawnRecord> {
        let request = RequestRecord { owner: job.owner.clone(), id: job.request_id.clone() };
        Ok(SpawnRecord {
            format: FORMAT,
            boot_id: Uuid::from_bytes(self.boot_id),
            shim_pid: pid,
            shim_start_time: host::start_time(pid)?,
            nonce,
            request: Some(request),
        })
    }

    fn launch_message(&self, job: &SpecRecord, nonce: Uuid) -> Launch {
        let spec = &job.spec;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Launch {
            job: *job.id.as_bytes(),
            nonce: *nonce.as_bytes(),
            boot_id: self.boot_id,
            argv: spec.argv.iter().map(|arg| arg.clone().into_bytes()).collect(),
            env: environment(job),
            working_directory: spec.working_directory.clone().into_bytes(),
            uid: job.account.uid,
            gid: job.account.gid,
            groups: job.account.groups.clone(),
            shim_uid: self.shim_account.0,
            shim_gid: self.shim_account.1,
            stdin: spec.stdin,
            limits: EffectiveLimits::of(job).for_shim(),
            rlimits: spec.limits.rlimits.iter().map(rlimit).collect(),
            stop_signal: spec.stop_signal,
            stop_timeout_ms: millis(spec.stop_timeout),
            leftover_grace_ms: millis(self.leftover_grace),
            output_policy: match spec.output_policy {
                spec::OutputPolicy::Discard => OutputPolicy::Discard,
                spec::OutputPolicy::Block => OutputPolicy::Block,
                spec::OutputPolicy::Kill => OutputPolicy::Kill,
            },
        }
    }
}

fn rlimit((rlimit, (soft, hard)): (&crate::model::limits::Rlimit, &(u64, u64))) -> Rlimit {
    Rlimit { resource: rlimit.number(), soft: *soft, hard: *hard }
}

fn write_spec(state: &StateDir, job: &SpecRecord) -> Result<PathBuf, LaunchError> {
    let dir = state
        .create_job(job.id)
        .map_err(|source| LaunchError::CreateState { path: state.job(job.id), source })?;
    crash::at(Point::StateCreated);
    records::save(&dir, records::SPEC, job)
        .map_err(|source| LaunchError::WriteSpec { path: dir.join(records::SPEC), source })?;
    crash::at(Point::SpecWritten);
    Ok(dir)
}

/// Built from nothing: the broker's own environment is no business of a job's.
fn environment(job: &SpecRecord) -> Vec<Vec<u8>> {
    let (id, account) = (job.id.to_string(), &job.account);
    let mut all = std::collections::BTreeMap::from([
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", &account.home),
        ("USER", &account.name),
        ("LOGNAME", &account.name),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
        ("JOB_ID", &id),
    ]);
    all.extend(job.spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    all.into_iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect()
}

fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"launch", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|e: NulError| e.into())
}
