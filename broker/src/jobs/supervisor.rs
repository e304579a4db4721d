//! [`Supervisor`]: the public API of jobs. Each call takes a proof of authorization and delegates to
//! `commands`, `query` or `stats`; nothing here has logic of its own.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use job_images::Image;
use job_shim::wire::InputAck;

use crate::audit::{Audit, Line, Reader};
use crate::auth::{
    Action, Authorized, Caller, Delete, Input, Logs, Pause, Signal, Start, StartPlan, Stop, Update,
    Verdict, View,
};
use crate::config;
use crate::config::OnRevoked;
use crate::jobs::commands::delete::{self, DeleteError};
use crate::jobs::commands::input::{self, InputError};
use crate::jobs::commands::pause::{self, PauseError};
use crate::jobs::commands::revocation::{self, Revoked};
use crate::jobs::commands::signal::{self, SignalError};
use crate::jobs::commands::start::{self, StartError};
use crate::jobs::commands::stop::{self, StopError};
use crate::jobs::commands::update::{self, Change, UpdateError};
use crate::jobs::commands::wait::{self, Until};
use crate::jobs::commands::{drain, output};
use crate::jobs::events::Subscription;
use crate::jobs::history::retention;
use crate::jobs::images;
use crate::jobs::job::Job;
use crate::jobs::output::{OutputError, OutputReader, Range};
use crate::jobs::query::{self, FindError, Listed};
use crate::jobs::recovery;
use crate::jobs::registry::filter::{Filter, Page};
use crate::jobs::scope_watch;
use crate::jobs::shared::calls::{Busy, Call, Kind};
use crate::jobs::shared::{Parts, Shared};
use crate::jobs::stats::{self, Census, JobStats};
use crate::launch::{Launcher, SetupError};
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::isolation::IsolationRules;
use crate::model::limits::LimitTables;
use crate::model::request::Request;
use crate::model::spec::{Defaults, JobRequest, JobSpec, SpecError};
use crate::model::usage::Usage;
use crate::quota::Quotas;
use crate::quota::kind::QuotaKind;
use crate::quota::pressure::Pressure;
use crate::quota::quotas::Row;
use crate::store::{OpenError, StateDir};
use crate::sync::Panicked;
use crate::trace::Timeline;
use job_launch::accounts;
use job_launch::cgroup::hierarchy::Hierarchy;
use job_launch::host;

/// Manages the jobs of one state directory. Cheap to clone: clones share their state.
#[derive(Debug, Clone)]
pub struct Supervisor {
    shared: Arc<Shared>,
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
    Recovery(io::Error),
    /// The audit's thread.
    #[error("cannot start the audit: {0}")]
    Audit(io::Error),
    /// `/proc`.
    #[error("cannot read the boot id of this host: {0}")]
    Host(io::Error),
}

/// A directory among the jobs that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its name.
    pub id: String,
    /// Why.
    pub reason: String,
}

impl Supervisor {
    /// Opens the state directory and takes over the jobs in it. Those that live are known when this
    /// answers, and their shims are reached in the background; so are those that are over, and
    /// whoever asks for one, for a list or for a start waits until they are. Must be called within
    /// a tokio runtime, which has to stay alive. `audit` is opened when the state directory is locked.
    ///
    /// # Errors
    /// [`SupervisorError`], in words for an operator.
    pub async fn open(
        config: config::Jobs,
        (limits, isolation): (LimitTables, IsolationRules),
        retention: config::Retention,
        quotas: Arc<Quotas>,
        audit: impl FnOnce() -> io::Result<Audit>,
    ) -> Result<Supervisor, SupervisorError> {
        let boot_id = host::boot_id().map_err(SupervisorError::Host)?;
        let state = StateDir::open(&config.state_dir)?;
        let audit = audit().map_err(SupervisorError::Audit)?;
        let launcher = Launcher::open(&config, &isolation, boot_id)?;
        let nobody = accounts::resolve("nobody", launcher.shim_uid()).map_err(SetupError::from)?;
        let parts = Parts {
            config,
            limits,
            isolation,
            retention,
            quotas,
            state,
            launcher,
            audit,
            boot_id,
            nobody,
        };
        let shared = Arc::new(Shared::new(parts));
        recovery::recover_live(&shared).map_err(SupervisorError::Recovery)?;
        recovery::recover_rest_later(&shared);
        tokio::spawn(retention::prune(Arc::clone(&shared)));
        tokio::spawn(scope_watch::watch(Arc::clone(&shared)));
        Ok(Supervisor { shared })
    }

