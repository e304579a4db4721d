//! Exponential backoff with jitter between retries. It must not decide whether to retry: that is the caller's.

use std::time::Duration;

use crate::model::id::JobId;

/// The delays between retries; each is twice as long as the one before.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
    /// The share of the second half of a delay, in 1/256.
    jitter: u32,
}

impl Backoff {
    /// Delays from `first` up to `longest`, without jitter.
    pub(crate) fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { next: first, longest, jitter: 256 }
    }

    /// Delays for one of many jobs: between half of a delay and all of it, so that the jobs do not retry at the
    /// same time.
    pub(crate) fn with_jitter(job: JobId, first: Duration, longest: Duration) -> Backoff {
        let jitter = job.as_bytes().iter().fold(0u8, |sum, byte| sum.wrapping_mul(31) ^ byte);
        Backoff { jitter: jitter.into(), ..Backoff::new(first, longest) }
    }

    /// The next delay.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause / 2 + pause / 512 * self.jitter
    }

    /// Sleeps for the next delay.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ_between_jobs() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(30));
        let of = |n: u128| {
            let id = uuid::Uuid::from_u128(n).to_string().parse().unwrap();
            let mut backoff = Backoff::with_jitter(id, first, longest);
            let all: Vec<_> = (0..12).map(|_| backoff.next()).collect();
            assert!(all[0] >= first / 2 && all[11] >= longest / 2);
            assert!(all.iter().all(|pause| *pause <= longest) && all.is_sorted());
            all[0]
        };
        let different: std::collections::BTreeSet<_> = (0..100).map(of).collect();
        assert!(different.len() > 50, "{different:?}");
    }
}
