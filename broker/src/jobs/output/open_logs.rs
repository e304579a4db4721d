//! A bounded cache of open log files: one set per job, shared by its readers. Never rejects a reader: a set
//! is used for a moment at a time, so an idle set is closed for another.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::model::id::JobId;
use crate::store::log::LogFiles;
use crate::sync::lock;

/// All open sets.
#[derive(Debug)]
pub(crate) struct OpenLogs {
    sets: Mutex<Sets>,
    /// Notified when a set becomes idle or is closed.
    freed: Notify,
    most: usize,
}

#[derive(Debug, Default)]
struct Sets {
    by_job: HashMap<JobId, Set>,
    open: usize,
    /// Counts uses, for the least recently used set.
    clock: u64,
}

/// The set of one job.
#[derive(Debug, Default)]
struct Set {
    readers: usize,
    files: Option<Arc<LogFiles>>,
    used: u64,
}

/// One reader's claim on its job's set. The last claim closes the set.
#[derive(Debug)]
pub(crate) struct Claim {
    logs: Arc<OpenLogs>,
    job: JobId,
    dir: PathBuf,
}

/// The open files, while a read uses them.
#[derive(Debug)]
pub(crate) struct Use {
    files: Arc<LogFiles>,
    /// Dropped after the files.
    _freed: Freed,
}

/// Wakes a task that waits for a set.
#[derive(Debug)]
struct Freed(Arc<OpenLogs>);

impl OpenLogs {
    /// A cache of at most `most` sets, at least one.
    pub(crate) fn new(most: usize) -> Arc<OpenLogs> {
        Arc::new(OpenLogs { sets: Mutex::default(), freed: Notify::new(), most: most.max(1) })
    }

    /// A claim for a reader of the job whose files are in `dir`. Opens no file yet.
    pub(crate) fn claim(self: &Arc<Self>, job: JobId, dir: PathBuf) -> Claim {
        self.lock().by_job.entry(job).or_default().readers += 1;
        Claim { logs: Arc::clone(self), job, dir }
    }

    fn lock(&self) -> MutexGuard<'_, Sets> {
        lock(&self.sets)
    }
}

impl Sets {
    /// Takes the least recently used idle set; the caller closes it without the lock.
    fn idle(&mut self) -> Option<Arc<LogFiles>> {
        let is_idle =
            |set: &&mut Set| set.files.as_ref().is_some_and(|f| Arc::strong_count(f) == 1);
        let oldest = self.by_job.values_mut().filter(is_idle).min_by_key(|set| set.used)?;
        self.open -= 1;
        oldest.files.take()
    }
}

impl Claim {
    /// The files, opened if necessary. Waits while the maximum number of sets is in use.
    ///
    /// # Errors
    /// As open(2).
    pub(crate) async fn files(&self) -> io::Result<Use> {
        loop {
            let freed = self.logs.freed.notified(); // before the check, so that no notification is missed
            match self.try_files()? {
                Some(files) => return Ok(files),
                None => freed.await,
            }
        }
    }

    fn try_files(&self) -> io::Result<Option<Use>> {
        let mut sets = self.logs.lock();
        sets.clock += 1;
        let now = sets.clock;
        let is_full = sets.open >= self.logs.most;
        if let Some(files) = sets.by_job.get_mut(&self.job).and_then(|set| set.touch(now)) {
            return Ok(Some(self.use_of(files)));
        }
        let closed = match is_full.then(|| sets.idle()) {
            Some(None) => return Ok(None),
            idle => idle.flatten(),
        };
        sets.open += 1; // reserves a set while the files are opened without the lock
        drop(sets);
        drop(closed);
        let opened = LogFiles::open(&self.dir).map(Arc::new);
        let mut sets = self.logs.lock();
        let set = sets.by_job.entry(self.job).or_default();
        let had = set.touch(now); // another reader has opened them first
        match (had, opened) {
            (None, Ok(opened)) => {
                (set.files, set.used) = (Some(Arc::clone(&opened)), now);
                Ok(Some(self.use_of(opened)))
            }
            (had, opened) => {
                sets.open -= 1;
                drop(sets);
                self.logs.freed.notify_one();
                Ok(Some(self.use_of(had.map_or(opened, Ok)?)))
            }
        }
    }

