//! The finished jobs in memory, packed: by id, and for each owner by id, by name and by end. Does no I/O.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound::{self, Excluded, Included, Unbounded};

use crate::jobs::registry::packed::{Packed, View};
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::store::index::{Stamp, Summary};

#[derive(Debug, Default)]
pub(crate) struct Finished {
    jobs: BTreeMap<JobId, Packed>,
    by_end: BTreeSet<(u64, JobId)>,
    by_owner: HashMap<Identity, OwnerJobs>,
    /// Bytes of output.
    kept: u128,
    names: RandomState,
}

/// The finished jobs of one owner.
#[derive(Debug, Default)]
struct OwnerJobs {
    ids: BTreeSet<JobId>,
    by_end: BTreeSet<(u64, JobId)>,
    /// Those that have a name, by its hash: a few jobs of other names are found with them.
    by_name: BTreeSet<(u32, JobId)>,
    /// Bytes of output.
    kept: u128,
}

/// What retention goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) id: JobId,
    /// Nanoseconds since 1970.
    pub(crate) ended_ns: u64,
    /// Bytes of output.
    pub(crate) kept: u64,
}

impl Finished {
    /// All of these, in less time and memory than one after the other.
    pub(crate) fn of(jobs: BTreeMap<JobId, Packed>) -> Finished {
        let mut finished = Finished::default();
        let (mut by_end, mut owned) = (Vec::new(), HashMap::<_, Vec<JobId>>::new());
        for (id, job) in &jobs {
            let view = job.view();
            by_end.push((view.ended_ns, *id));
            finished.kept += u128::from(view.kept);
            owned.entry(view.owner).or_default().push(*id);
        }
        finished.by_end = by_end.into_iter().collect();
        for (owner, ids) in owned {
            // Every identity was checked before it was packed.
            let Ok(owner) = Identity::new(owner) else { continue };
            let views = || ids.iter().filter_map(|id| Some((*id, jobs.get(id)?.view())));
            let by_name = views().filter(|(_, job)| !job.name.is_empty());
            let own = OwnerJobs {
                by_end: views().map(|(id, job)| (job.ended_ns, id)).collect(),
                by_name: by_name.map(|(id, job)| (finished.hash(job.name), id)).collect(),
                kept: views().map(|(_, job)| u128::from(job.kept)).sum(),
                ids: ids.iter().copied().collect(),
            };
            finished.by_owner.insert(owner, own);
        }
        Finished { jobs, ..finished }
    }

    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(crate) fn has(&self, id: JobId) -> bool {
        self.jobs.contains_key(&id)
    }

