//! Lists: which jobs a caller sees that a filter asks for, newest first. It must hold the registry's lock for no longer
//! than [`SLICE`] jobs take.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::auth::ListScope;
use crate::jobs::registry::filter::Filter;
use crate::jobs::registry::finished::Newest;
use crate::jobs::registry::{Entry, Registry};
use crate::model::id::JobId;
use crate::model::identity::Identity;

/// Jobs that a list checks per lock: a fraction of a millisecond.
const SLICE: usize = 1024;

/// A part of a list, newest first.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) entries: Vec<Entry>,
    /// Where to go on; there is nothing more without.
    pub(crate) next: Option<JobId>,
}

impl Registry {
    /// Jobs within `scope` that are older than `after`: at most `most`, and of no more than [`SLICE`] checked
    /// jobs, since other tasks wait for the lock.
    pub(crate) fn slice(
        &self,
        after: Option<JobId>,
        most: usize,
        scope: &ListScope,
        filter: &Filter,
    ) -> Slice {
        let mut known = HashMap::new(); // globs are slow, owners are few
        let mut is_seen = |owner: &Identity| match scope {
            ListScope::Some { .. } => {
                *known.entry(owner.clone()).or_insert_with(|| scope.covers(owner))
            }
            scope => scope.covers(owner),
        };
        let mut live = before(&self.live, after).peekable();
        let mut over = self.over_before(after, scope, filter).peekable();
        let (mut entries, mut last) = (Vec::new(), after);
        for _ in 0..SLICE {
            match (live.peek(), over.peek()) {
                (None, None) => return Slice { entries, next: None },
                (Some(job), over) if over.is_none_or(|other| *other < job.id()) => {
                    last = Some(job.id());
                    let wanted = filter.admits_job(job) && is_seen(job.owner());
                    entries.extend(wanted.then(|| Entry::Live(Arc::clone(job))));
                    live.next();
                }
                (_, None) => {} // which the arm before has taken
                (_, Some(id)) => {
                    let id = *id;
                    last = Some(id);
                    let admits = |job| filter.admits_summary(id, &job);
                    let wanted = self.finished.get(id).is_some_and(admits)
                        && self.finished.owner_of(id).is_some_and(&mut is_seen);
                    entries.extend(wanted.then_some(Entry::Over(id)));
                    over.next();
                }
            }
            if entries.len() == most {
                break;
            }
        }
        Slice { entries, next: last }
    }

    /// Those that are over, the newest first; as few as the filter lets us look at.
    fn over_before<'a>(
        &'a self,
        after: Option<JobId>,
        scope: &ListScope,
        filter: &Filter,
    ) -> Newest<'a> {
        if !filter.admits_over() {
            return Box::new(std::iter::empty());
        }
        let wanted = filter.owner.as_ref().map(|name| Identity::new(name));
        let owner = match (scope, &wanted) {
            // Nobody's, or of a name that nobody has.
            (ListScope::Nobody, _) | (_, Some(Err(_))) => return Box::new(std::iter::empty()),
            (ListScope::Owner(owner), _) | (_, Some(Ok(owner))) => Some(owner),
            (_, None) => None,
        };
        self.finished.candidates(after, owner, filter.selector.as_deref())
    }
}

/// The newest first.
fn before<T>(all: &BTreeMap<JobId, T>, after: Option<JobId>) -> impl Iterator<Item = &T> {
    match after {
        Some(id) => all.range(..id),
        None => all.range(..),
    }
    .rev()
    .map(|(_, entry)| entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scope;
    use crate::jobs::registry::filter::States;
    use crate::jobs::registry::tests::registry;
    use crate::model::state::State;
    use crate::store::index::tests::summary;

    fn ids(entries: &[Entry]) -> Vec<JobId> {
        entries.iter().map(Entry::id).collect()
    }

    #[test]
    fn pages_go_from_new_to_old_and_say_where_the_next_begins() {
        let all = [summary("a", 1), summary("b", 2), summary("a", 3), summary("a", 4)];
        let registry = registry(&all);
        let page = |after, owner: Option<&Identity>, filter: &Filter| {
            let scope = owner.map_or(ListScope::All, |owner| ListScope::Owner(owner.clone()));
            let slice = registry.slice(after, 2, &scope, filter);
            (ids(&slice.entries), slice.next)
        };
        let any = Filter::default();
        assert_eq!(page(None, None, &any), (vec![all[3].id, all[2].id], Some(all[2].id)));
        assert_eq!(
            page(Some(all[2].id), None, &any),
            (vec![all[1].id, all[0].id], Some(all[0].id))
        );
        assert_eq!(page(Some(all[0].id), None, &any), (vec![], None));
        let owner = Some(&all[0].owner);
        assert_eq!(page(Some(all[2].id), owner, &any), (vec![all[0].id], None));
        let of = |owner: &str| Filter { owner: Some(owner.into()), ..Filter::default() };
        assert_eq!(page(None, None, &of("b")), (vec![all[1].id], None));
        assert_eq!(page(None, owner, &of("b")), (vec![], None), "not somebody else's");
        assert_eq!(page(None, None, &of("no name")), (vec![], None));
        let live = Filter { states: States::default().and(State::Running), ..Filter::default() };
        assert_eq!(page(None, None, &live), (vec![], None));
        let old = Filter { ended_before_ns: Some(2), ..Filter::default() };
        assert_eq!(page(None, None, &old), (vec![all[0].id], None));
        let selector = Some(all[1].id.to_string());
        let selected = Filter { selector, ..Filter::default() };
        assert_eq!(page(None, None, &selected), (vec![all[1].id], None));
        let slice = |scope, filter: &Filter| ids(&registry.slice(None, 9, &scope, filter).entries);
        assert_eq!(slice(ListScope::Nobody, &any), []);
        let (caller, scopes) = (all[0].owner.clone(), vec![Scope::Own]);
        let some = ListScope::Some { caller, scopes };
        assert_eq!(slice(some.clone(), &any), [all[3].id, all[2].id, all[0].id]);
        assert_eq!(slice(some, &of("b")), []);
    }

    #[test]
    fn a_list_looks_at_so_many_jobs_and_lets_others_have_the_table() {
        let all: Vec<_> = (0..SLICE as u64 + 500).map(|n| summary("a", n)).collect();
        let registry = registry(&all);
        let first = Filter { ended_before_ns: Some(1), ..Filter::default() };
        let slice = registry.slice(None, 100, &ListScope::All, &first);
        assert_eq!((slice.entries.len(), slice.next), (0, Some(all[500].id)));
        let slice = registry.slice(slice.next, 100, &ListScope::All, &first);
        assert_eq!((ids(&slice.entries), slice.next), (vec![all[0].id], None));
    }
}
