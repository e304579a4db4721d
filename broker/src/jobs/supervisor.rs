//! [`Supervisor`]: what can be done with jobs, each by somebody who may.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use job_shim::wire::InputAck;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::auth::{Authorized, Caller};
use crate::config;
use crate::host;
use crate::jobs::commands::input;
use crate::jobs::commands::input::InputError;
use crate::jobs::commands::start::{Core, Registered, started};
use crate::jobs::errors::{DeleteError, FindError, StartError, SupervisorError};
use crate::jobs::history::archive;
use crate::jobs::history::retention::LiveOutput;
use crate::jobs::job::Job;
use crate::jobs::output::{OutputError, OutputReader, Range, Readers};
use crate::jobs::recovery;
use crate::jobs::scope;
use crate::jobs::shared::calls::{Busy, Call, Calls, Kind};
use crate::jobs::shared::capacity;
use crate::jobs::shared::{Ground, NotKnown};
use crate::journal::AUDIT;
use crate::launch::accounts;
use crate::launch::accounts::Pool;
use crate::launch::{Launcher, SetupError};
use crate::model::id::JobId;
use crate::model::limits::LimitTables;
use crate::model::request::Request;
use crate::model::spec::{Defaults, JobSpec, Refusal, Wish};
use crate::model::state::State;
use crate::quota::descriptors::Shares;
use crate::store::StateDir;
use crate::store::log;
use crate::store::records;
use crate::store::records::SpecRecord;

/// Holds a state directory and the jobs in it. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Supervisor {
    pub(crate) core: Arc<Core>,
}

/// A directory among the jobs that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its name.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// How far to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The exit status is known.
    Exit,
    /// Its output is whole and nothing is left of it, but for what the kernel cannot kill yet.
    End,
}

impl Supervisor {
    /// Opens the state directory and takes over the jobs in it. Those that live are known when this
    /// answers, and their shims are reached in the background; so are those that are over, and
    /// whoever asks for one, for a list or for a start waits until they are. Must be called within
    /// a tokio runtime, which has to stay alive.
    ///
    /// # Errors
    /// [`SupervisorError`], in words for an operator.
    pub async fn open(
        config: config::Jobs,
        limits: LimitTables,
        retention: config::Retention,
    ) -> Result<Supervisor, SupervisorError> {
        let boot_id = host::boot_id().map_err(SupervisorError::Host)?;
        let state = StateDir::open(&config.state_dir)?;
        let launcher = Launcher::open(&config, boot_id)?;
        let pool = Pool::new(config.pool, launcher.shim_uid());
        let max_running = capacity::max_running(config.max_running);
        tracing::debug!(max_running, "jobs that may run at a time");
        let ground = Arc::new(Ground::new(state, launcher, boot_id, pool));
        let nobody =
            accounts::resolve("nobody", ground.launcher.shim_uid()).map_err(SetupError::from)?;
        recovery::adopt_live(&ground).map_err(SupervisorError::Adopt)?;
        adopt_rest(&ground);
        let core = Core {
            ground,
            config,
            limits: watch::Sender::new(Arc::new(limits)),
            retention: watch::Sender::new(Arc::new(retention)),
            live_output: LiveOutput::default(),
            readers: Readers::new(Shares::of_this_process()),
            nobody,
            max_running,
            calls: Calls::new(),
            runtime: Handle::current(),
        };
        let core = Arc::new(core);
        tokio::spawn(Arc::clone(&core).prune());
        tokio::spawn(scope::attend(Arc::clone(&core)));
        Ok(Supervisor { core })
    }

