//! Jobs, without the network: [`Supervisor`] starts, stops, waits for, lists and follows them.

mod adopt;
mod attend;
mod contact;
pub mod input;
pub mod job;
pub mod output;
mod recover;
pub mod spec;
pub mod state;
mod table;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use job_shim::frame;
use job_shim::wire::{InputAck, Signal, Source, Stop, ToShim};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::authorize::{Authorized, Caller, Role};
use crate::config;
use crate::host;
use crate::id::JobId;
use crate::identity::Identity;
use crate::launch::accounts::{self, AccountError, Lease, Pool};
use crate::launch::{Launched, Launcher, SetupError};
use crate::store::log::LogFiles;
use crate::store::records::{Account, FORMAT, SpecRecord};
use crate::store::{OpenError, StateDir};
use attend::Ground;
use input::InputError;
use job::{Job, Link, StopAsked, Unreachable};
use output::{OutputError, OutputReader, Range};
use spec::{Defaults, JobSpec, Refusal, Wish};
use state::{Event, Failure, Snapshot};
pub use table::{Filter, Page};
use table::{Known, Table};

/// Holds a state directory and the jobs in it. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Supervisor {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    ground: Arc<Ground>,
    config: config::Jobs,
    pool: Arc<Pool>,
    nobody: Account,
    table: Mutex<Table>,
    quarantined: Vec<Quarantined>,
    /// Where attendants live, whoever calls.
    runtime: Handle,
}

/// A directory among the jobs that could not be read and was left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its name.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] OpenError),
    /// Cgroups, shim, accounts.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The jobs of an earlier broker.
    #[error("cannot read the jobs on disk: {0}")]
    Adopt(io::Error),
    /// `/proc`.
    #[error("cannot read this host's boot id: {0}")]
    Host(io::Error),
}

/// Why a job was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another request had this id.
    #[error("request id {request_id:?} belongs to job {job}, which was another request")]
    RequestReused {
        /// As sent.
        request_id: String,
        /// Whose it is.
        job: JobId,
    },
    /// A live job of the same owner has this name.
    #[error("the name {name:?} belongs to job {job}, which has not ended")]
    NameTaken {
        /// As sent.
        name: String,
        /// Whose it is.
        job: JobId,
    },
    /// Whom it should run as.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// It is known as a job, and its program never ran.
    #[error("{failure}")]
    Failed {
        /// Which job tells of it.
        job: JobId,
        /// What did not work.
        failure: Failure,
    },
}

/// Why a job was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// Stop it first.
    #[error("the job has not ended; stop it first")]
    Running,
    /// The file system.
    #[error("cannot remove its files: {0}")]
    Io(#[from] io::Error),
}

/// A job that has ended takes no signal.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// Too late.
    #[error("the job has ended")]
    Over,
    /// Try again in a moment.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

/// How far to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The exit status is known.
    Exit,
    /// Nothing is left of it and its output is whole.
    End,
}

impl Supervisor {
    /// Opens the state directory and takes over the jobs in it: they are listed at once, and
    /// their shims are reached in the background. Must be called within a tokio runtime, which
    /// has to stay alive.
    ///
    /// # Errors
    /// [`SupervisorError`], in words for an operator.
    pub async fn open(config: config::Jobs) -> Result<Supervisor, SupervisorError> {
        let boot_id = host::boot_id().map_err(SupervisorError::Host)?;
        let state = StateDir::open(&config.state_dir)?;
        let launcher = Launcher::open(&config, boot_id)?;
        let ground = Arc::new(Ground { state, launcher, boot_id });
        let pool = Pool::new(config.pool);
        let (table, quarantined) = adopt::adopt(&ground, &pool).map_err(SupervisorError::Adopt)?;
        let nobody =
            accounts::resolve("nobody", ground.launcher.shim_uid()).map_err(SetupError::from)?;
        let core = Core {
            ground,
            config,
            pool,
            nobody,
            table: Mutex::new(table),
            quarantined,
            runtime: Handle::current(),
        };
        Ok(Supervisor { core: Arc::new(core) })
    }

