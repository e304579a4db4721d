//! What all supervisors of one state directory share, and how a job comes to be and is made to end.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use job_shim::wire::{Stop, ToShim};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use uuid::Uuid;

use super::attend;
use super::errors::StartError;
use super::failure::failure;
use super::figures::Figures;
use super::job::{Job, Link, StopAsked};
use super::spec::JobSpec;
use super::state::{Event, Failure, Snapshot};
use super::supervisor::Quarantined;
use super::table::{Known, Table};
use crate::authorize::Caller;
use crate::config;
use crate::host;
use crate::id::JobId;
use crate::identity::Identity;
use crate::launch::accounts::{self, AccountError, Lease, Pool};
use crate::launch::limits::{Found, Plan, Unenforceable};
use crate::launch::{Launched, Launcher, places};
use crate::limits::{LimitTables, Limits};
use crate::store::StateDir;
use crate::store::records::{Account, FORMAT, SpecRecord};

/// What attendants work with.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) state: StateDir,
    pub(super) launcher: Launcher,
    pub(super) boot_id: host::BootId,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) ground: Arc<Ground>,
    pub(super) config: config::Jobs,
    pub(super) limits: watch::Sender<Arc<LimitTables>>,
    pub(super) pool: Arc<Pool>,
    pub(super) nobody: Account,
    pub(super) table: Mutex<Table>,
    pub(super) quarantined: Vec<Quarantined>,
    /// Where attendants live, whoever calls.
    pub(super) runtime: Handle,
}

/// What a job needs before it exists.
pub(super) struct Ready {
    account: Account,
    lease: Option<Lease>,
    found: Found,
}

/// What became of a request.
pub(super) enum Registered {
    Known(Arc<Job>),
    New(Arc<Job>, Box<SpecRecord>),
}

impl Core {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What jobs may use, as of the last reload.
    pub(super) fn limits(&self) -> Arc<LimitTables> {
        Arc::clone(&self.limits.borrow())
    }

    /// As whom it would run, and whether its limits can be enforced here.
    pub(super) async fn ready(self: &Arc<Core>, spec: &JobSpec) -> Result<Ready, StartError> {
        let (account, lease) = self.account(&spec.run_as).await?;
        let found = self.find_disks(&spec.limits, spec, &account).await?;
        Ok(Ready { account, lease, found })
    }

    /// Off the threads that serve where a file system has to be asked: it may take its time.
    pub(super) async fn find_disks(
        self: &Arc<Core>,
        limits: &Limits,
        spec: &JobSpec,
        account: &Account,
    ) -> Result<Found, Unenforceable> {
        if !limits.need_a_disk() {
            let found = Found::default();
            Plan::new(limits, &found).check(self.ground.launcher.tree())?;
            return Ok(found);
        }
        let (core, limits) = (Arc::clone(self), limits.clone());
        let (spec, account) = (spec.clone(), account.clone());
        let find = move || places::find(core.ground.launcher.tree(), &limits, &spec, &account);
        self.runtime.spawn_blocking(find).await.unwrap_or_else(|panic| {
            Err(Unenforceable { limit: "io.max", controller: "io", reason: panic.to_string() })
        })
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
        (account, found): (Account, Found),
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
            found,
            changes: Vec::new(),
            is_changing: false,
        }
    }

    /// Launches it on a thread that may block; does not wait. Should the launch panic, the job is
    /// told to have failed, and nobody waits for it for ever.
    pub(super) fn bring_up(self: &Arc<Core>, job: &Arc<Job>, record: Box<SpecRecord>) {
        let (core, launching) = (Arc::clone(self), Arc::clone(job));
        let launch = self.runtime.spawn_blocking(move || core.launch(&launching, &record));
        let (core, job) = (Arc::clone(self), Arc::clone(job));
        self.runtime.spawn(async move {
            if let Err(panic) = launch.await {
                let message = format!("the launch was broken off: {panic}");
                core.give_up(&job, Failure { step: "launch".into(), errno: 0, message });
            }
        });
    }

    fn launch(&self, job: &Arc<Job>, record: &SpecRecord) {
        tracing::info!(job = %job.id(), owner = %job.owner(), argv = ?record.spec.argv, "start");
        match self.ground.launcher.launch(&self.ground.state, record) {
            Ok(launched) => self.attend(job, launched),
            Err(error) => self.give_up(job, failure(&error, record)),
        }
    }

    fn attend(&self, job: &Arc<Job>, launched: Launched) {
        let Launched { shim, started } = launched;
        let _in_runtime = self.runtime.enter();
        let first = match UnixStream::from_std(shim.control) {
            Ok(stream) => Some((Link::new(stream), shim.reader)),
            Err(e) => {
                tracing::error!(job = %job.id(), "cannot listen to its shim: {e}");
                None // its attendant connects to the socket instead
            }
        };
        if let Some((link, _)) = &first {
            job.set_link(Some(Arc::clone(link)));
        }
        job.apply(Event::Started(started));
        job.change_terms(|terms| terms.told = Some(terms.for_shim())); // it was born with them
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
        if let Err(e) = attend::write_final(&self.ground, job, self.ended_at_start(job)) {
            tracing::error!(job = %job.id(), "cannot write its final record: {e}");
        }
        job.set_settled();
    }

    /// It has used nothing, and might have used this.
    fn ended_at_start(&self, job: &Job) -> Figures {
        Figures { limits: job.terms().rows(None), ..Figures::default() }
    }

    /// Asks all processes of a job to end, and kills them after the grace period (absent: the job's
    /// own). Answers at once; nothing is done to a job that has ended.
    pub(super) fn stop(
        self: &Arc<Core>,
        job: &Arc<Job>,
        grace: Option<Duration>,
        asked: StopAsked,
    ) {
        if job.snapshot().state.is_over() {
            return;
        }
        let grace = grace.unwrap_or(job.record().spec.stop_timeout);
        tracing::info!(job = %job.id(), by = asked.by, "stop asked");
        job.ask_stop(asked.clone());
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let told = job.tell(&ToShim::Stop(Stop { grace_ms, source: asked.source, by: asked.by }));
        let (core, job) = (Arc::clone(self), Arc::clone(job));
        self.runtime.spawn(async move { core.enforce_stop(job, grace, told.is_ok()).await });
    }

    /// The shim does the stopping. Should it not answer, the broker does, as root.
    pub(super) async fn enforce_stop(&self, job: Arc<Job>, grace: Duration, told: bool) {
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

    /// The job of a request that is known, or a new one in the table.
    pub(super) fn register(
        &self,
        caller: &Caller,
        spec: JobSpec,
        Ready { account, lease, found }: Ready,
        request_id: &str,
    ) -> Result<Registered, StartError> {
        let digest = digest(&spec);
        let mut table = self.table();
        let owner = caller.identity();
        match table.request(owner, request_id, &digest) {
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
        let record = self.record(owner, request_id, &digest, spec, (account, found));
        let mut public = record.clone();
        public.spec.env.values_mut().for_each(String::clear); // the shim gets them, memory keeps none
        let job = Job::new(public, Snapshot::starting(), lease);
        table.add(Arc::clone(&job));
        Ok(Registered::New(job, Box::new(record)))
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
