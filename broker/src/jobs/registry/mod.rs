//! The jobs in memory, by id, request and name: live jobs, and summaries of up to 100,000 finished ones.
//! Does no I/O: its callers hold the lock.

pub(crate) mod filter;
#[cfg(test)]
mod quota_model;
pub(crate) mod slice;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::jobs::job::Job;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::request::{Request, is_older};
use crate::quota::OverQuota;
use crate::quota::jobs::{Demand, JobsInUse};
use crate::quota::limits::Limits;
use crate::quota::pressure::OwnerInUse;
use crate::store::index::Summary;
use crate::store::records::RequestRecord;

#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// Also finished jobs whose final record is not written yet.
    live: BTreeMap<JobId, Arc<Job>>,
    live_by_owner: HashMap<Identity, BTreeMap<JobId, Arc<Job>>>,
    over: BTreeMap<JobId, Summary>,
    by_owner: HashMap<Identity, OwnerJobs>,
    /// Finished jobs by their end time.
    by_end: BTreeSet<(u64, JobId)>,
    /// Bytes of output of finished jobs.
    kept: u128,
    requests: HashMap<(Identity, Box<str>), JobId>,
    /// The requests of jobs that cannot be read and may have run.
    quarantined: HashMap<(Identity, Box<str>), JobId>,
}

/// The finished jobs of one owner.
#[derive(Debug, Default)]
struct OwnerJobs {
    ids: BTreeSet<JobId>,
    by_end: BTreeSet<(u64, JobId)>,
    /// Bytes of output.
    kept: u128,
}

/// A job in the registry.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Live(Arc<Job>),
    /// To be read from its files.
    Over(JobId),
}

impl Entry {
    pub(crate) fn id(&self) -> JobId {
        match self {
            Entry::Live(job) => job.id(),
            Entry::Over(id) => *id,
        }
    }
}

/// Whether a request was made before.
#[derive(Debug)]
pub(crate) enum RequestStatus {
    New,
    Same(Entry),
    /// Its record has a digest of the checked spec, this one.
    Older(Entry, Box<str>),
    Other(JobId),
    /// By a job that cannot be read.
    Quarantined(JobId),
}

impl Registry {
    /// Of jobs that are over alone.
    pub(crate) fn of(mut over: BTreeMap<JobId, Summary>) -> Registry {
        let mut registry = Registry {
            by_end: over.values().map(|job| (job.ended_ns, job.id)).collect(),
            ..Registry::default()
        };
        over.values_mut().for_each(|job| registry.index(job));
        registry.over = over;
        registry
    }

    /// Merges another registry into this one; its entries win.
    pub(crate) fn absorb(&mut self, other: Registry) {
        let Registry { live, over, quarantined, .. } = other;
        self.quarantined.extend(quarantined);
        over.into_values().for_each(|job| self.retire(job));
        for job in live.into_values() {
            self.forget_over(job.id());
            self.add(job);
        }
    }

    pub(crate) fn add(&mut self, job: Arc<Job>) {
        let record = job.record();
        if !record.request_id.is_empty() {
            self.claim(&record.owner, &record.request_id, job.id(), job.is_retryable());
        }
        let own = self.live_by_owner.entry(job.owner().clone()).or_default();
        own.insert(job.id(), Arc::clone(&job));
        self.live.insert(job.id(), job);
    }

    fn remove_live(&mut self, id: JobId) -> Option<Arc<Job>> {
        let job = self.live.remove(&id)?;
        if let Some(own) = self.live_by_owner.get_mut(job.owner()) {
            own.remove(&id);
            if own.is_empty() {
                self.live_by_owner.remove(job.owner());
            }
        }
        Some(job)
    }

    /// Replaces a finished job with its summary.
    pub(crate) fn retire(&mut self, mut job: Summary) {
        self.remove_live(job.id);
        self.forget_over(job.id);
        self.by_end.insert((job.ended_ns, job.id));
        self.index(&mut job);
        self.over.insert(job.id, job);
    }

