//! One job in memory: what was asked, what is known, and the line to its shim.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use job_shim::wire::{InputAck, Progress, ToShim, Watch};
use tokio::sync::{Notify, watch};

use crate::host;
use crate::jobs::channel::{Channel, Unreachable};
use crate::jobs::process::ShimProcess;
use crate::jobs::stop_request::{StopChange, StopRequest};
use crate::launch::accounts::Lease;
use crate::launch::effective_limits::EffectiveLimits;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::state::{Contact, Event, InvalidTransition, Now, Snapshot, State};
use crate::store::records::SpecRecord;
use crate::sync::lock;

/// A job, shared by whoever looks at it.
#[derive(Debug)]
pub struct Job {
    record: SpecRecord,
    effective_limits: watch::Sender<EffectiveLimits>,
    snapshot: watch::Sender<Snapshot>,
    progress: watch::Sender<Progress>,
    input: watch::Sender<InputAck>,
    /// Its end is on record and nothing is left of it, as far as the disk takes the one and the kernel
    /// gives the other: see `cleanup`.
    settled: watch::Sender<bool>,
    /// When its program began, since the host was started.
    program_start: OnceLock<ProgramStart>,
    channel: Mutex<Option<Arc<Channel>>>,
    shim: Mutex<Option<ShimProcess>>,
    /// Somebody waits for its shim to be reached.
    priority: Notify,
    /// Somebody waits for its output, and the shim could not be asked.
    follower: Notify,
    stop: watch::Sender<Option<StopRequest>>,
    /// Whether its shim knows of that.
    stop_sent: AtomicBool,
    /// What of it is on record; one record at a time.
    pub(crate) recorded_stop: tokio::sync::Mutex<Option<StopRequest>>,
    progress_requested: AtomicBool,
    /// One piece of input at a time.
    pub(crate) input_turn: tokio::sync::Mutex<()>,
    /// One change at a time of limits, or between paused and running.
    pub(crate) change_turn: tokio::sync::Mutex<()>,
    /// Whether somebody waits for its shim to take a change whose caller was answered.
    pub(crate) is_change_pending: AtomicBool,
    /// One at a time kills what its shim did not.
    pub(crate) kill_turn: tokio::sync::Mutex<()>,
    lease: Mutex<Option<Lease>>,
}

#[derive(Debug)]
struct ProgramStart {
    at: Duration,
    /// This broker has heard it: when it hears of the end, it knows how long that was.
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

    /// What was asked at its start, of long arguments the beginning, see [`crate::model::abridged`]; its limits may
    /// have changed since, see [`Job::effective_limits`].
    pub fn record(&self) -> &SpecRecord {
        &self.record
    }

    /// What it may use now.
    pub fn effective_limits(&self) -> EffectiveLimits {
        self.effective_limits.borrow().clone()
    }

    pub(crate) fn watch_effective_limits(&self) -> watch::Receiver<EffectiveLimits> {
        self.effective_limits.subscribe()
    }

    pub(crate) fn modify_effective_limits(&self, change: impl FnOnce(&mut EffectiveLimits)) {
        self.effective_limits.send_modify(change);
    }

    /// What is known now.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// Of that, what lists ask every job; nothing is copied for it.
    pub(crate) fn state_and_end(&self) -> (State, Option<u64>) {
        let known = self.snapshot.borrow();
        (known.state, known.ended_ns)
    }

    /// To wait for what will be known.
    pub fn watch_snapshot(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.subscribe()
    }

    /// The output as far as it is known. Of a running job nobody follows, this may be old: ask
    /// with [`Job::request_progress`].
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

    /// Takes an event in; one that cannot be is the shim's fault and goes to the journal.
    pub(crate) fn apply(&self, event: Event) {
        if let Err(invalid) = self.try_apply(event) {
            tracing::error!(job = %self.id(), "{invalid}");
        }
    }

    /// The same for an event that another may have overtaken.
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

    /// Its shim's own measure, in its record of the end, replaces this one.
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

    /// For one that another broker has started: its shim was born at that time, and its program began a
    /// moment later.
    pub(crate) fn set_program_start(&self, at: Duration) {
        self.program_start.get_or_init(|| ProgramStart { at, is_observed: false });
    }

