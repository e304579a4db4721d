//! Collects the next steps of a world. It must not choose among them.

use std::fmt;

use crate::plan::Plan;
use crate::world::{Job, World};

/// A step: which process does what to which job, in readable form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) who: &'static str,
    pub(crate) what: &'static str,
    pub(crate) job: Option<usize>,
    /// A fault or a request from outside the system. All other steps happen by themselves.
    pub(crate) from_outside: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.who, self.what)?;
        self.job.map_or(Ok(()), |job| write!(f, " (job {job})"))
    }
}

/// The steps from one world.
pub(crate) struct Steps<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) world: &'a World,
    pub(crate) all: Vec<(Step, Result<World, String>)>,
}

impl Steps<'_> {
    /// Adds a step.
    pub(crate) fn add(
        &mut self,
        step: Step,
        change: impl FnOnce(&mut World) -> Result<(), String>,
    ) {
        let mut next = self.world.clone();
        let result = change(&mut next).and_then(|()| next.look());
        self.all.push((step, result.map(|()| next)));
    }

    /// Adds a step of one job.
    pub(crate) fn add_to_job(
        &mut self,
        (who, what): (&'static str, &'static str),
        n: usize,
        change: impl FnOnce(&mut Job) -> Result<(), String>,
    ) {
        let step = Step { who, what, job: Some(n), from_outside: false };
        self.add(step, |world| change(&mut world.jobs[n]));
    }
}