    pub(crate) fn get(&self, id: JobId) -> Option<View<'_>> {
        self.jobs.get(&id).map(Packed::view)
    }

    /// Whose a job is.
    pub(crate) fn owner_of(&self, id: JobId) -> Option<&Identity> {
        self.owner(self.get(id)?.owner)
    }

    fn owner(&self, name: &str) -> Option<&Identity> {
        self.by_owner.get_key_value(name).map(|(owner, _)| owner)
    }

    /// Adds a job, in the place of what is known of it.
    pub(crate) fn insert(&mut self, job: &Summary) {
        self.remove(job.id);
        let name = self.hash(&job.name);
        let own = self.by_owner.entry(job.owner.clone()).or_default();
        own.ids.insert(job.id);
        own.by_end.insert((job.ended_ns, job.id));
        if !job.name.is_empty() {
            own.by_name.insert((name, job.id));
        }
        own.kept += u128::from(job.kept);
        self.kept += u128::from(job.kept);
        self.by_end.insert((job.ended_ns, job.id));
        self.jobs.insert(job.id, Packed::of(job));
    }

    /// What was known of it.
    pub(crate) fn remove(&mut self, id: JobId) -> Option<Packed> {
        let packed = self.jobs.remove(&id)?;
        let job = packed.view();
        let name = self.hash(job.name);
        self.kept -= u128::from(job.kept);
        self.by_end.remove(&(job.ended_ns, id));
        if let Some(own) = self.by_owner.get_mut(job.owner) {
            own.ids.remove(&id);
            own.by_end.remove(&(job.ended_ns, id));
            own.by_name.remove(&(name, id));
            own.kept -= u128::from(job.kept);
            if own.ids.is_empty() {
                self.by_owner.remove(job.owner);
            }
        }
        Some(packed)
    }

    /// Bytes of output of all.
    pub(crate) fn kept(&self) -> u64 {
        u64::try_from(self.kept).unwrap_or(u64::MAX)
    }

    /// How many an owner has, and the bytes of their output.
    pub(crate) fn kept_of(&self, owner: &Identity) -> (u64, u64) {
        let own = self.by_owner.get(owner);
        own.map_or((0, 0), |own| {
            (own.ids.len() as u64, u64::try_from(own.kept).unwrap_or(u64::MAX))
        })
    }

    /// Each owner.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &Identity> {
        self.by_owner.keys()
    }

    /// The oldest end first.
    pub(crate) fn by_end(&self) -> impl Iterator<Item = Ended> {
        ended(&self.jobs, &self.by_end)
    }

    /// Those of an owner, the oldest end first.
    pub(crate) fn by_end_of<'a>(
        &'a self,
        owner: &Identity,
    ) -> impl Iterator<Item = Ended> + use<'a> {
        let own = self.by_owner.get(owner).into_iter();
        own.flat_map(|own| ended(&self.jobs, &own.by_end))
    }

    /// By id.
    pub(crate) fn all(&self) -> impl Iterator<Item = (JobId, View<'_>)> {
        self.jobs.iter().map(|(id, job)| (*id, job.view()))
    }

    /// The newest first.
    pub(crate) fn newest(&self) -> impl Iterator<Item = (JobId, &Identity)> {
        let of = |(id, job): (&JobId, &Packed)| Some((*id, self.owner(job.view().owner)?));
        self.jobs.iter().rev().filter_map(of)
    }

    /// The next `most` by id, in full. To go through all of them without holding the registry's lock.
    pub(crate) fn next(&self, after: Option<JobId>, most: usize) -> Vec<Summary> {
        let owned =
            |(id, job): (&JobId, &Packed)| Some(job.unpack(*id, self.owner(job.view().owner)?));
        self.after(after).take(most).filter_map(owned).collect()
    }

    /// The next `most` by id, and the records that each was read from.
    pub(crate) fn next_stamps(&self, after: Option<JobId>, most: usize) -> Vec<(JobId, Stamp)> {
        let stamp = |(id, job): (&JobId, &Packed)| (*id, job.view().stamp);
        self.after(after).take(most).map(stamp).collect()
    }

    fn after(&self, id: Option<JobId>) -> impl Iterator<Item = (&JobId, &Packed)> {
        self.jobs.range((id.map_or(Unbounded, Excluded), Unbounded))
    }

    /// The newest first, older than `before`: among them all jobs that these words select, those of this owner, and of
    /// this name or with this beginning of their id, see [`Filter`](super::filter::Filter).
    pub(crate) fn candidates<'a>(
        &'a self,
        before: Option<JobId>,
        owner: Option<&Identity>,
        selector: Option<&str>,
    ) -> Newest<'a> {
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
            return self.ids(owner, span(JobId::MIN, JobId::MAX, before));
        };
        let begun = JobId::range_of(selector).and_then(|(first, last)| span(first, last, before));
        let named = self.named(owner, selector, span(JobId::MIN, JobId::MAX, before));
        merge(named.chain(std::iter::once(self.ids(owner, begun))))
    }

    /// The newest first.
    fn ids<'a>(&'a self, owner: Option<&Identity>, span: Option<Span>) -> Newest<'a> {
        let Some(span) = span else { return Box::new(std::iter::empty()) };
        match owner {
            None => Box::new(self.jobs.range(span).rev().map(|(id, _)| *id)),
            Some(owner) => {
                let own = self.by_owner.get(owner).into_iter();
                Box::new(own.flat_map(move |own| own.ids.range(span).rev().copied()))
            }
        }
    }

    /// Of each owner those whose names have the hash of this one, the newest first.
    fn named<'a>(
        &'a self,
        owner: Option<&Identity>,
        name: &str,
        span: Option<Span>,
    ) -> impl Iterator<Item = Newest<'a>> + use<'a> {
        let name = self.hash(name);
        let owners: Vec<&OwnerJobs> = match owner {
            Some(owner) => self.by_owner.get(owner).into_iter().collect(),
            None => self.by_owner.values().collect(),
        };
        let spans = owners.into_iter().filter_map(move |own| Some((own, span?)));
        spans.map(move |(own, (first, end))| {
            let named = (first.map(|id| (name, id)), end.map(|id| (name, id)));
            Box::new(own.by_name.range(named).rev().map(|(_, id)| *id)) as Newest<'a>
        })
    }

    fn hash(&self, name: &str) -> u32 {
        self.names.hash_one(name) as u32
    }
}

/// From one id to another.
type Span = (Bound<JobId>, Bound<JobId>);

/// From the first to the last, without `before` and what is newer; `None` if nothing is left.
fn span(first: JobId, last: JobId, before: Option<JobId>) -> Option<Span> {
    match before {
        Some(id) if id <= last => (first < id).then_some((Included(first), Excluded(id))),
        _ => Some((Included(first), Included(last))),
    }
}

