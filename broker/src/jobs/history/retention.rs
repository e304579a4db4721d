//! What is removed of jobs that are over, and whether there is room for another one. What rules
//! remove is found in the table, whose orders cost nothing to look at; the pruner sleeps until a
//! job ends or the oldest one's time has come. A job that lives is in none of those orders.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use job_api::units::show_size;
use nix::sys::statvfs::{Statvfs, statvfs};
use tokio::task::JoinError;

use crate::config::{Floor, Retention};
use crate::host;
use crate::jobs::commands::start::Core;
use crate::jobs::history::archive;
use crate::jobs::registry::Table;
use crate::jobs::shared::Ground;
use crate::journal::AUDIT;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::store::log;

/// Jobs that are removed in one go, on a thread that may block.
const ROUND: usize = 64;
/// The table is asked after the oldest job at least this often: clocks are set.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Inodes that must be free where `min_free` is a size.
const INODES: u64 = 1000;

/// Which rule removes a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    Age,
    Count,
    CountPerOwner,
    Bytes,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Age => "retention.age",
            Rule::Count => "retention.count",
            Rule::CountPerOwner => "retention.count_per_owner",
            Rule::Bytes => "retention.bytes",
        })
    }
}

/// What becomes of the job that ended last where it alone keeps more than `retention.bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Stays,
    /// Since nothing could be started beside it.
    Goes,
}

/// Why nothing is started now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// `min_free`, of bytes.
    #[error(
        "the file system of {} has {} free, and retention.min_free asks for {}; remove finished \
         jobs (jobctl prune) or make room", path.display(), show_size(*free), show_size(*needed)
    )]
    Space {
        /// The state directory.
        path: PathBuf,
        /// Bytes.
        free: u64,
        /// Bytes.
        needed: u64,
    },
    /// `min_free`, of inodes.
    #[error(
        "the file system of {} has {free} free inodes, and retention.min_free asks for {needed}; \
         remove finished jobs (jobctl prune) or make room", path.display()
    )]
    Inodes {
        /// The state directory.
        path: PathBuf,
        /// How many.
        free: u64,
        /// How many.
        needed: u64,
    },
    /// What cannot be measured is not taken for room, whoever asks: a disk that does not even tell how
    /// full it is takes no output either.
    #[error(
        "how much {what} cannot be told now ({why}), and nothing is started until it can; try again"
    )]
    Unknown {
        /// "of the disk is free", "output is kept".
        what: &'static str,
        /// Why.
        why: String,
    },
    /// `max_output`.
    #[error(
        "all jobs together keep {} of output and of its index, and retention.max_output is {}; \
         remove finished jobs (jobctl prune)", show_size(*kept), show_size(*max)
    )]
    Output {
        /// Bytes.
        kept: u64,
        /// Bytes.
        max: u64,
    },
}

/// Bytes that the jobs that live keep, measured at most once in a while.
#[derive(Debug, Default)]
pub(crate) struct LiveOutput(Mutex<Option<(Instant, u64)>>);

impl LiveOutput {
    /// A few stat(2) for each live job are 4 ms and more with 1,000 of them: not for each start.
    const FRESH: Duration = Duration::from_secs(1);

    fn bytes(&self, ground: &Ground) -> io::Result<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = last.filter(|(at, _)| at.elapsed() < Self::FRESH) {
            return Ok(bytes);
        }
        // What is settled grows no more, and is among those that are over in a moment.
        let live = |table: &Table| -> Vec<_> {
            table.live().filter(|job| !job.is_settled()).map(|job| job.id()).collect()
        };
        let live = live(&ground.table());
        let mut bytes = 0_u64;
        for id in live {
            bytes = bytes.saturating_add(log::kept(&ground.state.job(id))?);
        }
        *last = Some((Instant::now(), bytes));
        Ok(bytes)
    }
}

