//! Bringing a job to life, in the two phases of ARCHITECTURE.md: everything is on disk before GO;
//! after GO it is never run again. Up to GO this is blocking code, for a thread that may; what comes
//! after it takes no thread, since a program may hang in its execve(2).

pub(crate) mod effective_limits;
mod errors;
pub(crate) mod failure;
pub(crate) mod root;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use job_launch::accounts;
use job_launch::errors::{SetupError as FileError, SpawnError};
use job_launch::handshake::Shim;
use job_launch::isolation::Isolator;
use job_launch::job_dirs::JobDirs;
use job_launch::launcher::{self, Done, Spawned};
use job_launch::program::OpenProgram;
use job_launch::request::LaunchRequest;
use job_launch::settings::Settings;
use job_shim::crash::{self, Point};
use job_shim::wire::Started;
use uuid::Uuid;

use crate::audit::Ticket;
use crate::config;
pub(crate) use crate::launch::errors::{LaunchError, SetupError};
use crate::metrics::labels::Phase;
use crate::model::id::JobId;
use crate::model::isolation::{IsolationRules, Profile};
use crate::quota::fair_queue::release_if_slow;
use crate::store;
use crate::store::StateDir;
use crate::store::records;
use crate::store::records::{FORMAT, RequestRecord, SpawnRecord, SpecRecord};
use crate::systemd::scope::Scope;
use crate::trace::Timeline;
use job_launch::cgroup::hierarchy::Hierarchy;
use job_launch::host;
use job_launch::host::BootId;

/// The profiles that a broker would lack on this host, with the reasons. Blocks for a moment, and makes nothing that stays.
pub(crate) fn missing_profiles(rules: &IsolationRules) -> Vec<(Profile, String)> {
    Isolator::new(rules).missing()
}

/// Why the size of the jobs' directories could not be limited in this one.
pub(crate) fn why_unlimited(directory: &Path, range: (u32, u32)) -> Option<String> {
    job_launch::job_dirs::why_unlimited(directory, range)
}

/// What every launch needs and none changes.
#[derive(Debug)]
pub(crate) struct Launcher {
    inner: launcher::Launcher,
    /// Why no root's files can be its job's, if they cannot, as of the start.
    lacks_owners: Option<String>,
    scope: Option<Arc<Scope>>,
    boot_id: BootId,
}

/// A job that has been told GO: its program runs, or will, or cannot.
#[derive(Debug)]
#[must_use = "its end has to be seen to: `started`, and `abandon` if that fails"]
pub(crate) struct PendingLaunch {
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

impl PendingLaunch {
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
    pub(crate) fn open(
        config: &config::Jobs,
        rules: &IsolationRules,
        boot_id: BootId,
    ) -> Result<Launcher, SetupError> {
        let fault = |step, path: &Path| {
            let path = path.to_owned();
            move |source| FileError { step, path, source }
        };
        let run_dir = &config.run_dir;
        store::make_private(run_dir).map_err(fault("create", run_dir))?;
        let program = File::open(&config.shim).map_err(fault("open", &config.shim))?;
        let shim_account = accounts::shim_account(&config.shim_user)?;
        let (tree, scope) = root::open(config, &program)?;
        let settings = Settings {
            program,
            run_dir,
            work_dir: &config.work_dir(),
            job_dir_projects: config.job_dir_projects,
            shim_account,
            leftover_grace: config.leftover_grace(),
            tied: false, // jobs outlive the broker
            boot_id,
        };
        let work_dir = settings.work_dir;
        let inner = launcher::Launcher::open(tree, rules, settings)?;
        let opened = File::open(work_dir).map_err(fault("open", work_dir))?;
        let lacks_owners = inner.isolator().lacks_owners(&opened).map(|e| e.to_string());
        Ok(Launcher { inner, lacks_owners, scope, boot_id })
    }

