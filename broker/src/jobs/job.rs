//! One job in memory: its spec, its state, and the channel to its shim. Nothing here reads a file or decides
//! what happens to the job.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use job_shim::wire::{InputAck, Progress, ToShim, Watch};
use tokio::sync::{Notify, watch};

use crate::jobs::channel::{Channel, Unreachable};
use crate::jobs::process::ShimProcess;
use crate::jobs::stop_request::{StopChange, StopRequest};
use crate::launch::effective_limits::EffectiveLimits;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::state::{Contact, Event, InvalidTransition, Now, Snapshot, State};
use crate::quota::jobs::Demand;
use crate::store::records::SpecRecord;
use crate::sync::lock;
use job_launch::accounts::Lease;
use job_launch::host;

/// A job, shared by all its tasks.
#[derive(Debug)]
pub struct Job {
    record: SpecRecord,
    effective_limits: watch::Sender<EffectiveLimits>,
    snapshot: watch::Sender<Snapshot>,
    progress: watch::Sender<Progress>,
    input: watch::Sender<InputAck>,
    /// The end is published, and the first attempt to record it and to clean up is done.
    settled: watch::Sender<bool>,
    /// When the program started, since boot.
    program_start: OnceLock<ProgramStart>,
    channel: Mutex<Option<Arc<Channel>>>,
    shim: Mutex<Option<ShimProcess>>,
    /// A call waits for the connection to the shim.
    priority: Notify,
    /// A reader waits for output, and the shim has no connection.
    follower: Notify,
    stop: watch::Sender<Option<StopRequest>>,
    /// Whether the shim has the stop request.
    stop_sent: AtomicBool,
    /// The stop request in `stop.json`; the lock serializes its writers.
    pub(crate) recorded_stop: tokio::sync::Mutex<Option<StopRequest>>,
    progress_requested: AtomicBool,
    /// One piece of input at a time.
    pub(crate) input_turn: tokio::sync::Mutex<()>,
    /// One change at a time of limits, or between paused and running.
    pub(crate) change_turn: tokio::sync::Mutex<()>,
    /// Whether a task waits for the shim to acknowledge a change after its caller had an answer.
    pub(crate) is_change_pending: AtomicBool,
    /// One kill by the broker at a time.
    pub(crate) kill_turn: tokio::sync::Mutex<()>,
    lease: Mutex<Option<Lease>>,
    /// What a change of limits that is under way counts for, once it is admitted.
    changing: Mutex<Option<Demand>>,
}

#[derive(Debug)]
struct ProgramStart {
    at: Duration,
    /// This broker received STARTED, so it can measure the run time.
    is_observed: bool,
}

impl Job {
    pub(crate) fn new(
        mut record: SpecRecord,
        snapshot: Snapshot,
        lease: Option<Lease>,
    ) -> Arc<Job> {
        record.spec.abridge();
        Arc::new(Job {
            effective_limits: watch::Sender::new(EffectiveLimits::of(&record)),
            record,
            snapshot: watch::Sender::new(snapshot),
            progress: watch::Sender::new(Progress::default()),
            input: watch::Sender::new(InputAck::default()),
            settled: watch::Sender::new(false),
            program_start: OnceLock::new(),
            channel: Mutex::default(),
            shim: Mutex::default(),
            priority: Notify::new(),
            follower: Notify::new(),
            stop: watch::Sender::new(None),
            stop_sent: AtomicBool::new(false),
            recorded_stop: tokio::sync::Mutex::default(),
            progress_requested: AtomicBool::new(false),
            input_turn: tokio::sync::Mutex::default(),
            change_turn: tokio::sync::Mutex::default(),
            is_change_pending: AtomicBool::new(false),
            kill_turn: tokio::sync::Mutex::default(),
            lease: Mutex::new(lease),
            changing: Mutex::default(),
        })
    }

    /// Its id.
    pub fn id(&self) -> JobId {
        self.record.id
    }

    /// Who started it.
    pub fn owner(&self) -> &Identity {
        &self.record.owner
    }

    /// The spec at the start, abridged: see [`job_launch::model::abridged`]. For the limits now see
    /// [`Job::effective_limits`].
    pub fn record(&self) -> &SpecRecord {
        &self.record
    }

    /// The limits now.
    pub fn effective_limits(&self) -> EffectiveLimits {
        self.effective_limits.borrow().clone()
    }

