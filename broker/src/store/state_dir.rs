//! [`StateDir`]: where each job's files are, what is removed, what is moved into quarantine.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use job_launch::spares::Spares;
use job_shim::crash::{self, Point};
use job_shim::index::Stream;
use nix::fcntl::Flock;

use crate::model::id::JobId;
use crate::store::durable::{self, replace, replace_durably};
use crate::store::error::OpenError;
use crate::store::index::{Index, Summary};
use crate::store::lock::{is_full, lock};
use crate::store::log::INDEX_NAME;
use crate::store::owner;
use crate::store::records::{self, RequestRecord};

/// An opened state directory. One broker holds it at a time.
#[derive(Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
    epoch: u64,
    /// Directories that wait for a job.
    spares: Option<Spares>,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory where it is missing (0700), locks it, and raises its epoch.
    ///
    /// # Errors
    /// [`OpenError`]; `Held` names the process.
    pub(crate) fn open(root: &Path) -> Result<StateDir, OpenError> {
        let io = |step, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { step, path, source }
        };
        for path in directories(root) {
            // On a full disk there may be no room for one that nothing needs yet.
            if path != quarantine_in(root) || path.exists() {
                make_private(&path).map_err(io("use", &path))?;
            }
        }
        let lock = lock(root)?;
        let path = root.join("epoch");
        let epoch = read_epoch(&path).map_err(io("read", &path))? + 1;
        match replace_durably(root, "epoch", epoch.to_string().as_bytes()) {
            // Whoever opens it next has the same one, which shims take as well; and on a full disk
            // nobody but a broker can stop and remove what has filled it.
            Err(e) if is_full(&e) => tracing::warn!("cannot write {}: {e}", path.display()),
            written => written.map_err(io("write", &path))?,
        }
        // On a full disk jobs make their own, and hear of it.
        let spares = Spares::open(root.join("spare"), prepare);
        let spares =
            spares.inspect_err(|e| tracing::warn!("no directories wait for jobs: {e}")).ok();
        Ok(StateDir { root: root.into(), epoch, spares, _lock: lock })
    }

    /// How often the directory has been opened, but for those times when the disk was full.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The directory of one job.
    pub(crate) fn job(&self, id: JobId) -> PathBuf {
        self.jobs().join(id.to_string())
    }

    /// Makes the directory of a new job.
    ///
    /// # Errors
    /// As mkdir(2).
    pub(crate) fn create_job(&self, id: JobId) -> io::Result<PathBuf> {
        let path = self.job(id);
        if !self.spares.as_ref().is_some_and(|spares| spares.take(&path)) {
            DirBuilder::new().mode(0o700).create(&path)?;
        }
        Ok(path)
    }

    /// Removes jobs and their output; one answer for each. The directories are renamed first, and one
    /// sync makes that durable for all of them: a crash on the way leaves something that is no job, and
    /// is swept at the next start, and what was removed does not come back after a power cut.
    ///
    /// # Errors
    /// As rename(2), fsync(2) and unlink(2). After that of fsync(2) a job may come back.
    pub(crate) fn remove_jobs(&self, ids: &[JobId]) -> Vec<io::Result<()>> {
        let removed_path = |id: &JobId| self.jobs().join(format!("{REMOVED}{id}"));
        let rename = |id: &JobId| fs::rename(self.job(*id), removed_path(id));
        let renamed: Vec<_> = ids.iter().map(rename).collect();
        crash::at(Point::RemovalBegun);
        let is_any = renamed.iter().any(Result::is_ok);
        let synced = if is_any { durable::sync_directory(&self.jobs()) } else { Ok(()) };
        let unlink = |(id, renamed): (&JobId, io::Result<()>)| {
            renamed?;
            remove_tree(&removed_path(id))?;
            match &synced {
                Ok(()) => Ok(()),
                Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
            }
        };
        ids.iter().zip(renamed).map(unlink).collect()
    }

    /// The ids of all jobs on disk, oldest first; beside them the names of what is no job, with the
    /// reasons. Sweeps what a crash left half removed.
    ///
    /// # Errors
    /// As readdir(3).
    pub(crate) fn list(&self) -> io::Result<(Vec<JobId>, BTreeMap<String, String>)> {
        let (mut ids, mut foreign) = (Vec::new(), BTreeMap::new());
        for entry in fs::read_dir(self.jobs())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            match name.parse() {
                Ok(id) => ids.push(id),
                Err(_) if name.starts_with(REMOVED) => {
                    match remove_tree(&self.jobs().join(&name)) {
                        Ok(()) => {}
                        Err(e) if e.kind() == io::ErrorKind::NotFound => {} // by a removal of now
                        Err(e) => _ = foreign.insert(name, format!("it cannot be removed: {e}")),
                    }
                }
                Err(_) => _ = foreign.insert(name, "its name is no job id".into()),
            }
        }
        ids.sort_unstable();
        Ok((ids, foreign))
    }

    /// Moves a job that cannot be read out of the way, whole, with the reason beside its files.
    /// The reason is written first: a crash on the way leaves a job that cannot be read, and is
    /// moved at the next start.
    ///
    /// # Errors
    /// As rename(2); the job stays where it is.
    pub(crate) fn quarantine(
        &self,
        id: JobId,
        reason: &str,
        request: Option<&RequestRecord>,
    ) -> io::Result<()> {
        make_private(&self.quarantine_dir())?;
        let from = self.job(id);
        if let Err(e) = owner::check_job(&from) {
            // Nothing is written into what is another account's, or leads elsewhere.
            tracing::warn!(job = %id, "the job is moved into quarantine without the reason file: {e}");
            return fs::rename(from, self.quarantine_dir().join(id.to_string()));
        }
        let noted = request.map(|request| records::save(&from, records::REQUEST, request));
        if let Some(Err(e)) = noted {
            tracing::warn!(job = %id, "the job's request cannot be written into quarantine: {e}");
        }
        if let Err(e) = replace(&from, REASON, format!("{reason}\n").as_bytes()) {
            tracing::warn!(job = %id, "the reason file of the job in quarantine cannot be written: {e}");
        }
        fs::rename(from, self.quarantine_dir().join(id.to_string()))
    }

    /// Whether the job's directory is removed; false if that cannot be checked.
    pub(crate) fn is_gone(&self, id: JobId) -> bool {
        matches!(self.job(id).try_exists(), Ok(false))
    }

    /// Whether it is in quarantine, or on its way there; also while that cannot be told.
    pub(crate) fn is_quarantined(&self, id: JobId) -> bool {
        let away = self.quarantine_dir().join(id.to_string());
        !self.is_gone(id) || !matches!(away.try_exists(), Ok(false))
    }

    /// What is in quarantine, by name, with the reasons.
    ///
    /// # Errors
    /// As readdir(3).
    pub(crate) fn quarantined(&self) -> io::Result<Vec<(String, String)>> {
        let entries = match fs::read_dir(self.quarantine_dir()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry?;
            let reason = fs::read_to_string(entry.path().join(REASON));
            let reason = reason.unwrap_or_else(|_| "no reason was recorded".into());
            all.push((entry.file_name().to_string_lossy().into_owned(), reason.trim().into()));
        }
        all.sort();
        Ok(all)
    }

    /// Where jobs are that cannot be read.
    pub(crate) fn quarantine_dir(&self) -> PathBuf {
        quarantine_in(&self.root)
    }

    /// Reads the index of finished jobs, see [`Index::open`].
    ///
    /// # Errors
    /// As [`Index::open`].
    pub(crate) fn index(&self, each: impl FnMut(Summary)) -> io::Result<Index> {
        Index::open(&self.root, each)
    }

    /// The directory of all jobs.
    pub(crate) fn jobs(&self) -> PathBuf {
        jobs_in(&self.root)
    }
}

