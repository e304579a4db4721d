//! How a job comes to be: whether it can, its place in the table, its launch.

use std::io;
use std::sync::{Arc, MutexGuard};

use job_shim::crash::{self, Point};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use uuid::Uuid;

use super::attend;
use super::errors::{FindError, StartError};
use super::failure::failure;
use super::figures::Figures;
use super::ground::Ground;
use super::job::Job;
use super::leftovers;
use super::link::Link;
use super::output::Readers;
use super::past;
use super::request::{Request, older_digest};
use super::retention::LiveOutput;
use super::spec::JobSpec;
use super::state::{Event, Failure, Snapshot};
use super::table::{Entry, Known, Table};
use super::terms;
use crate::authorize::Caller;
use crate::config;
use crate::host;
use crate::id::JobId;
use crate::identity::Identity;
use crate::journal::{AUDIT, Argv};
use crate::launch::accounts::{self, AccountError, Lease};
use crate::launch::limits::{Found, Plan, Unenforceable};
use crate::launch::{Launched, places};
use crate::limits::{LimitTables, Limits};
use crate::store::records::{Account, FORMAT, SpecRecord};

/// What a supervisor decides with.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) ground: Arc<Ground>,
    pub(super) config: config::Jobs,
    pub(super) limits: watch::Sender<Arc<LimitTables>>,
    pub(super) retention: watch::Sender<Arc<config::Retention>>,
    pub(super) live_output: LiveOutput,
    pub(super) readers: Arc<Readers>,
    pub(super) nobody: Account,
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
    /// Its spec is given back.
    Known(Box<JobSpec>),
    New(Arc<Job>, Box<SpecRecord>),
}