    fn use_of(&self, files: Arc<LogFiles>) -> Use {
        Use { files, _freed: Freed(Arc::clone(&self.logs)) }
    }
}

impl Set {
    fn touch(&mut self, now: u64) -> Option<Arc<LogFiles>> {
        self.used = now;
        self.files.clone()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut sets = self.logs.lock();
        let Some(set) = sets.by_job.get_mut(&self.job) else { return };
        set.readers -= 1;
        if set.readers > 0 {
            return;
        }
        let gone = sets.by_job.remove(&self.job).and_then(|set| set.files);
        sets.open -= usize::from(gone.is_some());
        drop(sets);
        drop(gone);
        self.logs.freed.notify_one();
    }
}

impl std::ops::Deref for Use {
    type Target = LogFiles;

    fn deref(&self) -> &LogFiles {
        &self.files
    }
}

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use std::path::Path;

    fn logs_of(jobs: usize) -> (tempfile::TempDir, Vec<(JobId, PathBuf)>) {
        let dir = tempfile::tempdir().unwrap();
        let job = |n: usize| {
            let path = dir.path().join(n.to_string());
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("stdout.log"), n.to_string()).unwrap();
            (JobId::fresh(), path)
        };
        let jobs = (0..jobs).map(job).collect();
        (dir, jobs)
    }

    /// The number of files below `dir` that this process has open.
    fn open_below(dir: &Path) -> usize {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let below = |link: std::fs::DirEntry| std::fs::read_link(link.path()).ok();
        links.flatten().filter_map(below).filter(|path| path.starts_with(dir)).count()
    }

    #[tokio::test]
    async fn all_readers_of_a_job_share_one_set_and_the_last_closes_it() {
        let (dir, jobs) = logs_of(1);
        let logs = OpenLogs::new(8);
        let (job, path) = &jobs[0];
        let claims: Vec<_> = (0..1000).map(|_| logs.claim(*job, path.clone())).collect();
        assert_eq!(open_below(dir.path()), 0);
        for claim in &claims {
            claim.files().await.unwrap();
        }
        assert_eq!(open_below(dir.path()), 1);
        drop(claims);
        assert_eq!(open_below(dir.path()), 0);
        assert!(logs.lock().by_job.is_empty() && logs.lock().open == 0);
    }

    #[tokio::test]
    async fn more_jobs_than_sets_take_turns() {
        let (dir, jobs) = logs_of(20);
        let logs = OpenLogs::new(3);
        let claims: Vec<_> =
            jobs.iter().map(|(job, path)| logs.claim(*job, path.clone())).collect();
        for round in 0..3 {
            for (n, claim) in claims.iter().enumerate() {
                let read = claim.files().await.unwrap();
                let length = n.to_string().len();
                let bytes = read
                    .read(
                        job_shim::index::Stream::Stdout,
                        0,
                        length,
                        crate::store::log::Reading::Blocking,
                    )
                    .unwrap();
                assert_eq!(bytes, n.to_string().into_bytes(), "{round}");
                assert!(open_below(dir.path()) <= 3);
            }
        }
    }

    #[tokio::test]
    async fn whoever_finds_all_sets_in_use_waits_for_one() {
        let (_dir, jobs) = logs_of(2);
        let logs = OpenLogs::new(1);
        let claims: Vec<_> =
            jobs.iter().map(|(job, path)| logs.claim(*job, path.clone())).collect();
        let first = claims[0].files().await.unwrap();
        let mut second = Box::pin(claims[1].files());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn a_set_that_could_not_be_opened_takes_no_place() {
        let (_dir, jobs) = logs_of(1);
        let logs = OpenLogs::new(1);
        let nowhere = logs.claim(JobId::fresh(), "/dev/null/nowhere".into());
        for _ in 0..3 {
            assert!(nowhere.files().await.is_err());
        }
        let (job, path) = &jobs[0];
        assert!(logs.claim(*job, path.clone()).files().await.is_ok());
    }
}