    /// How long its program has run, or ran; `None` if it never did.
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
        self.progress.send_replace(progress); // whoever asked is told even if nothing is new
    }

    /// What the files say, where they say more than the shim has.
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

    /// A job that was over before this broker came.
    pub(crate) fn restore(&self, snapshot: Snapshot) {
        self.snapshot.send_replace(snapshot);
    }

    /// See [`Snapshot::is_retryable`].
    pub(crate) fn is_retryable(&self) -> bool {
        self.snapshot().is_retryable()
    }

    /// Answers when it is known whether the shim of an earlier broker answers: who asks for something
    /// right after a restart need not ask again. That takes 2 s for a shim that lives; that a job has ended
    /// without a broker is known once it is on record, for which nobody waits longer than 15 s. Its shim
    /// is reached before those that nobody asks for.
    pub(crate) async fn wait_for_contact(&self) {
        let is_known =
            |known: &Snapshot| known.contact != Contact::Recovering || known.state.is_over();
        let mut snapshot = self.watch_snapshot();
        if !is_known(&snapshot.borrow_and_update()) {
            self.prioritize();
        }
        let _ = tokio::time::timeout(CONTACT_TIMEOUT, snapshot.wait_for(is_known)).await;
    }

    /// Somebody needs its shim: where there is no connection, its turn comes before that of others.
    pub(crate) fn prioritize(&self) {
        self.priority.notify_one();
    }

    /// Answers when somebody has needed its shim since the last answer.
    pub(crate) async fn wait_for_priority(&self) {
        self.priority.notified().await;
    }

    pub(crate) fn is_reachable(&self) -> bool {
        lock(&self.channel).is_some()
    }

    pub(crate) fn set_input(&self, ack: InputAck) {
        self.input.send_replace(ack);
    }

    /// For whoever sees to it that nothing runs as that uid any more.
    pub(crate) fn take_lease(&self) -> Option<Lease> {
        lock(&self.lease).take()
    }

    pub(crate) fn set_settled(&self) {
        self.settled.send_replace(true);
    }

    /// Whether it is over, for whoever could not reach its shim: that may have left a moment ago, and the
    /// end is being put on record. Two seconds at most.
    pub(crate) async fn has_ended_late(&self) -> bool {
        let mut snapshot = self.watch_snapshot();
        let known =
            snapshot.wait_for(|known| known.state.is_over() || known.contact == Contact::Silent);
        let known = tokio::time::timeout(END_TIMEOUT, known).await;
        matches!(known, Ok(Ok(known)) if known.state.is_over())
    }

    /// Asks the shim to tell when there is more output than is known. One question is open at a
    /// time, however many follow; the answer clears it.
    pub(crate) fn request_progress(&self) {
        if !self.progress_requested.swap(true, Ordering::AcqRel) {
            let sent = self.send(&ToShim::Watch(Watch { seen: self.progress() }));
            if sent.is_err() {
                self.progress_requested.store(false, Ordering::Release);
                self.follower.notify_one();
            }
        }
    }

    /// Has the shim tell its progress now, for what its files do not say: what was dropped.
    pub(crate) async fn refresh_progress(&self) {
        let mut answer = self.watch_progress();
        answer.mark_unchanged();
        let nothing = Progress { entries: u64::MAX, ..Progress::default() };
        if self.send(&ToShim::Watch(Watch { seen: nothing })).is_ok() {
            let _ = tokio::time::timeout(ANSWER_TIMEOUT, answer.changed()).await;
        }
    }

    /// Says something to the shim; never waits.
    pub(crate) fn send(&self, message: &ToShim) -> Result<(), Unreachable> {
        self.channel()?.send(message)
    }

    /// The same, and it is with the shim when this answers, whoever dies then.
    pub(crate) fn send_whole(&self, message: &ToShim) -> Result<(), Unreachable> {
        self.channel()?.send_whole(message)
    }

    fn channel(&self) -> Result<Arc<Channel>, Unreachable> {
        self.prioritize(); // one that is only lent stays for a while
        lock(&self.channel).clone().ok_or(Unreachable)
    }

    /// Answers when somebody waits for its output whom the shim cannot tell of it.
    pub(crate) async fn wait_for_follower(&self) {
        while self.progress.receiver_count() == 0 {
            self.follower.notified().await;
        }
    }

    pub(crate) fn set_channel(&self, channel: Option<Arc<Channel>>) {
        *lock(&self.channel) = channel;
        self.progress_requested.store(false, Ordering::Release);
        // Whoever waits for progress must ask again, now that there is somebody to ask.
        self.progress.send_modify(|_| ());
    }

    pub(crate) fn set_shim(&self, shim: Option<ShimProcess>) {
        *lock(&self.shim) = shim;
    }

    /// SIGKILL to the shim, for one that does not answer.
    pub(crate) fn kill_shim(&self) {
        let shim = *lock(&self.shim);
        if let Some(Err(e)) = shim.map(ShimProcess::kill) {
            tracing::error!(job = %self.id(), "its shim cannot be killed: {e}");
        }
    }

    /// Remembers the first who asked for a stop, and the shortest time that anybody gave.
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

    /// Tells its shim of the stop that was asked for, if there is one. One that cannot be reached now is
    /// told when it can.
    pub(crate) fn send_stop(&self) -> bool {
        let request = self.stop_request();
        let is_sent = request.is_some_and(|request| self.send(&request.message()).is_ok());
        self.stop_sent.store(is_sent, Ordering::Release);
        is_sent
    }

    pub(crate) fn is_stop_sent(&self) -> bool {
        self.stop_sent.load(Ordering::Acquire)
    }
}

/// For an end that an earlier broker has left to be put on record, beside those of all other jobs.
const CONTACT_TIMEOUT: Duration = Duration::from_secs(15);
/// From a shim's leaving to its end on record, on a disk that is well.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// A shim that is well answers within a millisecond.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);
