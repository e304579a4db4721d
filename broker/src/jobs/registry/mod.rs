//! The jobs in memory, by id, request and name: live jobs, and what is asked for of a million finished ones.
//! Does no I/O: its callers hold the lock.

pub(crate) mod filter;
pub(crate) mod finished;
pub(crate) mod packed;
#[cfg(test)]
mod quota_model;
pub(crate) mod slice;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use crate::jobs::job::Job;
use crate::jobs::registry::finished::Finished;
use crate::jobs::registry::packed::Packed;
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
    finished: Finished,
    requests: BTreeMap<RequestHash, JobId>,
    /// The requests of jobs that cannot be read and may have run.
    quarantined: HashMap<(Identity, Box<str>), JobId>,
}

/// The beginning of SHA-256 of an owner and a request id of that owner: nobody finds two that have the same.
type RequestHash = [u8; 16];

fn request_hash(owner: &str, id: &str) -> RequestHash {
    // No name has a line feed.
    let whole = digest(&SHA256, format!("{owner}\n{id}").as_bytes());
    let mut hash = RequestHash::default();
    hash.iter_mut().zip(whole.as_ref()).for_each(|(own, byte)| *own = *byte);
    hash
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
    pub(crate) fn of(over: BTreeMap<JobId, Packed>) -> Registry {
        let mut registry = Registry { finished: Finished::of(over), ..Registry::default() };
        for (id, job) in registry.finished.all() {
            let Some(key) = job.request else { continue };
            claim(&mut registry.requests, request_hash(job.owner, key.id), id, key.is_retryable);
        }
        registry
    }

    /// Merges another registry into this one; its entries win.
    pub(crate) fn absorb(&mut self, other: Registry) {
        let Registry { live, finished, quarantined, .. } = other;
        self.quarantined.extend(quarantined);
        finished.next(None, usize::MAX).iter().for_each(|job| self.retire(job));
        for job in live.into_values() {
            self.finished.remove(job.id());
            self.add(job);
        }
    }

    pub(crate) fn add(&mut self, job: Arc<Job>) {
        let record = job.record();
        if !record.request_id.is_empty() {
            let request = request_hash(record.owner.as_str(), &record.request_id);
            claim(&mut self.requests, request, job.id(), job.is_retryable());
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
    pub(crate) fn retire(&mut self, job: &Summary) {
        self.remove_live(job.id);
        self.finished.insert(job);
        if let Some(key) = &job.request {
            let request = request_hash(job.owner.as_str(), &key.id);
            claim(&mut self.requests, request, job.id, key.is_retryable);
        }
    }

    /// Whether it was there.
    pub(crate) fn forget(&mut self, id: JobId) -> bool {
        let request = match (self.remove_live(id), self.finished.remove(id)) {
            (Some(job), _) => {
                let record = job.record();
                Some(request_hash(record.owner.as_str(), &record.request_id))
            }
            (None, Some(job)) => {
                let job = job.view();
                job.request.map(|key| request_hash(job.owner, key.id))
            }
            (None, None) => return false,
        };
        if let Some(request) = request
            && self.requests.get(&request) == Some(&id)
        {
            self.requests.remove(&request);
        }
        true
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
        let owner = self.finished.owner_of(id)?.clone();
        let key = self.finished.get(id)?.request.filter(|key| !key.is_retryable)?;
        Some(RequestRecord { owner, id: key.id.to_owned() })
    }

    /// A job and whose it is.
    pub(crate) fn find(&self, id: JobId) -> Option<(Entry, Identity)> {
        match self.live.get(&id) {
            Some(job) => Some((Entry::Live(Arc::clone(job)), job.owner().clone())),
            None => self.finished.owner_of(id).map(|owner| (Entry::Over(id), owner.clone())),
        }
    }

    pub(crate) fn has(&self, id: JobId) -> bool {
        self.live.contains_key(&id) || self.finished.has(id)
    }

    pub(crate) fn request(&self, owner: &Identity, sent: &Request) -> RequestStatus {
        if sent.id.is_empty() {
            return RequestStatus::New;
        }
        let quarantined = || {
            let request = (owner.clone(), sent.id.as_str().into());
            self.quarantined
                .get(&request)
                .map_or(RequestStatus::New, |id| RequestStatus::Quarantined(*id))
        };
        let Some(id) = self.requests.get(&request_hash(owner.as_str(), &sent.id)) else {
            return quarantined();
        };
        let known = match (self.live.get(id), self.finished.get(*id)) {
            (Some(job), _) => {
                let entry = Entry::Live(Arc::clone(job));
                Some((entry, job.is_retryable(), job.record().request_digest.clone()))
            }
            (None, Some(job)) => {
                job.request.map(|key| (Entry::Over(*id), key.is_retryable, key.digest()))
            }
            (None, None) => None,
        };
        match known {
            None | Some((_, true, _)) => quarantined(),
            Some((entry, _, own)) if own == sent.digest => RequestStatus::Same(entry),
            Some((entry, _, own)) if is_older(&own) => RequestStatus::Older(entry, own.into()),
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
        let finished = self.finished.owners().filter(|_| with_kept);
        let more = finished.filter(|owner| !self.live_by_owner.contains_key(*owner));
        let owners = self.live_by_owner.keys().chain(more);
        let of = |owner: &Identity| OwnerInUse {
            owner: owner.clone(),
            running: self.in_use(owner, None),
            kept: self.finished.kept_of(owner),
        };
        owners.map(of).collect()
    }

    /// Who started jobs from `since_ns` on, and when, the oldest first.
    pub(crate) fn started_since(&self, since_ns: u64) -> Vec<(Identity, u64)> {
        let is_recent = |(id, _): &(JobId, _)| id.made_ns() >= since_ns;
        let live = self.live.iter().rev().map(|(id, job)| (*id, job.owner()));
        let over = self.finished.newest();
        let recent = live.take_while(is_recent).chain(over.take_while(is_recent));
        let mut all: Vec<_> = recent.map(|(id, who)| (who.clone(), id.made_ns())).collect();
        all.sort_by_key(|(_, made_ns)| *made_ns);
        all
    }

    /// Live jobs and all jobs.
    pub(crate) fn count(&self) -> (usize, usize) {
        let live = self.live.values().filter(|job| !job.state_and_end().0.is_over()).count();
        (live, self.live.len() + self.finished.len())
    }

    pub(crate) fn live(&self) -> impl ExactSizeIterator<Item = &Arc<Job>> {
        self.live.values()
    }

    pub(crate) fn finished(&self) -> &Finished {
        &self.finished
    }
}

/// Maps a request to its job. A retryable job never displaces another.
fn claim(
    requests: &mut BTreeMap<RequestHash, JobId>,
    request: RequestHash,
    id: JobId,
    again: bool,
) {
    if again {
        requests.entry(request).or_insert(id);
    } else {
        requests.insert(request, id);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::store::index::RequestKey;
    use crate::store::index::tests::summary;

    pub(crate) fn registry(all: &[Summary]) -> Registry {
        Registry::of(all.iter().map(|job| (job.id, Packed::of(job))).collect())
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
        assert_eq!((registry.finished().len(), registry.finished().owners().count()), (0, 0));
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
        registry.retire(&first);
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
        assert_eq!((registry.count(), registry.finished().kept()), ((0, 2), 17));
    }
}
