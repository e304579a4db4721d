//! The id of a job. Generates and parses; looks nothing up.

use std::fmt;
use std::str::FromStr;

use job_grammar::echo::echo;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A UUID of version 7 (RFC 9562): ids sort by the time of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(Uuid);

/// Bytes of an id's text.
const LENGTH: usize = 36;

impl JobId {
    /// A new one, later than all before.
    pub fn fresh() -> JobId {
        JobId(Uuid::now_v7())
    }

    /// Whether its text begins like this. Nothing is allocated: a list asks 100,000 times.
    pub fn starts_with(&self, prefix: &str) -> bool {
        let mut text = [0; LENGTH];
        self.0.as_hyphenated().encode_lower(&mut text).starts_with(prefix)
    }

    /// Before all others.
    pub const MIN: JobId = JobId(Uuid::nil());
    /// After all others.
    pub const MAX: JobId = JobId(Uuid::max());

    /// The first and the last id whose text begins like this; `None` if there can be none.
    pub fn range_of(prefix: &str) -> Option<(JobId, JobId)> {
        let bound = |fill: JobId| {
            let text = format!("{prefix}{}", fill.to_string().get(prefix.len()..)?);
            Uuid::try_parse(&text).ok().map(JobId)
        };
        Some((bound(JobId::MIN)?, bound(JobId::MAX)?))
    }

    /// When it was made, in nanoseconds since 1970, to the millisecond.
    pub fn made_ns(&self) -> u64 {
        let millis = self.0.as_u128() >> 80; // RFC 9562, 5.7: the first 48 bits
        u64::try_from(millis).unwrap_or(u64::MAX).saturating_mul(1_000_000)
    }

    /// The 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = String;

    /// Only the form that [`fmt::Display`] writes, so that an id has one spelling.
    fn from_str(text: &str) -> Result<JobId, String> {
        let fault = || {
            let text = echo(text);
            format!("{text} is not a job id (36 characters, lower case, UUID version 7)")
        };
        if text.len() != LENGTH {
            return Err(fault());
        }
        let uuid = Uuid::try_parse(text).map_err(|_| fault())?;
        let id = JobId(uuid);
        if id.to_string() == text { Ok(id) } else { Err(fault()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = JobId::fresh();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "x", &id.to_string().to_uppercase(), &id.to_string().replace('-', "")] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_is_one_of_the_text() {
        let id = JobId::fresh();
        assert!(
            id.starts_with(&id.to_string()[..10]) && id.starts_with("") && !id.starts_with("x")
        );
    }

    #[test]
    fn all_ids_that_begin_alike_are_between_the_first_and_the_last_that_can() {
        let id = JobId::fresh();
        let text = id.to_string();
        for length in 0..=text.len() {
            let (first, last) = JobId::range_of(&text[..length]).unwrap();
            assert!(first <= id && id <= last);
            assert!(first.starts_with(&text[..length]) && last.starts_with(&text[..length]));
        }
        for none in ["x", "0197a3b4.", "é", &format!("{id}0"), "0197a3b40"] {
            assert_eq!(JobId::range_of(none), None, "{none}");
        }
    }

    #[test]
    fn later_ids_sort_after_earlier_ones() {
        let ids: Vec<_> = (0..1000).map(|_| JobId::fresh()).collect();
        assert!(ids.is_sorted());
    }
}
