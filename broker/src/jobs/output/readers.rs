//! The limits of all output readers together: streams, descriptors, memory, disk reads. Reads nothing
//! itself; documents what a stream costs.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use crate::auth::{Caller, Role};
use crate::jobs::output::open_logs::OpenLogs;
use crate::jobs::output::turns::{IdentityTurns, Turns};
use crate::model::identity::Identity;
use crate::quota::descriptors::Shares;
use crate::quota::kind::QuotaKind;
use crate::quota::{Exceeded, Permit, Quota, Quotas};
use crate::sync::lock;

/// Output streams: of one identity, of all, and a reserve for admins.
///
/// The cost of one stream: 10 KiB if idle, its state in HTTP/2 and here. A stream whose client does not read adds
/// less than 16 KiB in HTTP/2's buffer (`max_send_buf_size`), one frame of less than 8 KiB of small messages
/// (`job_api::codec`) and one piece. A piece has at least 8 KiB, whatever is in use, and more only within the budgets
/// below. The sum is 42 KiB, and 50 KiB as the allocator rounds up: measured, 1,000 such streams of one identity take
/// 57 MiB (`tests/attacks`). So one identity's streams take 58 MiB at most, and all streams 4352 x 50 KiB + 32 MiB =
/// 245 MiB.
const STREAMS: (u64, u64, u64) = (1024, 4096, 256);
/// Bytes of a piece: minimum and maximum. Measured: larger pieces than 256 KiB are not faster.
const PIECE: (u64, u64) = (8 << 10, 256 << 10);
/// Bytes of pieces in transit to clients: of one identity, of all. A piece takes at most half of the rest, so that
/// unread pieces make later pieces smaller and never stop them.
const BUDGET: (u64, u64) = (8 << 20, 32 << 20);
/// Reads that wait for the disk, each on a thread: of all, of one identity.
const DISK_READS: (usize, usize) = (16, 4);
/// Jobs whose logs are open at once, if there are enough descriptors; more are not faster.
const OPEN_LOGS: u64 = 1024;

/// The shared state of all readers.
#[derive(Debug)]
pub(crate) struct Readers {
    streams: Arc<Quota<Identity>>,
    reserve: Arc<Quota<Identity>>,
    pub(crate) logs: Arc<OpenLogs>,
    disk: Turns,
    searches: Turns,
    compressions: Turns,
    held: AtomicU64,
    by_identity: Mutex<HashMap<Identity, Weak<IdentityReaders>>>,
}

/// The shared state of the readers of one identity.
#[derive(Debug)]
pub(crate) struct IdentityReaders {
    /// Reads that wait for the disk.
    pub(crate) disk: IdentityTurns,
    /// Searches that read much, and so occupy a processor.
    pub(crate) searches: IdentityTurns,
    /// Compressions of pieces, likewise.
    pub(crate) compressions: IdentityTurns,
    held: AtomicU64,
}

/// A reader's permit, with the bytes in transit to its client.
#[derive(Debug)]
pub(crate) struct Place {
    readers: Arc<Readers>,
    own: Arc<IdentityReaders>,
    held: u64,
    _stream: Permit<Identity>,
}

impl Readers {
    /// Readers within these shares of the descriptors.
    pub(crate) fn new(shares: Shares, quotas: &Quotas) -> Arc<Readers> {
        let (each, total, reserve) = STREAMS;
        let logs = usize::try_from(shares.open_logs.min(OPEN_LOGS)).unwrap_or(1);
        // Searches, and compressions beside them, use half of the processors at most.
        let half = thread::available_parallelism().map_or(1, NonZero::get).div_ceil(2);
        Arc::new(Readers {
            streams: quotas.counter(QuotaKind::Streams, each, total),
            reserve: Quota::new("open streams of output", reserve, reserve),
            logs: OpenLogs::new(logs),
            disk: Turns::new(DISK_READS.0, DISK_READS.1),
            searches: Turns::new(half, 1),
            compressions: Turns::new(half, 1),
            held: AtomicU64::new(0),
            by_identity: Mutex::default(),
        })
    }

