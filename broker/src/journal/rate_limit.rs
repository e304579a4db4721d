//! Rate limits for log lines, one for each callsite and one in all; repeated lines are counted and summarized. It
//! must not read a clock: the caller passes the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::Level;

/// The rate of one callsite: a burst, as at a broker's start, then a rate that does not hide other lines. A client
/// that causes one line with each call reaches the limit at once.
const PER_CALLSITE: Rate = Rate { burst: 100.0, per_second: 10.0 };
/// The rate of all callsites, about 80: a broker in which every operation fails at once.
const ALL_CALLSITES: Rate = Rate { burst: 1000.0, per_second: 100.0 };
/// How long an identical line is suppressed, and the interval of the summaries.
const REPEAT_PERIOD: Duration = Duration::from_secs(10);

struct Rate {
    burst: f64,
    per_second: f64,
}

struct Bucket {
    lines: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: &Rate, now: Instant) -> Bucket {
        Bucket { lines: rate.burst, at: now }
    }

    fn allows(&mut self, rate: &Rate, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.lines = since.mul_add(rate.per_second, self.lines).min(rate.burst);
        self.at = now;
        let is_allowed = self.lines >= 1.0;
        if is_allowed {
            self.lines -= 1.0;
        }
        is_allowed
    }
}

/// The state of one callsite.
struct Callsite {
    bucket: Bucket,
    last_text: String,
    last_at: Instant,
    suppressed: Option<Suppressed>,
}

/// The lines of one callsite that were suppressed since the last summary.
struct Suppressed {
    since: Instant,
    count: u64,
    level: Level,
    last: String,
}

/// The state of all callsites. Its size is bounded by their number.
#[derive(Default)]
pub(super) struct RateLimiter {
    callsites: HashMap<&'static str, Callsite>,
    all: Option<Bucket>,
}

impl RateLimiter {
    /// Whether to write this line; a suppressed line is counted.
    pub(super) fn allows(
        &mut self,
        callsite: &'static str,
        level: Level,
        text: &str,
        now: Instant,
    ) -> bool {
        let all = self.all.get_or_insert_with(|| Bucket::full(&ALL_CALLSITES, now));
        let is_new = !self.callsites.contains_key(callsite);
        let known = self.callsites.entry(callsite).or_insert_with(|| Callsite {
            bucket: Bucket::full(&PER_CALLSITE, now),
            last_text: String::new(),
            last_at: now,
            suppressed: None,
        });
        let repeats = !is_new && known.last_text == text && now < known.last_at + REPEAT_PERIOD;
        if !repeats && known.bucket.allows(&PER_CALLSITE, now) && all.allows(&ALL_CALLSITES, now) {
            (known.last_text, known.last_at) = (text.to_owned(), now);
            return true;
        }
        let suppressed = known.suppressed.get_or_insert_with(|| Suppressed {
            since: now,
            count: 0,
            level,
            last: String::new(),
        });
        suppressed.count += 1;
        suppressed.last.clear();
        suppressed.last.push_str(text);
        false
    }

    /// When the next summary is due.
    pub(super) fn next_summary(&self) -> Option<Instant> {
        self.callsites
            .values()
            .filter_map(|callsite| Some(callsite.suppressed.as_ref()?.since + REPEAT_PERIOD))
            .min()
    }

    /// The summaries that are due at `now`, or all of them: the count precedes the last line.
    pub(super) fn take_summaries(&mut self, now: Option<Instant>) -> Vec<(Level, String)> {
        let is_due = |suppressed: &mut Suppressed| {
            now.is_none_or(|now| suppressed.since + REPEAT_PERIOD <= now)
        };
        let next_summary =
            self.callsites.values_mut().filter_map(|callsite| callsite.suppressed.take_if(is_due));
        next_summary
            .map(|Suppressed { count, level, last, .. }| {
                (level, format!("{count} more of this kind left out, the last: {last}"))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_repeats_is_told_once_with_a_count() {
        let (mut rate_limit, begin) = (RateLimiter::default(), Instant::now());
        let written =
            (0..50).filter(|_| rate_limit.allows("a", Level::WARN, "the same", begin)).count();
        assert_eq!(written, 1);
        assert!(rate_limit.allows("b", Level::WARN, "the same", begin), "another place's");
        assert_eq!(rate_limit.next_summary(), Some(begin + REPEAT_PERIOD));
        assert!(rate_limit.take_summaries(Some(begin + SECOND)).is_empty());
        let told = rate_limit.take_summaries(Some(begin + REPEAT_PERIOD));
        let words = "49 more of this kind left out, the last: the same";
        assert_eq!(told, [(Level::WARN, words.into())]);
        assert_eq!(rate_limit.next_summary(), None);
        assert!(
            rate_limit.allows("a", Level::WARN, "the same", begin + REPEAT_PERIOD),
            "it is news again"
        );
    }

    #[test]
    fn a_flood_of_one_kind_is_cut_to_a_rate_and_leaves_room_for_the_others() {
        let (mut rate_limit, begin) = (RateLimiter::default(), Instant::now());
        let mut flood = |seconds: u32| {
            let now = begin + seconds * SECOND;
            let line =
                |i: &u32| rate_limit.allows("a", Level::INFO, &format!("{seconds} {i}"), now);
            (0..10_000).filter(line).count()
        };
        assert_eq!((flood(0), flood(1), flood(3)), (100, 10, 20));
        assert!(rate_limit.allows("b", Level::ERROR, "something else", begin + 3 * SECOND));
        let told = rate_limit.take_summaries(None);
        let words = "29870 more of this kind left out, the last: 3 9999";
        assert_eq!(told, [(Level::INFO, words.into())]);
    }

    #[test]
    fn all_kinds_together_have_a_rate() {
        const KINDS: [&str; 20] = [
            "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q",
            "r", "s", "t",
        ];
        let (mut rate_limit, begin) = (RateLimiter::default(), Instant::now());
        let mut line =
            |i: usize| rate_limit.allows(KINDS[i % 20], Level::INFO, &i.to_string(), begin);
        assert_eq!((0..10_000).filter(|i| line(*i)).count(), 1000);
    }
}
