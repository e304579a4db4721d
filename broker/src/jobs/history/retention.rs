//! Removes finished jobs by the `[retention]` rules. Never removes a live job: the rules see only the
//! registry's sorted sets of finished jobs.
//!
//! The pruner sleeps until a job ends or the oldest job reaches its age.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::{Entry, OwnAction, Phase};
use crate::config::Retention;
use crate::jobs::events::{LifecycleEvent, Subscription};
use crate::jobs::history::archive;
use crate::jobs::registry::Registry;
use crate::jobs::shared::Shared;
use crate::journal::AUDIT;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::quota::Quotas;
use crate::quota::kind::QuotaKind;
use crate::quota::limits::Limits;
use job_launch::host;

/// Jobs that one round removes.
const ROUND: usize = 64;
/// The pruner wakes at least this often, since the clock may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Which rule removes a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    Age,
    Count,
    CountPerOwner,
    Bytes,
    QuotaOfJobs,
    QuotaOfBytes,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Age => "retention.age",
            Rule::Count => "retention.count",
            Rule::CountPerOwner => "retention.count_per_owner",
            Rule::Bytes => "retention.bytes",
            Rule::QuotaOfJobs => "quota kept_jobs",
            Rule::QuotaOfBytes => "quota kept_bytes",
        })
    }
}

/// Whether `retention.bytes` may remove the job that ended last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    Stays,
    /// Only if no job could start otherwise.
    Goes,
}

/// Applies the rules for as long as the broker runs.
pub(crate) async fn prune(shared: Arc<Shared>) {
    if shared.recovered().await.is_err() {
        return;
    }
    let (mut rules, mut events) = (shared.retention.subscribe(), shared.events.subscribe());
    let mut quotas = shared.quotas.reloads();
    loop {
        events.skip(); // the round covers them
        let has_rules =
            rules.borrow_and_update().has_rules() || shared.quotas.bound_finished_jobs();
        if has_rules && round(&shared).await >= ROUND {
            continue; // there may be more
        }
        let archived = tokio::time::timeout(until_next(&shared), archived(&mut events));
        tokio::select! {
            _ = archived, if has_rules => {}
            _ = rules.changed() => {} // by a reload
            () = quotas.next() => {}
        }
    }
}

async fn archived(events: &mut Subscription) {
    while !matches!(events.next().await, LifecycleEvent::Archived(_) | LifecycleEvent::Missed(_)) {}
}

async fn round(shared: &Arc<Shared>) -> usize {
    let own = Arc::clone(shared);
    let round = shared.runtime.spawn_blocking(move || remove_excess(&own, Last::Stays));
    round.await.unwrap_or(0)
}

/// Removes one round of jobs and returns their number. Blocks.
pub(crate) fn remove_excess(shared: &Arc<Shared>, last: Last) -> usize {
    let excess = {
        let registry = shared.registry();
        let mut excess = excess(&registry, &shared.retention(), last, host::now_ns(), ROUND);
        if shared.quotas.bound_finished_jobs() {
            over_quota(&registry, &shared.quotas, &mut excess, ROUND);
        }
        excess
    };
    let ids: Vec<_> = excess.iter().map(|(id, _)| *id).collect();
    let removed = archive::remove(shared, &ids);
    for ((id, removed), (_, rule)) in removed.into_iter().zip(&excess) {
        match removed {
            Ok(true) => {
                tracing::info!(target: AUDIT, job = %id, %rule, "removed");
                let entry = Entry::own(Phase::Broker, OwnAction::Remove)
                    .rule(rule)
                    .end("id", id.to_string());
                shared.audit.note(&entry);
            }
            Ok(false) => {}
            Err(e) => tracing::error!(job = %id, %rule, "the job cannot be removed: {e}"),
        }
    }
    excess.len()
}

/// The time until the oldest job reaches its age.
fn until_next(shared: &Shared) -> Duration {
    let registry = shared.registry();
    let (Some(age), Some(first)) = (shared.retention().age, registry.finished().by_end().next())
    else {
        return LONGEST_SLEEP;
    };
    let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
    let left = first.ended_ns.saturating_add(age).saturating_sub(host::now_ns());
    Duration::from_nanos(left.saturating_add(1_000_000)).min(LONGEST_SLEEP)
}

