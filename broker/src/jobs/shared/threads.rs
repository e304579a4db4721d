//! Who may have how many of the threads that block. tokio has one pool of them for the jobs; each kind of
//! work has a share of it, and each identity a share of that, so that nothing waits behind something
//! that hangs: a stop behind a start, an end behind a name service, a record behind a pause.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::model::identity::Identity;
use crate::quota::descriptors::Shares;
use crate::quota::fair_queue::Turns;

/// Threads that block, of the runtime of the jobs: tokio's own default, said aloud, since [`IN_ALL`]
/// counts on it.
pub(crate) const MOST: usize = 512;

/// Launches up to GO: a millisecond, and as long as the disk takes to sync. What comes after GO takes no
/// thread.
const LAUNCHES: (usize, usize) = (32, 8);
/// Name services and paths on whatever file system: both may hang for as long as they like.
const LOOKUPS: (usize, usize) = (32, 8);
/// Records and logs of jobs, cgroup files, the space that is left.
const READS: (usize, usize) = (64, 16);
/// Changes of limits, pauses: a freeze waits for the kernel up to 5 s.
const CHANGES: (usize, usize) = (64, 16);
/// Records of stops.
const STOPS: (usize, usize) = (64, 32);
/// Jobs that are settled at a time. When the host was down, all that ran are settled at once: with a
/// thread for each, who connects meanwhile waits for seconds. Enough that the disk has something to put
/// together, and that some may wait for the kernel.
const SETTLING: usize = 64;
/// Jobs whose processes are being killed in vain: some seconds each, again and again.
const KILLING: usize = 64;
/// All of these. What is left is for what the broker does by itself, a thread or two at a time.
const IN_ALL: usize = LAUNCHES.0 + LOOKUPS.0 + READS.0 + CHANGES.0 + STOPS.0 + SETTLING + KILLING;
const _: () = assert!(IN_ALL + 64 <= MOST, "something is left for what has no share");

/// The shares.
#[derive(Debug)]
pub(crate) struct Threads {
    pub(crate) launches: Arc<Turns<Identity>>,
    pub(crate) lookups: Arc<Turns<Identity>>,
    pub(crate) reads: Arc<Turns<Identity>>,
    pub(crate) changes: Arc<Turns<Identity>>,
    pub(crate) stops: Arc<Turns<Identity>>,
    /// Never closed, as the next.
    pub(crate) settling: Semaphore,
    pub(crate) killing: Semaphore,
}

impl Threads {
    pub(crate) fn new(shares: Shares) -> Threads {
        let turns = |(at_once, each)| Turns::new(at_once, each);
        Threads {
            launches: turns(LAUNCHES),
            lookups: turns(LOOKUPS),
            reads: turns(READS),
            changes: turns(CHANGES),
            stops: turns(STOPS),
            settling: Semaphore::new(SETTLING.min(shares.settling as usize)),
            killing: Semaphore::new(KILLING),
        }
    }
}
