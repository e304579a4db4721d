//! What an authority has issued and revoked: `issued.jsonl` beside it, one JSON object a line. A revocation that was
//! answered must be in it; authorities made before it existed work without one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::error::Error;
use crate::files::{self, io_error};

/// The file in the authority's directory.
pub(crate) const FILE: &str = "issued.jsonl";

/// The database, locked against other processes until it is dropped.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    records: Vec<Record>,
    _lock: Flock<File>,
}

/// One line. Readers pass over fields that they do not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Record {
    /// A certificate was issued or renewed.
    Issued(Entry),
    /// A certificate was revoked.
    Revoked {
        /// Lower-case hexadecimal digits.
        serial: String,
        /// Seconds since 1970.
        at: i64,
        /// By its name in RFC 5280: `keyCompromise`.
        reason: String,
        /// The end of the certificate, where it is known.
        #[serde(default)]
        not_after: Option<i64>,
    },
    /// A revocation list was made.
    Crl {
        /// Its number; the next one is higher.
        number: u64,
        /// Seconds since 1970.
        at: i64,
    },
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Lower-case hexadecimal digits.
    pub(crate) serial: String,
    /// `user` or `server`.
    pub(crate) kind: String,
    /// The user, or the first name of the server.
    pub(crate) name: String,
    /// Of the DER, hexadecimal.
    pub(crate) sha256: String,
    /// Seconds since 1970.
    pub(crate) not_before: i64,
    /// Seconds since 1970.
    pub(crate) not_after: i64,
    /// Seconds since 1970.
    pub(crate) at: i64,
}

impl Database {
    /// Reads the database of the authority in `dir`, and waits for others to be done with it.
    pub(crate) fn open(dir: &Path) -> Result<Database, Error> {
        let lock = File::open(dir).map_err(io_error("opening", dir))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, e)| io_error("locking", dir)(e.into()))?;
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(io_error("reading", &path))?,
        };
        let mut records = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let record = serde_json::from_str(line).map_err(|source| Error::Database {
                path: path.clone(),
                line: n + 1,
                source,
            })?;
            records.push(record);
        }
        Ok(Database { path, records, _lock: lock })
    }

    /// Adds records; they are on disk when this answers.
    pub(crate) fn add(&mut self, records: impl IntoIterator<Item = Record>) -> Result<(), Error> {
        self.records.extend(records);
        let mut text = Vec::new();
        for record in &self.records {
            let written = serde_json::to_writer(&mut text, record).map_err(io::Error::other);
            written.map_err(io_error("writing", &self.path))?;
            text.push(b'\n');
        }
        files::replace(&self.path, &text, files::KEY_MODE)
    }

    /// All certificates, oldest first.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.records.iter().filter_map(|record| match record {
            Record::Issued(entry) => Some(entry),
            Record::Revoked { .. } | Record::Crl { .. } => None,
        })
    }

    /// The certificate of this number.
    pub(crate) fn find(&self, serial: &str) -> Option<&Entry> {
        self.entries().find(|entry| entry.serial == serial)
    }

    /// When and why this number was revoked.
    pub(crate) fn revoked(&self, serial: &str) -> Option<(i64, &str)> {
        self.records.iter().find_map(|record| match record {
            Record::Revoked { serial: revoked, at, reason, .. } if revoked == serial => {
                Some((*at, reason.as_str()))
            }
            _ => None,
        })
    }

    /// All revocations.
    pub(crate) fn revocations(&self) -> impl Iterator<Item = (&str, i64, &str, Option<i64>)> {
        self.records.iter().filter_map(|record| match record {
            Record::Revoked { serial, at, reason, not_after } => {
                Some((serial.as_str(), *at, reason.as_str(), *not_after))
            }
            _ => None,
        })
    }

    /// The number of the next revocation list.
    pub(crate) fn next_crl(&self) -> u64 {
        let numbers = self.records.iter().filter_map(|record| match record {
            Record::Crl { number, .. } => Some(*number),
            _ => None,
        });
        numbers.max().unwrap_or(0) + 1
    }
}

/// Now, in seconds since 1970.
pub(crate) fn now() -> i64 {
    clock::seconds(SystemTime::now())
}

/// A serial number as the database has it: without colons and leading zeros.
pub(crate) fn serial(octets: &[u8]) -> String {
    let digits: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    normal(&digits)
}

/// The same of what somebody has typed.
pub(crate) fn typed_serial(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect::<String>().to_lowercase();
    let is_serial =
        (1..=42).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit());
    is_serial.then(|| normal(&digits))
}

fn normal(digits: &str) -> String {
    let digits = digits.trim_start_matches('0');
    match digits.len() {
        0 => "00".into(),
        odd if odd % 2 == 1 => format!("0{digits}"),
        _ => digits.into(),
    }
}

/// The octets of a serial number.
pub(crate) fn octets(serial: &str) -> Vec<u8> {
    let digit = |at: usize| serial.get(at..at + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
    (0..serial.len()).step_by(2).filter_map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_the_same_however_it_is_written() {
        assert_eq!(serial(&[0, 0x9f, 0x01]), "9f01");
        assert_eq!(typed_serial("00:9F:01").as_deref(), Some("9f01"));
        assert_eq!(typed_serial("9f01").as_deref(), Some("9f01"));
        assert_eq!(typed_serial("f").as_deref(), Some("0f"));
        assert_eq!(typed_serial("ann"), None);
        assert_eq!(octets("9f01"), [0x9f, 1]);
        assert_eq!(serial(&[0]), "00");
    }
}
