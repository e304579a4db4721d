//! The next steps of a broker and its client; brackets in a step name the function that does it. A step must not
//! decide what the real functions decide.

use job_broker::decisions::{Event, Facts, State, Verdict};

use crate::known::{Known, Status, Why, exited, failure, spawned, started};
use crate::plan::{Do, Plan};
use crate::steps::{Step, Steps};
use crate::world::{Answer, Broker, File, Job, Memory, Said, Shim, StopCall, Task, Work, World};

/// The model's maximum of jobs for one request.
const JOBS: usize = 2;

impl Steps<'_> {
    pub(crate) fn of_broker(&mut self, b: usize) {
        match self.world.brokers[b] {
            // systemd's Restart=always; the second broker is an operator's mistake, see `faults.rs`.
            Broker::Down if b == 0 => self.open(b, false),
            Broker::Down => {}
            Broker::Adopting { epoch, seen } => self.adopt(b, epoch, seen),
            Broker::Ready { epoch } => {
                self.of_client(b);
                self.stop(b);
                for n in 0..self.world.jobs.len() {
                    self.of_task(b, epoch, n);
                }
            }
        }
    }

    pub(crate) fn open(&mut self, b: usize, from_outside: bool) {
        if self.plan.locks && self.world.lock.is_some() {
            return; // the lock is held: the broker exits and changes nothing
        }
        let step = Step { who: WHO[b], what: "starts [StateDir::open]", job: None, from_outside };
        self.add(step, |world| {
            world.lock = Some(b);
            world.epoch += 1;
            world.brokers[b] = Broker::Adopting { epoch: world.epoch, seen: 0 };
            world.left.second_brokers -= u8::from(from_outside);
            Ok(())
        });
    }

    fn adopt(&mut self, b: usize, epoch: u8, seen: usize) {
        if seen == self.world.jobs.len() {
            let step = Step { who: WHO[b], what: "is ready", job: None, from_outside: false };
            self.add(step, |world| {
                world.brokers[b] = Broker::Ready { epoch };
                Ok(())
            });
            return;
        }
        let (plan, boot) = (*self.plan, self.world.boot);
        let step =
            Step { who: WHO[b], what: "[adopt::take_over]", job: Some(seen), from_outside: false };
        self.add(step, |world| {
            world.brokers[b] = Broker::Adopting { epoch, seen: seen + 1 };
            let job = &mut world.jobs[seen];
            let disk = &job.disk;
            let same_boot = job.boot == boot;
            let reads_spawn = same_boot || plan.reads_foreign_spawn;
            if !disk.directory {
                return Ok(());
            }
            let has_no_spec = match disk.spec {
                File::Absent => !same_boot || !disk.spawn.is_there(),
                spec => spec == File::Torn,
            };
            if has_no_spec && !job.cgroup && disk.outcome.is_none() && !disk.last.is_there() {
                // `damage::never_started`
                if job.go_said {
                    return Err("it may have run, and is discarded".into());
                }
                job.disk.directory = false; // `adopt::discard`
                return Ok(());
            }
            job.quarantined = !matches!(disk.spec, File::Cached | File::Renamed | File::Durable)
                || (reads_spawn && disk.spawn == File::Torn)
                || disk.last == File::Torn;
            if job.quarantined {
                return Ok(());
            }
            let facts = Facts {
                same_boot,
                spawned: (same_boot && disk.spawn.is_there()).then(spawned),
                shim_lives: same_boot && disk.spawn.is_there() && job.shim_lives(),
                exit: disk.exit(),
                finished: disk.last_says.filter(|_| disk.last.is_there()).map(Known::record),
            };
            let (known, list) = match (plan.decide)(facts) {
                Verdict::Over(record) => {
                    let list = if job.cgroup { plan.sweep } else { &[Do::Rest] };
                    (Known::from_record(&record), list)
                }
                Verdict::Adopt if !job.shim_lives() => return Err("adopts a dead shim".into()),
                Verdict::Adopt => (Known::running(), plan.attend),
                Verdict::Settle => (Known::running(), plan.settle),
                Verdict::NeverRan if job.go_said => {
                    return Err("says that it never ran, and GO was said".into());
                }
                Verdict::NeverRan => {
                    let mut known = Known::starting();
                    known.apply(Event::StartFailed(failure("broker")))?;
                    (known, plan.settle)
                }
                Verdict::LostWithHost => {
                    let mut known = Known::running();
                    known.apply(Event::ShimLost(failure("host")))?;
                    (known, plan.settle)
                }
            };
            let mut memory = Memory::new(known, Task { list, at: 0 });
            // `stop::load`; a job that is over, or lost with the host, has no stop to resume.
            if disk.stop && known.state == State::Running {
                memory.stop_asked = true;
                memory.known.apply(Event::StopRequested)?;
            }
            job.memory[b] = Some(memory);
            Ok(())
        });
    }

    /// This broker's next step for one job: the next entry of its list.
    fn of_task(&mut self, b: usize, epoch: u8, n: usize) {
        let job = &self.world.jobs[n];
        let Some(memory) = &job.memory[b] else { return };
        let task = memory.task;
        match task.list[task.at] {
            Do::WriteSpec => self.on(b, n, "writes spec.json [launch::write_spec]", |job| {
                job.disk.directory = true;
                job.disk.spec = File::Cached;
            }),
            Do::CreateCgroup => {
                self.on(b, n, "makes the cgroup [JobCgroup::create]", |job| job.cgroup = true);
                if self.world.left.failures > 0 {
                    let plan = *self.plan;
                    let what = "cannot set a limit [Plan::apply]";
                    let step = Step { who: WHO[b], what, job: Some(n), from_outside: true };
                    self.add(step, |world| {
                        world.left.failures -= 1;
                        world.jobs[n].cgroup = true;
                        give_up(&plan, &mut world.jobs[n], b, "limits")
                    });
                }
            }
            Do::Spawn => self.on(b, n, "clones the shim [Launcher::spawn]", |job| {
                job.socket = true;
                job.shim = Shim::Preparing;
                job.link = Some(epoch);
            }),
            Do::SaveSpawn => self.on(b, n, "writes spawn.json [records::save]", |job| {
                job.disk.spawn = File::Cached;
            }),
            Do::MakeSpecDurable => self.on(b, n, "syncs spec.json [store::make_durable]", |job| {
                job.disk.spec = File::Durable;
            }),
            Do::Go => self.on(b, n, "says GO [Shim::go]", |job| {
                job.go = job.shim_lives();
                job.go_said = true;
            }),
            Do::AwaitStarted => self.await_started(b, n),
            Do::EndShim => self.on(b, n, "ends the shim [Shim::end]", Job::shim_dies_if_born),
            Do::Attend => self.attend(b, epoch, n),
            Do::KillWork => {
                self.on(b, n, "kills what is left [JobCgroup::kill_work]", Job::kill_work)
            }
            Do::LearnEnd => {
                self.try_on(b, n, "reads the records [attend::learn_end]", |job, b| {
                    let exit = job.disk.exit();
                    let memory = job.memory[b].as_mut().ok_or("forgotten")?;
                    let over = memory.known.state.is_over();
                    memory.verdict = Some(match over {
                        true => memory.known,
                        false => memory.known.settle(exit, memory.stop_asked)?,
                    });
                    Ok(())
                });
            }
            Do::SyncSpec => self.try_on(b, n, "syncs spec.json [attend::write_final]", |job, b| {
                let verdict = job.memory[b].as_ref().and_then(|memory| memory.verdict);
                let may_have_run =
                    verdict.is_some_and(|known| known.started || known.exited.is_some());
                if !may_have_run {
                    job.disk.spec = File::Durable;
                }
                Ok(())
            }),
            Do::RenameLast => self.on_last(b, n, "renames final.json", File::Renamed),
            Do::RenameUnsyncedLast => self.on_last(b, n, "renames final.json", File::Cached),
            Do::SyncLast => self.on_last(b, n, "syncs final.json", File::Durable),
            Do::ForgetStop => self.on(b, n, "removes stop.json [attend::write_final]", |job| {
                job.disk.stop = false;
            }),
            Do::Publish => self.try_on(b, n, "shows the end [Job::restore]", |job, b| {
                let memory = job.memory[b].as_mut().ok_or("forgotten")?;
                memory.known = memory.verdict.ok_or("nothing to show")?;
                Ok(())
            }),
            Do::RemoveSocket => self.on(b, n, "removes the socket [Launcher::clean]", |job| {
                job.socket = false;
            }),
            Do::RemoveCgroup => {
                // EBUSY until the last process is gone; `JobCgroup::remove` waits for that.
                if job.has_processes() {
                    self.repeat_kill(b, n);
                } else if !job.shim_lives() {
                    self.on(b, n, "removes the cgroup [JobCgroup::remove]", |job| {
                        job.cgroup = false
                    });
                }
            }
            Do::Rest => {}
        }
        self.enforce_stop(b, n);
    }

    fn on(&mut self, b: usize, n: usize, what: &'static str, deed: impl FnOnce(&mut Job)) {
        self.try_on(b, n, what, |job, _| {
            deed(job);
            Ok(())
        });
    }

    /// Does a step that can fail, and moves to the next entry of the list.
    fn try_on(
        &mut self,
        b: usize,
        n: usize,
        what: &'static str,
        deed: impl FnOnce(&mut Job, usize) -> Result<(), String>,
    ) {
        self.add_to_job((WHO[b], what), n, |job| {
            deed(job, b)?;
            job.memory[b].as_mut().ok_or("forgotten")?.task.at += 1;
            Ok(())
        });
    }

    fn on_last(&mut self, b: usize, n: usize, what: &'static str, file: File) {
        self.try_on(b, n, what, |job, b| {
            let memory = job.memory[b].as_ref().ok_or("forgotten")?;
            job.disk.last = file;
            job.disk.last_says = memory.verdict;
            Ok(())
        });
    }

    fn repeat_kill(&mut self, b: usize, n: usize) {
        self.add_to_job((WHO[b], "kills again [JobCgroup::kill_work]"), n, |job| {
            job.kill_work();
            Ok(())
        });
    }

    fn await_started(&mut self, b: usize, n: usize) {
        let (plan, job) = (*self.plan, &self.world.jobs[n]);
        if job.said >= Said::Started {
            self.add_to_job((WHO[b], "hears STARTED [Core::attend]"), n, |job| {
                let memory = job.memory[b].as_mut().ok_or("forgotten")?;
                memory.task = Task { list: plan.attend, at: 0 };
                memory.heard = Said::Started;
                memory.known.apply(started())
            });
        } else if let Some(why) = job.said_failed {
            self.add_to_job((WHO[b], "hears FAILED [Shim::expect_started]"), n, |job| {
                give_up(&plan, job, b, why)
            });
        } else if job.shim == Shim::Dead {
            self.add_to_job((WHO[b], "finds the shim gone [Shim::expect_started]"), n, |job| {
                give_up(&plan, job, b, "go")
            });
        }
    }

    fn attend(&mut self, b: usize, epoch: u8, n: usize) {
        let (plan, job) = (*self.plan, &self.world.jobs[n]);
        let Some(memory) = &job.memory[b] else { return };
        let linked = job.link == Some(epoch);
        if linked && memory.heard < job.said {
            self.add_to_job((WHO[b], "hears the shim [contact::take]"), n, |job| {
                let status = job.waited;
                hear(&plan, job.memory[b].as_mut().ok_or("forgotten")?, status)
            });
        }
        if let Some(why) = job.said_failed.filter(|_| linked && !memory.known.state.is_over()) {
            self.add_to_job((WHO[b], "hears FAILED [contact::take]"), n, |job| {
                let memory = job.memory[b].as_mut().ok_or("forgotten")?;
                if !memory.known.started {
                    memory.known = Known::starting();
                }
                memory.known.apply(Event::StartFailed(failure(why)))
            });
        }
        let listening = !matches!(job.shim, Shim::None | Shim::Preparing | Shim::Dead);
        if !linked && job.socket && listening && !job.strangers.contains(&epoch) {
            self.add_to_job((WHO[b], "connects [contact::connect]"), n, |job| {
                job.strangers.push(epoch);
                Ok(())
            });
        }
        if linked && memory.stop_asked && !job.stopping && job.shim_lives() {
            self.add_to_job((WHO[b], "passes STOP on [Job::tell]"), n, |job| {
                job.stopping = true;
                Ok(())
            });
        }
        if job.shim == Shim::Dead {
            self.add_to_job((WHO[b], "sees the shim gone [attend::ended]"), n, |job| {
                job.memory[b].as_mut().ok_or("forgotten")?.task = Task { list: plan.settle, at: 0 };
                Ok(())
            });
        }
    }

    /// Enforces a stop on a shim that does not stop its job. The model has no time, so a slow shim is the same.
    fn enforce_stop(&mut self, b: usize, n: usize) {
        let job = &self.world.jobs[n];
        let Some(memory) = &job.memory[b] else { return };
        if !memory.stop_asked || memory.known.exited.is_some() || memory.known.state.is_over() {
            return;
        }
        if matches!(job.work, Work::Waiting | Work::Told | Work::Running) {
            self.add_to_job((WHO[b], "kills the workload [Core::enforce_stop]"), n, |job| {
                job.kill_work();
                Ok(())
            });
        } else if job.shim_lives() && memory.task.list == self.plan.attend {
            self.add_to_job((WHO[b], "kills the shim [Job::kill_shim]"), n, |job| {
                job.shim_dies();
                Ok(())
            });
        }
    }

    fn stop(&mut self, b: usize) {
        for (n, job) in self.world.jobs.iter().enumerate() {
            let Some(memory) = &job.memory[b] else { continue };
            let over = memory.known.state.is_over();
            match memory.stop_call {
                StopCall::None => {}
                StopCall::Asked if self.plan.records_stops && !over => {
                    if job.disk.directory {
                        self.record_stop(b, n);
                    }
                }
                StopCall::Asked | StopCall::Recorded => self.acknowledge_stop(b, n),
            }
            if self.world.left.stops == 0 || memory.known.state.is_over() || memory.stop_asked {
                continue;
            }
            let what = "asks for a stop [Supervisor::stop]";
            self.add(Step { who: "client", what, job: Some(n), from_outside: true }, |world| {
                world.left.stops -= 1;
                let memory = world.jobs[n].memory[b].as_mut().ok_or("forgotten")?;
                memory.stop_asked = true;
                memory.stop_call = StopCall::Asked;
                memory.known.apply(Event::StopRequested)
            });
        }
    }

    fn record_stop(&mut self, b: usize, n: usize) {
        self.add_to_job((WHO[b], "writes stop.json [Core::record_stop]"), n, |job| {
            job.disk.stop = true;
            job.memory[b].as_mut().ok_or("forgotten")?.stop_call = StopCall::Recorded;
            Ok(())
        });
    }

    fn acknowledge_stop(&mut self, b: usize, n: usize) {
        self.add_to_job(("client", "is told that it will stop [Core::stop_for_good]"), n, |job| {
            job.stop_acknowledged = true;
            job.memory[b].as_mut().ok_or("forgotten")?.stop_call = StopCall::None;
            Ok(())
        });
    }

    fn of_client(&mut self, b: usize) {
        let (plan, world) = (*self.plan, self.world);
        match world.call {
            None if world.left.requests > 0 => {
                let what = "sends the request [Supervisor::start]";
                let step = Step { who: "client", what, job: None, from_outside: true };
                self.add(step, |world| {
                    world.left.requests -= 1;
                    register(&plan, world, b);
                    Ok(())
                });
            }
            Some((at, n, is_new)) if at == b => {
                let Some(memory) = &world.jobs[n].memory[b] else { return };
                let snapshot = memory.known.snapshot();
                if !snapshot.is_past_start() {
                    return;
                }
                let step =
                    Step { who: "client", what: "is answered", job: Some(n), from_outside: false };
                self.add(step, |world| match snapshot.start_failure() {
                    Some(_) if !is_new && snapshot.is_retryable() => {
                        register(&plan, world, b);
                        Ok(())
                    }
                    Some(_) => {
                        world.answered(Answer::Failed(n, memory.known.failure.unwrap_or("-")))
                    }
                    None => world.answered(Answer::Runs(n)),
                });
            }
            _ => {}
        }
    }
}