    /// Checks a wish against the rules and fills in the configured defaults.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, wish: Wish) -> Result<JobSpec, Refusal> {
        let config = &self.core.config;
        let defaults = Defaults {
            run_as: config.run_as.clone(),
            output_limit: config.output_limit_bytes,
            stop_timeout: config.stop_timeout(),
        };
        JobSpec::check(wish, &defaults)
    }

    /// Runs a job, and answers when its program runs. With a request id (not empty) the call may
    /// be repeated: one job, the same answer.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        &self,
        wish: Authorized<JobSpec>,
        request_id: &str,
    ) -> Result<Arc<Job>, StartError> {
        let (caller, spec) = wish.into_parts();
        let digest = digest(&spec);
        loop {
            let account = self.core.account(&spec.run_as).await?;
            let registered = self.register(&caller, spec.clone(), account, request_id, &digest)?;
            let (job, is_new) = match registered {
                Registered::Known(job) => (job, false),
                Registered::New(job, record) => {
                    let core = Arc::clone(&self.core);
                    let launching = Arc::clone(&job);
                    // Detached: a caller that hangs up does not leave half a job.
                    let bring_up = move || core.bring_up(&launching, &record);
                    self.core.runtime.spawn_blocking(bring_up);
                    (job, true)
                }
            };
            let mut snapshot = job.watch_snapshot();
            let known = snapshot.wait_for(Snapshot::is_past_start).await;
            match known.ok().and_then(|known| known.start_failure()) {
                // An earlier broker's, found out just now: it never ran, so this one may.
                Some(_) if !is_new && job.may_be_asked_again() => {}
                Some(failure) => return Err(StartError::Failed { job: job.id(), failure }),
                None => return Ok(job),
            }
        }
    }

    /// The job of this id, if it exists for the caller.
    pub fn find(&self, caller: &Caller, id: JobId) -> Option<Authorized<Arc<Job>>> {
        let job = self.core.table().job(id)?;
        caller.touch(&job.owner().clone(), job).ok()
    }

    /// A page of the jobs that exist for the caller, newest first.
    pub fn list(
        &self,
        caller: &Caller,
        filter: &Filter,
        page: Page,
    ) -> (Vec<Arc<Job>>, Option<JobId>) {
        self.core.table().page(page, |job| caller.sees(job.owner()) && filter.admits(job))
    }

    /// Answers when the job has come that far, or at the timeout; whether it has.
    pub async fn wait(
        &self,
        job: &Authorized<Arc<Job>>,
        until: Until,
        within: Option<Duration>,
    ) -> bool {
        let mut snapshot = job.subject().watch_snapshot();
        let arrived = snapshot.wait_for(|known| {
            known.state.is_over() || (until == Until::Exit && known.exited.is_some())
        });
        match within {
            Some(time) => tokio::time::timeout(time, arrived).await.is_ok(),
            None => arrived.await.is_ok(),
        }
    }

    /// Asks all processes of the job to end, and kills them after the grace period (absent: the
    /// job's own). Answers at once; nothing is done to a job that has ended.
    pub fn stop(&self, job: &Authorized<Arc<Job>>, grace: Option<Duration>) {
        let (caller, job) = (job.caller(), job.subject());
        if job.snapshot().state.is_over() {
            return;
        }
        let grace = grace.unwrap_or(job.record().spec.stop_timeout);
        let by = caller.identity().to_string();
        let source = source(caller.role());
        tracing::info!(job = %job.id(), by, "stop asked");
        job.ask_stop(StopAsked { source, by: by.clone() });
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let told = job.tell(&ToShim::Stop(Stop { grace_ms, source, by }));
        let core = Arc::clone(&self.core);
        let job = Arc::clone(job);
        self.core.runtime.spawn(async move { core.enforce_stop(job, grace, told.is_ok()).await });
    }

    /// One signal to the process group of the main process.
    ///
    /// # Errors
    /// [`SignalError`].
    pub fn signal(&self, job: &Authorized<Arc<Job>>, number: i32) -> Result<(), SignalError> {
        let (caller, job) = (job.caller(), job.subject());
        let known = job.snapshot();
        if known.state.is_over() || known.exited.is_some() {
            return Err(SignalError::Over);
        }
        let (source, by) = (source(caller.role()), caller.identity().to_string());
        tracing::info!(job = %job.id(), by, number, "signal");
        Ok(job.tell(&ToShim::Signal(Signal { number, source, by }))?)
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
        let job = Arc::clone(job.subject());
        self.refresh(&job);
        let dir = self.core.ground.state.job(job.id());
        let from_start = range.is_from_start();
        let open = move || OutputReader::open(job, LogFiles::open(&dir)?, &range);
        if from_start {
            return open();
        }
        // Looking for a place may read much of the log, and wait for the disk.
        tokio::task::spawn_blocking(open).await.map_err(io::Error::other)?
    }

    /// What of the job's standard input has been accepted.
    ///
    /// # Errors
    /// `NoStdin`.
    pub fn accepted_input(&self, job: &Authorized<Arc<Job>>) -> Result<InputAck, InputError> {
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
        if !job.snapshot().state.is_over() {
            return Err(DeleteError::Running);
        }
        let by = caller.identity();
        tracing::info!(job = %job.id(), owner = %job.owner(), %by, "delete");
        // The last record is being written: a moment, and not longer than the disk takes.
        let _ = job.watch_settled().wait_for(|settled| *settled).await;
        let (core, id) = (Arc::clone(&self.core), job.id());
        if core.table().forget(id).is_none() {
            return Ok(()); // somebody else was faster
        }
        let removed = tokio::task::spawn_blocking(move || core.ground.state.remove_job(id)).await;
        Ok(removed.map_err(io::Error::other)??)
    }

    /// Brings what is known of a live job's output up to date, from its files.
    pub fn refresh(&self, job: &Job) {
        if job.snapshot().state.is_over() {
            return;
        }
        match crate::store::log::measure(&self.core.ground.state.job(job.id())) {
            Ok(seen) => job.raise_progress(seen),
            Err(e) => tracing::debug!(job = %job.id(), "cannot measure its output: {e}"),
        }
    }

    /// Live jobs and all jobs.
    pub fn count(&self) -> (usize, usize) {
        self.core.table().count()
    }

    /// What could not be read at start.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.core.quarantined
    }

    /// What jobs get by default.
    pub fn config(&self) -> &config::Jobs {
        &self.core.config
    }

    /// The cgroup of the jobs and its controllers.
    pub fn cgroup(&self) -> &crate::launch::cgroup::Tree {
        self.core.ground.launcher.tree()
    }

    /// How often the state directory has been opened.
    pub fn epoch(&self) -> u64 {
        self.core.ground.state.epoch()
    }

    fn register(
        &self,
        caller: &Caller,
        spec: JobSpec,
        (account, lease): (Account, Option<Lease>),
        request_id: &str,
        digest: &str,
    ) -> Result<Registered, StartError> {
        let mut table = self.core.table();
        let owner = caller.identity();
        match table.request(owner, request_id, digest) {
            Known::New => {}
            Known::Same(job) => return Ok(Registered::Known(job)),
            Known::Other(job) => {
                let request_id = request_id.into();
                return Err(StartError::RequestReused { request_id, job });
            }
        }
        if let Some(job) = table.live_name(owner, &spec.name) {
            return Err(StartError::NameTaken { name: spec.name, job });
        }
        let record = self.core.record(owner, request_id, digest, spec, account);
        let mut public = record.clone();
        public.spec.env.values_mut().for_each(String::clear); // the shim gets them, memory keeps none
        let job = Job::new(public, Snapshot::starting(), lease);
        table.add(Arc::clone(&job));
        Ok(Registered::New(job, Box::new(record)))
    }
}

