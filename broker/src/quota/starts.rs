//! The rate of starts of each identity: a token bucket, kept as the time at which it is full again. Whose bucket is
//! full has no entry, so the map holds those who have started something of late, and never more than [`MOST`].

use std::collections::HashMap;
use std::time::Duration;

use crate::model::identity::Identity;
use crate::quota::limits::Limit;

/// Identities with a bucket that is not full. Beyond these the one that is full next is taken for full.
const MOST: usize = 16 << 10;
const MINUTE: Duration = Duration::from_secs(60);

/// A rate: so many in a minute, and so many at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// At least 1.
    pub(super) per_minute: u64,
    /// At least 1.
    pub(super) burst: u64,
}

/// The buckets of all identities.
#[derive(Debug, Default)]
pub(super) struct StartRates {
    /// When each bucket is full again; times since boot.
    full_at: HashMap<Identity, Duration>,
}

impl Rate {
    /// The rate that a limit says.
    pub(super) fn of(limit: &Limit) -> Rate {
        Rate { per_minute: limit.value, burst: limit.burst }
    }

    /// The time in which one token comes.
    fn interval(self) -> Duration {
        MINUTE / u32::try_from(self.per_minute).unwrap_or(u32::MAX).max(1)
    }

    /// The time in which an empty bucket gets full.
    fn whole(self) -> Duration {
        self.interval().saturating_mul(u32::try_from(self.burst).unwrap_or(u32::MAX).max(1))
    }
}

impl StartRates {
    /// Takes a token.
    ///
    /// # Errors
    /// The time until there is one; nothing is taken.
    pub(super) fn take(
        &mut self,
        who: &Identity,
        rate: Rate,
        now: Duration,
    ) -> Result<(), Duration> {
        let missing = self.missing(who, rate, now) + rate.interval();
        if let Some(wait) = missing.checked_sub(rate.whole()).filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        self.set(who, now, missing);
        Ok(())
    }

    /// Takes a token for a start of `ago` before now, as far as there is one: those of an earlier broker.
    pub(super) fn replay(&mut self, who: &Identity, rate: Rate, now: Duration, ago: Duration) {
        let then = now.saturating_sub(ago);
        // Refused is what another limit would have let through.
        let _ = self.take(who, rate, then);
    }

    /// Tokens that are taken, of those of the burst.
    pub(super) fn used(&self, who: &Identity, rate: Rate, now: Duration) -> u64 {
        let missing = self.missing(who, rate, now).as_nanos();
        u64::try_from(missing.div_ceil(rate.interval().as_nanos().max(1))).unwrap_or(u64::MAX)
    }

    /// Whose buckets may not be full, [`MOST`] at most.
    pub(super) fn identities(&self) -> Vec<Identity> {
        self.full_at.keys().cloned().collect()
    }

    /// The time until the bucket is full. After a reload with another rate no more than its whole.
    fn missing(&self, who: &Identity, rate: Rate, now: Duration) -> Duration {
        let full_at = self.full_at.get(who).copied().unwrap_or_default();
        full_at.saturating_sub(now).min(rate.whole())
    }

    fn set(&mut self, who: &Identity, now: Duration, missing: Duration) {
        if self.full_at.len() >= MOST && !self.full_at.contains_key(who) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MOST {
                let next = self.full_at.iter().min_by_key(|(_, full_at)| **full_at);
                let next = next.map(|(who, _)| who.clone());
                next.map(|who| self.full_at.remove(&who));
            }
        }
        self.full_at.insert(who.clone(), now + missing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Identity {
        Identity::new(name).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_at_once_and_then_as_many_as_the_rate_gives() {
        let (mut rates, rate) = (StartRates::default(), Rate { per_minute: 60, burst: 3 });
        let now = Duration::from_secs(1000);
        for used in 0..3 {
            assert_eq!(rates.used(&who("a"), rate, now), used);
            assert_eq!(rates.take(&who("a"), rate, now), Ok(()));
        }
        assert_eq!(rates.take(&who("a"), rate, now), Err(SECOND));
        assert_eq!(rates.take(&who("b"), rate, now), Ok(()), "another has its own");
        let later = now + SECOND;
        assert_eq!(rates.take(&who("a"), rate, later), Ok(()));
        assert_eq!(rates.take(&who("a"), rate, later), Err(SECOND));
        assert_eq!(rates.used(&who("a"), rate, later + 10 * SECOND), 0);
    }

    #[test]
    fn a_lower_rate_after_a_reload_asks_for_no_more_than_its_own_bucket() {
        let (mut rates, now) = (StartRates::default(), Duration::from_secs(1000));
        let generous = Rate { per_minute: 1, burst: 100 };
        for _ in 0..100 {
            rates.take(&who("a"), generous, now).unwrap();
        }
        let rate = Rate { per_minute: 60, burst: 2 };
        assert_eq!(rates.used(&who("a"), rate, now), 2);
    }

    #[test]
    fn a_million_identities_take_no_more_than_the_map_holds() {
        let (mut rates, rate) = (StartRates::default(), Rate { per_minute: 1, burst: 1 });
        for n in 0..MOST + 100 {
            let now = Duration::from_secs(1000) + Duration::from_micros(n as u64);
            assert_eq!(rates.take(&who(&format!("user-{n}")), rate, now), Ok(()));
        }
        assert_eq!(rates.full_at.len(), MOST);
        let last = who(&format!("user-{}", MOST + 99));
        assert!(rates.take(&last, rate, Duration::from_secs(1001)).is_err());
        let all_full = Duration::from_secs(2000);
        rates.take(&who("one-more"), rate, all_full).unwrap();
        assert_eq!(rates.full_at.len(), 1);
    }

    /// In any window the starts are no more than the burst and what the rate gives meanwhile, and whoever waits as
    /// long as was said gets one.
    #[test]
    fn no_order_of_starts_gets_more_than_burst_and_rate() {
        let mut random = 88_172_645_463_325_252_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..200 {
            let rate = Rate { per_minute: 1 + next(600), burst: 1 + next(20) };
            let longest = 1 + next(5_000);
            let (mut rates, mut taken) = (StartRates::default(), Vec::new());
            let mut now = Duration::from_secs(100);
            for _ in 0..100 {
                now += Duration::from_millis(next(longest));
                if let Err(wait) = rates.take(&who("a"), rate, now) {
                    assert!(wait <= rate.interval());
                    now += wait;
                    assert_eq!(rates.take(&who("a"), rate, now), Ok(()));
                }
                taken.push(now);
            }
            for (at, begin) in taken.iter().enumerate() {
                for (many, end) in taken[at..].iter().enumerate() {
                    let given = (*end - *begin).as_nanos() / rate.interval().as_nanos();
                    assert!(many as u128 <= u128::from(rate.burst) + given, "{rate:?}");
                }
            }
        }
    }
}
