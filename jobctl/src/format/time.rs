//! Points in time, as people read and type them.

use std::time::{Duration, SystemTime};

use job_api::units::parse_duration;
use prost_types::Timestamp;

/// `3m ago`, `in 2d`; the largest unit only. `-` for a time that is not set.
pub(crate) fn relative(time: Option<&Timestamp>, now: SystemTime) -> String {
    let Some(time) = time.and_then(|time| SystemTime::try_from(*time).ok()) else {
        return "-".to_owned();
    };
    match now.duration_since(time) {
        Ok(past) => format!("{} ago", rough(past)),
        Err(ahead) => format!("in {}", rough(ahead.duration())),
    }
}

fn rough(duration: Duration) -> String {
    match duration.as_secs() {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// RFC 3339 in UTC, to the second; `-` for a time that is not set.
pub(crate) fn absolute(time: Option<&Timestamp>) -> String {
    match time.and_then(|time| SystemTime::try_from(*time).ok()) {
        Some(time) => rfc3339(time),
        None => "-".to_owned(),
    }
}

/// RFC 3339 in UTC, to the second. What is before 1970 or after 9999, as no broker says it, as seconds since 1970.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    in_range(time, |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// The same, to the nanosecond.
pub(crate) fn rfc3339_nanos(time: SystemTime) -> String {
    in_range(time, |time| humantime::format_rfc3339_nanos(time).to_string())
}

/// humantime panics outside of the years from 1970 to 9999.
fn in_range(time: SystemTime, format: impl FnOnce(SystemTime) -> String) -> String {
    const END: u64 = 253_402_300_800;
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since.as_secs() < END => format(time),
        Ok(since) => format!("@{}", since.as_secs()),
        Err(before) => format!("@-{}", before.duration().as_secs()),
    }
}

/// `2026-01-31T08:00:00Z (3m ago)`.
pub(crate) fn both(time: Option<&Timestamp>, now: SystemTime) -> String {
    match time {
        Some(_) => format!("{} ({})", absolute(time), relative(time, now)),
        None => "-".to_owned(),
    }
}

/// `1m 30s`, from one to the other, to the millisecond.
pub(crate) fn between(from: Option<&Timestamp>, to: Option<&Timestamp>) -> Option<String> {
    let from = SystemTime::try_from(*from?).ok()?;
    let to = SystemTime::try_from(*to?).ok()?;
    Some(in_words(to.duration_since(from).ok()?))
}

/// `1m 30s`, to the millisecond.
pub(crate) fn in_words(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

/// `10m` is ten minutes ago; otherwise RFC 3339, with any offset.
///
/// # Errors
/// A sentence that names the text and shows the forms.
pub(crate) fn parse_since(text: &str, now: SystemTime) -> Result<Timestamp, String> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH).into());
    }
    text.parse().map_err(|_| {
        format!("\"{text}\" is neither a duration, e.g. 10m, nor a time, e.g. 2026-01-31T08:00:00Z")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn times_are_told_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let cases = [
            (at(1_000_000), "0s ago"),
            (at(999_900), "100s ago"),
            (at(999_820), "3m ago"),
            (at(992_000), "2h ago"),
            (at(0), "11d ago"),
            (at(1_000_060), "in 60s"),
            (None, "-"),
        ];
        for (time, text) in cases {
            assert_eq!(relative(time.as_ref(), now), text);
        }
        assert_eq!(absolute(at(0).as_ref()), "1970-01-01T00:00:00Z");
        assert_eq!(absolute(at(253_402_300_799).as_ref()), "9999-12-31T23:59:59Z");
        assert_eq!(absolute(at(253_402_300_800).as_ref()), "@253402300800");
        assert_eq!(absolute(at(-1).as_ref()), "@-1", "no reason to panic");
        assert_eq!(between(at(5).as_ref(), at(95).as_ref()).as_deref(), Some("1m 30s"));
    }

    #[test]
    fn since_is_a_duration_or_a_time_with_its_offset() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(parse_since("10m", now), Ok(Timestamp { seconds: 400, nanos: 0 }));
        assert_eq!(
            parse_since("1970-01-01T02:00:01+02:00", now),
            Ok(Timestamp { seconds: 1, nanos: 0 })
        );
        for bad in ["", "yesterday", "1970-13-01T00:00:00Z"] {
            assert!(parse_since(bad, now).is_err(), "{bad}");
        }
    }
}
