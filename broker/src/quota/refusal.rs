//! What is said when a quota is reached: which, the use, the limit, and where the limit comes from. Pure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::quota::kind::{QuotaKind, UNLIMITED};

/// A quota of an identity is reached; nothing was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverQuota {
    /// Which.
    pub(crate) kind: QuotaKind,
    /// In use, in the quota's unit. [`UNLIMITED`]: by a job that has no limit of its own.
    pub(crate) used: u64,
    /// Asked for in addition. [`UNLIMITED`]: a job without a limit of its own.
    pub(crate) asked: u64,
    /// The limit.
    pub(crate) limit: u64,
    /// Where the limit is set: `[quotas.default]`.
    pub(crate) origin: Arc<str>,
    /// After what time the same request would be admitted, where only time helps.
    pub(crate) retry_after: Option<Duration>,
}

impl fmt::Display for OverQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OverQuota { kind, used, asked, limit, origin, retry_after } = self;
        write!(f, "quota {}: ", kind.name())?;
        let shown = |value| kind.show(value);
        match (kind.limit_of_a_job(), retry_after) {
            (Some(key), _) if *asked == UNLIMITED => write!(
                f,
                "a job without a limit of {key} is refused, since the sum over running jobs is limited to {} by \
                 {origin}; ask for a limit of {key}",
                shown(*limit)
            ),
            (Some(key), _) if *used == UNLIMITED => write!(
                f,
                "a running job has no limit of {key}, so it counts as all {} that {origin} allows; give it one, or \
                 try again when it has ended",
                shown(*limit)
            ),
            (Some(_), _) => write!(
                f,
                "{} of {} are in use, and {} more were asked for ({}, {origin}); try again when a job has ended",
                shown(*used),
                shown(*limit),
                shown(*asked),
                kind.what(),
            ),
            (None, Some(after)) => write!(
                f,
                "{used} of {limit} {} are used up ({origin}); try again in {} s",
                kind.what(),
                after.as_secs_f64().ceil().max(1.0)
            ),
            (None, None) => write!(
                f,
                "{} of {} {} are in use ({origin}); try again when one of them is over",
                shown(*used),
                shown(*limit),
                kind.what()
            ),
        }
    }
}

impl std::error::Error for OverQuota {}
