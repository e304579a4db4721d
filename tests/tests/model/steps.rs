//! What can happen next, collected.

use std::fmt;

use crate::plan::Plan;
use crate::world::{Job, World};

/// Who does what to which job, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) who: &'static str,
    pub(crate) what: &'static str,
    pub(crate) job: Option<usize>,
    /// Something that the outside does to the system, or asks of it. The rest goes by itself.
    pub(crate) from_outside: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.who, self.what)?;
        self.job.map_or(Ok(()), |job| write!(f, " (job {job})"))
    }
}

/// Where one may go from a world.
pub(crate) struct Steps<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) world: &'a World,
    pub(crate) all: Vec<(Step, Result<World, String>)>,
}

impl Steps<'_> {
    /// One more way.
    pub(crate) fn add(
        &mut self,
        step: Step,
        change: impl FnOnce(&mut World) -> Result<(), String>,
    ) {
        let mut next = self.world.clone();
        let result = change(&mut next).and_then(|()| next.look());
        self.all.push((step, result.map(|()| next)));
    }

    /// One more way in which one job goes on.
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