    /// Adds a summary to all other maps.
    fn index(&mut self, job: &mut Summary) {
        if let Some((owner, _)) = self.by_owner.get_key_value(&job.owner) {
            job.owner = owner.clone(); // one name in memory for all jobs of an owner
        }
        self.kept += u128::from(job.kept);
        let own = self.by_owner.entry(job.owner.clone()).or_default();
        own.ids.insert(job.id);
        own.by_end.insert((job.ended_ns, job.id));
        own.kept += u128::from(job.kept);
        if let Some(key) = &job.request {
            self.claim(&job.owner, &key.id, job.id, key.is_retryable);
        }
    }

    /// Maps a request to its job. A retryable job never displaces another.
    fn claim(&mut self, owner: &Identity, request_id: &str, id: JobId, again: bool) {
        let request = (owner.clone(), request_id.into());
        if again {
            self.requests.entry(request).or_insert(id);
        } else {
            self.requests.insert(request, id);
        }
    }

    /// Whether it was there.
    pub(crate) fn forget(&mut self, id: JobId) -> bool {
        let request = match (self.remove_live(id), self.forget_over(id)) {
            (Some(job), _) => {
                let record = job.record();
                (record.owner.clone(), record.request_id.as_str().into())
            }
            (None, Some(job)) => (job.owner, job.request.map(|key| key.id).unwrap_or_default()),
            (None, None) => return false,
        };
        if self.requests.get(&request) == Some(&id) {
            self.requests.remove(&request);
        }
        true
    }

    fn forget_over(&mut self, id: JobId) -> Option<Summary> {
        let job = self.over.remove(&id)?;
        self.kept -= u128::from(job.kept);
        self.by_end.remove(&(job.ended_ns, id));
        if let Some(own) = self.by_owner.get_mut(&job.owner) {
            own.ids.remove(&id);
            own.by_end.remove(&(job.ended_ns, id));
            own.kept -= u128::from(job.kept);
            if own.ids.is_empty() {
                self.by_owner.remove(&job.owner);
            }
        }
        Some(job)
    }

    /// Registers the request of a job that cannot be read.
    pub(crate) fn mark_quarantined(&mut self, request: RequestRecord, id: JobId) {
        if !request.id.is_empty() {
            self.quarantined.insert((request.owner, request.id.into()), id);
        }
    }

    /// Forgets a job that an operator has removed from quarantine.
    pub(crate) fn forget_quarantined(&mut self, id: JobId) {
        self.quarantined.retain(|_, quarantined| *quarantined != id);
    }

    /// Whose request a job is that is over, unless that may be made anew.
    pub(crate) fn request_of(&self, id: JobId) -> Option<RequestRecord> {
        let job = self.over.get(&id)?;
        let key = job.request.as_ref().filter(|key| !key.is_retryable)?;
        Some(RequestRecord { owner: job.owner.clone(), id: key.id.to_string() })
    }

    /// A job and whose it is.
    pub(crate) fn find(&self, id: JobId) -> Option<(Entry, Identity)> {
        match self.live.get(&id) {
            Some(job) => Some((Entry::Live(Arc::clone(job)), job.owner().clone())),
            None => self.over.get(&id).map(|job| (Entry::Over(id), job.owner.clone())),
        }
    }

    pub(crate) fn has(&self, id: JobId) -> bool {
        self.live.contains_key(&id) || self.over.contains_key(&id)
    }

    pub(crate) fn request(&self, owner: &Identity, sent: &Request) -> RequestStatus {
        if sent.id.is_empty() {
            return RequestStatus::New;
        }
        let request = (owner.clone(), sent.id.as_str().into());
        let quarantined = || {
            self.quarantined
                .get(&request)
                .map_or(RequestStatus::New, |id| RequestStatus::Quarantined(*id))
        };
        let Some(id) = self.requests.get(&request) else {
            return quarantined();
        };
        let known = match (self.live.get(id), self.over.get(id)) {
            (Some(job), _) => {
                let entry = Entry::Live(Arc::clone(job));
                Some((entry, job.is_retryable(), job.record().request_digest.as_str()))
            }
            (None, Some(job)) => {
                job.request.as_ref().map(|r| (Entry::Over(*id), r.is_retryable, r.digest.as_ref()))
            }
            (None, None) => None,
        };
        match known {
            None | Some((_, true, _)) => quarantined(),
            Some((entry, _, own)) if own == sent.digest => RequestStatus::Same(entry),
            Some((entry, _, own)) if is_older(own) => RequestStatus::Older(entry, own.into()),
            Some(_) => RequestStatus::Other(*id),
        }
    }

