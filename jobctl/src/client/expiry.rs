//! Warns of the end of one's own certificate, before a command fails for it.

use std::path::Path;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use job_api::client::{Credentials, own_end};

use crate::failure::notice;
use crate::format::time;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long before its end.
const EARLY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Warns on standard error, once in a command.
pub(crate) fn warn(credentials: &Credentials, file: &Path) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some((begin, end)) = own_end(credentials, EARLY)
            && let Some(words) = words(begin, end, SystemTime::now(), file)
        {
            notice(&words);
        }
    });
}

/// Of a certificate that never had 21 days no more than the last third is told: who has short ones renews them by a timer.
fn words(begin: SystemTime, end: SystemTime, now: SystemTime, file: &Path) -> Option<String> {
    let lifetime = end.duration_since(begin).unwrap_or_default();
    let left = end.duration_since(now).ok()?;
    if left > EARLY.min(lifetime / 3) {
        return None;
    }
    let left = match left.as_secs() / DAY.as_secs() {
        0 => "within a day".to_owned(),
        1 => "in 1 day".to_owned(),
        days => format!("in {days} days"),
    };
    Some(format!(
        "warning: your certificate ends {left}, on {}; whoever has issued it can renew it (job-certs renew {})",
        time::rfc3339(end),
        file.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_week_is_told_and_of_a_short_life_the_last_third() {
        let now = SystemTime::UNIX_EPOCH + 1_000 * DAY;
        let told = |age: u32, left: u32| {
            words(now - age * DAY, now + left * DAY, now, Path::new("me.crt"))
        };
        assert_eq!(told(22, 8), None);
        let said = told(23, 7).expect("a warning");
        let expected = "warning: your certificate ends in 7 days, on 1972-10-04T00:00:00Z; whoever has \
                        issued it can renew it (job-certs renew me.crt)";
        assert_eq!(said, expected);
        assert!(told(29, 1).expect("a warning").contains("ends in 1 day, on "));
        assert!(told(30, 0).expect("a warning").contains("ends within a day, on "));
        assert_eq!(told(1, 2), None);
        assert!(told(2, 1).is_some());
    }
}
