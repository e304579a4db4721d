//! Times, between the contract and the supervisor.

use std::time::Duration;

use prost_types::Timestamp;
use tonic::Status;

use super::refuse;

/// A duration from outside: not negative, and in the range that std has.
pub(super) fn duration(
    field: &str,
    value: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Status> {
    let convert = |value: prost_types::Duration| {
        // Looked at before the conversion, which panics on the most negative ones.
        let is_negative = value.seconds < 0 || value.nanos < 0;
        let time = Some(value).filter(|_| !is_negative).and_then(|value| value.try_into().ok());
        time.ok_or_else(|| refuse::field(field, "must not be negative".into()))
    };
    value.map(convert).transpose()
}

/// A moment from outside, nanoseconds since 1970.
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
            .ok_or_else(|| refuse::field(field, "must be between the years 1970 and 2554".into()))
    };
    time.map(convert).transpose()
}

/// A moment as the contract shows it, of nanoseconds since 1970.
pub(super) fn timestamp(ns: u64) -> Timestamp {
    // Both fit: 2^64 nanoseconds are 585 years.
    Timestamp { seconds: (ns / 1_000_000_000) as i64, nanos: (ns % 1_000_000_000) as i32 }
}
