//! Starts a job: deduplicates the request, admits and registers the job. The launch is in `launch_task`;
//! nothing here spawns a process.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use job_api::echo::echo;
use job_shim::isolation::JOB_DIR;
use uuid::Uuid;

use crate::auth::{
    Authorized, Caller, Question, Rule, Start, StartPlan, StartQuestion, StartRefusal, Verdict,
    decide,
};
use crate::jobs::commands::launch_task::{self, Held, StartTurns};
use crate::jobs::commands::prepare;
use crate::jobs::commands::program::{self, HeldProgram};
use crate::jobs::events::LifecycleEvent;
use crate::jobs::history::admission::{self, AdmissionError};
use crate::jobs::images;
use crate::jobs::job::Job;
use crate::jobs::query::{self, FindError};
use crate::jobs::registry::RequestStatus;
use crate::jobs::shared::calls::Call;
use crate::jobs::shared::{NotRecovered, Shared};
use crate::launch::effective_limits;
use crate::metrics::labels::Phase;
use crate::model::account::Account;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::request::{Request, older_digest};
use crate::model::spec::{Defaults, JobRequest, JobSpec, SpecError};
use crate::model::state::{Contact, Failure, SHORTAGE, Snapshot, UNRECORDED};
use crate::quota::OverQuota;
use crate::quota::jobs::Demand;
use crate::store::records::{AllowedBy, CertificateRecord, FORMAT, SpecRecord};
use crate::sync::Panicked;
use crate::trace::Timeline;
use job_launch::accounts::{AccountError, Lease};
use job_launch::cgroup::limits::{ResolvedDisks, Unenforceable};
use job_launch::host;
use job_launch::program::ProgramError;

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
    /// The job of this request is in quarantine.
    #[error(
        "request id {request_id:?} belongs to job {job}, whose records are damaged: the job is in \
         quarantine and may have run; to run it all the same, use another request id"
    )]
    RequestQuarantined {
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
    /// The policy does not allow the program.
    #[error("you may not start: {0}")]
    Denied(String),
    /// The role lists programs, and this one cannot be opened for the check.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The image cannot be used.
    #[error("{0}")]
    Image(String),
    /// The account cannot be used.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// This host cannot enforce a limit.
    #[error(transparent)]
    Unenforceable(#[from] Unenforceable),
    /// The disk or the output quota is full.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// A quota of the owner is reached.
    #[error(transparent)]
    Quota(#[from] OverQuota),
    /// `jobs.max_running` is reached.
    #[error(
        "{0} jobs are running, the limit (jobs.max_running); try again when one of them has ended"
    )]
    TooMany(u64),
    /// The host is short of a resource now. Nothing has run, and no job is kept.
    #[error("{0}")]
    Shortage(String),
    /// The audit cannot be written. Nothing has run, and no job is kept.
    #[error("{0}")]
    Unrecorded(String),
    /// The broker cannot tell whether the request was made before.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The job exists, and its program never ran.
    #[error("{failure}")]
    Failed {
        /// Which job tells of it.
        job: JobId,
        /// What did not work.
        failure: Failure,
    },
    /// A task of the broker has panicked.
    #[error(transparent)]
    Internal(#[from] Panicked),
}

impl From<NotRecovered> for StartError {
    fn from(error: NotRecovered) -> Self {
        FindError::from(error).into()
    }
}

/// What the policy allows of a plan.
struct Allowed {
    /// What allows the program.
    rule: Rule,
    /// Held, where the role lists programs.
    program: Option<HeldProgram>,
    /// Where the job is started, without symbolic links; absent where that makes no difference.
    directory: Option<String>,
}

/// What a job needs before it exists.
struct Prepared {
    account: Account,
    lease: Option<Lease>,
    disks: ResolvedDisks,
}

/// The outcome of a registration.
enum Registered {
    /// A concurrent call registered the same request; returns the spec.
    Known(Box<StartPlan>),
    New(Arc<Job>, Box<SpecRecord>),
}

/// Starts a job and returns once its program runs. With a request id (not empty) the call may be
/// repeated: one job, the same answer.
///
/// # Errors
/// [`StartError`].
pub(crate) async fn start(
    shared: &Arc<Shared>,
    plan: Authorized<Start, StartPlan>,
    request: &Request,
    call: Call,
    mut timeline: Timeline,
) -> Result<Arc<Job>, StartError> {
    let (caller, mut plan) = plan.into_parts();
    // Deduplication, names and uids need the whole registry.
    shared.recovered().await?;
    loop {
        // First: a repeated call needs neither a uid of the pool nor space on the disk.
        if let Some(job) = repeated(shared, &caller, request, Some(plan.spec())).await? {
            return Ok(job);
        }
        let owner = caller.identity();
        admission::admit(shared, owner).await?;
        timeline.mark(Phase::Admission);
        settle_name(shared, owner, &plan.spec().name).await;
        settle_running(shared, owner, &Demand::of(&plan.spec().limits)).await;
        let (account, lease) = prepare::account(shared, owner, &plan.spec().run_as).await??;
        timeline.mark(Phase::Account);
        let root = image(shared, owner, &mut plan).await?;
        // Before the registration: a caller that hangs up while it waits has started nothing.
        let start = shared.threads.starts.acquire(owner).await;
        // What the policy denies is said before what this host cannot do.
        let allowed = match allowed(shared, owner, &plan, &account).await {
            Err(StartError::Denied(_)) if plan.next() => continue, // another role may allow it
            allowed => allowed?,
        };
        let Allowed { rule, program, directory } = allowed;
        directory.into_iter().for_each(|directory| plan.enter(directory));
        let allowed_by = AllowedBy {
            role: rule.role.to_string(),
            rule: rule.text.to_string(),
            is_checked: program.is_some(),
        };
        let disks = disks(shared, owner, plan.spec(), &account).await?;
        let prepared = Prepared { account, lease, disks };
        let turns = StartTurns { start, launch: shared.threads.launches.acquire(owner).await };
        timeline.mark(Phase::Queue);
        match register(shared, (&caller, allowed_by), plan, prepared, request)? {
            Registered::Known(own) => plan = *own,
            Registered::New(job, record) => {
                timeline.mark(Phase::Register);
                timeline.attribute("job.id", job.id());
                // Detached: a caller that hangs up does not leave half a job.
                let launch = (record, timeline);
                let held = Held { program, root };
                launch_task::spawn(shared, &job, launch, held, turns, call, caller);
                started(&job).await?;
                return Ok(job);
            }
        }
    }
}

/// The job of a repeated request, once it is past its start. Records of older brokers have the digest of
/// the checked spec: they match only if `spec` is given.
///
/// # Errors
/// [`StartError`]: the id is another request's, or the first call failed.
pub(crate) async fn repeated(
    shared: &Arc<Shared>,
    caller: &Caller,
    request: &Request,
    spec: Option<&JobSpec>,
) -> Result<Option<Arc<Job>>, StartError> {
    let request_id = || request.id.clone();
    loop {
        let status = shared.registry().request(caller.identity(), request);
        let entry = match status {
            RequestStatus::New => return Ok(None),
            RequestStatus::Same(entry) => entry,
            RequestStatus::Older(entry, digest) => match spec {
                None => return Ok(None),
                Some(spec) if *older_digest(spec) == *digest => entry,
                Some(_) => {
                    let (request_id, job) = (request_id(), entry.id());
                    return Err(StartError::RequestReused { request_id, job });
                }
            },
            RequestStatus::Other(job) => {
                return Err(StartError::RequestReused { request_id: request_id(), job });
            }
            RequestStatus::Quarantined(job) if !shared.state.is_quarantined(job) => {
                shared.registry().forget_quarantined(job); // an operator has removed the directory
                continue;
            }
            RequestStatus::Quarantined(job) => {
                return Err(StartError::RequestQuarantined { request_id: request_id(), job });
            }
        };
        // None: the job was removed meanwhile.
        let loaded = query::load(shared, caller.identity(), entry).await?;
        let Some(job) = loaded else { continue };
        match started(&job).await {
            // A job of an earlier broker that never ran: the request may run now.
            Err(_) if job.is_retryable() => {}
            Err(error) => return Err(error),
            Ok(()) => return Ok(Some(job)),
        }
    }
}

/// What the policy says of a start, its program included.
///
/// # Errors
/// [`SpecError`]: it is no start, whoever asks.
pub(crate) async fn can_start(
    shared: &Arc<Shared>,
    caller: &Caller,
    request: JobRequest,
    defaults: &Defaults,
) -> Result<Verdict, SpecError> {
    let question = StartQuestion { request: &request, program: None, defaults };
    let verdict = decide(caller, &Question::Start(question));
    if !verdict.is_allowed {
        return Ok(verdict); // before `may_start`, which logs what it denies
    }
    let mut plan = match caller.may_start(request, defaults) {
        Ok(plan) => plan.into_parts().1,
        Err(StartRefusal::Denied(denied)) => return Ok(*denied.verdict),
        Err(StartRefusal::Invalid(error)) => return Err(error),
    };
    loop {
        let allowed = can_execute(shared, caller.identity(), &plan).await;
        match allowed {
            Err(StartError::Denied(_)) if plan.next() => {}
            Ok(rule) => return Ok(Verdict::yes(rule)),
            Err(StartError::Denied(why)) => return Ok(Verdict::no(why)),
            Err(error) => return Ok(Verdict::no(error.to_string())),
        }
    }
}

/// The rule that allows the program of a plan, for its account.
async fn can_execute(
    shared: &Arc<Shared>,
    owner: &Identity,
    plan: &StartPlan,
) -> Result<Rule, StartError> {
    let (account, _lease) = prepare::account(shared, owner, &plan.spec().run_as).await??;
    Ok(allowed(shared, owner, plan, &account).await?.rule)
}

/// The root of the image that the plan names, from which the plan takes what its request does not say.
async fn image(
    shared: &Arc<Shared>,
    owner: &Identity,
    plan: &mut StartPlan,
) -> Result<Option<Arc<OwnedFd>>, StartError> {
    let name = &plan.spec().isolation.image;
    if name.is_empty() {
        return Ok(None);
    }
    let open = images::open(shared, owner, name).await?;
    let open = open.map_err(|fault| StartError::Image(fault.to_string()))?;
    plan.use_image(&open.image).map_err(StartError::Image)?;
    Ok(Some(Arc::new(open.root)))
}

/// Waits until it is known whether the job of this name ended while no broker ran.
async fn settle_name(shared: &Shared, owner: &Identity, name: &str) {
    let holder = shared.registry().live_name(owner, name);
    if let Some(holder) = holder {
        holder.wait_for_contact().await;
    }
}

/// Where a quota of running jobs is reached, waits until it is known which of them ended while no broker ran.
async fn settle_running(shared: &Shared, owner: &Identity, asked: &Demand) {
    let limits = shared.quotas.limits(owner);
    if !limits.bound_running_jobs() {
        return;
    }
    let unknown: Vec<_> = {
        let registry = shared.registry();
        let fits = registry.in_use(owner, None).check_start(&limits, asked);
        let is_unknown = |job: &&Arc<Job>| job.snapshot().contact == Contact::Recovering;
        let running = fits.is_err().then(|| registry.running(owner));
        running.into_iter().flatten().filter(is_unknown).cloned().collect()
    };
    for job in unknown {
        job.wait_for_contact().await;
    }
}

/// The rule that allows the program, and the program itself where the role lists programs: then what is executed is
/// what was judged, whatever its name means by then.
async fn allowed(
    shared: &Arc<Shared>,
    owner: &Identity,
    plan: &StartPlan,
    account: &Account,
) -> Result<Allowed, StartError> {
    let spec = plan.spec();
    let directory = match plan.resolves_directory() {
        true => Some(directory(shared, owner, plan, account).await?),
        false => None,
    };
    let name = spec.argv.first().map_or("", String::as_str);
    if !plan.lists_programs() {
        let rule = plan.may_execute(Path::new(name), &spec.argv).map_err(StartError::Denied)?;
        return Ok(Allowed { rule, program: None, directory });
    }
    // In the job's own directory, which is empty, there is no program.
    let requested =
        if spec.working_directory.is_empty() { JOB_DIR } else { &spec.working_directory };
    let place = directory.as_deref().unwrap_or(requested);
    let is_named = |path: &PathBuf| path.to_str().is_some_and(|path| plan.names_program(path));
    let mut may_tell = program::places(spec, place).iter().any(is_named);
    let open = HeldProgram::open(shared, owner, spec, place, account).await?;
    // Of a file that the role does not name the caller learns nothing: not that it exists, nor where it leads.
    let unnamed = || StartError::Denied(plan.no_program(name));
    let program = open.map_err(|error| if may_tell { error.into() } else { unnamed() })?;
    let mut rule = None;
    for asked in program.invocations() {
        may_tell |= asked.file.to_str().is_some_and(|path| plan.names_program(path));
        let denied = |why| if may_tell { StartError::Denied(why) } else { unnamed() };
        let allows = plan.may_execute(&asked.file, &asked.argv).map_err(denied)?;
        rule.get_or_insert(allows);
    }
    let rule = rule.ok_or_else(unnamed)?;
    Ok(Allowed { rule, program: Some(program), directory })
}

/// The working directory without symbolic links, if the role allows it; the one that was requested it does.
async fn directory(
    shared: &Arc<Shared>,
    owner: &Identity,
    plan: &StartPlan,
    account: &Account,
) -> Result<String, StartError> {
    let requested = &plan.spec().working_directory;
    let failed = |source| {
        let (directory, account) = (requested.clone(), account.name.clone());
        ProgramError::Directory { directory, account, source }
    };
    let resolved = prepare::directory(shared, owner, requested, account).await?.map_err(failed)?;
    let denied = |why| StartError::Denied(format!("{why}, to which {} leads", echo(requested)));
    plan.may_enter(&resolved).map_err(denied)?;
    Ok(resolved)
}

/// Resolves the disks, and checks that this host can enforce the limits.
async fn disks(
    shared: &Arc<Shared>,
    owner: &Identity,
    spec: &JobSpec,
    account: &Account,
) -> Result<ResolvedDisks, StartError> {
    let disks = prepare::disks(shared, owner, &spec.limits, spec, account).await?;
    let name = |error| effective_limits::name_the_section(error, spec, &shared.limits());
    Ok(disks.map_err(name)?)
}

/// Registers a new job, unless its request is known by now. The registry's lock makes the checks and the
/// registration atomic.
fn register(
    shared: &Shared,
    (caller, allowed_by): (&Caller, AllowedBy),
    plan: StartPlan,
    Prepared { account, lease, disks }: Prepared,
    request: &Request,
) -> Result<Registered, StartError> {
    let owner = caller.identity();
    let mut registry = shared.registry();
    if !matches!(registry.request(owner, request), RequestStatus::New) {
        return Ok(Registered::Known(Box::new(plan)));
    }
    if let Some(job) = registry.live_name(owner, &plan.spec().name) {
        return Err(StartError::NameTaken { name: plan.spec().name.clone(), job: job.id() });
    }
    // A job counts until its final record is written.
    if registry.live().len() as u64 >= shared.max_running {
        return Err(StartError::TooMany(shared.max_running));
    }
    let in_use = || registry.in_use(owner, None);
    shared.quotas.start(owner, in_use, &Demand::of(&plan.spec().limits))?;
    let record = SpecRecord {
        format: FORMAT,
        id: JobId::fresh(),
        owner: owner.clone(),
        request_id: request.id.clone(),
        request_digest: request.digest.clone(),
        created_ns: host::now_ns(),
        boot_id: Uuid::from_bytes(shared.boot_id),
        spec: plan.into_spec(),
        account,
        disks,
        changes: Vec::new(),
        is_changing: false,
        allowed_by,
        certificate: caller.context().map(|call| CertificateRecord {
            serial: call.peer.serial.clone(),
            issuer: call.peer.issuer.clone(),
        }),
    };
    // Memory keeps no values of the environment; the shim gets them.
    let job = Job::new(record.abridged(), Snapshot::starting(), lease);
    registry.add(Arc::clone(&job));
    drop(registry);
    shared.events.publish(LifecycleEvent::Registered(job.id()));
    Ok(Registered::New(job, Box::new(record)))
}

/// Waits until a job is past its start.
///
/// # Errors
/// The program never ran.
async fn started(job: &Job) -> Result<(), StartError> {
    let mut snapshot = job.watch_snapshot();
    let known = snapshot.wait_for(Snapshot::is_past_start).await;
    match known.ok().and_then(|known| known.start_failure()) {
        Some(failure) if failure.step == UNRECORDED => Err(StartError::Unrecorded(failure.message)),
        Some(failure) if failure.step == SHORTAGE => Err(StartError::Shortage(failure.message)),
        Some(failure) => Err(StartError::Failed { job: job.id(), failure }),
        None => Ok(()),
    }
}