    /// What some jobs want and this host lacks, with the reasons; or `None` if it is there. Images are on the disk of the
    /// jobs' directories, unless the operator has moved one of them.
    pub(crate) fn abilities(&self) -> [(&'static str, Option<String>); 2] {
        let owners = self.lacks_owners.as_ref();
        let owners = owners.map(|why| format!("jobs do not own what is root's in an image: {why}"));
        let unlimited = self.job_dirs().unlimited();
        let unlimited = unlimited.map(|why| format!("--job-dir-size and --root-size: {why}"));
        [("idmapped roots", owners), ("project quotas", unlimited)]
    }

    /// What jobs see of the host.
    pub(crate) fn isolator(&self) -> &Isolator {
        self.inner.isolator()
    }

    /// The jobs' own directories.
    pub(crate) fn job_dirs(&self) -> &JobDirs {
        self.inner.job_dirs()
    }

    /// Where the jobs' cgroups are.
    pub(crate) fn hierarchy(&self) -> &Hierarchy {
        self.inner.hierarchy()
    }

    /// The systemd scope, if systemd made the cgroup of the jobs.
    pub(crate) fn scope(&self) -> Option<&Scope> {
        self.scope.as_deref()
    }

    /// The uid of the shims.
    pub(crate) fn shim_uid(&self) -> u32 {
        self.inner.shim_uid()
    }

    /// The socket of a job's shim. Through the directory's descriptor, since the path may be
    /// longer than the 107 bytes that unix(7) allows.
    pub(crate) fn socket(&self, id: JobId) -> PathBuf {
        self.inner.socket(id)
    }

    /// From nothing to GO: spec, cgroup, shim, `spawn.json`, GO. The audit's entry of the start becomes durable meanwhile, and is before GO. Blocks; must be
    /// called within the runtime of the jobs.
    ///
    /// # Errors
    /// [`LaunchError`]; the program has not run, and nothing is left but the job's files.
    pub(crate) fn begin(
        &self,
        state: &StateDir,
        job: &SpecRecord,
        (program, root, rules): (Option<&OpenProgram>, Option<&Arc<OwnedFd>>, &IsolationRules),
        recorded: Ticket,
        timeline: &mut Timeline,
    ) -> Result<PendingLaunch, LaunchError> {
        let dir = write_spec(state, job)?;
        timeline.mark(Phase::Spec);
        let SpecRecord { id, spec, account, disks, .. } = job;
        let request = LaunchRequest { id: *id, spec, account, disks, program, root, rules };
        let done = |done| timeline.mark(phase(done));
        let spawned = self.inner.spawn(&dir, request, done).map_err(LaunchError::from);
        let result = spawned.and_then(|Spawned { mut shim, pid, nonce }| {
            match self.commit(&dir, job, &mut shim, (pid, nonce), recorded, timeline) {
                Ok(spawned) => Ok(PendingLaunch { shim, id: job.id, nonce, spawned }),
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
        pending: &mut PendingLaunch,
        turn: impl Sized,
        timeline: &mut Timeline,
    ) -> Result<Started, LaunchError> {
        release_if_slow(turn, pending.shim.expect_hello(pending.id, pending.nonce)).await?;
        timeline.mark(Phase::Go);
        let started = pending.shim.expect_started().await?;
        timeline.mark(Phase::Started);
        crash::at(Point::StartedHeard);
        Ok(started)
    }

    /// Ends what has not started, and removes what is left of it but its files. Blocks.
    pub(crate) fn abandon(&self, pending: &PendingLaunch) {
        pending.shim.end();
        self.clean_failed(pending.id);
    }

    fn clean_failed(&self, id: JobId) {
        if let Err(e) = self.clean(id) {
            tracing::warn!(job = %id, "the cgroup of the failed start cannot be removed yet, the broker retries: {e}");
        }
        crash::at(Point::StartFailed);
    }

    /// Ends and removes what is left of a job outside its directory. Blocks.
    ///
    /// # Errors
    /// Something is left; see [`launcher::Launcher::clean`].
    pub(crate) fn clean(&self, id: JobId) -> io::Result<()> {
        self.inner.clean(id)
    }

    /// From `spawn.json` to GO. While the disk makes the spec durable, the shim sets itself up.
    fn commit(
        &self,
        dir: &Path,
        job: &SpecRecord,
        shim: &mut Shim,
        (pid, nonce): (u32, Uuid),
        recorded: Ticket,
        timeline: &mut Timeline,
    ) -> Result<SpawnRecord, LaunchError> {
        let spawned = self.spawn_record(job, pid, nonce).map_err(SpawnError::Spawn)?;
        records::save(dir, records::SPAWN, &spawned)
            .map_err(|source| LaunchError::WriteSpawn { path: dir.join(records::SPAWN), source })?;
        timeline.mark(Phase::Shim);
        crash::at(Point::SpawnWritten);
        // After this not even a crash of the host makes a repeated request run twice.
        store::make_durable(dir, records::SPEC)
            .map_err(|source| LaunchError::WriteSpec { path: dir.join(records::SPEC), source })?;
        recorded.wait().map_err(LaunchError::Unrecorded)?;
        timeline.mark(Phase::Sync);
        crash::at(Point::SpecDurable);
        shim.go()?;
        crash::at(Point::GoSaid);
        Ok(spawned)
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
}

fn phase(done: Done) -> Phase {
    match done {
        Done::Cgroup => Phase::Cgroup,
        Done::Limits => Phase::Limits,
    }
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
