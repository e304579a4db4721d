//! A page of a list. Jobs that are over are read one after the other, until the page is full: what
//! a list costs is bounded by the page, whatever its jobs were asked with.

use std::io;
use std::sync::Arc;

use crate::auth::{Caller, Role};
use crate::jobs::commands::start::Core;
use crate::jobs::errors::FindError;
use crate::jobs::history::archive;
use crate::jobs::job::Job;
use crate::jobs::registry::Entry;
use crate::jobs::registry::filter::{Filter, Page};
use crate::jobs::shared::Ground;
use crate::jobs::supervisor::Supervisor;
use crate::model::id::JobId;
use crate::model::identity::Identity;

/// Bytes of arguments that may be read from the disk for each byte of a page: they are not shown, and a page
/// of jobs with 1 MiB each would cost seconds.
const READ: usize = 16;

/// A page.
#[derive(Debug)]
pub struct Listed<T> {
    /// Newest first, each with what is shown of it.
    pub jobs: Vec<(Arc<Job>, T)>,
    /// If there are more: those that are older than this one.
    pub next: Option<JobId>,
}

impl Supervisor {
    /// A page of the jobs that exist for the caller, newest first. Those whose records cannot be read
    /// now are not in it. `show` gives what is shown of a job, and its length in bytes.
    ///
    /// # Errors
    /// [`FindError`].
    pub async fn list<T: Send + 'static>(
        &self,
        caller: &Caller,
        filter: &Filter,
        page: Page,
        show: impl Fn(&Job) -> (T, usize) + Send + 'static,
    ) -> Result<Listed<T>, FindError> {
        self.core.ground.all_known().await?;
        let owner = (caller.role() != Role::Admin).then(|| caller.identity());
        let (entries, next) = self.core.page(page, owner, filter).await;
        let ground = Arc::clone(&self.core.ground);
        // Gone with this call: what nobody waits for any more is not read.
        let waits = Arc::new(());
        let call = Arc::downgrade(&waits);
        let read = move || {
            let wanted = entries.into_iter().take_while(|_| call.strong_count() > 0);
            let jobs = wanted.map(|entry| (entry.id(), read(&ground, entry)));
            let (jobs, last) = fill(page.bytes, jobs, |(job, read)| {
                let (shown, length) = show(job);
                (shown, length.max(read / READ))
            });
            let jobs = jobs.into_iter().map(|((job, _), shown)| (job, shown)).collect();
            Listed { jobs, next: last.or(next) }
        };
        let reads = &self.core.ground.threads.reads;
        let listed = reads.run(caller.identity(), &self.core.runtime, read).await;
        Ok(listed.map_err(io::Error::other)?)
    }
}

impl Core {
    /// The jobs of a page and, if there are more, where the next one begins. Everybody else has a turn
    /// with the table, and with this thread, after each slice.
    async fn page(
        &self,
        page: Page,
        owner: Option<&Identity>,
        filter: &Filter,
    ) -> (Vec<Entry>, Option<JobId>) {
        let (mut entries, mut after) = (Vec::new(), page.after);
        loop {
            // One more than is shown: it tells whether there is a next page.
            let missing = page.size + 1 - entries.len();
            let slice = self.table().slice(after, missing, owner, filter);
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
}

/// One that cannot be read now keeps nobody from seeing the others.
fn read(ground: &Arc<Ground>, entry: Entry) -> Option<(Arc<Job>, usize)> {
    match entry {
        Entry::Live(job) => Some((job, 0)),
        Entry::Over(id) => {
            let job = archive::load(ground, id).ok().flatten()?; // which has told of it
            let read = job.record().spec.whole.map_or(0, |whole| whole.argument_bytes);
            Some((job, read))
        }
    }
}

/// As many as fit, one at least; and the last that was looked at before one that did not.
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
