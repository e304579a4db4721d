//! Times as certificates know them: whole seconds, UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::time::ASN1Time;

use crate::error::Error;

/// How far `notBefore` lies in the past, for peers whose clock is behind.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Seconds since 1970; negative before it.
pub(crate) fn seconds(time: SystemTime) -> i64 {
    let whole = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => whole(after),
        Err(before) => -whole(before.duration()),
    }
}

/// Fails where X.509 has no such date (year 10000 and later).
pub(crate) fn to_asn1(time: SystemTime) -> Result<ASN1Time, Error> {
    ASN1Time::from_timestamp(seconds(time)).map_err(|_| Error::Date)
}

/// A certificate's date as a system time.
pub(crate) fn from_asn1(time: ASN1Time) -> SystemTime {
    from_seconds(time.timestamp())
}

/// The time so many seconds after 1970, or before it.
pub(crate) fn from_seconds(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

/// `2026-03-01 12:00:00 UTC`
pub(crate) fn readable(time: ASN1Time) -> String {
    let t = time.to_datetime();
    let (year, month, day) = (t.year(), u8::from(t.month()), t.day());
    let (hour, minute, second) = (t.hour(), t.minute(), t.second());
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_survives_the_way_into_a_certificate_and_back() {
        for secs in [0, 1, 1_700_000_000, 253_402_300_799] {
            let time = UNIX_EPOCH + Duration::from_secs(secs);
            assert_eq!(from_asn1(to_asn1(time).unwrap()), time);
        }
        let before_1970 = UNIX_EPOCH - Duration::from_secs(86_400);
        assert_eq!(from_asn1(to_asn1(before_1970).unwrap()), before_1970);
        assert_eq!(readable(to_asn1(before_1970).unwrap()), "1969-12-31 00:00:00 UTC");
    }

    #[test]
    fn a_date_beyond_the_year_9999_is_refused() {
        assert!(to_asn1(UNIX_EPOCH + Duration::from_secs(253_402_300_800)).is_err());
    }
}
