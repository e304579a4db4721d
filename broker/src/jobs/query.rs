//! Looks up one job by its id, or a page of a list. Returns only jobs that the caller may see.
//!
//! Finished jobs are read until the page is full, so the page bounds the cost of a list.

use std::io;
use std::sync::Arc;

use crate::audit::{Line, Phase, Reader, Unrecorded};
use crate::auth::{
    Action, Authorized, Caller, Denied, ListScope, Refused, Resource, Verb, View, authorize,
    authorize_recorded,
};
use crate::jobs::history::archive;
use crate::jobs::job::Job;
use crate::jobs::registry::Entry;
use crate::jobs::registry::filter::{Filter, Page};
use crate::jobs::shared::{NotRecovered, Shared};
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::spec::JobSpec;
use crate::quota::quotas::Row;
use crate::store::error::RecordError;
use crate::store::records;
use crate::store::records::SpecRecord;
use crate::sync::Panicked;

/// Bytes of arguments that may be read from the disk for each byte of a page: they are not shown, and a page
/// of jobs with 1 MiB each would cost seconds.
const READ: usize = 16;

/// Why a job was not looked up.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The jobs on disk are not loaded.
    #[error(transparent)]
    NotRecovered(#[from] NotRecovered),
    /// The caller may see the job, and not do that to it.
    #[error("{0}")]
    Denied(Denied),
    /// The job's records cannot be read.
    #[error("cannot read the job's records: {0}")]
    Record(#[from] RecordError),
    /// A task of the broker has panicked.
    #[error(transparent)]
    Internal(#[from] Panicked),
    /// The caller may do it, and that cannot be recorded.
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
}

/// A page.
#[derive(Debug)]
pub struct Listed<T> {
    /// Newest first, each with what is shown of it.
    pub jobs: Vec<(Authorized<View, Arc<Job>>, T)>,
    /// If there are more: those that are older than this one.
    pub next: Option<JobId>,
}

/// The job of this id, if the caller may do `A` to it; `None` also for a job that it may not see. That it
/// may is recorded when this returns.
///
/// # Errors
/// [`FindError`].
pub(crate) async fn find<A: Action>(
    shared: &Arc<Shared>,
    caller: &Caller,
    id: JobId,
) -> Result<Option<Authorized<A, Arc<Job>>>, FindError> {
    let mut found = shared.registry().find(id);
    if found.is_none() {
        shared.recovered().await?;
        found = shared.registry().find(id);
    }
    let Some((entry, owner)) = found else { return Ok(None) };
    let resource = Resource { id, owner: &owner };
    let allowed = match authorize_recorded::<A, _>(caller, resource, ()).await {
        Ok(allowed) => allowed,
        Err(Refused::Denied(denied)) if denied.is_hidden => {
            // As long as the answer for a job that does not exist takes.
            shared.recovered().await?;
            return Ok(None);
        }
        Err(Refused::Denied(denied)) => return Err(FindError::Denied(denied)),
        Err(Refused::Unrecorded(error)) => return Err(error.into()),
    };
    let job = load(shared, caller.identity(), entry).await?;
    Ok(job.map(|job| allowed.with(job)))
}

/// Loads the job of a registry entry from memory or from its files; `None` if the job is removed or damaged.
///
/// # Errors
/// [`FindError`].
pub(crate) async fn load(
    shared: &Arc<Shared>,
    caller: &Identity,
    entry: Entry,
) -> Result<Option<Arc<Job>>, FindError> {
    match entry {
        Entry::Live(job) => Ok(Some(job)),
        Entry::Over(id) => {
            let own = Arc::clone(shared);
            let load = move || archive::load(&own, id);
            let loaded = shared.threads.reads.run(caller, &shared.runtime, load).await;
            Ok(loaded.map_err(Panicked::from)??)
        }
    }
}

/// All arguments, and all names of the environment, where memory has only the beginning of them and they
/// can be read.
pub(crate) async fn whole_spec(
    shared: &Shared,
    job: &Authorized<View, Arc<Job>>,
) -> Option<JobSpec> {
    let (dir, id) = (shared.state.job(job.subject().id()), job.subject().id());
    job.subject().record().spec.whole?;
    let read = move || records::load::<SpecRecord>(&dir, records::SPEC);
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(record)) => record.map(|record| record.spec),
        Ok(Err(e)) => {
            tracing::warn!(job = %id, "the job is shown with abridged arguments: {e}");
            None
        }
        Err(panic) => {
            tracing::error!(job = %id, "the job is shown with abridged arguments: {panic}");
            None
        }
    }
}

/// A page of the jobs that exist for the caller, newest first. Those whose records are damaged, or of a later
/// format, are not in it. `show` gives what is shown of a job, and its length in bytes.
///
/// # Errors
/// [`FindError`].
pub(crate) async fn list<T: Send + 'static>(
    shared: &Arc<Shared>,
    caller: &Caller,
    filter: &Filter,
    page: Page,
    show: impl Fn(&Authorized<View, Arc<Job>>) -> (T, usize) + Send + 'static,
) -> Result<Listed<T>, FindError> {
    shared.recovered().await?;
    let scope = caller.list_scope();
    if !matches!(scope, ListScope::Owner(_) | ListScope::Nobody) {
        let entry = || caller.entry(Phase::Allowed, Verb::View).message("a page of a list");
        caller.audit().note_bounded(caller.identity(), entry);
    }
    let (entries, next) = entries(shared, page, &scope, filter).await;
    let (own, judged) = (Arc::clone(shared), caller.clone());
    // Dropped with this call: a cancelled list reads no further.
    let waits = Arc::new(());
    let call = Arc::downgrade(&waits);
    let read = move || {
        let wanted = entries.into_iter().take_while(|_| call.strong_count() > 0);
        let mut shortage = None;
        let jobs = wanted.map_while(|entry| match read(&own, &judged, entry.clone()) {
            Err(error) => {
                shortage = Some(error);
                None
            }
            Ok(read) => Some((entry.id(), read)),
        });
        let (jobs, last) = fill(page.bytes, jobs, |(job, read)| {
            let (shown, length) = show(job);
            (shown, length.max(read / READ))
        });
        // A list without some of its jobs, since the host is short of something, would be a wrong answer.
        if let Some(error) = shortage {
            return Err(error);
        }
        let jobs = jobs.into_iter().map(|((job, _), shown)| (job, shown)).collect();
        Ok(Listed { jobs, next: last.or(next) })
    };
    let listed = shared.threads.reads.run(caller.identity(), &shared.runtime, read).await;
    Ok(listed.map_err(Panicked::from)??)
}

