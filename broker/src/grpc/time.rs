//! Converts times and durations between gRPC messages and std. It must reject values out of range and never panic.

use std::time::Duration;

use prost_types::Timestamp;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::grpc::status;

/// Converts a duration: not negative, and in std's range.
pub(super) fn duration(
    field: &str,
    value: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Status> {
    let convert = |value: prost_types::Duration| {
        // Checked before the conversion, which panics on the most negative values.
        let is_negative = value.seconds < 0 || value.nanos < 0;
        let time = Some(value).filter(|_| !is_negative).and_then(|value| value.try_into().ok());
        time.ok_or_else(|| status::field(field, "must not be negative".into()))
    };
    value.map(convert).transpose()
}

/// The caller's deadline, from the header `grpc-timeout` of gRPC over HTTP/2: up to eight digits and a unit. An
/// invalid header counts as none.
pub(super) fn deadline(headers: &MetadataMap) -> Duration {
    let told = headers.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
    told.unwrap_or(Duration::MAX)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = Some(digits).filter(|digits| digits.len() <= 8)?.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Converts a timestamp to nanoseconds since 1970.
pub(super) fn nanoseconds(
    field: &'static str,
    time: Option<Timestamp>,
) -> Result<Option<u64>, Status> {
    let convert = |time: Timestamp| {
        let seconds = u64::try_from(time.seconds).ok().and_then(|s| s.checked_mul(1_000_000_000));
        let nanos = u64::try_from(time.nanos).ok();
        seconds
            .zip(nanos)
            .and_then(|(s, n)| s.checked_add(n))
            .ok_or_else(|| status::field(field, "must be between the years 1970 and 2554".into()))
    };
    time.map(convert).transpose()
}

/// Converts nanoseconds since 1970 to a timestamp.
pub(super) fn timestamp(ns: u64) -> Timestamp {
    // Both fit: 2^64 nanoseconds are 585 years.
    Timestamp { seconds: (ns / 1_000_000_000) as i64, nanos: (ns % 1_000_000_000) as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let of = |text: &str| {
            let mut headers = MetadataMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline(&headers)
        };
        assert_eq!(of("99999999H"), Duration::from_secs(99_999_999 * 3600));
        assert_eq!(of("250m"), Duration::from_millis(250));
        assert_eq!(of("7u"), Duration::from_micros(7));
        for odd in ["", "H", "1", "123456789S", "-1S", "1s"] {
            assert_eq!(of(odd), Duration::MAX, "{odd:?}");
        }
        assert_eq!(deadline(&MetadataMap::new()), Duration::MAX);
    }
}