impl Core {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.ground.table()
    }

    /// What jobs may use, as of the last reload.
    pub(super) fn limits(&self) -> Arc<LimitTables> {
        Arc::clone(&self.limits.borrow())
    }

    /// What is kept, as of the last reload.
    pub(super) fn retention(&self) -> Arc<config::Retention> {
        Arc::clone(&self.retention.borrow())
    }

    /// As whom it would run, and whether its limits can be enforced here.
    pub(super) async fn ready(self: &Arc<Core>, spec: &JobSpec) -> Result<Ready, StartError> {
        let (account, lease) = self.account(&spec.run_as).await?;
        let found = self.find_disks(&spec.limits, spec, &account).await;
        let found = found.map_err(|error| terms::blame(error, spec, &self.limits()))?;
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
        let (spec, account) = (spec.abridged(), account.clone());
        let find = move || places::find(core.ground.launcher.tree(), &limits, &spec, &account);
        self.runtime.spawn_blocking(find).await.unwrap_or_else(|panic| {
            Err(Unenforceable { limit: "io.max", controller: "io", reason: panic.to_string() })
        })
    }

    /// Off the threads that serve: a name service may take its time.
    async fn account(&self, run_as: &str) -> Result<(Account, Option<Lease>), AccountError> {
        if run_as == "nobody" {
            return Ok((self.nobody.clone(), None)); // the usual case need not ask anybody
        }
        let (name, ground) = (run_as.to_owned(), Arc::clone(&self.ground));
        let lookup = self.runtime.spawn_blocking(move || {
            if name == "pool" {
                let lease = ground.pool.lease()?;
                return Ok((lease.account(), Some(lease)));
            }
            Ok((accounts::resolve(&name, ground.launcher.shim_uid())?, None))
        });
        lookup.await.unwrap_or_else(|panic| {
            let source = io::Error::other(panic);
            Err(AccountError::Lookup { name: run_as.into(), source })
        })
    }

    fn record(
        &self,
        owner: &Identity,
        request: &Request,
        spec: JobSpec,
        (account, found): (Account, Found),
    ) -> SpecRecord {
        SpecRecord {
            format: FORMAT,
            id: JobId::fresh(),
            owner: owner.clone(),
            request_id: request.id.clone(),
            request_digest: request.digest.clone(),
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
        crash::at(Point::JobRegistered);
        let argv = Argv(&record.spec.argv);
        tracing::info!(target: AUDIT, job = %job.id(), owner = %job.owner(), %argv, "start");
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
        // It was born with them; and before the start is told, after which it may be asked for them.
        job.change_terms(|terms| terms.told = Some(terms.for_shim()));
        job.apply(Event::Started(started));
        if let Some(asked) = job.stop_asked() {
            let _ = job.tell(&asked.message()); // while it was being launched, nobody could be told
        }
        let (ground, job) = (Arc::clone(&self.ground), Arc::clone(job));
        self.runtime.spawn(attend::attend(ground, job, shim.pidfd, first));
    }

    fn give_up(&self, job: &Arc<Job>, failure: Failure) {
        tracing::info!(target: AUDIT, job = %job.id(), "start failed: {failure}");
        let mut known = job.snapshot();
        if let Err(impossible) = known.apply(Event::StartFailed(failure), host::now_ns()) {
            tracing::error!(job = %job.id(), "{impossible}");
        }
        // On record before it is told: a request that was refused is not run by the next broker.
        let written = attend::write_final(&self.ground, job, &known, self.ended_at_start(job));
        job.restore(known);
        self.clear(job);
        job.set_settled();
        match written {
            Ok(()) => past::shelve(&self.ground, job.id()),
            // It never came as far as having a directory: it is nothing but an answer.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(job = %job.id(), "it is not kept: there is no place for its record");
                self.table().forget(job.id());
                self.ground.counted.send_replace(());
            }
            Err(_) => {
                let (ground, job) = (Arc::clone(&self.ground), Arc::clone(job));
                self.runtime.spawn(attend::settle(ground, job));
            }
        }
    }

    /// What the launch could not remove, as a child that hangs in its exec; the usual start has left
    /// nothing.
    fn clear(&self, job: &Arc<Job>) {
        let (ground, id, lease) = (Arc::clone(&self.ground), job.id(), job.take_lease());
        if ground.launcher.tree().job(id).exists() {
            self.runtime.spawn_blocking(move || leftovers::clear(&ground, id, lease));
        }
    }

    /// It has used nothing, and might have used this.
    fn ended_at_start(&self, job: &Job) -> Figures {
        Figures { limits: job.terms().rows(None), ..Figures::default() }
    }

    /// The job of a request that was made before, once it is past its start. Older records say what the
    /// checked spec was: they are compared with `spec`, and none is found without.
    pub(super) async fn repeated(
        &self,
        caller: &Caller,
        request: &Request,
        spec: Option<&JobSpec>,
    ) -> Result<Option<Arc<Job>>, StartError> {
        let request_id = || request.id.clone();
        loop {
            let known = self.table().request(caller.identity(), request);
            let entry = match known {
                Known::New => return Ok(None),
                Known::Same(entry) => entry,
                Known::Older(entry, digest) => match spec {
                    None => return Ok(None),
                    Some(spec) if *older_digest(spec) == *digest => entry,
                    Some(_) => {
                        let (request_id, job) = (request_id(), entry.id());
                        return Err(StartError::RequestReused { request_id, job });
                    }
                },
                Known::Other(job) => {
                    return Err(StartError::RequestReused { request_id: request_id(), job });
                }
                Known::Aside(job) if !self.ground.state.is_aside(job) => {
                    self.table().forget_aside(job); // an operator has seen to it
                    continue;
                }
                Known::Aside(job) => {
                    return Err(StartError::RequestAside { request_id: request_id(), job });
                }
            };
            // Else it was removed in this moment.
            let Some(job) = self.load(entry).await? else { continue };
            match started(&job).await {
                // An earlier broker's, found out just now: it never ran, so this one may.
                Err(_) if job.may_be_asked_again() => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(Some(job)),
            }
        }
    }

    /// An entry of the table as a job: from memory, or from its files. `None` for one that has been
    /// removed, and for one that is damaged.
    pub(super) async fn load(&self, entry: Entry) -> Result<Option<Arc<Job>>, FindError> {
        let ground = Arc::clone(&self.ground);
        match entry {
            Entry::Live(job) => Ok(Some(job)),
            Entry::Over(id) => {
                let loaded = tokio::task::spawn_blocking(move || past::load(&ground, id)).await;
                Ok(loaded.map_err(io::Error::other)??)
            }
        }
    }

    /// Answers when it is known whether the job of this name has ended while no broker was there.
    pub(super) async fn name_told(&self, caller: &Caller, name: &str) {
        let holder = self.table().live_name(caller.identity(), name);
        if let Some(holder) = holder {
            holder.contacted().await;
        }
    }

    /// A new job in the table, unless its request is known by now.
    pub(super) fn register(
        &self,
        caller: &Caller,
        spec: JobSpec,
        Ready { account, lease, found }: Ready,
        request: &Request,
    ) -> Result<Registered, StartError> {
        let mut table = self.table();
        let owner = caller.identity();
        if !matches!(table.request(owner, request), Known::New) {
            return Ok(Registered::Known(Box::new(spec)));
        }
        if let Some(job) = table.live_name(owner, &spec.name) {
            return Err(StartError::NameTaken { name: spec.name, job: job.id() });
        }
        let record = self.record(owner, request, spec, (account, found));
        // The shim gets the values of the environment, memory keeps none.
        let job = Job::new(record.abridged(), Snapshot::starting(), lease);
        table.add(Arc::clone(&job));
        self.ground.counted.send_replace(());
        Ok(Registered::New(job, Box::new(record)))
    }
}

/// Waits until a job is past its start.
///
/// # Errors
/// That its program never ran.
pub(super) async fn started(job: &Job) -> Result<(), StartError> {
    let mut snapshot = job.watch_snapshot();
    let known = snapshot.wait_for(Snapshot::is_past_start).await;
    match known.ok().and_then(|known| known.start_failure()) {
        Some(failure) => Err(StartError::Failed { job: job.id(), failure }),
        None => Ok(()),
    }
}
