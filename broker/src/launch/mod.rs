//! Bringing a job to life, in the two phases of ARCHITECTURE.md: everything is on disk before GO;
//! after GO it is never run again. Up to GO this is blocking code, for a thread that may; what comes
//! after it takes no thread, since a program may hang in its execve(2).

pub(crate) mod accounts;
pub(crate) mod directory;
pub(crate) mod effective_limits;
mod errors;
pub(crate) mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing {
    pub use crate::launch::program::fuzzing::script;
}
mod handshake;
mod isolation;
mod job_dirs;
pub(crate) mod program;
mod request;
mod spawn;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use job_shim::crash::{self, Point};
use job_shim::frame;
use job_shim::wire::Started;
use uuid::Uuid;

use crate::audit::Ticket;
use crate::cgroup::hierarchy::Hierarchy;
use crate::config;
use crate::host;
use crate::host::BootId;
use crate::launch::effective_limits::EffectiveLimits;
pub(crate) use crate::launch::errors::{LaunchError, SetupError};
pub(crate) use crate::launch::handshake::Shim;
use crate::launch::isolation::{Isolated, Isolator};
use crate::launch::job_dirs::JobDirs;
pub(crate) use crate::launch::request::LaunchRequest;
use crate::launch::spawn::Spawner;
use crate::metrics::labels::Phase;
use crate::model::id::JobId;
use crate::model::isolation::IsolationRules;
use crate::quota::fair_queue::release_if_slow;
use crate::store;
use crate::store::StateDir;
use crate::store::records;
use crate::store::records::{FORMAT, RequestRecord, SpawnRecord, SpecRecord};
use crate::trace::Timeline;

/// What every launch needs and none changes.
#[derive(Debug)]
pub(crate) struct Launcher {
    tree: Hierarchy,
    spawner: Spawner,
    isolator: Isolator,
    job_dirs: JobDirs,
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
        let spawner = Spawner::open(config, boot_id)?;
        let (below, required) = (config.cgroup.as_deref(), &config.require_controllers);
        let tree = Hierarchy::open(below, required, spawner.program())?;
        let path = config.work_dir();
        let job_dirs =
            JobDirs::open(&path).map_err(|source| SetupError::Io { step: "use", path, source })?;
        Ok(Launcher { tree, spawner, isolator: Isolator::new(rules), job_dirs, boot_id })
    }

    /// What jobs see of the host.
    pub(crate) fn isolator(&self) -> &Isolator {
        &self.isolator
    }

    /// Where the jobs' cgroups are.
    pub(crate) fn hierarchy(&self) -> &Hierarchy {
        &self.tree
    }

    /// The uid of the shims.
    pub(crate) fn shim_uid(&self) -> u32 {
        self.spawner.shim_uid()
    }

    /// The socket of a job's shim. Through the directory's descriptor, since the path may be
    /// longer than the 107 bytes that unix(7) allows.
    pub(crate) fn socket(&self, id: JobId) -> PathBuf {
        self.spawner.socket(id)
    }

    /// From nothing to GO: spec, cgroup, shim, `spawn.json`, GO. The audit's entry of the start becomes durable meanwhile, and is before GO. Blocks; must be
    /// called within the runtime of the jobs.
    ///
    /// # Errors
    /// [`LaunchError`]; the program has not run, and nothing is left but the job's files.
    pub(crate) fn begin(
        &self,
        state: &StateDir,
        request: LaunchRequest<'_>,
        recorded: Ticket,
        timeline: &mut Timeline,
    ) -> Result<PendingLaunch, LaunchError> {
        let job = request.job;
        let dir = write_spec(state, job)?;
        timeline.mark(Phase::Spec);
        let shim = self.create_shim(&dir, request, timeline);
        let result = shim.and_then(|(mut shim, pid, nonce)| {
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
    /// Something is left; see `kill_work` and `remove` of [`crate::cgroup::job::JobCgroup`].
    pub(crate) fn clean(&self, id: JobId) -> io::Result<()> {
        // Before the cgroup, whose presence tells a later broker that something is left.
        let _ = fs::remove_file(self.socket(id)); // absent is as good
        crash::at(Point::SocketRemoved);
        let cgroup = self.tree.job(id);
        cgroup.kill_work()?;
        self.job_dirs.remove(id)?;
        crash::at(Point::JobDirRemoved);
        cgroup.remove()?;
        crash::at(Point::CgroupRemoved);
        Ok(())
    }

    /// The cgroup with its limits, and a shim in it.
    fn create_shim(
        &self,
        dir: &Path,
        request: LaunchRequest<'_>,
        timeline: &mut Timeline,
    ) -> Result<(Shim, u32, Uuid), LaunchError> {
        let job = request.job;
        let cgroup = self.tree.job(job.id);
        let create = |source| LaunchError::CreateCgroup { path: self.tree.path().into(), source };
        self.tree.ensure().and_then(|()| cgroup.create(self.tree.features())).map_err(create)?;
        timeline.mark(Phase::Cgroup);
        crash::at(Point::CgroupMade);
        EffectiveLimits::of(job).plan().apply(&self.tree, &cgroup).map_err(LaunchError::Limits)?;
        timeline.mark(Phase::Limits);
        crash::at(Point::LimitsSet);
        let nonce = Uuid::new_v4();
        let isolated = self.isolate(request)?;
        let (child, control) = self.spawner.spawn(dir, &cgroup, request, &isolated, nonce)?;
        let shim = Shim { pidfd: child.pidfd, control, reader: frame::Reader::default() };
        Ok((shim, child.pid, nonce))
    }

    /// The job's own directory, and what it sees of the host.
    fn isolate(&self, request: LaunchRequest<'_>) -> Result<Isolated, LaunchError> {
        let LaunchRequest { job: SpecRecord { id, spec, account, .. }, rules, .. } = request;
        let path = self.job_dirs.path(*id);
        let job_dir = self
            .job_dirs
            .create(*id, account)
            .map_err(|source| LaunchError::CreateJobDir { path: path.clone(), source })?;
        crash::at(Point::JobDirCreated);
        let isolated = self.isolator.prepare(&spec.isolation, account, (path, job_dir), rules);
        isolated.map_err(LaunchError::Isolate)
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
        let spawned = self.spawn_record(job, pid, nonce).map_err(LaunchError::Spawn)?;
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
