//! Which jobs a list has: the same questions to jobs in memory and to summaries.

use std::collections::BTreeMap;

use super::job::Job;
use super::state::State;
use crate::id::JobId;
use crate::store::index::Summary;

/// Which jobs are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Any of these; empty: all.
    pub states: Vec<State>,
    /// Whose.
    pub owner: Option<String>,
    /// All of these.
    pub labels: BTreeMap<String, String>,
    /// The beginning of an id, or a whole name.
    pub selector: Option<String>,
    /// Ended before this, nanoseconds since 1970.
    pub ended_before_ns: Option<u64>,
}

/// A part of a long list, newest first.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Older than this job.
    pub after: Option<JobId>,
    /// At most so many.
    pub size: usize,
    /// At most so many bytes of what is shown, unless the first job alone has more.
    pub bytes: usize,
}

impl Filter {
    pub(super) fn admits_job(&self, job: &Job) -> bool {
        let (record, known) = (job.record(), job.snapshot());
        let labels = &record.spec.labels;
        self.admits_state(known.state)
            && self.owner.as_ref().is_none_or(|owner| owner == job.owner().as_str())
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.is_selected(job.id(), &record.spec.name)
            && self.ended_before_ns.is_none_or(|t| known.ended_ns.is_some_and(|end| end < t))
    }

    pub(super) fn admits_summary(&self, job: &Summary) -> bool {
        let has = |(key, value): (&String, &String)| job.label(key) == Some(value);
        self.admits_state(job.state)
            && self.owner.as_ref().is_none_or(|owner| owner == job.owner.as_str())
            && self.labels.iter().all(has)
            && self.is_selected(job.id, &job.name)
            && self.ended_before_ns.is_none_or(|t| job.ended_ns < t)
    }

    fn admits_state(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    fn is_selected(&self, id: JobId, name: &str) -> bool {
        let selected = |s: &String| name == s || (!s.is_empty() && id.starts_with(s));
        self.selector.as_ref().is_none_or(selected)
    }
}