/// The jobs to remove, at most `most`, the oldest end first. `count`, `count_per_owner` and `bytes` keep
/// the newest finished job, since a caller may be waiting for its end; [`Last::Goes`] lets `bytes` drop it.
fn excess(
    registry: &Registry,
    rules: &Retention,
    last: Last,
    now_ns: u64,
    most: usize,
) -> Vec<(JobId, Rule)> {
    let age = rules.age.and_then(|age| u64::try_from(age.as_nanos()).ok());
    let oldest_end = age.and_then(|age| now_ns.checked_sub(age)).unwrap_or(0);
    let limit = |rule: Option<u64>| rule.unwrap_or(u64::MAX);
    let (mut count, mut kept) = (registry.finished().len() as u64, registry.finished().kept());
    let mut all = Vec::new();
    for job in registry.finished().by_end().take(most) {
        let is_last = count == 1;
        let rule = if job.ended_ns < oldest_end {
            Rule::Age
        } else if count > limit(rules.count) {
            Rule::Count
        } else if kept > limit(rules.bytes) && !(is_last && last == Last::Stays) {
            Rule::Bytes
        } else {
            break;
        };
        all.push((job.id, rule));
        (count, kept) = (count - 1, kept.saturating_sub(job.kept));
    }
    if let Some(own) = rules.count_per_owner {
        let surplus = |owner| {
            let count = registry.finished().kept_of(owner).0.saturating_sub(own);
            registry.finished().by_end_of(owner).take(usize::try_from(count).unwrap_or(usize::MAX))
        };
        let surplus = registry.finished().owners().flat_map(surplus).map(|job| job.id);
        add(&mut all, surplus.map(|id| (id, Rule::CountPerOwner)), most);
    }
    all
}

/// Adds the jobs beyond their owners' own quotas, to `most` in all. The job of an owner that ended last stays, as above.
fn over_quota(registry: &Registry, quotas: &Quotas, all: &mut Vec<(JobId, Rule)>, most: usize) {
    let surplus = registry
        .finished()
        .owners()
        .flat_map(|owner| beyond(registry, owner, &quotas.limits(owner)));
    add(all, surplus, most);
}

/// The finished jobs of an owner beyond these limits, the oldest end first.
fn beyond<'a>(
    registry: &'a Registry,
    owner: &Identity,
    limits: &Limits,
) -> impl Iterator<Item = (JobId, Rule)> + use<'a> {
    let limit = |kind| limits.get(kind).map_or(u64::MAX, |limit| limit.value);
    let (most_jobs, most_bytes) = (limit(QuotaKind::KeptJobs), limit(QuotaKind::KeptBytes));
    let (mut jobs, mut bytes) = registry.finished().kept_of(owner);
    registry.finished().by_end_of(owner).map_while(move |job| {
        let rule = match () {
            () if jobs > most_jobs => Rule::QuotaOfJobs,
            () if bytes > most_bytes && jobs > 1 => Rule::QuotaOfBytes,
            () => return None,
        };
        (jobs, bytes) = (jobs - 1, bytes.saturating_sub(job.kept));
        Some((job.id, rule))
    })
}