impl Core {
    /// Removes what the rules remove, for as long as the broker runs.
    pub(crate) async fn prune(self: Arc<Core>) {
        if self.ground.all_known().await.is_err() {
            return;
        }
        let mut rules = self.retention.subscribe();
        loop {
            let ended = self.ground.ended.notified();
            let has_rules = rules.borrow_and_update().has_rules();
            if has_rules && self.round().await >= ROUND {
                continue; // there may be more, and others had their turn
            }
            tokio::select! {
                _ = tokio::time::timeout(self.until_next(), ended), if has_rules => {}
                _ = rules.changed() => {} // by a reload
            }
        }
    }

    /// One round of removals; how many there were.
    async fn round(self: &Arc<Core>) -> usize {
        let core = Arc::clone(self);
        self.runtime.spawn_blocking(move || core.round_now(Last::Stays)).await.unwrap_or(0)
    }

    fn round_now(&self, last: Last) -> usize {
        let excess = excess(&self.ground.table(), &self.retention(), last, host::now_ns(), ROUND);
        let ids: Vec<_> = excess.iter().map(|(id, _)| *id).collect();
        let removed = archive::remove(&self.ground, &ids);
        for ((id, removed), (_, rule)) in removed.into_iter().zip(&excess) {
            match removed {
                Ok(true) => tracing::info!(target: AUDIT, job = %id, %rule, "removed"),
                Ok(false) => {}
                Err(e) => tracing::error!(job = %id, %rule, "cannot be removed: {e}"),
            }
        }
        excess.len()
    }

    /// Until the job that ended first is too old.
    fn until_next(&self) -> Duration {
        let table = self.ground.table();
        let (Some(age), Some(first)) = (self.retention().age, table.by_end().next()) else {
            return LONGEST_SLEEP;
        };
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let left = first.ended_ns.saturating_add(age).saturating_sub(host::now_ns());
        Duration::from_nanos(left.saturating_add(1_000_000)).min(LONGEST_SLEEP)
    }

    /// Whether another job may be started; what the rules remove goes first. Two starts may both find
    /// room: both would have found it one after the other as well, since a job takes none before it
    /// writes. How many run is decided where they are registered.
    pub(crate) async fn room(self: &Arc<Core>, owner: &Identity) -> Result<(), NoRoom> {
        let core = Arc::clone(self);
        let judge = move || {
            let judge = || core.space().and_then(|()| core.output());
            let mut verdict = judge();
            for last in [Last::Stays, Last::Goes] {
                while verdict.is_err() && core.round_now(last) > 0 {
                    verdict = judge();
                }
            }
            verdict
        };
        verdict(self.ground.threads.reads.run(owner, &self.runtime, judge).await)
    }

    fn space(&self) -> Result<(), NoRoom> {
        let path = self.ground.state.jobs();
        enough(statvfs(&path), self.retention().min_free, path)
    }

    fn output(&self) -> Result<(), NoRoom> {
        let Some(max) = self.retention().max_output else { return Ok(()) };
        let over = self.ground.table().kept();
        // Live jobs are measured only where it matters.
        let live = if over > max { Ok(0) } else { self.live_output.bytes(&self.ground) };
        let live = live.map_err(|e| unknown("output is kept", &e))?;
        let kept = over.saturating_add(live);
        if kept > max { Err(NoRoom::Output { kept, max }) } else { Ok(()) }
    }
}

fn verdict(judged: Result<Result<(), NoRoom>, JoinError>) -> Result<(), NoRoom> {
    judged.unwrap_or_else(|panic| Err(unknown("room there is", &panic)))
}

fn unknown(what: &'static str, error: &dyn std::error::Error) -> NoRoom {
    let why = error.to_string();
    tracing::error!("nothing is started, since how much {what} cannot be told: {why}");
    NoRoom::Unknown { what, why }
}

/// What others than root may still use is what counts: logs are written by the shims.
fn enough(found: nix::Result<Statvfs>, floor: Floor, path: PathBuf) -> Result<(), NoRoom> {
    let found = found.map_err(|e| unknown("of the disk is free", &e))?;
    let free = found.blocks_available() * found.fragment_size();
    let (all, inodes) = (found.blocks() * found.fragment_size(), found.files());
    let (needed, needed_inodes) = match floor {
        Floor::Share(share) => ((all as f64 * share) as u64, (inodes as f64 * share) as u64),
        Floor::Bytes(0) => (0, 0),
        Floor::Bytes(bytes) => (bytes, INODES.min(inodes / 2)),
    };
    if free < needed {
        return Err(NoRoom::Space { path, free, needed });
    }
    // btrfs and others count none.
    let free = found.files_available();
    if inodes > 0 && free < needed_inodes {
        return Err(NoRoom::Inodes { path, free, needed: needed_inodes });
    }
    Ok(())
}