/// The directory of all jobs, of a state directory that another broker may hold.
pub(crate) fn jobs_in(root: &Path) -> PathBuf {
    root.join("jobs")
}

/// All that a broker reads jobs from, of which nothing may be anybody else's.
pub(crate) fn directories(root: &Path) -> [PathBuf; 3] {
    [root.to_owned(), jobs_in(root), quarantine_in(root)]
}

fn quarantine_in(root: &Path) -> PathBuf {
    root.join("quarantine")
}

/// Makes the files that a job that has ended has in its directory, all empty: those of its shim, and the drafts of its
/// records.
fn prepare(spare: &Path) -> io::Result<()> {
    let drafts = [records::SPEC, records::SPAWN, records::FINAL].map(durable::draft_name);
    let [stdout, stderr] = Stream::BOTH.map(Stream::file_name);
    let of_shim = [stdout, stderr, INDEX_NAME, job_shim::record::FILE_NAME].map(str::to_owned);
    let create = |name: String| {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(spare.join(name)).map(drop)
    };
    drafts.into_iter().chain(of_shim).try_for_each(create)
}

const REMOVED: &str = ".removed-";
/// In the directory of a job in quarantine.
const REASON: &str = "quarantine-reason";

#[allow(clippy::disallowed_methods, reason = "the one room that removes jobs; root 0700 all along")]
fn remove_tree(path: &Path) -> io::Result<()> {
    fs::remove_dir_all(path)
}