fn ended<'a>(
    jobs: &'a BTreeMap<JobId, Packed>,
    ends: &'a BTreeSet<(u64, JobId)>,
) -> impl Iterator<Item = Ended> + use<'a> {
    let kept = |id| jobs.get(id).map(|job| job.view().kept);
    ends.iter().filter_map(move |(ended_ns, id)| {
        Some(Ended { id: *id, ended_ns: *ended_ns, kept: kept(id)? })
    })
}

/// Ids, the newest first.
pub(crate) type Newest<'a> = Box<dyn Iterator<Item = JobId> + 'a>;

/// One of several, each id once.
fn merge<'a>(all: impl Iterator<Item = Newest<'a>>) -> Newest<'a> {
    let mut rest: Vec<Newest<'a>> = all.collect();
    let firsts = rest.iter_mut().enumerate().filter_map(|(at, ids)| Some((ids.next()?, at)));
    let mut heads: BinaryHeap<(JobId, usize)> = firsts.collect();
    let next = move || {
        let (id, at) = heads.pop()?;
        heads.extend(rest[at].next().map(|id| (id, at)));
        Some(id)
    };
    let mut last = None;
    Box::new(std::iter::from_fn(next).filter(move |id| last.replace(*id) != Some(*id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::tests::summary;

    fn both(jobs: &[Summary]) -> [Finished; 2] {
        let mut one_by_one = Finished::default();
        jobs.iter().for_each(|job| one_by_one.insert(job));
        [one_by_one, Finished::of(jobs.iter().map(|job| (job.id, Packed::of(job))).collect())]
    }

    #[test]
    fn a_word_finds_names_and_beginnings_of_ids_of_whom_it_may_and_each_job_once() {
        let named = |owner: &str, name: &str| Summary { name: name.into(), ..summary(owner, 1) };
        let [a, b, c] = [named("ann", "x"), named("bob", "x"), named("ann", "")];
        let d = named("bob", &a.id.to_string()); // as a job of somebody who wishes to confuse
        let [ann, bob] = [a.owner.clone(), b.owner.clone()];
        for finished in both(&[a.clone(), b.clone(), c.clone(), d.clone()]) {
            let found = |before, owner: Option<&Identity>, word: &str| {
                finished.candidates(before, owner, Some(word)).collect::<Vec<_>>()
            };
            assert_eq!(found(None, None, "x"), [b.id, a.id]);
            assert_eq!(found(None, Some(&ann), "x"), [a.id]);
            assert_eq!(found(Some(b.id), None, "x"), [a.id]);
            assert_eq!(found(Some(a.id), None, "x"), []);
            assert_eq!(found(None, None, &a.id.to_string()), [d.id, a.id]);
            assert_eq!(found(None, Some(&bob), &a.id.to_string()), [d.id]);
            assert_eq!(found(None, None, &c.id.to_string()[..4]), [d.id, c.id, b.id, a.id]);
            assert_eq!(found(None, Some(&ann), ""), [c.id, a.id], "no word selects all");
            assert_eq!(found(None, None, "no such name"), []);
        }
    }

    #[test]
    fn what_was_replaced_or_removed_is_nowhere() {
        let one = Summary { name: "x".into(), ..summary("ann", 1) };
        for mut finished in both(std::slice::from_ref(&one)) {
            let moved = Summary { name: "y".into(), ended_ns: 9, kept: 3, ..one.clone() };
            finished.insert(&moved);
            assert_eq!((finished.len(), finished.kept(), finished.by_end().count()), (1, 3, 1));
            assert_eq!(finished.candidates(None, None, Some("x")).count(), 0);
            assert_eq!(finished.next(None, 9), [moved]);
            assert!(finished.remove(one.id).is_some() && finished.remove(one.id).is_none());
            assert_eq!((finished.len(), finished.kept(), finished.owners().count()), (0, 0, 0));
            assert_eq!(finished.candidates(None, None, Some("y")).count(), 0);
        }
    }

    #[test]
    fn all_are_gone_through_in_parts() {
        let jobs: Vec<_> = (0..5).map(|n| summary("ann", n)).collect();
        for finished in both(&jobs) {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let part = finished.next(after, 2);
                let Some(last) = part.last() else { break };
                after = Some(last.id);
                all.extend(part);
            }
            assert_eq!(all, jobs);
            let stamps = finished.next_stamps(Some(jobs[3].id), 9);
            assert_eq!(stamps, [(jobs[4].id, jobs[4].stamp)]);
        }
    }
}
