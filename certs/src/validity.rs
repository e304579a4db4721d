//! For how long certificates are valid.

use std::time::Duration;

/// Lifetime of a CA unless told otherwise: long enough to outlive many leaves, short enough that
/// its replacement is practised.
pub const CA_VALIDITY: Duration = days(365);
/// Lifetime of a broker's certificate unless told otherwise.
pub const SERVER_VALIDITY: Duration = days(90);
/// Lifetime of a user's certificate unless told otherwise.
pub const USER_VALIDITY: Duration = days(30);

/// A validity of `n` days of 24 hours.
#[must_use]
pub const fn days(n: u32) -> Duration {
    Duration::from_secs(n as u64 * 24 * 60 * 60)
}