/// The jobs that rules remove, at most `most`; those that ended first, first. Of the rules that ask
/// how much there is, none takes the job that ended last: somebody may be waiting for its end.
/// [`Last::Goes`] is for `bytes` alone; the counts are at least 1.
fn excess(
    table: &Table,
    rules: &Retention,
    last: Last,
    now_ns: u64,
    most: usize,
) -> Vec<(JobId, Rule)> {
    let age = rules.age.and_then(|age| u64::try_from(age.as_nanos()).ok());
    let born = age.and_then(|age| now_ns.checked_sub(age)).unwrap_or(0);
    let limit = |rule: Option<u64>| rule.unwrap_or(u64::MAX);
    let (mut count, mut kept) = (table.over().len() as u64, table.kept());
    let mut all = Vec::new();
    for job in table.by_end().take(most) {
        let is_last = count == 1;
        let rule = if job.ended_ns < born {
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
        let own = usize::try_from(own).unwrap_or(usize::MAX);
        let gone: BTreeSet<JobId> = all.iter().map(|(id, _)| *id).collect();
        let surplus = table.owners().flat_map(|(count, ids)| ids.take(count.saturating_sub(own)));
        let more = surplus.filter(|id| !gone.contains(id)).take(most - all.len());
        all.extend(more.map(|id| (id, Rule::CountPerOwner)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::Summary;
    use crate::store::index::tests::summary;

    fn table(jobs: &[Summary]) -> Table {
        Table::of(jobs.iter().map(|job| (job.id, job.clone())).collect())
    }

    /// Four jobs, of 10 bytes each.
    fn four() -> Vec<Summary> {
        [("a", 100), ("b", 200), ("a", 300), ("a", 400)].map(|(o, t)| summary(o, t)).into()
    }

    fn removed_of(jobs: &[Summary], rules: &Retention, last: Last) -> Vec<usize> {
        let at = |id| jobs.iter().position(|job| job.id == id);
        let excess = excess(&table(jobs), rules, last, 1000, 64);
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
    fn a_round_is_bounded() {
        let rules = Retention { count: Some(1), ..Retention::default() };
        assert_eq!(excess(&table(&four()), &rules, Last::Stays, 1000, 2).len(), 2);
    }

    #[test]
    fn the_watermark_is_a_share_or_a_size() {
        let found = statvfs("/tmp").unwrap();
        let verdict = |floor| enough(Ok(found), floor, "/tmp".into());
        assert_eq!(verdict(Floor::Bytes(0)), Ok(()));
        assert_eq!(verdict(Floor::Share(0.0)), Ok(()));
        let all = found.blocks() * found.fragment_size();
        assert!(matches!(verdict(Floor::Bytes(all + 1)), Err(NoRoom::Space { .. })));
        let said = verdict(Floor::Share(1.5)).unwrap_err().to_string();
        assert!(said.contains("retention.min_free") && said.contains("free"), "{said}");
    }
    #[test]
    fn a_disk_that_does_not_tell_how_full_it_is_has_no_room() {
        let said = enough(Err(nix::errno::Errno::EIO), Floor::Bytes(0), "/tmp".into()).unwrap_err();
        assert!(matches!(said, NoRoom::Unknown { .. }) && !said.to_string().contains("/tmp"));
        assert!(said.to_string().contains("how much of the disk is free"), "{said}");
    }

    #[tokio::test]
    async fn a_check_that_breaks_off_is_no_yes() {
        let judged = tokio::task::spawn_blocking(|| -> Result<(), NoRoom> { panic!("on purpose") });
        assert!(matches!(verdict(judged.await), Err(NoRoom::Unknown { .. })));
    }
}
