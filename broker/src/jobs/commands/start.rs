//! How a job comes to be: whether it can, its place in the table, its launch.

use std::io;
use std::sync::{Arc, MutexGuard};

use tokio::runtime::Handle;
use tokio::sync::watch;
use uuid::Uuid;

use crate::auth::Caller;
use crate::cgroup::limits::resolve;
use crate::cgroup::limits::{Found, Plan, Unenforceable};
use crate::config;
use crate::host;
use crate::jobs::errors::{FindError, StartError};
use crate::jobs::history::archive;
use crate::jobs::history::retention::LiveOutput;
use crate::jobs::job::Job;
use crate::jobs::output::Readers;
use crate::jobs::registry::{Entry, Known, Table};
use crate::jobs::shared::Ground;
use crate::jobs::shared::calls::Calls;
use crate::launch::accounts;
use crate::launch::accounts::{AccountError, Lease};
use crate::launch::effective_limits;
use crate::launch::failure::SHORTAGE;
use crate::model::account::Account;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::limits::{LimitTables, Limits};
use crate::model::request::{Request, older_digest};
use crate::model::spec::JobSpec;
use crate::model::state::Snapshot;
use crate::store::records::{FORMAT, SpecRecord};

/// What a supervisor decides with.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) ground: Arc<Ground>,
    pub(crate) config: config::Jobs,
    pub(crate) limits: watch::Sender<Arc<LimitTables>>,
    pub(crate) retention: watch::Sender<Arc<config::Retention>>,
    pub(crate) live_output: LiveOutput,
    pub(crate) readers: Arc<Readers>,
    pub(crate) nobody: Account,
    /// Jobs that may run at a time.
    pub(crate) max_running: u64,
    pub(crate) calls: Calls,
    /// Where attendants live, whoever calls.
    pub(crate) runtime: Handle,
}

/// What a job needs before it exists.
pub(crate) struct Ready {
    account: Account,
    lease: Option<Lease>,
    found: Found,
}

/// What became of a request.
pub(crate) enum Registered {
    /// Its spec is given back.
    Known(Box<JobSpec>),
    New(Arc<Job>, Box<SpecRecord>),
}

impl Core {
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.ground.table()
    }

    /// What jobs may use, as of the last reload.
    pub(crate) fn limits(&self) -> Arc<LimitTables> {
        Arc::clone(&self.limits.borrow())
    }

    /// What is kept, as of the last reload.
    pub(crate) fn retention(&self) -> Arc<config::Retention> {
        Arc::clone(&self.retention.borrow())
    }

    /// As whom it would run, and whether its limits can be enforced here.
    pub(crate) async fn ready(
        self: &Arc<Core>,
        owner: &Identity,
        spec: &JobSpec,
    ) -> Result<Ready, StartError> {
        let (account, lease) = self.account(owner, &spec.run_as).await?;
        let found = self.find_disks(owner, &spec.limits, spec, &account).await;
        let found = found.map_err(|error| effective_limits::blame(error, spec, &self.limits()))?;
        Ok(Ready { account, lease, found })
    }

    /// Off the threads that serve where a file system has to be asked: it may take its time.
    pub(crate) async fn find_disks(
        self: &Arc<Core>,
        owner: &Identity,
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
        let find = move || resolve::find(core.ground.launcher.tree(), &limits, &spec, &account);
        let found = self.ground.threads.lookups.run(owner, &self.runtime, find).await;
        found.unwrap_or_else(|panic| {
            Err(Unenforceable { limit: "io.max", controller: "io", reason: panic.to_string() })
        })
    }

    /// Off the threads that serve: a name service may take its time.
    async fn account(
        &self,
        owner: &Identity,
        run_as: &str,
    ) -> Result<(Account, Option<Lease>), AccountError> {
        if run_as == "nobody" {
            return Ok((self.nobody.clone(), None)); // the usual case need not ask anybody
        }
        let (name, ground) = (run_as.to_owned(), Arc::clone(&self.ground));
        let look_up = move || {
            if name == "pool" {
                let lease = ground.pool.lease()?;
                return Ok((lease.account(), Some(lease)));
            }
            Ok((accounts::resolve(&name, ground.launcher.shim_uid())?, None))
        };
        let found = self.ground.threads.lookups.run(owner, &self.runtime, look_up).await;
        found.unwrap_or_else(|panic| {
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

    /// The job of a request that was made before, once it is past its start. Older records say what the
    /// checked spec was: they are compared with `spec`, and none is found without.
    pub(crate) async fn repeated(
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
            let Some(job) = self.load(caller, entry).await? else { continue };
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
    pub(crate) async fn load(
        &self,
        caller: &Caller,
        entry: Entry,
    ) -> Result<Option<Arc<Job>>, FindError> {
        let owner = caller.identity().clone();
        let ground = Arc::clone(&self.ground);
        match entry {
            Entry::Live(job) => Ok(Some(job)),
            Entry::Over(id) => {
                let reads = &self.ground.threads.reads;
                let load = move || archive::load(&ground, id);
                let loaded = reads.run(&owner, &self.runtime, load).await;
                Ok(loaded.map_err(io::Error::other)??)
            }
        }
    }

    /// Answers when it is known whether the job of this name has ended while no broker was there.
    pub(crate) async fn name_told(&self, caller: &Caller, name: &str) {
        let holder = self.table().live_name(caller.identity(), name);
        if let Some(holder) = holder {
            holder.contacted().await;
        }
    }

    /// A new job in the table, unless its request is known by now.
    pub(crate) fn register(
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
        // Under the same lock as the insertion: no two starts take the last place. Those that are over
        // count until their end is on record.
        if table.live().len() as u64 >= self.max_running {
            return Err(StartError::TooMany(self.max_running));
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
pub(crate) async fn started(job: &Job) -> Result<(), StartError> {
    let mut snapshot = job.watch_snapshot();
    let known = snapshot.wait_for(Snapshot::is_past_start).await;
    match known.ok().and_then(|known| known.start_failure()) {
        Some(failure) if failure.step == SHORTAGE => Err(StartError::Shortage(failure.message)),
        Some(failure) => Err(StartError::Failed { job: job.id(), failure }),
        None => Ok(()),
    }
}
