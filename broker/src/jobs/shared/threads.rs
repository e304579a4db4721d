//! Shares the blocking threads of the jobs' tokio runtime among kinds of work and identities. Runs nothing itself.
//!
//! Work that hangs delays only its own kind: no stop waits for a start, and no end waits for a name service.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::model::identity::Identity;
use crate::quota::Quotas;
use crate::quota::descriptors::Shares;
use crate::quota::fair_queue::FairQueue;

/// Blocking threads of the jobs' runtime: tokio's default, stated here because [`IN_ALL`] depends on it.
pub(crate) const MOST: usize = 512;

/// Launches up to GO: in all, of one identity alone, of one identity under contention. A launch takes a millisecond
/// and a sync of the disk. While the shim sets itself up, the launch takes no thread but a processor. An identity
/// alone has eight, so that the disk can merge syncs. Under contention it has two, because a single start shares the
/// processors with all launches in progress. Measured with 500 starts at once on two busy cores, others' p99: 89 to
/// 214 ms with eight, 67 to 97 ms with two.
const LAUNCHES: (usize, usize, usize) = (32, 8, 2);
/// Starts up to STARTED: in all, of one identity. A start takes no thread. A program may hang in its execve(2), and
/// each costs CPU: Linux polls another process's lease on the file at every tick. When the lease ends, all of them
/// resume at once.
const STARTS: (usize, usize) = (4096, 32);
/// Name services and paths on any file system: both may hang without a timeout.
const LOOKUPS: (usize, usize) = (32, 8);
/// Programs that are open between their check and their launch: two descriptors each, and no thread. They wait for
/// launches alone, which have as many turns.
const PROGRAMS: (usize, usize) = (32, 8);
/// Reads of jobs' records and logs, of cgroup files, and of the free disk space.
const READS: (usize, usize) = (64, 16);
/// Changes of limits and pauses: a freeze waits for the kernel up to 5 s.
const CHANGES: (usize, usize) = (64, 16);
/// Writes of stop records.
const STOPS: (usize, usize) = (64, 32);
/// Jobs that are settled at once: in all, of one identity alone, of one identity under contention. After a host's
/// downtime every job that ran is settled at once: with one thread for each, a new connection would wait for seconds.
/// 64 let the disk merge syncs while some jobs wait for the kernel. One identity's thousand ends do not delay another
/// identity's single end.
const SETTLING: (usize, usize, usize) = (64, 64, 16);
/// Jobs whose processes survive SIGKILL: each attempt takes some seconds, and is repeated.
const KILLING: usize = 64;
/// Threads of each kind for admins, when users' work that hangs has taken all others.
const RESERVE: usize = 2;
/// Kinds of work with such a reserve that take threads.
const KINDS: usize = 5;
/// The sum. The rest is for the broker's own work, one or two threads at a time.
const IN_ALL: usize =
    LAUNCHES.0 + LOOKUPS.0 + READS.0 + CHANGES.0 + STOPS.0 + SETTLING.0 + KILLING + KINDS * RESERVE;
const _: () = assert!(IN_ALL + 64 <= MOST, "something is left for what has no share");

/// The queues and permits of each kind of work.
#[derive(Debug)]
pub(crate) struct Threads {
    pub(crate) launches: Arc<FairQueue<Identity>>,
    pub(crate) starts: Arc<FairQueue<Identity>>,
    pub(crate) lookups: Arc<FairQueue<Identity>>,
    pub(crate) programs: Arc<FairQueue<Identity>>,
    pub(crate) reads: Arc<FairQueue<Identity>>,
    pub(crate) changes: Arc<FairQueue<Identity>>,
    pub(crate) stops: Arc<FairQueue<Identity>>,
    pub(crate) settling: Arc<FairQueue<Identity>>,
    /// Never closed.
    pub(crate) killing: Semaphore,
}

impl Threads {
    pub(crate) fn new(shares: Shares, quotas: &Arc<Quotas>) -> Threads {
        let reserved = |queue: Arc<FairQueue<Identity>>| {
            let quotas = Arc::clone(quotas);
            queue.and_reserve(RESERVE, move |identity| quotas.limits(identity).is_admins())
        };
        let turns = |(at_once, each)| reserved(FairQueue::new(at_once, each));
        let yielding =
            |(at_once, alone, beside)| FairQueue::with_contended_limit(at_once, alone, beside);
        let settling = SETTLING.0.min(shares.finalizing as usize);
        Threads {
            launches: reserved(yielding(LAUNCHES)),
            starts: turns(STARTS),
            lookups: turns(LOOKUPS),
            programs: turns(PROGRAMS),
            reads: turns(READS),
            changes: turns(CHANGES),
            stops: turns(STOPS),
            settling: yielding((settling, SETTLING.1, SETTLING.2)),
            killing: Semaphore::new(KILLING),
        }
    }
}