/// Adds what is not there yet, to `most` in all.
fn add(all: &mut Vec<(JobId, Rule)>, more: impl Iterator<Item = (JobId, Rule)>, most: usize) {
    let known: BTreeSet<JobId> = all.iter().map(|(id, _)| *id).collect();
    let room = most.saturating_sub(all.len());
    all.extend(more.filter(|(id, _)| !known.contains(id)).take(room));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::registry::tests::registry;
    use crate::model::glob::{Pattern, Syntax};
    use crate::quota::limits::{Membership, QuotaTable, QuotaTables};
    use crate::store::index::Summary;
    use crate::store::index::tests::summary;

    /// Four jobs, of 10 bytes each.
    fn four() -> Vec<Summary> {
        [("a", 100), ("b", 200), ("a", 300), ("a", 400)].map(|(o, t)| summary(o, t)).into()
    }

    fn removed_of(jobs: &[Summary], rules: &Retention, last: Last) -> Vec<usize> {
        let at = |id| jobs.iter().position(|job| job.id == id);
        let excess = excess(&registry(jobs), rules, last, 1000, 64);
        excess.into_iter().filter_map(|(id, _)| at(id)).collect()
    }

    fn removed(rules: &Retention) -> Vec<usize> {
        removed_of(&four(), rules, Last::Stays)
    }

    #[test]
    fn each_rule_removes_those_that_ended_first_and_no_more_than_it_must() {
        let none = Retention::default();
        assert_eq!(removed(&none), [0; 0]);
        let age = Some(Duration::from_nanos(750));
        assert_eq!(removed(&Retention { age, ..none.clone() }), [0, 1]);
        assert_eq!(removed(&Retention { count: Some(3), ..none.clone() }), [0]);
        assert_eq!(removed(&Retention { bytes: Some(25), ..none.clone() }), [0, 1]);
        assert_eq!(removed(&Retention { count_per_owner: Some(2), ..none.clone() }), [0]);
        let both = Retention { count: Some(3), count_per_owner: Some(1), ..none };
        assert_eq!(removed(&both), [0, 2], "each once");
    }

    #[test]
    fn a_long_job_that_was_started_first_and_ends_last_stays() {
        let jobs = [("a", 900), ("a", 100), ("b", 950), ("a", 300), ("a", 200)];
        let jobs = jobs.map(|(owner, ended)| summary(owner, ended));
        let removed = |rules| removed_of(&jobs, &rules, Last::Stays);
        let none = Retention::default();
        assert_eq!(removed(Retention { count_per_owner: Some(2), ..none.clone() }), [1, 4]);
        assert_eq!(removed(Retention { count_per_owner: Some(1), ..none.clone() }), [1, 4, 3]);
        assert_eq!(removed(Retention { count: Some(2), ..none.clone() }), [1, 4, 3]);
        assert_eq!(removed(Retention { bytes: Some(20), ..none }), [1, 4, 3]);
    }

    #[test]
    fn the_job_that_ended_last_goes_for_its_output_only_when_nothing_else_could_start() {
        let rules = Retention { bytes: Some(5), ..Retention::default() };
        assert_eq!(removed_of(&four(), &rules, Last::Stays), [0, 1, 2]);
        assert_eq!(removed_of(&four(), &rules, Last::Goes), [0, 1, 2, 3]);
        let rules = Retention { age: Some(Duration::from_nanos(1)), ..rules };
        assert_eq!(removed_of(&four(), &rules, Last::Stays), [0, 1, 2, 3], "its time has come");
    }

    #[test]
    fn beyond_the_quota_of_an_owner_its_oldest_go_and_nobody_elses() {
        let quotas = Quotas::default();
        let removed = |kind, limit: u64| {
            let table = QuotaTable { values: [(kind, limit)].into(), burst: None };
            let identities = vec![(Pattern::parse("a", Syntax::Text).unwrap(), table)];
            let tables = QuotaTables { identities, ..QuotaTables::default() };
            quotas.set(tables, Arc::new(|_| Membership::default()));
            let (jobs, mut all) = (four(), Vec::new());
            over_quota(&registry(&jobs), &quotas, &mut all, 64);
            let at = |id| jobs.iter().position(|job| job.id == id);
            all.into_iter().filter_map(|(id, _)| at(id)).collect::<Vec<_>>()
        };
        assert_eq!(removed(QuotaKind::KeptJobs, 3), [0; 0]);
        assert_eq!(removed(QuotaKind::KeptJobs, 2), [0]);
        assert_eq!(removed(QuotaKind::KeptBytes, 20), [0]);
        assert_eq!(removed(QuotaKind::KeptBytes, 19), [0, 2]);
        assert_eq!(removed(QuotaKind::KeptBytes, 0), [0, 2], "its last one stays");
    }

    #[test]
    fn a_round_is_bounded() {
        let rules = Retention { count: Some(1), ..Retention::default() };
        assert_eq!(excess(&registry(&four()), &rules, Last::Stays, 1000, 2).len(), 2);
    }
}
