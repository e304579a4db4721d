//! Filters lists, the same for live jobs and for summaries. Reads no file.

use std::collections::BTreeMap;

use crate::jobs::job::Job;
use crate::jobs::registry::packed::View;
use crate::model::id::JobId;
use crate::model::state::State;

/// Some of the states, as bits: a list asks once for each of 100,000 jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct States(u8);

impl States {
    /// With this one, too.
    #[must_use]
    pub fn and(self, state: State) -> States {
        States(self.0 | 1 << state as u8)
    }

    fn has(self, state: State) -> bool {
        self.0 & 1 << state as u8 != 0
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<State> for States {
    fn from_iter<I: IntoIterator<Item = State>>(states: I) -> States {
        states.into_iter().fold(States::default(), States::and)
    }
}

/// Which jobs are wanted. Each question costs about the same, whatever the request says: as few
/// labels as a job may have, and no text longer than what it is compared with.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Any of these; empty: all.
    pub states: States,
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
    /// Most jobs of the page.
    pub size: usize,
    /// Most bytes of the page, unless the first job alone has more.
    pub bytes: usize,
}

impl Filter {
    pub(crate) fn admits_job(&self, job: &Job) -> bool {
        let (record, (state, ended_ns)) = (job.record(), job.state_and_end());
        let labels = &record.spec.labels;
        self.admits_state(state)
            && self.owner.as_ref().is_none_or(|owner| owner == job.owner().as_str())
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.is_selected(job.id(), &record.spec.name)
            && self.ended_before_ns.is_none_or(|t| ended_ns.is_some_and(|end| end < t))
    }

    pub(crate) fn admits_summary(&self, id: JobId, job: &View<'_>) -> bool {
        let has = |(key, value): (&String, &String)| job.label(key) == Some(value);
        self.admits_state(job.state())
            && self.owner.as_ref().is_none_or(|owner| owner == job.owner)
            && self.labels.iter().all(has)
            && self.is_selected(id, job.name)
            && self.ended_before_ns.is_none_or(|t| job.ended_ns < t)
    }

    fn admits_state(&self, state: State) -> bool {
        self.states.is_empty() || self.states.has(state)
    }

    /// Whether finished jobs can match.
    pub(crate) fn admits_over(&self) -> bool {
        self.admits_state(State::Finished) || self.admits_state(State::Lost)
    }

    fn is_selected(&self, id: JobId, name: &str) -> bool {
        let selected = |s: &String| name == s || (!s.is_empty() && id.starts_with(s));
        self.selector.as_ref().is_none_or(selected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in_and_nothing_else() {
        use State::*;
        let all = [Starting, Running, Paused, Stopping, Finished, Lost];
        for state in all {
            let one = States::default().and(state);
            assert!(all.into_iter().all(|other| one.has(other) == (other == state)));
            let filter = Filter { states: one, ..Filter::default() };
            assert_eq!(filter.admits_over(), state.is_over());
        }
        assert!(Filter::default().admits_over() && States::default().is_empty());
    }
}
