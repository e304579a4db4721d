//! The faults: crashes, lost writes, a second broker. They must come from outside, so that the checker can leave them
//! out.

use crate::broker::WHO;
use crate::known::{End, Outcome};
use crate::steps::{Step, Steps};
use crate::world::{Broker, Disk, File, Job, Shim, Work, World};

impl Steps<'_> {
    pub(crate) fn of_faults(&mut self) {
        let left = self.world.left;
        for (b, who) in WHO.into_iter().enumerate() {
            if left.broker_crashes > 0 && self.world.brokers[b] != Broker::Down {
                let step = Step { who, what: "is killed", job: None, from_outside: true };
                self.add(step, |world| {
                    world.left.broker_crashes -= 1;
                    world.broker_dies(b);
                    Ok(())
                });
            }
        }
        if left.second_brokers > 0 && self.world.brokers[1] == Broker::Down {
            self.open(1, true);
        }
        for (n, job) in self.world.jobs.iter().enumerate() {
            if left.shim_crashes > 0 && job.shim_lives() {
                let step =
                    Step { who: "shim", what: "is killed", job: Some(n), from_outside: true };
                self.add(step, |world| {
                    world.left.shim_crashes -= 1;
                    world.jobs[n].shim_dies();
                    Ok(())
                });
            }
        }
        if left.host_crashes > 0 && !self.world.jobs.is_empty() {
            self.host_crashes();
        }
    }

    /// One step for each combination of writes that reached the disk before the crash.
    fn host_crashes(&mut self) {
        let mut down = self.world.clone();
        down.left.host_crashes -= 1;
        down.boot += 1;
        (0..2).for_each(|b| down.broker_dies(b));
        let mut worlds = vec![World { jobs: Vec::new(), ..down.clone() }];
        for job in &down.jobs {
            let disks = job.disk.after_crash();
            let combined = worlds.iter().flat_map(|world| {
                disks.iter().map(|disk| {
                    let mut world = world.clone();
                    world.jobs.push(job.after_crash(disk.clone()));
                    world
                })
            });
            worlds = combined.collect();
        }
        let step = Step { who: "host", what: "crashes", job: None, from_outside: true };
        for crashed in worlds {
            self.add(step, |world| {
                *world = crashed;
                Ok(())
            });
        }
    }
}

impl World {
    fn broker_dies(&mut self, b: usize) {
        self.brokers[b] = Broker::Down;
        if self.lock == Some(b) {
            self.lock = None;
        }
        self.call = self.call.filter(|(broker, ..)| *broker != b);
        self.jobs.iter_mut().for_each(|job| job.memory[b] = None);
    }
}

impl Job {
    fn after_crash(&self, disk: Disk) -> Job {
        let mut job = Job { disk, ..self.clone() };
        (job.cgroup, job.socket) = (false, false);
        (job.shim, job.work) = (Shim::Dead, Work::Gone);
        (job.link, job.go) = (None, false);
        job.strangers.clear();
        // A crash may take back what was not on the disk, and nothing else may.
        let recorded = match job.disk.outcome {
            Some(Outcome::Exited(status)) => Some(End::Exited(status)),
            _ => None,
        };
        if job.disk.last == File::Absent && job.shown != recorded {
            job.shown = None;
        }
        job
    }
}

impl Disk {
    fn after_crash(&self) -> Vec<Disk> {
        let mut disks = Vec::new();
        for &spec in self.spec.after_crash() {
            for &spawn in self.spawn.after_crash() {
                for &last in self.last.after_crash() {
                    for keeps_exit in [true, false] {
                        let loses = !keeps_exit && !self.exit_synced;
                        if !keeps_exit && (self.exit_synced || self.outcome.is_none()) {
                            continue; // the same as the state with it
                        }
                        disks.push(Disk {
                            spec,
                            spawn,
                            last,
                            outcome: self.outcome.filter(|_| !loses),
                            ended: self.ended && !loses,
                            exit_synced: true,
                            stop: false,
                            ..self.clone()
                        });
                    }
                }
            }
        }
        disks
    }
}
