//! From a checked job to its shim, which waits for GO: cgroup, limits, directory, isolation, process. It must not say GO,
//! nor write a record: whoever launches decides what has to be there before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use job_shim::crash::{self, Point};
use job_shim::frame;
use uuid::Uuid;

use crate::cgroup::hierarchy::Hierarchy;
use crate::cgroup::limits::Plan;
use crate::errors::{SetupError, SpawnError};
use crate::handshake::Shim;
use crate::isolation::{Isolated, Isolator};
use crate::job_dirs::{JobDirs, Sizes};
use crate::model::id::JobId;
use crate::model::isolation::IsolationRules;
use crate::model::limits::{LimitKind, MAX};
use crate::request::LaunchRequest;
use crate::settings::Settings;
use crate::spawn::Spawner;

/// What every launch needs and none changes.
#[derive(Debug)]
pub struct Launcher {
    tree: Hierarchy,
    spawner: Spawner,
    isolator: Isolator,
    job_dirs: JobDirs,
}

/// A shim that waits for GO.
#[derive(Debug)]
pub struct Spawned {
    /// Its process, and the connection to it.
    pub shim: Shim,
    /// Its pid.
    pub pid: u32,
    /// What it says in its HELLO.
    pub nonce: Uuid,
}

/// What has been done for a launch, for whoever measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The cgroup is there.
    Cgroup,
    /// Its limits are.
    Limits,
}

impl Launcher {
    /// Opens what every launch needs. Blocks.
    ///
    /// # Errors
    /// [`SetupError`], in words for an operator.
    pub fn open(
        tree: Hierarchy,
        rules: &IsolationRules,
        settings: Settings<'_>,
    ) -> Result<Launcher, SetupError> {
        let path = settings.work_dir.to_owned();
        let job_dirs = JobDirs::open(&path, settings.job_dir_projects)
            .map_err(|source| SetupError { step: "use", path, source })?;
        let spawner = Spawner::open(settings)?;
        Ok(Launcher { tree, spawner, isolator: Isolator::new(rules), job_dirs })
    }

    /// What jobs see of the host.
    pub fn isolator(&self) -> &Isolator {
        &self.isolator
    }

    /// The jobs' own directories.
    pub fn job_dirs(&self) -> &JobDirs {
        &self.job_dirs
    }

    /// Where the jobs' cgroups are.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.tree
    }

    /// The uid of the shims.
    pub fn shim_uid(&self) -> u32 {
        self.spawner.shim_uid()
    }

    /// The socket of a job's shim. Through the directory's descriptor, since the path may be
    /// longer than the 107 bytes that unix(7) allows.
    pub fn socket(&self, id: JobId) -> PathBuf {
        self.spawner.socket(id)
    }

    /// The cgroup with its limits, and a shim in it, which keeps its files in `dir`. Blocks; must be called within a
    /// runtime, which the connection belongs to.
    ///
    /// # Errors
    /// [`SpawnError`], to be followed by [`Launcher::clean`].
    pub fn spawn(
        &self,
        dir: &Path,
        request: LaunchRequest<'_>,
        mut done: impl FnMut(Done),
    ) -> Result<Spawned, SpawnError> {
        let cgroup = self.tree.job(request.id);
        let create = |source| SpawnError::CreateCgroup { path: self.tree.path().into(), source };
        self.tree.ensure().and_then(|()| cgroup.create(self.tree.features())).map_err(create)?;
        done(Done::Cgroup);
        crash::at(Point::CgroupMade);
        let plan = Plan::new(&request.spec.limits, request.disks);
        plan.apply(&self.tree, &cgroup).map_err(SpawnError::Limits)?;
        done(Done::Limits);
        crash::at(Point::LimitsSet);
        let nonce = Uuid::new_v4();
        let isolated = self.isolate(request)?;
        let (child, control) = self.spawner.spawn(dir, &cgroup, request, &isolated, nonce)?;
        let shim = Shim { pidfd: child.pidfd, control, reader: frame::Reader::default() };
        Ok(Spawned { shim, pid: child.pid, nonce })
    }

    /// The job's own directory, and what it sees of the host.
    fn isolate(&self, request: LaunchRequest<'_>) -> Result<Isolated, SpawnError> {
        let LaunchRequest { id, spec, account, root, rules, .. } = request;
        let sizes = Sizes {
            job_dir: spec.limits.get(LimitKind::JobDir).filter(|bytes| *bytes != MAX),
            layer: Some(spec.isolation.root_disk_bytes).filter(|bytes| *bytes > 0),
        };
        let path = || self.job_dirs.path(id);
        let dirs = self
            .job_dirs
            .create(id, account, sizes)
            .map_err(|source| SpawnError::CreateJobDir { path: path(), source })?;
        crash::at(Point::JobDirCreated);
        let isolated = self.isolator.prepare(&spec.isolation, account, dirs, (root, rules));
        isolated.map_err(SpawnError::Isolate)
    }

    /// Returns when what jobs have left has been removed, as far as it can be. Blocks.
    pub fn close(self) {
        self.job_dirs.close();
    }

    /// Ends and removes what is left of a job outside its records. Blocks.
    ///
    /// # Errors
    /// Something is left; see `kill_work` and `remove` of [`crate::cgroup::job::JobCgroup`].
    pub fn clean(&self, id: JobId) -> io::Result<()> {
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
}