pub(crate) const WHO: [&str; 2] = ["broker", "second broker"];

/// `start::register`: the job of the request, or a new one. `Registry::request` returns the newest.
fn register(plan: &Plan, world: &mut World, b: usize) {
    world.call = None;
    let known = world.jobs.iter().enumerate().rev();
    let mut known = known.filter_map(|(n, job)| Some((n, job.memory[b].as_ref()?.known)));
    match known.next() {
        Some((n, known)) if !may_be_repeated(plan, known) => world.call = Some((b, n, false)),
        _ if world.jobs.len() < JOBS => {
            let task = Task { list: plan.launch, at: 0 };
            world.jobs.push(Job::new(world.boot, b, task));
            world.call = Some((b, world.jobs.len() - 1, true));
        }
        _ => {} // beyond this model
    }
}

fn may_be_repeated(plan: &Plan, known: Known) -> bool {
    let snapshot = known.snapshot();
    snapshot.is_retryable() || (plan.repeats_failures && snapshot.start_failure().is_some())
}

fn give_up(plan: &Plan, job: &mut Job, b: usize, why: Why) -> Result<(), String> {
    let memory = job.memory[b].as_mut().ok_or("forgotten")?;
    memory.task = Task { list: plan.give_up, at: 0 };
    let mut known = memory.known;
    known.apply(Event::StartFailed(failure(why)))?;
    memory.verdict = Some(known);
    Ok(())
}

