//! Admits a start, or rejects it for lack of disk space or output quota. Removes finished jobs by the
//! retention rules first; never touches a live job.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use job_api::units::show_size;
use nix::sys::statvfs::{Statvfs, statvfs};
use tokio::task::JoinError;

use crate::config::MinFree;
use crate::jobs::history::retention::{self, Last};
use crate::jobs::shared::Shared;
use crate::model::identity::Identity;
use crate::store::log;

/// Inodes that must be free where `min_free` is a size.
const INODES: u64 = 1000;

/// Why a start is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
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
    /// The measurement failed. A disk that cannot be measured takes no output either.
    #[error(
        "how much {what} cannot be measured now ({why}); no job is started until it can; try again"
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

/// Admits another job; applies the retention rules if there is no space. Needs no lock against a second
/// start: a job takes no space before it writes. The registry's lock guards the number of jobs.
///
/// # Errors
/// [`AdmissionError`].
pub(crate) async fn admit(shared: &Arc<Shared>, owner: &Identity) -> Result<(), AdmissionError> {
    let own = Arc::clone(shared);
    let judge = move || {
        let judge = || space(&own).and_then(|()| output(&own));
        let mut verdict = judge();
        for last in [Last::Stays, Last::Goes] {
            while verdict.is_err() && retention::remove_excess(&own, last) > 0 {
                verdict = judge();
            }
        }
        verdict
    };
    verdict(shared.threads.reads.run(owner, &shared.runtime, judge).await)
}

fn space(shared: &Shared) -> Result<(), AdmissionError> {
    let path = shared.state.jobs();
    enough(statvfs(&path), shared.retention().min_free, path)
}

fn output(shared: &Shared) -> Result<(), AdmissionError> {
    let Some(max) = shared.retention().max_output else { return Ok(()) };
    let over = shared.registry().finished().kept();
    // Live jobs are measured only where it matters.
    let live = if over > max { Ok(0) } else { shared.live_output.bytes(|| live(shared)) };
    let live = live.map_err(|e| unknown("output is kept", &e))?;
    let kept = over.saturating_add(live);
    if kept > max { Err(AdmissionError::Output { kept, max }) } else { Ok(()) }
}

/// Bytes of output of the live jobs. A settled job no longer grows and is about to be archived.
fn live(shared: &Shared) -> io::Result<u64> {
    let ids: Vec<_> = {
        let registry = shared.registry();
        registry.live().filter(|job| !job.is_settled()).map(|job| job.id()).collect()
    };
    let kept = |sum: u64, id| Ok(sum.saturating_add(log::kept(&shared.state.job(id))?));
    ids.into_iter().try_fold(0, kept)
}

fn verdict(judged: Result<Result<(), AdmissionError>, JoinError>) -> Result<(), AdmissionError> {
    judged.unwrap_or_else(|panic| Err(unknown("room there is", &panic)))
}

fn unknown(what: &'static str, error: &dyn std::error::Error) -> AdmissionError {
    let why = error.to_string();
    tracing::error!("starts are rejected: how much {what} cannot be measured: {why}");
    AdmissionError::Unknown { what, why }
}

/// Compares with the space available to an unprivileged user: the shims write the logs.
fn enough(
    found: nix::Result<Statvfs>,
    floor: MinFree,
    path: PathBuf,
) -> Result<(), AdmissionError> {
    let found = found.map_err(|e| unknown("of the disk is free", &e))?;
    let free = found.blocks_available() * found.fragment_size();
    let (all, inodes) = (found.blocks() * found.fragment_size(), found.files());
    let (needed, needed_inodes) = match floor {
        MinFree::Share(share) => ((all as f64 * share) as u64, (inodes as f64 * share) as u64),
        MinFree::Bytes(0) => (0, 0),
        MinFree::Bytes(bytes) => (bytes, INODES.min(inodes / 2)),
    };
    if free < needed {
        return Err(AdmissionError::Space { path, free, needed });
    }
    // btrfs and others count none.
    let free = found.files_available();
    if inodes > 0 && free < needed_inodes {
        return Err(AdmissionError::Inodes { path, free, needed: needed_inodes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_is_a_share_or_a_size() {
        let found = statvfs("/tmp").unwrap();
        let verdict = |floor| enough(Ok(found), floor, "/tmp".into());
        assert_eq!(verdict(MinFree::Bytes(0)), Ok(()));
        assert_eq!(verdict(MinFree::Share(0.0)), Ok(()));
        let all = found.blocks() * found.fragment_size();
        assert!(matches!(verdict(MinFree::Bytes(all + 1)), Err(AdmissionError::Space { .. })));
        let said = verdict(MinFree::Share(1.5)).unwrap_err().to_string();
        assert!(said.contains("retention.min_free") && said.contains("free"), "{said}");
    }
    #[test]
    fn a_disk_that_does_not_tell_how_full_it_is_has_no_room() {
        let said =
            enough(Err(nix::errno::Errno::EIO), MinFree::Bytes(0), "/tmp".into()).unwrap_err();
        assert!(
            matches!(said, AdmissionError::Unknown { .. }) && !said.to_string().contains("/tmp")
        );
        assert!(said.to_string().contains("how much of the disk is free"), "{said}");
    }

    #[tokio::test]
    async fn a_check_that_breaks_off_is_no_yes() {
        let judged =
            tokio::task::spawn_blocking(|| -> Result<(), AdmissionError> { panic!("on purpose") });
        assert!(matches!(verdict(judged.await), Err(AdmissionError::Unknown { .. })));
    }
}
