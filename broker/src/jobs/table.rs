//! The jobs in memory, by id, by request, and by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::job::Job;
use super::state::State;
use crate::id::JobId;
use crate::identity::Identity;

#[derive(Debug, Default)]
pub(super) struct Table {
    jobs: BTreeMap<JobId, Arc<Job>>,
    requests: HashMap<(Identity, String), JobId>,
}

/// Whether a request was made before.
#[derive(Debug)]
pub(super) enum Known {
    New,
    Same(Arc<Job>),
    Other(JobId),
}

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
}

impl Filter {
    pub(super) fn admits(&self, job: &Job) -> bool {
        let (record, known) = (job.record(), job.snapshot());
        let labels = &record.spec.labels;
        let selected = |s: &String| {
            record.spec.name == *s
                || (!s.is_empty() && job.id().to_string().starts_with(s.as_str()))
        };
        (self.states.is_empty() || self.states.contains(&known.state))
            && self.owner.as_ref().is_none_or(|owner| owner == job.owner().as_str())
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.selector.as_ref().is_none_or(selected)
            && self.ended_before_ns.is_none_or(|t| known.ended_ns.is_some_and(|end| end < t))
    }
}

impl Table {
    pub(super) fn add(&mut self, job: Arc<Job>) {
        let record = job.record();
        if !record.request_id.is_empty() {
            self.requests.insert((record.owner.clone(), record.request_id.clone()), job.id());
        }
        self.jobs.insert(job.id(), job);
    }

    pub(super) fn forget(&mut self, id: JobId) -> Option<Arc<Job>> {
        let job = self.jobs.remove(&id)?;
        let record = job.record();
        let request = (record.owner.clone(), record.request_id.clone());
        if self.requests.get(&request) == Some(&id) {
            self.requests.remove(&request);
        }
        Some(job)
    }

    pub(super) fn job(&self, id: JobId) -> Option<Arc<Job>> {
        self.jobs.get(&id).cloned()
    }

    pub(super) fn request(&self, owner: &Identity, request_id: &str, digest: &str) -> Known {
        if request_id.is_empty() {
            return Known::New;
        }
        let id = self.requests.get(&(owner.clone(), request_id.to_owned()));
        match id.and_then(|id| self.job(*id)) {
            None => Known::New,
            Some(job) if job.may_be_asked_again() => Known::New,
            Some(job) if job.record().request_digest == digest => Known::Same(job),
            Some(job) => Known::Other(job.id()),
        }
    }

    /// The live job of this owner that has the name.
    pub(super) fn live_name(&self, owner: &Identity, name: &str) -> Option<JobId> {
        if name.is_empty() {
            return None;
        }
        let taken = |job: &&Arc<Job>| {
            job.record().spec.name == name
                && job.owner() == owner
                && !job.snapshot().state.is_over()
        };
        self.jobs.values().find(taken).map(|job| job.id())
    }

    /// The jobs of a page and, if there are more, where the next page begins.
    pub(super) fn page(
        &self,
        page: Page,
        wanted: impl Fn(&Job) -> bool,
    ) -> (Vec<Arc<Job>>, Option<JobId>) {
        let older: Box<dyn Iterator<Item = &Arc<Job>>> = match page.after {
            Some(id) => Box::new(self.jobs.range(..id).rev().map(|(_, job)| job)),
            None => Box::new(self.jobs.values().rev()),
        };
        let mut jobs: Vec<_> =
            older.filter(|job| wanted(job)).take(page.size + 1).cloned().collect();
        if jobs.len() <= page.size {
            return (jobs, None);
        }
        jobs.truncate(page.size);
        let last = jobs.last().map(|job| job.id());
        (jobs, last)
    }

    /// Those that have not ended.
    pub(super) fn live(&self) -> Vec<Arc<Job>> {
        self.jobs.values().filter(|job| !job.snapshot().state.is_over()).cloned().collect()
    }

    /// Live jobs and all jobs.
    pub(super) fn count(&self) -> (usize, usize) {
        let live = self.jobs.values().filter(|job| !job.snapshot().state.is_over()).count();
        (live, self.jobs.len())
    }
}