    /// What a request gets that does not say, and what it may ask for, whatever the policy says.
    pub fn defaults(&self) -> Defaults {
        let config = &self.shared.config;
        Defaults {
            run_as: config.run_as.clone(),
            stop_timeout: config.stop_timeout(),
            limits: self.limits().as_ref().clone(),
            labels: BTreeMap::new(),
            isolation: self.shared.isolation().as_ref().clone(),
        }
    }

    /// A place for a call, kept for as long as the [`Call`] is.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn admit(&self, caller: &Caller, kind: Kind) -> Result<Call, Busy> {
        self.shared.calls.admit(caller, kind)
    }

    /// Counts the call against the job that it changes.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn admit_change<A: Action>(
        &self,
        call: Call,
        job: &Authorized<A, Arc<Job>>,
    ) -> Result<Call, Busy> {
        self.shared.calls.change(call, job.caller(), job.subject().id())
    }

    /// Counts the call against the job to whose standard input it writes.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn admit_writer(
        &self,
        call: Call,
        job: &Authorized<Input, Arc<Job>>,
    ) -> Result<Call, Busy> {
        self.shared.calls.write(call, job.caller(), job.subject().id())
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
        self.shared.recovered().await?;
        start::repeated(&self.shared, caller, request, None).await
    }

    /// Starts a job and returns once its program runs. With a request id (not empty) the call may be
    /// repeated: one job, the same answer.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        &self,
        plan: Authorized<Start, StartPlan>,
        request: &Request,
        call: Call,
        timeline: Timeline,
    ) -> Result<Arc<Job>, StartError> {
        start::start(&self.shared, plan, request, call, timeline).await
    }

    /// What the policy says of a start, its program included.
    ///
    /// # Errors
    /// [`SpecError`].
    pub(crate) async fn can_start(
        &self,
        caller: &Caller,
        request: JobRequest,
    ) -> Result<Verdict, SpecError> {
        start::can_start(&self.shared, caller, request, &self.defaults()).await
    }

    /// The job of this id, if it exists for the caller and it may do `A` to it.
    ///
    /// # Errors
    /// [`FindError`].
    pub async fn find<A: Action>(
        &self,
        caller: &Caller,
        id: JobId,
    ) -> Result<Option<Authorized<A, Arc<Job>>>, FindError> {
        query::find(&self.shared, caller, id).await
    }

    /// A page of the jobs that exist for the caller, newest first. Those whose records cannot be read
    /// now are not in it. `show` gives what is shown of a job, and its length in bytes.
    ///
    /// # Errors
    /// [`FindError`].
    pub async fn list<T: Send + 'static>(
        &self,
        caller: &Caller,
        filter: &Filter,
        page: Page,
        show: impl Fn(&Authorized<View, Arc<Job>>) -> (T, usize) + Send + 'static,
    ) -> Result<Listed<T>, FindError> {
        query::list(&self.shared, caller, filter, page, show).await
    }

    /// All arguments, and all names of the environment, where memory has only the beginning of them and
    /// they can be read.
    pub async fn whole_spec(&self, job: &Authorized<View, Arc<Job>>) -> Option<JobSpec> {
        query::whole_spec(&self.shared, job).await
    }

    /// Usage and limits of one job. A proof of any action on the job suffices.
    pub async fn stats<A: Action>(&self, job: &Authorized<A, Arc<Job>>) -> JobStats {
        stats::stats(&self.shared, job).await
    }

    /// The usage of many jobs, in their order.
    pub async fn usages(&self, caller: &Caller, jobs: &[Authorized<View, Arc<Job>>]) -> Vec<Usage> {
        stats::usages(&self.shared, caller, jobs).await
    }

    /// Brings what is known of a live job's output up to date, from its files.
    pub fn refresh<A: Action>(&self, job: &Authorized<A, Arc<Job>>) {
        stats::refresh(&self.shared, job.subject());
    }

    /// Waits for `until`, at most `within`; returns false on a timeout.
    pub async fn wait(
        &self,
        job: &Authorized<View, Arc<Job>>,
        until: Until,
        within: Option<Duration>,
    ) -> bool {
        wait::wait(job, until, within).await
    }

    /// Some lines of the audit up to `head`, for whoever may `admin`.
    ///
    /// # Errors
    /// A fault of the broker. Within: as of the files.
    pub(crate) async fn read_audit(
        &self,
        caller: &Caller,
        reader: Reader,
        head: u64,
    ) -> Result<(Reader, io::Result<Vec<Line>>), Panicked> {
        query::read_audit(&self.shared, caller.identity(), reader, head).await
    }

    /// A reader of the job's output.
    ///
    /// # Errors
    /// [`OutputError`].
    pub async fn output(
        &self,
        job: &Authorized<Logs, Arc<Job>>,
        range: Range,
    ) -> Result<OutputReader, OutputError> {
        output::output(&self.shared, job, range).await
    }

    /// How many bytes of standard input the job has accepted, and whether the input is closed.
    ///
    /// # Errors
    /// `NoStdin`.
    pub async fn accepted_input(
        &self,
        job: &Authorized<Input, Arc<Job>>,
    ) -> Result<InputAck, InputError> {
        input::accepted(job).await
    }

    /// Passes input on; answers once it is in the job's pipe.
    ///
    /// # Errors
    /// [`InputError`].
    pub async fn write_input(
        &self,
        job: &Authorized<Input, Arc<Job>>,
        offset: u64,
        data: &[u8],
        end: bool,
    ) -> Result<InputAck, InputError> {
        input::write(job, offset, data, end).await
    }

    /// Asks all processes of the job to end, and kills them after the grace period (absent: the
    /// job's own). Answers once that is on record; nothing is done to a job that has ended.
    ///
    /// # Errors
    /// [`StopError`].
    pub async fn stop(
        &self,
        job: &Authorized<Stop, Arc<Job>>,
        grace: Option<Duration>,
    ) -> Result<(), StopError> {
        stop::stop(&self.shared, job, grace).await
    }

    /// One signal to the process group of the main process.
    ///
    /// # Errors
    /// [`SignalError`].
    pub async fn signal(
        &self,
        job: &Authorized<Signal, Arc<Job>>,
        number: i32,
    ) -> Result<(), SignalError> {
        signal::signal(job, number).await
    }

    /// Changes all requested limits, or none.
    ///
    /// # Errors
    /// [`UpdateError`].
    pub async fn update(
        &self,
        job: &Authorized<Update, Arc<Job>>,
        change: Change,
        call: Call,
    ) -> Result<(), UpdateError> {
        update::update(&self.shared, job, change, call).await
    }

    /// Freezes all processes of a running job. Returns once they are frozen.
    ///
    /// # Errors
    /// [`PauseError`].
    pub async fn pause(
        &self,
        job: &Authorized<Pause, Arc<Job>>,
        call: Call,
    ) -> Result<(), PauseError> {
        pause::pause(&self.shared, job, call).await
    }

    /// Thaws a job that is paused or being stopped; does nothing to any other.
    ///
    /// # Errors
    /// [`PauseError`].
    pub async fn resume(
        &self,
        job: &Authorized<Pause, Arc<Job>>,
        call: Call,
    ) -> Result<(), PauseError> {
        pause::resume(&self.shared, job, call).await
    }

    /// Removes an ended job and its output.
    ///
    /// # Errors
    /// [`DeleteError`].
    pub async fn delete(&self, job: &Authorized<Delete, Arc<Job>>) -> Result<(), DeleteError> {
        delete::delete(&self.shared, job).await
    }

    /// Asks every live job to end and waits until nothing is left of any: its stop signal, its
    /// grace, though no longer than `at_most`. `by` is what the record of their end names.
    pub async fn drain(&self, by: &str, at_most: Duration) {
        drain::drain(&self.shared, by, at_most).await;
    }

    /// How many jobs there are, by state.
    pub(crate) fn census(&self) -> Census {
        stats::census(&self.shared)
    }

    /// How near identities are to their quotas, without their names.
    pub(crate) fn quota_pressure(&self) -> Vec<(QuotaKind, Pressure)> {
        let quotas = &self.shared.quotas;
        let owners = self.shared.registry().in_use_by_owner(quotas.bound_finished_jobs());
        quotas.pressure(&owners)
    }

    /// Pauses or stops the live jobs of revoked certificates; see `commands::revocation`.
    pub(crate) fn revoke(
        &self,
        revoked: Revoked<'_>,
        action: OnRevoked,
        done: &mut HashSet<JobId>,
    ) {
        revocation::revoke(&self.shared, revoked, action, done);
    }

    /// Live jobs and all jobs.
    pub fn count(&self) -> (usize, usize) {
        self.shared.registry().count()
    }

    /// What could not be read, in quarantine and out of it. Blocks for a moment.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        let state = &self.shared.state;
        let mut all = self.shared.unreadable().clone();
        match state.quarantined() {
            Ok(away) => all.extend(away),
            Err(e) => _ = all.insert(state.quarantine_dir().display().to_string(), e.to_string()),
        }
        all.into_iter().map(|(id, reason)| Quarantined { id, reason }).collect()
    }

    /// What jobs may use.
    pub fn limits(&self) -> Arc<LimitTables> {
        self.shared.limits()
    }

    /// What jobs that start see of the host from now on. The views are made anew, too: its mounts may have changed.
    pub async fn set_isolation(&self, rules: IsolationRules) {
        let (rules, own) = (Arc::new(rules), Arc::clone(&self.shared));
        self.shared.isolation.send_replace(Arc::clone(&rules));
        // It waits for a directory that hangs no longer than some seconds.
        let renew = move || own.launcher.isolator().renew(&rules);
        if let Err(panic) = tokio::task::spawn_blocking(renew).await {
            tracing::error!("the jobs' view of the host was not made anew: {panic}");
        }
    }

    /// What jobs see of the host.
    pub(crate) fn isolation(&self) -> Arc<IsolationRules> {
        self.shared.isolation()
    }

    /// What this host can do for jobs.
    pub(crate) fn launcher(&self) -> &Launcher {
        &self.shared.launcher
    }

    /// The images that a caller's jobs may have as their root; see [`images::list`].
    pub(crate) async fn images(
        &self,
        caller: &Identity,
        may_use: impl Fn(&str) -> bool,
    ) -> Vec<Image> {
        images::list(&self.shared, caller, may_use).await
    }

    /// What jobs that start, or are given other limits, may use from now on.
    pub fn set_limits(&self, limits: LimitTables) {
        self.shared.limits.send_replace(Arc::new(limits));
    }

    /// What is kept of jobs that are over, from now on.
    pub fn set_retention(&self, retention: config::Retention) {
        self.shared.retention.send_replace(Arc::new(retention));
    }

    /// What each identity may take.
    pub(crate) fn quotas(&self) -> &Arc<Quotas> {
        &self.shared.quotas
    }

    /// All quotas of an identity, with what is in use.
    ///
    /// # Errors
    /// [`FindError`]: it is not known yet which jobs there are.
    pub(crate) async fn quota_rows(&self, identity: &Identity) -> Result<Vec<Row>, FindError> {
        query::quota_rows(&self.shared, identity).await
    }

    /// What happens to jobs from now on.
    pub fn events(&self) -> Subscription {
        self.shared.events.subscribe()
    }

    /// Where it is written who did what.
    pub fn audit(&self) -> &Audit {
        &self.shared.audit
    }

    /// What jobs get by default.
    pub fn config(&self) -> &config::Jobs {
        &self.shared.config
    }

    /// The cgroup of the jobs and its controllers.
    pub fn cgroup(&self) -> &Hierarchy {
        self.shared.launcher.hierarchy()
    }

    /// How often the state directory has been opened.
    pub fn epoch(&self) -> u64 {
        self.shared.state.epoch()
    }
}