    /// What the job counts for in its owner's quotas: while its limits change, the larger of old and new.
    pub(crate) fn demand(&self) -> Demand {
        let now = Demand::of(&self.effective_limits.borrow().limits);
        lock(&self.changing).map_or(now, |changing| changing.max(now))
    }

    /// From an admitted change of limits (`Some`) to its end.
    pub(crate) fn set_changing(&self, demand: Option<Demand>) {
        *lock(&self.changing) = demand;
    }

    pub(crate) fn watch_effective_limits(&self) -> watch::Receiver<EffectiveLimits> {
        self.effective_limits.subscribe()
    }

    pub(crate) fn modify_effective_limits(&self, change: impl FnOnce(&mut EffectiveLimits)) {
        self.effective_limits.send_modify(change);
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// State and end time, without a copy of the snapshot: lists ask every job.
    pub(crate) fn state_and_end(&self) -> (State, Option<u64>) {
        let known = self.snapshot.borrow();
        (known.state, known.ended_ns)
    }

    /// State and contact, without a copy of the snapshot.
    pub(crate) fn state_and_contact(&self) -> (State, Contact) {
        let known = self.snapshot.borrow();
        (known.state, known.contact)
    }

    /// Watches the snapshot.
    pub fn watch_snapshot(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.subscribe()
    }

    /// The last known progress of the output. Stale for a running job without readers: see
    /// [`Job::request_progress`].
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    pub(crate) fn watch_progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn watch_input(&self) -> watch::Receiver<InputAck> {
        self.input.subscribe()
    }

    pub(crate) fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }

    pub(crate) fn watch_settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    /// Applies an event; logs an invalid one, which is a bug of the shim.
    pub(crate) fn apply(&self, event: Event) {
        if let Err(invalid) = self.try_apply(event) {
            tracing::error!(job = %self.id(), "{invalid}");
        }
    }

    /// Applies an event that may come too late.
    ///
    /// # Errors
    /// [`InvalidTransition`]; nothing has changed.
    pub(crate) fn try_apply(&self, event: Event) -> Result<(), InvalidTransition> {
        let mut verdict = Ok(());
        self.snapshot.send_if_modified(|snapshot| {
            let before = snapshot.clone();
            verdict = snapshot.apply(event, host::now_ns());
            self.measure_wall_time(snapshot);
            *snapshot != before
        });
        verdict
    }

    /// Measures the run time; the shim's own measurement in its exit file replaces it.
    fn measure_wall_time(&self, snapshot: &mut Snapshot) {
        let now = host::since_boot();
        if snapshot.started.is_some() {
            self.program_start.get_or_init(|| ProgramStart { at: now, is_observed: true });
        }
        let observed = self.program_start.get().filter(|start| start.is_observed);
        if let (true, None, Some(start)) = (snapshot.exited.is_some(), snapshot.ran, observed) {
            snapshot.ran = Some(now.saturating_sub(start.at));
        }
    }

    /// Sets the program's start for an adopted job: the start time of its shim, a moment earlier.
    pub(crate) fn set_program_start(&self, at: Duration) {
        self.program_start.get_or_init(|| ProgramStart { at, is_observed: false });
    }

    /// How long the program has run, or ran; `None` if it never did.
    pub fn wall_time(&self) -> Option<Duration> {
        let now = Now { wall_ns: host::now_ns(), since_boot: host::since_boot() };
        self.snapshot().wall_time(self.program_start.get().map(|start| start.at), now)
    }

    pub(crate) fn set_contact(&self, contact: Contact) {
        self.snapshot.send_if_modified(|snapshot| {
            std::mem::replace(&mut snapshot.contact, contact) != contact
        });
    }

    pub(crate) fn set_progress(&self, progress: Progress) {
        self.progress_requested.store(false, Ordering::Release);
        self.progress.send_replace(progress); // wakes waiters even without news
    }

    /// Takes progress that was measured from the files, if it is newer than the shim's.
    pub(crate) fn advance_progress(&self, seen: Progress) {
        self.progress.send_if_modified(|known| {
            let more = seen.entries > known.entries;
            if more {
                let (dropped, blocked) = (known.dropped, known.blocked);
                *known = Progress { dropped, blocked, ..seen };
            }
            more
        });
    }

    /// Replaces the snapshot.
    pub(crate) fn restore(&self, snapshot: Snapshot) {
        self.snapshot.send_replace(snapshot);
    }

    /// See [`Snapshot::is_retryable`].
    pub(crate) fn is_retryable(&self) -> bool {
        self.snapshot().is_retryable()
    }

