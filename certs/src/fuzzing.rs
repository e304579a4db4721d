//! The fuzz target of the authority: files that it is shown. In no program: only tests and `cargo xtask fuzz` have it.

use std::time::{Duration, SystemTime};

use crate::database::Record;
use crate::show;

/// A certificate file, described; and the lines of `issued.jsonl`.
pub fn certificate_files(data: &[u8]) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_785_000_000);
    if let Ok(described) = show::file(data, now) {
        assert!(!described.contains(|c: char| c.is_control() && c != '\n'), "{described:?}");
    }
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(record) = serde_json::from_slice::<Record>(line) else { continue };
        let again = serde_json::to_vec(&record).expect("text and numbers");
        assert_eq!(serde_json::from_slice::<Record>(&again).ok(), Some(record));
    }
}

#[cfg(test)]
mod any_bytes {
    job_corpus::tests! { certificate_files }
}
