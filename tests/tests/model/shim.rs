//! The next steps of a shim and its child; brackets in a step name the function that does it. A step must not decide
//! what the real functions decide.

use crate::known::{Outcome, Status};
use crate::plan::End;
use crate::steps::Steps;
use crate::world::{Job, Said, Shim, Work};

impl Steps<'_> {
    pub(crate) fn of_shim(&mut self, n: usize) {
        let job = &self.world.jobs[n];
        match job.shim {
            Shim::None | Shim::Dead => {}
            Shim::Preparing => {
                self.add_to_job(
                    ("shim", "makes its files, clones its child [prepare]"),
                    n,
                    |job| {
                        job.shim = Shim::AwaitingGo;
                        job.work = Work::Waiting;
                        Ok(())
                    },
                );
                if self.world.left.failures > 0 {
                    self.fails_to_prepare(n);
                }
            }
            Shim::AwaitingGo if job.go => {
                self.add_to_job(("shim", "passes GO on [Job::go]"), n, |job| {
                    job.go = false;
                    job.shim = Shim::Going;
                    if job.work == Work::Waiting {
                        job.work = Work::Told;
                    }
                    Ok(())
                });
            }
            Shim::AwaitingGo if !self.world.is_open(job.link) => {
                self.add_to_job(("shim", "is abandoned [Control::await_go]"), n, |job| {
                    job.work = Work::Gone;
                    job.shim = Shim::Failing("abandoned");
                    Ok(())
                });
            }
            Shim::AwaitingGo => {}
            Shim::Going if job.work == Work::Faulted => {
                self.add_to_job(("shim", "hears that the exec failed [Job::fail]"), n, |job| {
                    job.work = Work::Gone;
                    job.shim = Shim::Failing("exec");
                    Ok(())
                });
            }
            Shim::Going if matches!(job.work, Work::Running | Work::Gone) => {
                self.add_to_job(("shim", "says STARTED [Job::exec_done]"), n, |job| {
                    job.shim = Shim::Running;
                    job.said = Said::Started;
                    Ok(())
                });
            }
            Shim::Going => {}
            Shim::Failing(why) => {
                self.add_to_job(("shim", "records FAILED [ExitRecord::never_ran]"), n, |job| {
                    job.disk.outcome = Some(Outcome::Failed(why));
                    job.disk.exit_synced = true;
                    job.shim = Shim::Failed(why);
                    Ok(())
                });
            }
            Shim::Failed(why) => {
                self.add_to_job(("shim", "says FAILED and leaves [give_up]"), n, |job| {
                    job.said_failed = Some(why);
                    job.shim_dies();
                    Ok(())
                });
            }
            Shim::Running if job.work == Work::Gone => self.end(n, 0),
            Shim::Running => {
                if job.stopping {
                    self.add_to_job(("shim", "stops its job [Ending::stop]"), n, |job| {
                        job.work = Work::Gone;
                        Ok(())
                    });
                }
            }
            Shim::Ending(at) => self.end(n, at),
        }
        self.accept(n);
        self.of_child(n);
    }

    fn fails_to_prepare(&mut self, n: usize) {
        let name = ("shim", "fails before its child is ready [prepare]");
        let step =
            crate::steps::Step { who: name.0, what: name.1, job: Some(n), from_outside: true };
        self.add(step, |world| {
            world.left.failures -= 1;
            world.jobs[n].shim = Shim::Failing("exec");
            Ok(())
        });
    }

    fn of_child(&mut self, n: usize) {
        match self.world.jobs[n].work {
            Work::Told => {
                self.add_to_job(("child", "execs [Workload::exec]"), n, |job| {
                    job.work = Work::Running;
                    job.execs += 1;
                    Ok(())
                });
                if self.world.left.failures > 0 {
                    let what = "fails to exec [Workload::exec]";
                    let (who, job) = ("child", Some(n));
                    self.add(crate::steps::Step { who, what, job, from_outside: true }, |world| {
                        world.left.failures -= 1;
                        world.jobs[n].work = Work::Faulted;
                        Ok(())
                    });
                }
            }
            Work::Running => {
                // Or the child never exits: so each forced end is checked too.
                let (who, what, job) = ("child", "exits", Some(n));
                self.add(crate::steps::Step { who, what, job, from_outside: true }, |world| {
                    world.jobs[n].work = Work::Gone;
                    Ok(())
                });
            }
            Work::Faulted if !self.world.jobs[n].shim_lives() => {
                self.add_to_job(("child", "leaves after its fault"), n, |job| {
                    job.work = Work::Gone;
                    Ok(())
                });
            }
            _ => {}
        }
    }

    fn end(&mut self, n: usize, at: usize) {
        let (what, deed): (_, Deed) = match self.plan.end[at] {
            End::RecordOutcome => ("records the exit [Job::main_ended]", record_outcome),
            End::SayExited => ("says EXITED [Job::main_ended]", say_exited),
            End::SayEnded => ("says ENDED [Job::end]", |job| job.said = Said::Ended),
            End::SyncLogs => ("syncs its logs [Output::sync]", |job| job.disk.logs_synced = true),
            End::RecordEnded => {
                ("records the end [ExitRecord::ended]", |job| job.disk.ended = true)
            }
            End::SyncExit => ("syncs [ExitRecord::sync]", |job| job.disk.exit_synced = true),
            End::Leave => ("leaves [Job::end]", Job::shim_dies),
        };
        self.add_to_job(("shim", what), n, |job| {
            job.shim = Shim::Ending(at + 1);
            deed(job);
            Ok(())
        });
    }

    /// From GO until ENDED is sent; pending connections are accepted in any order.
    fn accept(&mut self, n: usize) {
        let job = &self.world.jobs[n];
        let said_ended = job.said == Said::Ended;
        let accepts = matches!(job.shim, Shim::Going | Shim::Running | Shim::Ending(_));
        if !accepts || said_ended {
            return;
        }
        for (at, epoch) in job.strangers.iter().copied().enumerate() {
            let recognized = epoch >= job.shim_epoch || !self.plan.knows_epochs;
            let name = ("shim", "looks at a new connection [Control::hear_strangers]");
            self.add_to_job(name, n, |job| {
                job.strangers.remove(at);
                if !recognized {
                    return Ok(());
                }
                if epoch < job.shim_epoch {
                    return Err("a shim obeys an older broker again".into());
                }
                job.shim_epoch = epoch;
                job.link = Some(epoch);
                Ok(())
            });
        }
    }
}

type Deed = fn(&mut Job);

/// `Ending::exited`: the first cause counts, once.
fn wait(job: &mut Job) -> Status {
    let status = match () {
        () if job.stopping => Status::Stopped,
        () if job.killed => Status::Killed,
        () => Status::Own,
    };
    *job.waited.get_or_insert(status)
}

fn record_outcome(job: &mut Job) {
    job.disk.outcome = Some(Outcome::Exited(wait(job)));
    job.disk.exit_synced = false;
}

fn say_exited(job: &mut Job) {
    wait(job);
    job.said = Said::Exited;
}
