//! From a job's place in the table to its attendant: its turn, its launch, and what becomes of it when
//! that fails.

use std::io;
use std::panic;
use std::sync::Arc;

use job_shim::crash::{self, Point};
use tokio::task::JoinError;

use crate::host;
use crate::jobs::channel::Link;
use crate::jobs::cleanup;
use crate::jobs::commands::start::Core;
use crate::jobs::history::archive;
use crate::jobs::job::Job;
use crate::jobs::monitor;
use crate::jobs::monitor::connection::First;
use crate::jobs::monitor::session::Connection;
use crate::jobs::process::ShimProcess;
use crate::jobs::shared::calls::Call;
use crate::jobs::stats::Figures;
use crate::journal::{AUDIT, Argv};
use crate::launch::failure::{failure, shortage};
use crate::launch::{LaunchError, Launched};
use crate::model::identity::Identity;
use crate::model::state::{Event, Failure};
use crate::quota::fair_queue::Turn;
use crate::store::records::SpecRecord;

impl Core {
    /// Launches it; does not wait. Should the launch panic, the job is told to have failed, and nobody
    /// waits for it for ever.
    pub(crate) fn bring_up(
        self: &Arc<Core>,
        job: &Arc<Job>,
        record: Box<SpecRecord>,
        turn: Turn<Identity>,
        call: Call,
    ) {
        let launch = Arc::clone(self).launch(Arc::clone(job), record, turn);
        let (core, job) = (Arc::clone(self), Arc::clone(job));
        self.runtime.spawn(async move {
            let _call = call; // as long as it is being started, whoever waits for it
            if let Err(panic) = core.runtime.spawn(launch).await {
                let message = format!("the launch was broken off: {panic}");
                core.give_up(&job, Failure { step: "launch".into(), errno: 0, message });
            }
        });
    }

    /// The turn, and with it the thread, is kept up to GO. A program that hangs in its execve(2) takes
    /// neither.
    async fn launch(self: Arc<Core>, job: Arc<Job>, record: Box<SpecRecord>, turn: Turn<Identity>) {
        let record = Arc::<SpecRecord>::from(record);
        let (core, launching, own) = (Arc::clone(&self), Arc::clone(&job), Arc::clone(&record));
        let begin = move || {
            crash::at(Point::JobRegistered);
            let (id, owner, argv) = (launching.id(), launching.owner(), Argv(&own.spec.argv));
            tracing::info!(target: AUDIT, job = %id, %owner, %argv, "start");
            let begun = core.ground.launcher.begin(&core.ground.state, &own);
            let begun = begun.map_err(|error| core.fail(&launching, &error, &own));
            drop(turn);
            begun
        };
        let begun = self.runtime.spawn_blocking(begin).await.unwrap_or_else(go_on_panicking);
        let Ok(mut begun) = begun else { return };
        match self.ground.launcher.started(&mut begun).await {
            Ok(started) => self.attend(&job, begun.into_launched(started)),
            Err(error) => {
                // Its processes may be hard to kill: not on the threads of starts that work.
                let _turn = self.ground.threads.killing.acquire().await; // never closed
                let core = Arc::clone(&self);
                let abandon = move || {
                    core.ground.launcher.abandon(&begun);
                    core.fail(&job, &error, &record);
                };
                self.runtime.spawn_blocking(abandon).await.unwrap_or_else(go_on_panicking);
            }
        }
    }

    fn attend(&self, job: &Arc<Job>, launched: Launched) {
        let Launched { shim, started, spawned } = launched;
        let link = Link::new(shim.control);
        job.set_link(Some(Arc::clone(&link)));
        // It was born with them; and before the start is told, after which it may be asked for them.
        job.change_terms(|terms| terms.told = Some(terms.for_shim()));
        job.apply(Event::Started(started));
        job.tell_stop(); // while it was being launched, nobody could be told
        let (ground, job) = (Arc::clone(&self.ground), Arc::clone(job));
        let first = First::Connected(Connection { link, reader: shim.reader });
        self.runtime.spawn(monitor::attend(ground, job, ShimProcess::from(&spawned), first));
    }

    /// Blocks.
    fn fail(&self, job: &Arc<Job>, error: &LaunchError, record: &SpecRecord) {
        let failure = failure(error, record);
        if error.is_shortage() { self.take_back(job, &failure) } else { self.give_up(job, failure) }
    }

    /// Nothing of it has run, for want of something that others give back: there is no such job, and its
    /// request may be made again. Blocks.
    fn take_back(&self, job: &Arc<Job>, failure: &Failure) {
        tracing::warn!(job = %job.id(), "not started, and not kept: {failure}");
        let mut known = job.snapshot();
        let event = Event::StartFailed(shortage(failure));
        if let Err(impossible) = known.apply(event, host::now_ns()) {
            tracing::error!(job = %job.id(), "{impossible}");
        }
        self.table().forget(job.id());
        self.ground.counted.send_replace(());
        match self.ground.state.remove_jobs(&[job.id()]).pop().unwrap_or(Ok(())) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {} // it did not come as far as that
            Err(e) => tracing::warn!(job = %job.id(), "the next broker removes its files: {e}"),
            Ok(()) => {}
        }
        self.clear(job);
        job.set_settled();
        job.restore(known); // last: whoever hears of it finds its request free
    }

    /// Blocks.
    fn give_up(&self, job: &Arc<Job>, failure: Failure) {
        tracing::info!(target: AUDIT, job = %job.id(), "start failed: {failure}");
        let mut known = job.snapshot();
        if let Err(impossible) = known.apply(Event::StartFailed(failure), host::now_ns()) {
            tracing::error!(job = %job.id(), "{impossible}");
        }
        // On record before it is told: a request that was refused is not run by the next broker.
        let written = monitor::write_final(&self.ground, job, &known, self.ended_at_start(job));
        job.restore(known);
        self.clear(job);
        job.set_settled();
        match written {
            Ok(()) => archive::shelve(&self.ground, job.id()),
            // It never came as far as having a directory: it is nothing but an answer.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(job = %job.id(), "it is not kept: there is no place for its record");
                self.table().forget(job.id());
                self.ground.counted.send_replace(());
            }
            Err(_) => {
                let (ground, job) = (Arc::clone(&self.ground), Arc::clone(job));
                self.runtime.spawn(monitor::settle(ground, job));
            }
        }
    }

    /// What the launch could not remove, as a child that hangs in its exec; the usual start has left
    /// nothing.
    fn clear(&self, job: &Arc<Job>) {
        let (ground, id, lease) = (Arc::clone(&self.ground), job.id(), job.take_lease());
        if ground.launcher.tree().job(id).exists() {
            self.runtime.spawn_blocking(move || cleanup::clear(&ground, id, lease));
        }
    }

    /// It has used nothing, and might have used this.
    fn ended_at_start(&self, job: &Job) -> Figures {
        Figures { limits: job.terms().rows(None), ..Figures::default() }
    }
}

/// A panic of a launch ends the task that awaits it, too, and is seen to there.
fn go_on_panicking<T>(broken_off: JoinError) -> T {
    match broken_off.try_into_panic() {
        Ok(panic) => panic::resume_unwind(panic),
        Err(cancelled) => panic::resume_unwind(Box::new(cancelled.to_string())),
    }
}