enum Registered {
    Known(Arc<Job>),
    New(Arc<Job>, Box<SpecRecord>),
}

impl Core {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Off the threads that serve: a name service may take its time.
    async fn account(&self, run_as: &str) -> Result<(Account, Option<Lease>), AccountError> {
        if run_as == "pool" {
            let lease = self.pool.lease()?;
            return Ok((lease.account(), Some(lease)));
        }
        if run_as == "nobody" {
            return Ok((self.nobody.clone(), None)); // the usual case need not ask anybody
        }
        let (name, shim_uid) = (run_as.to_owned(), self.ground.launcher.shim_uid());
        let lookup = self.runtime.spawn_blocking(move || accounts::resolve(&name, shim_uid));
        let account = lookup.await.unwrap_or_else(|panic| {
            let source = io::Error::other(panic);
            Err(AccountError::Lookup { name: run_as.into(), source })
        })?;
        Ok((account, None))
    }

    fn record(
        &self,
        owner: &Identity,
        request_id: &str,
        digest: &str,
        spec: JobSpec,
        account: Account,
    ) -> SpecRecord {
        SpecRecord {
            format: FORMAT,
            id: JobId::fresh(),
            owner: owner.clone(),
            request_id: request_id.into(),
            request_digest: digest.into(),
            created_ns: host::now_ns(),
            boot_id: Uuid::from_bytes(self.ground.boot_id),
            spec,
            account,
        }
    }