    /// Checks a wish against the rules and fills in the configured defaults.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, wish: Wish) -> Result<JobSpec, Refusal> {
        let config = &self.core.config;
        let defaults = Defaults {
            run_as: config.run_as.clone(),
            stop_timeout: config.stop_timeout(),
            limits: self.limits().as_ref().clone(),
        };
        JobSpec::check(wish, &defaults)
    }

    /// The job of a request that was made before, once its program runs. `None` for a new one, and for one
    /// whose job is of a broker that recorded no more than the checked spec: [`Supervisor::start`]
    /// compares that.
    ///
    /// # Errors
    /// [`StartError`]: the id is another request's, or the first call failed.
    pub async fn repeated(
        &self,
        caller: &Caller,
        request: &Request,
    ) -> Result<Option<Arc<Job>>, StartError> {
        if request.id.is_empty() {
            return Ok(None);
        }
        self.core.ground.all_known().await?;
        self.core.repeated(caller, request, None).await
    }

    /// A place for a call, kept for as long as the [`Call`] is.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn admit(&self, caller: &Caller, kind: Kind) -> Result<Call, Busy> {
        self.core.calls.admit(caller, kind)
    }

    /// The same call, now that it is known which job it changes.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn admit_change(&self, call: Call, job: &Authorized<Arc<Job>>) -> Result<Call, Busy> {
        self.core.calls.change(call, job.caller(), job.subject().id())
    }

    /// The same call, now that it is known to whose standard input it writes.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn admit_writer(&self, call: Call, job: &Authorized<Arc<Job>>) -> Result<Call, Busy> {
        self.core.calls.write(call, job.caller(), job.subject().id())
    }

    /// Runs a job, and answers when its program runs. With a request id (not empty) the call may
    /// be repeated: one job, the same answer.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        &self,
        wish: Authorized<JobSpec>,
        request: &Request,
        call: Call,
    ) -> Result<Arc<Job>, StartError> {
        let (caller, mut spec) = wish.into_parts();
        // Whether it is a repetition, which names and which uids are free: all jobs have a say.
        self.core.ground.all_known().await?;
        loop {
            // First: a repeated call needs nothing that a new job would, such as a uid of the pool, or
            // room on the disk.
            if let Some(job) = self.core.repeated(&caller, request, Some(&spec)).await? {
                return Ok(job);
            }
            let owner = caller.identity();
            self.core.room(owner).await?;
            self.core.name_told(&caller, &spec.name).await;
            let ready = self.core.ready(owner, &spec).await?;
            // Before it is registered: whoever hangs up while it waits has started nothing.
            let turn = self.core.ground.threads.launches.take(owner).await;
            match self.core.register(&caller, spec, ready, request)? {
                Registered::Known(own) => spec = *own, // another call of the same request was faster
                Registered::New(job, record) => {
                    // Detached: a caller that hangs up does not leave half a job.
                    self.core.bring_up(&job, record, turn, call);
                    started(&job).await?;
                    return Ok(job);
                }
            }
        }
    }

    /// The job of this id, if it exists for the caller.
    ///
    /// # Errors
    /// [`FindError`].
    pub async fn find(
        &self,
        caller: &Caller,
        id: JobId,
    ) -> Result<Option<Authorized<Arc<Job>>>, FindError> {
        let mut found = self.core.table().find(id);
        if found.is_none() {
            self.core.ground.all_known().await?;
            found = self.core.table().find(id);
        }
        let Some((entry, _)) = found.filter(|(_, owner)| caller.sees(owner)) else {
            return Ok(None);
        };
        let job = self.core.load(caller, entry).await?;
        Ok(job.and_then(|job| caller.touch(&job.owner().clone(), job).ok()))
    }

    /// All arguments, and all names of the environment, where memory has only the beginning of them and
    /// they can be read.
    pub async fn whole_spec(&self, job: &Authorized<Arc<Job>>) -> Option<JobSpec> {
        let (dir, id) = (self.core.ground.state.job(job.subject().id()), job.subject().id());
        job.subject().record().spec.whole?;
        let read = move || records::load::<SpecRecord>(&dir, records::SPEC);
        match tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(record) => record.map(|record| record.spec),
            Err(e) => {
                tracing::warn!(job = %id, "shown with the beginning of its arguments: {e}");
                None
            }
        }
    }

    /// Answers when the job has come that far, or at the timeout; whether it has.
    pub async fn wait(
        &self,
        job: &Authorized<Arc<Job>>,
        until: Until,
        within: Option<Duration>,
    ) -> bool {
        let mut snapshot = job.subject().watch_snapshot();
        let mut settled = job.subject().watch_settled();
        let arrived = async {
            let _ = snapshot
                .wait_for(|known| {
                    known.state.is_over() || (until == Until::Exit && known.exited.is_some())
                })
                .await;
            if until == Until::End {
                let _ = settled.wait_for(|settled| *settled).await; // and nothing is left, if that can be
            }
        };
        match within {
            Some(time) => tokio::time::timeout(time, arrived).await.is_ok(),
            None => {
                arrived.await;
                true
            }
        }
    }

    /// A reader of the job's output.
    ///
    /// # Errors
    /// [`OutputError`].
    pub async fn output(
        &self,
        job: &Authorized<Arc<Job>>,
        range: Range,
    ) -> Result<OutputReader, OutputError> {
        let (caller, job) = (job.caller(), Arc::clone(job.subject()));
        // There are no files before.
        let _ = job.watch_snapshot().wait_for(|known| known.state != State::Starting).await;
        self.refresh(&job);
        let dir = self.core.ground.state.job(job.id());
        OutputReader::open(&self.core.readers, caller, job, dir, range).await
    }

    /// What of the job's standard input has been accepted.
    ///
    /// # Errors
    /// `NoStdin`.
    pub async fn accepted_input(&self, job: &Authorized<Arc<Job>>) -> Result<InputAck, InputError> {
        job.subject().contacted().await;
        input::accepted(job.subject())
    }

    /// Passes input on; answers once it is in the job's pipe.
    ///
    /// # Errors
    /// [`InputError`].
    pub async fn write_input(
        &self,
        job: &Authorized<Arc<Job>>,
        offset: u64,
        data: &[u8],
        end: bool,
    ) -> Result<InputAck, InputError> {
        input::write(job.subject(), offset, data, end).await
    }

    /// Removes an ended job and its output.
    ///
    /// # Errors
    /// [`DeleteError`].
    pub async fn delete(&self, job: &Authorized<Arc<Job>>) -> Result<(), DeleteError> {
        let (caller, job) = (job.caller(), job.subject());
        job.contacted().await; // one that ended while no broker was there is not known to have yet
        if !job.snapshot().state.is_over() {
            return Err(DeleteError::Running);
        }
        let by = caller.identity();
        tracing::info!(target: AUDIT, job = %job.id(), owner = %job.owner(), %by, "delete");
        // The last record is being written: a moment, and not longer than the disk takes.
        let _ = job.watch_settled().wait_for(|settled| *settled).await;
        let (ground, id) = (Arc::clone(&self.core.ground), job.id());
        let reads = &self.core.ground.threads.reads;
        let remove = move || archive::remove(&ground, &[id]);
        let removed = reads.run(caller.identity(), &self.core.runtime, remove).await;
        for (_, removed) in removed.map_err(io::Error::other)? {
            removed?; // if it was there no more, somebody else was faster
        }
        Ok(())
    }

    /// Brings what is known of a live job's output up to date, from its files.
    pub fn refresh(&self, job: &Job) {
        if job.snapshot().state.is_over() {
            return;
        }
        let dir = self.core.ground.state.job(job.id());
        if log::entries(&dir) <= job.progress().entries {
            return; // one stat(2) for each of a thousand idle jobs
        }
        match log::measure(&dir) {
            Ok(seen) => job.raise_progress(seen),
            Err(e) => tracing::debug!(job = %job.id(), "cannot measure its output: {e}"),
        }
    }

    /// Live jobs and all jobs.
    pub fn count(&self) -> (usize, usize) {
        self.core.table().count()
    }

    /// What could not be read, in quarantine and out of it. Blocks for a moment.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        let state = &self.core.ground.state;
        let mut all = self.core.ground.left().clone();
        match state.quarantined() {
            Ok(away) => all.extend(away),
            Err(e) => _ = all.insert(state.quarantine_dir().display().to_string(), e.to_string()),
        }
        all.into_iter().map(|(id, reason)| Quarantined { id, reason }).collect()
    }

    /// What jobs may use.
    pub fn limits(&self) -> Arc<LimitTables> {
        self.core.limits()
    }

    /// What jobs that start, or are given other limits, may use from now on.
    pub fn set_limits(&self, limits: LimitTables) {
        self.core.limits.send_replace(Arc::new(limits));
    }

    /// What is kept of jobs that are over, from now on.
    pub fn set_retention(&self, retention: config::Retention) {
        self.core.retention.send_replace(Arc::new(retention));
    }

    /// Changes when there is another number of live jobs, or of jobs.
    pub fn watch_count(&self) -> watch::Receiver<()> {
        self.core.ground.counted.subscribe()
    }

    /// What jobs get by default.
    pub fn config(&self) -> &config::Jobs {
        &self.core.config
    }

    /// The cgroup of the jobs and its controllers.
    pub fn cgroup(&self) -> &crate::cgroup::hierarchy::Tree {
        self.core.ground.launcher.tree()
    }

    /// How often the state directory has been opened.
    pub fn epoch(&self) -> u64 {
        self.core.ground.state.epoch()
    }
}

/// On a thread that may block. Whatever becomes of it, nobody waits for ever.
fn adopt_rest(ground: &Arc<Ground>) {
    let (resting, ground) = (Arc::clone(ground), Arc::clone(ground));
    let rest = tokio::task::spawn_blocking(move || recovery::adopt_rest(&resting));
    tokio::spawn(async move {
        if let Err(panic) = rest.await {
            let broken_off = || Some(Err(NotKnown(panic.to_string())));
            ground.known.send_if_modified(|known| {
                let is_open = known.is_none();
                *known = known.take().or_else(broken_off);
                is_open
            });
        }
    });
}