    /// The live job of this owner that has the name.
    pub(crate) fn live_name(&self, owner: &Identity, name: &str) -> Option<Arc<Job>> {
        if name.is_empty() {
            return None;
        }
        let taken = |job: &&Arc<Job>| job.record().spec.name == name;
        self.running(owner).find(taken).cloned()
    }

    /// The jobs of an owner that have not ended.
    pub(crate) fn running(&self, owner: &Identity) -> impl Iterator<Item = &Arc<Job>> {
        let own = self.live_by_owner.get(owner).into_iter().flat_map(BTreeMap::values);
        own.filter(|job| !job.state_and_end().0.is_over())
    }

    /// What the jobs of an owner that have not ended count for, but for `except`.
    pub(crate) fn in_use(&self, owner: &Identity, except: Option<JobId>) -> JobsInUse {
        let mut in_use = JobsInUse::default();
        let own = self.running(owner).filter(|job| Some(job.id()) != except);
        own.for_each(|job| in_use.add(job.demand()));
        in_use
    }

    /// Judges a change of a job's limits by its owner's quotas, and counts the job for the larger of old and new until
    /// [`Job::set_changing`] says that the change is over.
    ///
    /// # Errors
    /// [`OverQuota`]; nothing is counted.
    pub(crate) fn admit_change(
        &self,
        job: &Job,
        limits: &Limits,
        new: Demand,
    ) -> Result<(), OverQuota> {
        let others = self.in_use(job.owner(), Some(job.id()));
        others.check_change(limits, &job.demand(), &new)?;
        job.set_changing(Some(new));
        Ok(())
    }

    /// What the jobs of each owner count for: of all who have one that has not ended, and of those with finished ones if
    /// `with_kept`.
    pub(crate) fn in_use_by_owner(&self, with_kept: bool) -> Vec<OwnerInUse> {
        let finished = self.by_owner.keys().filter(|_| with_kept);
        let more = finished.filter(|owner| !self.live_by_owner.contains_key(*owner));
        let owners = self.live_by_owner.keys().chain(more);
        let of = |owner: &Identity| OwnerInUse {
            owner: owner.clone(),
            running: self.in_use(owner, None),
            kept: self.kept_of(owner),
        };
        owners.map(of).collect()
    }

    /// How many finished jobs an owner has, and the bytes of their output.
    pub(crate) fn kept_of(&self, owner: &Identity) -> (u64, u64) {
        let own = self.by_owner.get(owner);
        own.map_or((0, 0), |own| {
            (own.ids.len() as u64, u64::try_from(own.kept).unwrap_or(u64::MAX))
        })
    }

    /// Who started jobs from `since_ns` on, and when, the oldest first.
    pub(crate) fn started_since(&self, since_ns: u64) -> Vec<(Identity, u64)> {
        let is_recent = |(id, _): &(&JobId, _)| id.made_ns() >= since_ns;
        let live = self.live.iter().rev().map(|(id, job)| (id, job.owner()));
        let over = self.over.iter().rev().map(|(id, job)| (id, &job.owner));
        let recent = live.take_while(is_recent).chain(over.take_while(is_recent));
        let mut all: Vec<_> = recent.map(|(id, who)| (who.clone(), id.made_ns())).collect();
        all.sort_by_key(|(_, made_ns)| *made_ns);
        all
    }

    /// Live jobs and all jobs.
    pub(crate) fn count(&self) -> (usize, usize) {
        let live = self.live.values().filter(|job| !job.state_and_end().0.is_over()).count();
        (live, self.live.len() + self.over.len())
    }

    pub(crate) fn live(&self) -> impl ExactSizeIterator<Item = &Arc<Job>> {
        self.live.values()
    }

    pub(crate) fn over(&self) -> &BTreeMap<JobId, Summary> {
        &self.over
    }

    /// Bytes of output of all jobs that are over.
    pub(crate) fn kept(&self) -> u64 {
        u64::try_from(self.kept).unwrap_or(u64::MAX)
    }