/// The jobs of a page and, if there are more, where the next page begins. Releases the registry's lock and
/// yields after each slice.
async fn entries(
    shared: &Shared,
    page: Page,
    scope: &ListScope,
    filter: &Filter,
) -> (Vec<Entry>, Option<JobId>) {
    let (mut entries, mut after) = (Vec::new(), page.after);
    loop {
        // One more than is shown: it tells whether there is a next page.
        let missing = page.size + 1 - entries.len();
        let slice = shared.registry().slice(after, missing, scope, filter);
        entries.extend(slice.entries);
        if entries.len() > page.size {
            entries.truncate(page.size);
            let last = entries.last().map(Entry::id);
            return (entries, last);
        }
        let Some(next) = slice.next else { return (entries, None) };
        after = Some(next);
        tokio::task::yield_now().await;
    }
}

/// A job that may be listed, and the bytes of arguments that were read from the disk for it.
type Read = (Authorized<View, Arc<Job>>, usize);

/// Reads one job of a list; `None` if it cannot be read, so that the list has the others.
///
/// # Errors
/// The host is short of descriptors or memory.
fn read(shared: &Arc<Shared>, caller: &Caller, entry: Entry) -> Result<Option<Read>, RecordError> {
    let (job, read) = match entry {
        Entry::Live(job) => (job, 0),
        Entry::Over(id) => match archive::load(shared, id) {
            Ok(Some(job)) => {
                let read = job.record().spec.whole.map_or(0, |whole| whole.argument_bytes);
                (job, read)
            }
            Err(error) if error.is_shortage() => return Err(error),
            Ok(None) | Err(_) => return Ok(None), // logged by `load`
        },
    };
    let resource = Resource { id: job.id(), owner: job.owner() };
    let seen = authorize::<View, _>(caller, resource, Arc::clone(&job)).ok();
    Ok(seen.map(|seen| (seen, read)))
}

/// Takes jobs until the page is full, one at least. Also returns the last job taken, if others remain.
fn fill<J, T>(
    bytes: usize,
    jobs: impl Iterator<Item = (JobId, Option<J>)>,
    show: impl Fn(&J) -> (T, usize),
) -> (Vec<(J, T)>, Option<JobId>) {
    let (mut page, mut left, mut last) = (Vec::new(), bytes, None);
    for (id, job) in jobs {
        if let Some(job) = job {
            let (shown, length) = show(&job);
            if length > left && !page.is_empty() {
                return (page, last);
            }
            left = left.saturating_sub(length);
            page.push((job, shown));
        }
        last = Some(id);
    }
    (page, None)
}

/// All quotas of an identity, with what is in use.
///
/// # Errors
/// [`FindError`]: it is not known yet which jobs there are.
pub(crate) async fn quota_rows(
    shared: &Shared,
    identity: &Identity,
) -> Result<Vec<Row>, FindError> {
    shared.recovered().await?;
    let (running, kept) = {
        let registry = shared.registry();
        (registry.in_use(identity, None), registry.finished().kept_of(identity))
    };
    Ok(shared.quotas.rows(identity, running, kept))
}

/// A slice of the audit up to the line `head`, read when it is this caller's turn.
///
/// # Errors
/// A fault of the broker. Within: [`Reader::slice`].
pub(crate) async fn read_audit(
    shared: &Shared,
    caller: &Identity,
    mut reader: Reader,
    head: u64,
) -> Result<(Reader, io::Result<Vec<Line>>), Panicked> {
    let read = move || {
        let lines = reader.slice(head);
        (reader, lines)
    };
    Ok(shared.threads.reads.run(caller, &shared.runtime, read).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_page_ends_where_it_is_full_and_no_more_is_read_than_it_takes_to_know() {
        let ids: Vec<_> = (0..6).map(|_| JobId::fresh()).collect();
        let lengths = [Some(4), None, Some(6), Some(1), Some(99), Some(1)];
        let read = Cell::new(0);
        let page = |from: usize| {
            read.set(0);
            let jobs = ids.iter().copied().zip(lengths).skip(from);
            let jobs = jobs.inspect(|_| read.set(read.get() + 1));
            let (page, last) = fill(10, jobs, |length| ((), *length));
            let lengths: Vec<_> = page.into_iter().map(|(length, ())| length).collect();
            (lengths, last, read.get())
        };
        assert_eq!(page(0), (vec![4, 6], Some(ids[2]), 4));
        assert_eq!(page(3), (vec![1], Some(ids[3]), 2));
        assert_eq!(page(4), (vec![99], Some(ids[4]), 2), "one at least");
        assert_eq!(page(5), (vec![1], None, 1));
    }
}