/// Handles the shim's next message.
fn hear(plan: &Plan, memory: &mut Memory, status: Option<Status>) -> Result<(), String> {
    let (word, event) = match memory.heard {
        Said::Nothing => (Said::Started, started()),
        // The finalizer shows an end by the broker's own SIGKILL, once it is on record.
        Said::Started if memory.stop_asked && status == Some(Status::Killed) => {
            if plan.waits_with_kills {
                memory.heard = Said::Exited;
                return Ok(());
            }
            (Said::Exited, exited(Status::Stopped))
        }
        Said::Started => (Said::Exited, exited(status.ok_or("it does not say how")?)),
        Said::Exited | Said::Ended if memory.known.exited.is_none() => {
            memory.heard = Said::Ended;
            return Ok(());
        }
        Said::Exited | Said::Ended => (Said::Ended, Event::Ended { time_ns: 1, incomplete: false }),
    };
    memory.heard = word;
    memory.known.apply(event)
}

impl Job {
    fn shim_dies_if_born(&mut self) {
        if self.shim_lives() {
            self.shim_dies();
        }
    }
}

impl World {
    /// An answer is final: the same job each time, and the same result of its start.
    fn answered(&mut self, answer: Answer) -> Result<(), String> {
        self.call = None;
        match (self.answer.replace(answer), answer) {
            (Some(Answer::Runs(before)), Answer::Runs(now)) if before != now => {
                Err(format!("job {before} was the answer, and now it is job {now}"))
            }
            (Some(Answer::Runs(_)), Answer::Failed(..)) => {
                Err("it was said to run, and now not to have started".into())
            }
            _ => Ok(()),
        }
    }
}