    /// Finished jobs, the oldest end first.
    pub(crate) fn by_end(&self) -> impl Iterator<Item = &Summary> {
        self.by_end.iter().filter_map(|(_, id)| self.over.get(id))
    }

    /// Each owner of finished jobs.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &Identity> {
        self.by_owner.keys()
    }

    /// Finished jobs of an owner, the oldest end first.
    pub(crate) fn by_end_of<'a>(
        &'a self,
        owner: &Identity,
    ) -> impl Iterator<Item = &'a Summary> + use<'a> {
        let own = self.by_owner.get(owner).into_iter().flat_map(|own| own.by_end.iter());
        own.filter_map(|(_, id)| self.over.get(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::RequestKey;
    use crate::store::index::tests::summary;

    fn registry(all: &[Summary]) -> Registry {
        Registry::of(all.iter().map(|job| (job.id, job.clone())).collect())
    }

    fn sent(id: &str, digest: &str) -> Request {
        Request { id: id.into(), digest: digest.into() }
    }

    #[test]
    fn nothing_is_left_of_a_forgotten_job() {
        let key = RequestKey { id: "r".into(), digest: "2:d".into(), is_retryable: false };
        let job = Summary { request: Some(Box::new(key)), ..summary("a", 1) };
        let mut registry = registry(std::slice::from_ref(&job));
        assert!(matches!(
            registry.request(&job.owner, &sent("r", "2:d")),
            RequestStatus::Same(Entry::Over(_))
        ));
        assert!(matches!(registry.request(&job.owner, &sent("r", "2:e")), RequestStatus::Other(_)));
        assert!(registry.forget(job.id) && !registry.forget(job.id));
        assert!(matches!(registry.request(&job.owner, &sent("r", "2:d")), RequestStatus::New));
        assert_eq!(
            (registry.kept(), registry.by_end().count(), registry.owners().count()),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_digest_of_an_older_broker_is_given_back_to_be_compared_with_its_like() {
        let older = RequestKey { id: "r".into(), digest: "older".into(), is_retryable: false };
        let job = Summary { request: Some(Box::new(older)), ..summary("a", 1) };
        let registry = registry(std::slice::from_ref(&job));
        match registry.request(&job.owner, &sent("r", "2:d")) {
            RequestStatus::Older(Entry::Over(id), digest) => {
                assert_eq!((id, digest.as_ref()), (job.id, "older"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_of_the_job_that_ran_whichever_is_seen_first() {
        let with = |again| {
            let key = RequestKey { id: "r".into(), digest: "2:d".into(), is_retryable: again };
            Summary { request: Some(Box::new(key)), ..summary("a", 1) }
        };
        let (first, second) = (with(true), with(false));
        let mut registry = registry(std::slice::from_ref(&second));
        registry.retire(first);
        match registry.request(&second.owner, &sent("r", "2:d")) {
            RequestStatus::Same(Entry::Over(id)) => assert_eq!(id, second.id),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_request_of_a_job_that_cannot_be_read_stays_made() {
        let key = RequestKey { id: "r".into(), digest: "2:d".into(), is_retryable: false };
        let job = Summary { request: Some(Box::new(key)), ..summary("a", 1) };
        let mut before = registry(std::slice::from_ref(&job));
        let request = before.request_of(job.id).unwrap();
        before.forget(job.id);
        before.mark_quarantined(request, job.id);
        let mut registry = Registry::default();
        registry.absorb(before);
        assert!(
            matches!(registry.request(&job.owner, &sent("r", "2:d")), RequestStatus::Quarantined(id) if id == job.id)
        );
        assert!(matches!(registry.request(&job.owner, &sent("s", "2:d")), RequestStatus::New));
        registry.forget_quarantined(job.id);
        assert!(matches!(registry.request(&job.owner, &sent("r", "2:d")), RequestStatus::New));
    }

    #[test]
    fn a_job_that_both_tables_have_is_counted_once() {
        let (one, two) = (summary("a", 1), summary("b", 2));
        let mut registry = registry(std::slice::from_ref(&one));
        registry.absorb(super::tests::registry(&[Summary { kept: 7, ..one }, two]));
        assert_eq!((registry.count(), registry.kept()), ((0, 2), 17));
        assert_eq!(registry.by_end().count(), 2);
    }
}
