//! The birth of a shim: its descriptors, its launch message, its clone into the cgroup. Nothing is said to it
//! here.

use std::ffi::{CString, NulError, OsStr};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use job_shim::crash::{self, Point};
use job_shim::isolation::VIEW_FD;
use job_shim::launch::{Launch, OutputPolicy, Rlimit, TIED_NAME};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use uuid::Uuid;

use crate::cgroup::job::JobCgroup;
use crate::errors::{SetupError, SpawnError};
use crate::host::BootId;
use crate::isolation::Isolated;
use crate::model::id::JobId;
use crate::model::{limits, spec};
use crate::program::{DEFAULT_PATH, OpenProgram};
use crate::request::LaunchRequest;
use crate::settings::Settings;
use crate::shim_limits::shim_limits;
use crate::sys;

/// What every shim is born with and none changes.
#[derive(Debug)]
pub(super) struct Spawner {
    program: File,
    null: File,
    run_dir: File,
    boot_id: BootId,
    shim_account: (u32, u32),
    leftover_grace: Duration,
    tied: bool,
}

impl Spawner {
    /// Opens what every shim needs.
    ///
    /// # Errors
    /// [`SetupError`], in words for an operator.
    pub(super) fn open(settings: Settings<'_>) -> Result<Spawner, SetupError> {
        let Settings { program, run_dir, shim_account, leftover_grace, tied, boot_id, .. } =
            settings;
        let open = |path: &Path| {
            let path = path.to_owned();
            move |source| SetupError { step: "open", path, source }
        };
        let null = Path::new("/dev/null");
        let mut read_write = OpenOptions::new();
        read_write.read(true).write(true);
        Ok(Spawner {
            program,
            null: read_write.open(null).map_err(open(null))?,
            run_dir: File::open(run_dir).map_err(open(run_dir))?,
            boot_id,
            shim_account,
            leftover_grace,
            tied,
        })
    }

    /// The uid of the shims.
    pub(super) fn shim_uid(&self) -> u32 {
        self.shim_account.0
    }

    /// The socket of a job's shim. Through the directory's descriptor, since the path may be longer than
    /// the 107 bytes that unix(7) allows.
    pub(super) fn socket(&self, id: JobId) -> PathBuf {
        format!("/proc/self/fd/{}/{id}", self.run_dir.as_raw_fd()).into()
    }

    /// A shim in the cgroup of its job, with a connection to it.
    ///
    /// # Errors
    /// [`SpawnError`].
    pub(super) fn spawn(
        &self,
        dir: &Path,
        cgroup: &JobCgroup,
        request: LaunchRequest<'_>,
        isolated: &Isolated,
        nonce: Uuid,
    ) -> Result<(sys::Child, tokio::net::UnixStream), SpawnError> {
        let LaunchRequest { id, program, .. } = request;
        let prepare = || -> io::Result<_> {
            let (control, theirs) = UnixStream::pair()?;
            control.set_nonblocking(true)?;
            // Before GO: what cannot be listened to is not started.
            let control = tokio::net::UnixStream::from_std(control)?;
            let listener = self.bind(id)?;
            crash::at(Point::SocketBound);
            let launch = memory_file(&self.launch_message(request, isolated, nonce).to_bytes())?;
            let (state, work) = (File::open(dir)?, cgroup.work()?);
            Ok((control, theirs, listener, launch, state, work, cgroup.shim()?))
        };
        let (control, theirs, listener, launch, state, work, leaf) =
            prepare().map_err(SpawnError::Descriptors)?;
        let null = self.null.as_raw_fd();
        let name = c_string(&id.to_string()).map_err(SpawnError::Descriptors)?;
        // In the order of job_shim::launch: CONTROL_FD, STATE_FD, WORK_FD, LISTEN_FD, LAUNCH_FD; PROGRAM_FD and
        // SCRIPT_FD where there are any; VIEW_FD and those that follow it.
        let mut descriptors = vec![
            null,
            null,
            null,
            theirs.as_raw_fd(),
            state.as_raw_fd(),
            work.as_raw_fd(),
            listener.as_raw_fd(),
            launch.as_raw_fd(),
        ];
        descriptors.extend(program.into_iter().flat_map(OpenProgram::descriptors));
        descriptors.resize(VIEW_FD as usize, sys::NO_DESCRIPTOR);
        descriptors.extend(isolated.descriptors());
        let spawn = sys::SpawnRequest {
            program: self.program.as_fd(),
            argv: &[if self.tied { TIED_NAME } else { c"job-shim" }, &name],
            descriptors: &descriptors,
            new_pid_namespace: isolated.new_pid_namespace(),
            cgroup: leaf.as_fd(),
        };
        let child = sys::spawn(&spawn).map_err(SpawnError::Spawn)?;
        crash::at(Point::ShimCloned);
        Ok((child, control))
    }

    fn bind(&self, id: JobId) -> io::Result<OwnedFd> {
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&self.socket(id))?)?;
        Ok(fd)
    }

    fn launch_message(
        &self,
        request: LaunchRequest<'_>,
        isolated: &Isolated,
        nonce: Uuid,
    ) -> Launch {
        let job_dir = isolated.job_dir.as_os_str();
        let LaunchRequest { id, spec, account, program, .. } = request;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Launch {
            job: *id.as_bytes(),
            nonce: *nonce.as_bytes(),
            boot_id: self.boot_id,
            argv: match program {
                None => spec.argv.iter().map(|arg| arg.clone().into_bytes()).collect(),
                Some(program) => program.argv(),
            },
            env: environment(request, job_dir),
            working_directory: match spec.working_directory.as_str() {
                "" => job_dir.as_bytes().to_vec(),
                directory => directory.as_bytes().to_vec(),
            },
            uid: account.uid,
            gid: account.gid,
            groups: account.groups.clone(),
            shim_uid: self.shim_account.0,
            shim_gid: self.shim_account.1,
            stdin: spec.stdin,
            limits: shim_limits(&spec.limits),
            rlimits: spec.limits.rlimits.iter().map(rlimit).collect(),
            stop_signal: spec.stop_signal,
            stop_timeout_ms: millis(spec.stop_timeout),
            leftover_grace_ms: millis(self.leftover_grace),
            output_policy: match spec.output_policy {
                spec::OutputPolicy::Discard => OutputPolicy::Discard,
                spec::OutputPolicy::Block => OutputPolicy::Block,
                spec::OutputPolicy::Kill => OutputPolicy::Kill,
            },
            program: program.map(OpenProgram::kind),
            isolation: isolated.isolation.clone(),
            root: isolated.root,
        }
    }
}

fn rlimit((rlimit, (soft, hard)): (&limits::Rlimit, &(u64, u64))) -> Rlimit {
    Rlimit { resource: rlimit.number(), soft: *soft, hard: *hard }
}

/// Built from nothing: the broker's own environment is no business of a job's.
fn environment(request: LaunchRequest<'_>, job_dir: &OsStr) -> Vec<Vec<u8>> {
    let LaunchRequest { id, spec, account, .. } = request;
    let id = id.to_string();
    let job_dir = job_dir.to_string_lossy();
    let mut all = std::collections::BTreeMap::from([
        ("PATH", DEFAULT_PATH),
        ("HOME", &account.home),
        ("USER", &account.name),
        ("LOGNAME", &account.name),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
        ("JOB_ID", &id),
        ("JOB_DIR", &job_dir),
    ]);
    all.extend(spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
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
