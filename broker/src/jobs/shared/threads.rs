//! Shares the blocking threads of the jobs' tokio runtime among kinds of work and identities. Runs nothing
//! itself.
//!
//! So work that hangs delays only its own kind: no stop waits for a start, no end for a name service.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::model::identity::Identity;
use crate::quota::descriptors::Shares;
use crate::quota::fair_queue::FairQueue;

/// Threads that block, of the runtime of the jobs: tokio's own default, said aloud, since [`IN_ALL`]
/// counts on it.
pub(crate) const MOST: usize = 512;

/// Launches up to GO: a millisecond, and as long as the disk takes to sync; and while a shim sets itself up,
/// which takes no thread, but a processor. Who is alone may have eight at a time, so that the disk has
/// something to put together. Beside others' it is two: whoever starts one job shares the processors with
/// all that is under way. Measured with 500 starts at once on two busy cores, others' p99: 89 to 214 ms with
/// eight, 67 to 97 ms with two.
const LAUNCHES: (usize, usize, usize) = (32, 8, 2);
/// Starts of one identity up to STARTED; this takes no thread. A program may hang in its execve(2), and each
/// costs: before a lease of another process on the file, Linux looks again at every tick. And all of them
/// go on in the same moment when they are let go.
const STARTS: (usize, usize) = (4096, 32);
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
/// together, and that some may wait for the kernel. Somebody's thousand that end at once are not before
/// another's one.
const SETTLING: (usize, usize, usize) = (64, 64, 16);
/// Jobs whose processes are being killed in vain: some seconds each, again and again.
const KILLING: usize = 64;
/// All of these. What is left is for what the broker does by itself, a thread or two at a time.
const IN_ALL: usize = LAUNCHES.0 + LOOKUPS.0 + READS.0 + CHANGES.0 + STOPS.0 + SETTLING.0 + KILLING;
const _: () = assert!(IN_ALL + 64 <= MOST, "something is left for what has no share");

/// The shares.
#[derive(Debug)]
pub(crate) struct Threads {
    pub(crate) launches: Arc<FairQueue<Identity>>,
    pub(crate) starts: Arc<FairQueue<Identity>>,
    pub(crate) lookups: Arc<FairQueue<Identity>>,
    pub(crate) reads: Arc<FairQueue<Identity>>,
    pub(crate) changes: Arc<FairQueue<Identity>>,
    pub(crate) stops: Arc<FairQueue<Identity>>,
    pub(crate) settling: Arc<FairQueue<Identity>>,
    /// Never closed.
    pub(crate) killing: Semaphore,
}

impl Threads {
    pub(crate) fn new(shares: Shares) -> Threads {
        let turns = |(at_once, each)| FairQueue::new(at_once, each);
        let yielding =
            |(at_once, alone, beside)| FairQueue::with_contended_limit(at_once, alone, beside);
        let settling = SETTLING.0.min(shares.finalizing as usize);
        Threads {
            launches: yielding(LAUNCHES),
            starts: turns(STARTS),
            lookups: turns(LOOKUPS),
            reads: turns(READS),
            changes: turns(CHANGES),
            stops: turns(STOPS),
            settling: yielding((settling, SETTLING.1, SETTLING.2)),
            killing: Semaphore::new(KILLING),
        }
    }
}