    /// A permit for one more reader.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub(crate) fn admit(self: &Arc<Self>, caller: &Caller) -> Result<Place, Exceeded> {
        let identity = caller.identity();
        let stream = self.streams.take(identity, 1).or_else(|exceeded| match caller.role() {
            Role::Admin => self.reserve.take(identity, 1).map_err(|_| exceeded),
            Role::User => Err(exceeded),
        })?;
        let own = self.own(identity);
        Ok(Place { readers: Arc::clone(self), own, held: 0, _stream: stream })
    }

    fn own(&self, identity: &Identity) -> Arc<IdentityReaders> {
        let mut by_identity = lock(&self.by_identity);
        if let Some(own) = by_identity.get(identity).and_then(Weak::upgrade) {
            return own;
        }
        by_identity.retain(|_, own| own.strong_count() > 0); // drops identities without readers
        let own = Arc::new(IdentityReaders {
            disk: self.disk.own(),
            searches: self.searches.own(),
            compressions: self.compressions.own(),
            held: AtomicU64::new(0),
        });
        by_identity.insert(identity.clone(), Arc::downgrade(&own));
        own
    }
}

impl Place {
    pub(crate) fn own(&self) -> &IdentityReaders {
        &self.own
    }

    /// Releases the bytes in transit: they are with the client, or in the stream's own buffer.
    pub(crate) fn release(&mut self) {
        self.own.held.fetch_sub(self.held, Ordering::Relaxed);
        self.readers.held.fetch_sub(self.held, Ordering::Relaxed);
        self.held = 0;
    }

    /// Maximum bytes of the next piece.
    pub(crate) fn most(&self) -> u64 {
        let left =
            |budget: u64, held: &AtomicU64| budget.saturating_sub(held.load(Ordering::Relaxed));
        let left = left(BUDGET.0, &self.own.held).min(left(BUDGET.1, &self.readers.held));
        (left / 2).clamp(PIECE.0, PIECE.1)
    }

    /// Counts bytes in transit to the client.
    pub(crate) fn hold(&mut self, bytes: u64) {
        self.own.held.fetch_add(bytes, Ordering::Relaxed);
        self.readers.held.fetch_add(bytes, Ordering::Relaxed);
        self.held += bytes;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Policy;

    fn caller(name: &str) -> Caller {
        let id = |name| Identity::new(name).unwrap();
        Policy::new([id("admin")]).caller(id(name))
    }

    fn places(readers: &Arc<Readers>, name: &str) -> Vec<Place> {
        std::iter::from_fn(|| readers.admit(&caller(name)).ok()).collect()
    }

    #[test]
    fn nobody_takes_all_places_and_admins_have_some_of_their_own() {
        let readers = Readers::new(Shares::of(1024), &Quotas::default());
        let users: Vec<_> = (0..6).map(|n| places(&readers, &format!("user-{n}"))).collect();
        let counts: Vec<_> = users.iter().map(Vec::len).collect();
        assert_eq!(counts, [1024, 1024, 1024, 1024, 0, 0]);
        assert!(readers.admit(&caller("user-5")).is_err());
        assert_eq!(places(&readers, "admin").len(), 256);
        drop(users);
        assert_eq!(places(&readers, "user-5").len(), 1024);
        assert!(readers.own(&Identity::new("x").unwrap()).held.load(Ordering::Relaxed) == 0);
        assert_eq!(readers.by_identity.lock().unwrap().len(), 1, "who has left is forgotten");
    }

    /// The bytes in transit stay within the budgets, except for the minimum piece of each stream.
    #[test]
    fn pieces_that_nobody_reads_stay_within_the_budgets() {
        let readers = Readers::new(Shares::of(1024), &Quotas::default());
        let mut users = Vec::new();
        for n in 0..4 {
            let mut places = places(&readers, &format!("user-{n}"));
            for place in &mut places {
                place.hold(place.most());
            }
            let held = places[0].own.held.load(Ordering::Relaxed);
            assert!(held <= BUDGET.0 + 1024 * PIECE.0, "{held}");
            users.push(places);
            // One more stream, with a client that reads, gets pieces of a fair size.
            assert!(readers.admit(&caller("admin")).unwrap().most() >= PIECE.0);
        }
        let held = readers.held.load(Ordering::Relaxed);
        assert!(held <= BUDGET.1 + 4096 * PIECE.0, "{held}");
        drop(users);
        assert_eq!(readers.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_identity_that_does_not_read_leaves_others_large_pieces() {
        let readers = Readers::new(Shares::of(1024), &Quotas::default());
        let mut places = places(&readers, "user-0");
        for place in &mut places {
            place.hold(place.most());
        }
        assert_eq!(places[0].most(), PIECE.0);
        assert_eq!(readers.admit(&caller("user-1")).unwrap().most(), PIECE.1);
    }
}
