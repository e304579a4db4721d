//! How much a client may send before the broker has read it: HTTP/2's receive windows, from a budget for each identity
//! and for all. It must not refuse a connection: one that the budget has nothing for gets the small window.
//!
//! A window bounds a stream of input to its size for each round trip: 256 KiB over 100 ms are 2.5 MB/s. hyper can let
//! windows grow with use (`adaptive_window`), up to 16 MiB for whoever delays its answers to PING, and without a bound
//! for all connections together. So a window has its size from the beginning, the largest that is left.

use std::sync::Arc;

use crate::model::identity::Identity;
use crate::quota::{Permit, Quota};

/// The sizes of large windows of a connection, in bytes, the largest first. A stream has half of it.
const SIZES: [u32; 4] = [16 << 20, 8 << 20, 4 << 20, 2 << 20];
/// The windows of each size together, in bytes: of one identity, of all. So the first two connections of an identity
/// have 16 MiB each, the next four 8 MiB, until 128 MiB are given away, and 256 MiB to all.
const OF_A_SIZE: [u64; 2] = [32 << 20, 64 << 20];

/// Of a stream of a connection without a large window.
const SMALL: u32 = 256 << 10;
/// What every connection has besides: other calls go on beside two streams that their jobs do not read.
const BESIDE: u32 = 1 << 20;

/// What is left of the budget.
#[derive(Debug)]
pub(super) struct Windows {
    by_size: [Arc<Quota<Identity>>; SIZES.len()],
}

/// The windows of one connection; dropping it releases them.
#[derive(Debug)]
pub(super) struct Window {
    large: u32,
    _permit: Option<Permit<Identity>>,
}

impl Windows {
    pub(super) fn new() -> Windows {
        let [own, all] = OF_A_SIZE;
        Windows { by_size: SIZES.map(|_| Quota::new("bytes of receive windows", own, all)) }
    }

    /// The largest window that is left for a connection of this identity.
    pub(super) fn take(&self, identity: &Identity) -> Window {
        let large = SIZES.iter().zip(&self.by_size).find_map(|(&large, quota)| {
            let permit = quota.take(identity, large.into()).ok()?;
            Some(Window { large, _permit: Some(permit) })
        });
        large.unwrap_or(Window { large: 0, _permit: None })
    }
}

impl Window {
    /// Of each stream, in bytes.
    pub(super) fn of_streams(&self) -> u32 {
        (self.large / 2).max(SMALL)
    }

    /// Of the connection: the most that it can make the broker hold.
    pub(super) fn of_the_connection(&self) -> u32 {
        self.large + BESIDE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shrink_as_they_are_given_away_and_one_identity_leaves_those_of_others() {
        let windows = Windows::new();
        let [alice, bob] = ["alice", "bob"].map(|name| Identity::new(name).unwrap());
        let mut held: Vec<_> = (0..100).map(|_| windows.take(&alice)).collect();
        let sizes: Vec<_> = held.iter().map(Window::of_streams).collect();
        assert!(sizes.is_sorted_by(|one, next| one >= next), "{sizes:?}");
        assert_eq!((sizes[0], sizes[99]), (8 << 20, SMALL));
        assert_eq!(held.iter().map(|one| one.large).sum::<u32>(), 128 << 20);
        assert_eq!(windows.take(&bob).of_streams(), 8 << 20);
        held.remove(0);
        assert_eq!(windows.take(&alice).of_streams(), 8 << 20);
    }

    #[test]
    fn all_identities_together_have_no_more_than_the_budget() {
        let windows = Windows::new();
        let identity = |n: usize| Identity::new(&format!("user-{n}")).unwrap();
        let held: Vec<_> = (0..1000).map(|n| windows.take(&identity(n % 50))).collect();
        assert_eq!(held.iter().map(|one| one.large).sum::<u32>(), 256 << 20);
    }
}
