//! Bounds the lines that an identity can cause without changing anything: reads, and what is refused. The rest is counted,
//! and a line says how many. Pure; it must never see an entry of a change.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::identity::Identity;

/// Lines that one identity may cause at once; one more each second.
const BURST: f64 = 120.0;
/// From the first entry that was folded to the line that counts it.
pub(super) const REPORT_AFTER: Duration = Duration::from_secs(60);
/// Identities with less than a full burst left; further ones share one.
const MAX_IDENTITIES: usize = 4096;

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
    folded: u64,
    since: Instant,
}

/// What each identity has left.
#[derive(Debug, Default)]
pub(super) struct Folder {
    buckets: HashMap<Who, Bucket>,
}

/// Who shares a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    One(Identity),
    /// Peers whose certificate is not accepted: what they say of themselves may be false.
    Unverified,
    /// Identities that found no place.
    Others,
}

impl Folder {
    /// Whether this entry of the identity, or of a peer without an accepted one, is a line of its own.
    pub(super) fn allows(&mut self, identity: Option<&Identity>, now: Instant) -> bool {
        if self.buckets.len() >= MAX_IDENTITIES {
            self.buckets.retain(|_, bucket| bucket.folded > 0 || bucket.left(now) < BURST);
        }
        let mut key = identity.cloned().map_or(Who::Unverified, Who::One);
        if self.buckets.len() >= MAX_IDENTITIES && !self.buckets.contains_key(&key) {
            key = Who::Others;
        }
        let full = Bucket { tokens: BURST, at: now, folded: 0, since: now };
        let bucket = self.buckets.entry(key).or_insert(full);
        (bucket.tokens, bucket.at) = (bucket.left(now), now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return true;
        }
        if bucket.folded == 0 {
            bucket.since = now;
        }
        bucket.folded += 1;
        false
    }

    /// When the next count is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let folded = self.buckets.values().filter(|bucket| bucket.folded > 0);
        folded.map(|bucket| bucket.since + REPORT_AFTER).min()
    }

    /// The counts that are due at `now`, or all.
    pub(super) fn take(&mut self, now: Option<Instant>) -> Vec<(String, u64)> {
        let is_due = |bucket: &Bucket| now.is_none_or(|now| bucket.since + REPORT_AFTER <= now);
        let due = self.buckets.iter_mut().filter(|(_, b)| b.folded > 0 && is_due(b));
        let counts = due.map(|(who, bucket)| {
            let name = match who {
                Who::One(identity) => identity.as_str(),
                Who::Unverified => "no accepted certificate",
                Who::Others => "others",
            };
            (name.to_owned(), std::mem::take(&mut bucket.folded))
        });
        counts.collect()
    }
}

impl Bucket {
    fn left(&self, now: Instant) -> f64 {
        (self.tokens + now.saturating_duration_since(self.at).as_secs_f64()).min(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_reads_are_a_few_lines_and_a_count_and_others_have_their_own() {
        let [alice, bob] = ["alice", "bob"].map(|name| Identity::new(name).unwrap());
        let (mut folder, now) = (Folder::default(), Instant::now());
        let lines = (0..1_000_000).filter(|_| folder.allows(Some(&alice), now)).count();
        assert_eq!(lines, BURST as usize);
        assert!(folder.allows(Some(&bob), now) && folder.allows(None, now));
        assert!(folder.allows(Some(&alice), now + Duration::from_secs(1)));
        assert_eq!(folder.due(), Some(now + REPORT_AFTER));
        assert!(folder.take(Some(now)).is_empty());
        assert_eq!(folder.take(Some(now + REPORT_AFTER)), [("alice".to_owned(), 999_880)]);
        assert_eq!((folder.due(), folder.take(None).len()), (None, 0));
    }

    #[test]
    fn more_identities_than_have_a_place_share_one() {
        let (mut folder, now) = (Folder::default(), Instant::now());
        for n in 0..2 * MAX_IDENTITIES {
            folder.allows(Some(&Identity::new(&format!("u{n}")).unwrap()), now);
        }
        assert!(folder.buckets.len() <= MAX_IDENTITIES + 1);
    }
}