fn read_epoch(path: &Path) -> io::Result<u64> {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e),
    }
}

/// Creates a directory that only root may enter, or makes an existing one so, and says that in the log.
///
/// # Errors
/// As [`owner::check`], mkdir(2) and chmod(2).
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    if let Some(fault) = owner::check(path)? {
        tracing::warn!(
            "{fault}; the broker has set it, but other accounts may have read or changed the content"
        );
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        let refusal = StateDir::open(dir.path()).unwrap_err().to_string();
        assert!(refusal.contains(&std::process::id().to_string()), "{refusal}");
        drop(first);
        assert_eq!(StateDir::open(dir.path()).unwrap().epoch(), 2);
    }

    #[test]
    fn the_lock_of_one_that_is_gone_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        // No process has it: pids end at 4194304, see proc_sys_kernel(5).
        fs::write(dir.path().join("lock"), "4999999").unwrap();
        let release = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50)); // the time until an execve
            drop(first);
        });
        assert_eq!(StateDir::open(dir.path()).unwrap().epoch(), 2);
        release.join().unwrap();
    }

    #[test]
    fn a_job_that_was_half_removed_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let kept = JobId::fresh();
        state.create_job(kept).unwrap();
        fs::create_dir(dir.path().join("jobs/.removed-x")).unwrap();
        fs::create_dir(dir.path().join("jobs/notes")).unwrap();
        fs::write(dir.path().join("jobs/.removed-y"), "").unwrap();
        let (jobs, foreign) = state.list().unwrap();
        assert_eq!(jobs, [kept]);
        assert!(!dir.path().join("jobs/.removed-x").exists());
        assert_eq!(foreign.keys().collect::<Vec<_>>(), [".removed-y", "notes"]);
    }

    #[test]
    fn of_jobs_that_are_removed_together_each_has_its_own_answer() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let [first, absent, second] = [(); 3].map(|()| JobId::fresh());
        for id in [first, second] {
            fs::write(state.create_job(id).unwrap().join("stdout.log"), "x").unwrap();
        }
        let removed = state.remove_jobs(&[first, absent, second]);
        let kinds: Vec<_> = removed.into_iter().map(|r| r.map_err(|e| e.kind())).collect();
        assert_eq!(kinds, [Ok(()), Err(io::ErrorKind::NotFound), Ok(())]);
        assert_eq!(fs::read_dir(state.jobs()).unwrap().count(), 0);
    }

    #[test]
    fn a_job_in_quarantine_is_whole_and_has_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!(state.quarantined().unwrap(), []);
        let id = JobId::fresh();
        fs::write(state.create_job(id).unwrap().join("stdout.log"), "x").unwrap();
        state.quarantine(id, "spec.json: no", None).unwrap();
        assert_eq!(state.quarantined().unwrap(), [(id.to_string(), "spec.json: no".into())]);
        assert_eq!(state.list().unwrap().0, []);
        let log = state.quarantine_dir().join(id.to_string()).join("stdout.log");
        assert_eq!(fs::read_to_string(log).unwrap(), "x");
    }
}