    /// Waits until the broker has reached the shim of an adopted job, or knows that the shim is silent or
    /// the job has ended: so a call right after a restart does not fail. A silent shim takes 2 s, an end
    /// that must be recorded first 15 s at most. Prioritizes the job in the reconnect queue.
    pub(crate) async fn wait_for_contact(&self) {
        let is_known =
            |known: &Snapshot| known.contact != Contact::Recovering || known.state.is_over();
        let mut snapshot = self.watch_snapshot();
        if !is_known(&snapshot.borrow_and_update()) {
            self.prioritize();
        }
        let _ = tokio::time::timeout(CONTACT_TIMEOUT, snapshot.wait_for(is_known)).await;
    }

    /// Moves the job ahead in the reconnect queue.
    pub(crate) fn prioritize(&self) {
        self.priority.notify_one();
    }

    /// Waits for the next [`Job::prioritize`].
    pub(crate) async fn wait_for_priority(&self) {
        self.priority.notified().await;
    }

    pub(crate) fn is_reachable(&self) -> bool {
        lock(&self.channel).is_some()
    }

    pub(crate) fn set_input(&self, ack: InputAck) {
        self.input.send_replace(ack);
    }

    /// Hands the lease to the cleanup, which drops it when no process runs as that uid.
    pub(crate) fn take_lease(&self) -> Option<Lease> {
        lock(&self.lease).take()
    }

    pub(crate) fn set_settled(&self) {
        self.settled.send_replace(true);
    }

    /// Whether the job has ended, for a caller that could not reach the shim: the shim may have just
    /// exited while the end is being recorded. Waits up to [`END_TIMEOUT`].
    pub(crate) async fn has_ended_late(&self) -> bool {
        let mut snapshot = self.watch_snapshot();
        let known =
            snapshot.wait_for(|known| known.state.is_over() || known.contact == Contact::Silent);
        let known = tokio::time::timeout(END_TIMEOUT, known).await;
        matches!(known, Ok(Ok(known)) if known.state.is_over())
    }

    /// Asks the shim to report new output. One request is open at a time, however many readers; the answer
    /// closes it.
    pub(crate) fn request_progress(&self) {
        if !self.progress_requested.swap(true, Ordering::AcqRel) {
            let sent = self.send(&ToShim::Watch(Watch { seen: self.progress() }));
            if sent.is_err() {
                self.progress_requested.store(false, Ordering::Release);
                self.follower.notify_one();
            }
        }
    }

    /// Asks the shim for its progress now: the files do not say how many bytes were dropped.
    pub(crate) async fn refresh_progress(&self) {
        let mut answer = self.watch_progress();
        answer.mark_unchanged();
        let nothing = Progress { entries: u64::MAX, ..Progress::default() };
        if self.send(&ToShim::Watch(Watch { seen: nothing })).is_ok() {
            let _ = tokio::time::timeout(ANSWER_TIMEOUT, answer.changed()).await;
        }
    }

    /// Queues a message for the shim; never waits.
    pub(crate) fn send(&self, message: &ToShim) -> Result<(), Unreachable> {
        self.channel()?.send(message)
    }

    /// Sends a message that is in the shim's socket once this returns, even if the broker then dies.
    pub(crate) fn send_whole(&self, message: &ToShim) -> Result<(), Unreachable> {
        self.channel()?.send_whole(message)
    }

    fn channel(&self) -> Result<Arc<Channel>, Unreachable> {
        self.prioritize(); // keeps a lent connection open for a while
        lock(&self.channel).clone().ok_or(Unreachable)
    }

    /// Waits until a reader follows the output.
    pub(crate) async fn wait_for_follower(&self) {
        while self.progress.receiver_count() == 0 {
            self.follower.notified().await;
        }
    }

    pub(crate) fn set_channel(&self, channel: Option<Arc<Channel>>) {
        *lock(&self.channel) = channel;
        self.progress_requested.store(false, Ordering::Release);
        // Wakes readers, which request progress over the new connection.
        self.progress.send_modify(|_| ());
    }

    pub(crate) fn set_shim(&self, shim: Option<ShimProcess>) {
        *lock(&self.shim) = shim;
    }

    /// Sends SIGKILL to a shim that does not answer.
    pub(crate) fn kill_shim(&self) {
        let shim = *lock(&self.shim);
        if let Some(Err(e)) = shim.map(ShimProcess::kill) {
            tracing::error!(job = %self.id(), "the job's shim cannot be killed: {e}");
        }
    }