    /// On a thread that may block.
    fn bring_up(&self, job: &Arc<Job>, record: &SpecRecord) {
        tracing::info!(job = %job.id(), owner = %job.owner(), argv = ?record.spec.argv, "start");
        match self.ground.launcher.launch(&self.ground.state, record) {
            Ok(launched) => self.attend(job, launched),
            Err(error) => self.give_up(job, attend::failure(&error, record)),
        }
    }

    fn attend(&self, job: &Arc<Job>, launched: Launched) {
        let Launched { shim, started } = launched;
        let _in_runtime = self.runtime.enter();
        let link = match UnixStream::from_std(shim.control) {
            Ok(stream) => Some((Link::new(stream), shim.reader)),
            Err(e) => {
                tracing::error!(job = %job.id(), "cannot listen to its shim: {e}");
                None // its attendant connects to the socket instead
            }
        };
        let first: Option<(Arc<Link>, frame::Reader<_>)> = link;
        if let Some((link, _)) = &first {
            job.set_link(Some(Arc::clone(link)));
        }
        job.apply(Event::Started(started));
        if let Some(asked) = job.stop_asked() {
            // Asked while it was being launched; nobody could be told then.
            let grace_ms = u64::try_from(job.record().spec.stop_timeout.as_millis());
            let (grace_ms, source) = (grace_ms.unwrap_or(u64::MAX), asked.source);
            let _ = job.tell(&ToShim::Stop(Stop { grace_ms, source, by: asked.by }));
        }
        let (ground, job) = (Arc::clone(&self.ground), Arc::clone(job));
        self.runtime.spawn(attend::attend(ground, job, shim.pidfd, first));
    }

    fn give_up(&self, job: &Job, failure: Failure) {
        tracing::info!(job = %job.id(), "start failed: {failure}");
        job.apply(Event::StartFailed(failure));
        if let Err(e) = attend::write_final(&self.ground, job) {
            tracing::error!(job = %job.id(), "cannot write its final record: {e}");
        }
        job.set_settled();
    }

    /// The shim does the stopping. Should it not answer, the broker does, as root.
    async fn enforce_stop(&self, job: Arc<Job>, grace: Duration, told: bool) {
        const SLACK: Duration = Duration::from_secs(3);
        let patience = if told { grace.saturating_add(SLACK) } else { grace };
        let mut snapshot = job.watch_snapshot();
        let over = snapshot.wait_for(|known| known.exited.is_some() || known.state.is_over());
        if tokio::time::timeout(patience, over).await.is_ok() {
            return;
        }
        tracing::warn!(job = %job.id(), "its shim did not stop it; killing its cgroup");
        let (ground, id) = (Arc::clone(&self.ground), job.id());
        let kill = move || ground.launcher.tree().job(id).kill_work();
        if let Ok(Err(e)) = tokio::task::spawn_blocking(kill).await {
            tracing::error!(job = %id, "processes of it cannot be killed: {e}");
        }
        let mut snapshot = job.watch_snapshot();
        let over = snapshot.wait_for(|known| known.state.is_over());
        if tokio::time::timeout(SLACK, over).await.is_err() {
            job.kill_shim(); // it cannot tell how the job ended; its attendant settles it
        }
    }
}

fn source(role: Role) -> Source {
    match role {
        Role::User => Source::User,
        Role::Admin => Source::Admin,
    }
}

/// SHA-256 over all of the request, values of the environment included, which the spec's own
/// JSON leaves out.
fn digest(spec: &JobSpec) -> String {
    let request = serde_json::json!([spec, spec.env]);
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, request.to_string().as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
