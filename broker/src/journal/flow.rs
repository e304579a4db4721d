//! How much of what is said is written: what repeats once with a count, and of each kind of line, and of
//! all of them, as many as somebody could read. Pure: the time is the caller's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::Level;

/// Of the lines of one place in the code: a burst, as when a broker starts, and then what does not hide
/// the others. A caller who provokes one line with each call comes to that at once.
const OF_A_KIND: Rate = Rate { burst: 100.0, a_second: 10.0 };
/// Of all places together, some 80: a broker for which everything fails at once.
const OF_ALL: Rate = Rate { burst: 1000.0, a_second: 100.0 };
/// How long the same words are not said again, and after how long it is told what was left out.
const PERIOD: Duration = Duration::from_secs(10);

struct Rate {
    burst: f64,
    a_second: f64,
}

struct Bucket {
    lines: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: &Rate, now: Instant) -> Bucket {
        Bucket { lines: rate.burst, at: now }
    }

    fn takes(&mut self, rate: &Rate, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.lines = since.mul_add(rate.a_second, self.lines).min(rate.burst);
        self.at = now;
        let takes = self.lines >= 1.0;
        if takes {
            self.lines -= 1.0;
        }
        takes
    }
}

/// What has become of the lines of one place in the code.
struct Kind {
    bucket: Bucket,
    said: String,
    said_at: Instant,
    left_out: Option<LeftOut>,
}

/// Of one kind, since it was told the last time.
struct LeftOut {
    since: Instant,
    count: u64,
    level: Level,
    last: String,
}

/// What has been said lately. It grows with the places in the code that say something.
#[derive(Default)]
pub(super) struct Flow {
    kinds: HashMap<&'static str, Kind>,
    all: Option<Bucket>,
}

impl Flow {
    /// Whether to write this line of that kind; one that is not is counted.
    pub(super) fn takes(
        &mut self,
        kind: &'static str,
        level: Level,
        text: &str,
        now: Instant,
    ) -> bool {
        let all = self.all.get_or_insert_with(|| Bucket::full(&OF_ALL, now));
        let is_new = !self.kinds.contains_key(kind);
        let known = self.kinds.entry(kind).or_insert_with(|| Kind {
            bucket: Bucket::full(&OF_A_KIND, now),
            said: String::new(),
            said_at: now,
            left_out: None,
        });
        let repeats = !is_new && known.said == text && now < known.said_at + PERIOD;
        if !repeats && known.bucket.takes(&OF_A_KIND, now) && all.takes(&OF_ALL, now) {
            (known.said, known.said_at) = (text.to_owned(), now);
            return true;
        }
        let left_out = known.left_out.get_or_insert_with(|| LeftOut {
            since: now,
            count: 0,
            level,
            last: String::new(),
        });
        left_out.count += 1;
        left_out.last.clear();
        left_out.last.push_str(text);
        false
    }

    /// When something has to be told of what was left out.
    pub(super) fn due(&self) -> Option<Instant> {
        self.kinds.values().filter_map(|kind| Some(kind.left_out.as_ref()?.since + PERIOD)).min()
    }

    /// What was left out and is due at `now`, or all of it: the count goes in front of the last of them.
    pub(super) fn tell(&mut self, now: Option<Instant>) -> Vec<(Level, String)> {
        let is_due = |left_out: &mut LeftOut| now.is_none_or(|now| left_out.since + PERIOD <= now);
        let due = self.kinds.values_mut().filter_map(|kind| kind.left_out.take_if(is_due));
        due.map(|LeftOut { count, level, last, .. }| {
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
        let (mut flow, begin) = (Flow::default(), Instant::now());
        let written = (0..50).filter(|_| flow.takes("a", Level::WARN, "the same", begin)).count();
        assert_eq!(written, 1);
        assert!(flow.takes("b", Level::WARN, "the same", begin), "another place's");
        assert_eq!(flow.due(), Some(begin + PERIOD));
        assert!(flow.tell(Some(begin + SECOND)).is_empty());
        let told = flow.tell(Some(begin + PERIOD));
        let words = "49 more of this kind left out, the last: the same";
        assert_eq!(told, [(Level::WARN, words.into())]);
        assert_eq!(flow.due(), None);
        assert!(flow.takes("a", Level::WARN, "the same", begin + PERIOD), "it is news again");
    }

    #[test]
    fn a_flood_of_one_kind_is_cut_to_a_rate_and_leaves_room_for_the_others() {
        let (mut flow, begin) = (Flow::default(), Instant::now());
        let mut flood = |seconds: u32| {
            let now = begin + seconds * SECOND;
            let line = |i: &u32| flow.takes("a", Level::INFO, &format!("{seconds} {i}"), now);
            (0..10_000).filter(line).count()
        };
        assert_eq!((flood(0), flood(1), flood(3)), (100, 10, 20));
        assert!(flow.takes("b", Level::ERROR, "something else", begin + 3 * SECOND));
        let told = flow.tell(None);
        let words = "29870 more of this kind left out, the last: 3 9999";
        assert_eq!(told, [(Level::INFO, words.into())]);
    }

    #[test]
    fn all_kinds_together_have_a_rate() {
        const KINDS: [&str; 20] = [
            "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q",
            "r", "s", "t",
        ];
        let (mut flow, begin) = (Flow::default(), Instant::now());
        let mut line = |i: usize| flow.takes(KINDS[i % 20], Level::INFO, &i.to_string(), begin);
        assert_eq!((0..10_000).filter(|i| line(*i)).count(), 1000);
    }
}