    /// Keeps the first stop request, with the earliest deadline of all.
    pub(crate) fn request_stop(&self, request: StopRequest) -> StopChange {
        let mut change = StopChange::None;
        self.stop.send_if_modified(|stop| {
            change = match stop {
                Some(first) => match first.join(&request) {
                    true => StopChange::Earlier,
                    false => StopChange::None,
                },
                none => {
                    *none = Some(request);
                    StopChange::First
                }
            };
            change != StopChange::None
        });
        if change != StopChange::None {
            self.apply(Event::StopRequested);
        }
        change
    }

    pub(crate) fn stop_request(&self) -> Option<StopRequest> {
        self.stop.borrow().clone()
    }

    pub(crate) fn watch_stop(&self) -> watch::Receiver<Option<StopRequest>> {
        self.stop.subscribe()
    }

    /// Sends the stop request, if there is one, to the shim. A shim without a connection gets it at the
    /// next session.
    pub(crate) fn send_stop(&self) -> bool {
        let request = self.stop_request();
        let is_sent = request.is_some_and(|request| self.send(&request.message()).is_ok());
        self.stop_sent.store(is_sent, Ordering::Release);
        is_sent
    }

    /// Sends the stop request once more, and returns whether the shim's socket has all of it. The shim takes a
    /// repeated stop for the same one.
    pub(crate) fn send_whole_stop(&self) -> bool {
        let request = self.stop_request();
        request.is_some_and(|request| self.send_whole(&request.message()).is_ok())
    }

    pub(crate) fn is_stop_sent(&self) -> bool {
        self.stop_sent.load(Ordering::Acquire)
    }
}

/// Covers an end that is recorded after a restart, along with those of all other jobs.
const CONTACT_TIMEOUT: Duration = Duration::from_secs(15);
/// From the shim's exit to the final record, on a healthy disk.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// A healthy shim answers within a millisecond.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{ErrorKind, Write as _};
    use std::os::unix::net;

    use job_shim::wire::Source;
    use tokio::net::UnixStream;
    use uuid::Uuid;

    use super::*;
    use crate::model::account::Account;
    use crate::model::limits::LimitTables;
    use crate::model::spec::{Defaults, JobRequest, JobSpec};
    use crate::store::records::FORMAT;

    pub(crate) fn record() -> SpecRecord {
        let defaults = Defaults {
            run_as: vec!["nobody".into()],
            stop_timeout: Duration::from_secs(10),
            limits: LimitTables::default(),
            labels: Default::default(),
            isolation: Default::default(),
        };
        let request = JobRequest { argv: vec!["true".into()], ..JobRequest::default() };
        let (name, home) = ("nobody".into(), "/".into());
        SpecRecord {
            format: FORMAT,
            id: JobId::fresh(),
            owner: Identity::new("ann").unwrap(),
            request_id: String::new(),
            request_digest: String::new(),
            created_ns: 1,
            boot_id: Uuid::nil(),
            spec: JobSpec::check(request, &defaults).unwrap(),
            account: Account { name, uid: 1, gid: 1, groups: Vec::new(), home },
            disks: Default::default(),
            changes: Vec::new(),
            is_changing: false,
            allowed_by: Default::default(),
            certificate: None,
        }
    }

    #[tokio::test]
    async fn a_stop_that_waits_for_room_in_the_socket_is_not_with_the_shim() {
        let job = Job::new(record(), Snapshot::starting(), None);
        job.request_stop(StopRequest::new(Source::User, "ann".into(), Duration::ZERO));
        assert!(!job.send_whole_stop(), "there is no connection");
        let pair = || {
            let (ours, theirs) = net::UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            (ours, theirs)
        };
        let connect =
            |ours| job.set_channel(Some(Channel::new(UnixStream::from_std(ours).unwrap())));
        let (mut full, _theirs) = pair();
        for size in [4096, 1] {
            let filled = loop {
                if let Err(e) = full.write(&[0; 4096][..size]) {
                    break e;
                }
            };
            assert_eq!(filled.kind(), ErrorKind::WouldBlock);
        }
        connect(full);
        assert!(job.send_stop(), "it is sent when there is room");
        assert!(!job.send_whole_stop(), "and until then dies with the broker");
        let (empty, _theirs) = pair();
        connect(empty);
        assert!(job.send_stop() && job.send_whole_stop());
    }
}
