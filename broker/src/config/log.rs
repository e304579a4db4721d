//! `[log]`: the form of the broker's log. Where it goes is the service manager's.

use serde::Deserialize;

use crate::config::limits::size;
use crate::journal::LogFormat;

/// The broker's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `"text"`: lines on standard error; `"json"`: one object a line; `"journald"`: messages with fields, such as
    /// `journalctl BROKER_JOB=...`.
    ///
    /// Default: `"text"`
    pub format: LogFormat,
    /// How much of the end of each stream of a job's output the log has when the job ends, escaped: `"4K"`, 64K at
    /// most. Whoever reads the log then reads what jobs print. Not set: nothing.
    #[serde(deserialize_with = "size")]
    pub output_tail: Option<u64>,
}

impl Log {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The key, and what is wrong with its value.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        match self.output_tail {
            Some(bytes) if bytes > 64 << 10 => {
                Err(("log.output_tail", format!("is {bytes} bytes; it must be at most 64K")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_one_of_three_forms_and_a_bounded_tail() {
        let read = |text: &str| toml::from_str::<Log>(text).map_err(|e| e.to_string());
        let log = read("format = \"json\"\noutput_tail = \"4K\"").unwrap();
        assert_eq!(log, Log { format: LogFormat::Json, output_tail: Some(4096) });
        assert_eq!(read("").unwrap().check(), Ok(()));
        assert!(read("format = \"xml\"").unwrap_err().contains("expected one of"));
        assert_eq!(read("output_tail = \"1M\"").unwrap().check().unwrap_err().0, "log.output_tail");
    }
}
