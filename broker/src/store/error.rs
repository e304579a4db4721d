//! Errors of records. Tells damage, shortage and absence apart; decides nothing.

use std::io;
use std::path::PathBuf;

use job_launch::host;

/// Why a record of a job cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A job that has others must have it.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// It is not what was written: in words, with the file.
    #[error("{0}")]
    Damaged(String),
    /// A later broker wrote it.
    #[error("{name}: of format {format}; this broker reads {known}")]
    NewerFormat {
        /// The file.
        name: &'static str,
        /// Its major version.
        format: u32,
        /// The latest that this broker knows.
        known: u32,
    },
    /// It cannot be read now.
    #[error("{name}: {source}")]
    Read {
        /// The file.
        name: &'static str,
        /// As read(2).
        source: io::Error,
    },
    /// What is beside the records cannot be read now.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl RecordError {
    /// Whether the record is damaged, rather than that the disk or this program cannot read it now.
    pub fn is_damage(&self) -> bool {
        matches!(self, RecordError::Missing(_) | RecordError::Damaged(_))
    }

    /// Whether the host is short of what reading takes, which says nothing about the record.
    pub(crate) fn is_shortage(&self) -> bool {
        self.io().is_some_and(host::is_shortage)
    }

    /// Whether there is no such record, or no directory that it could be in.
    pub(crate) fn is_absent(&self) -> bool {
        let is_not_found = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        matches!(self, RecordError::Missing(_)) || self.io().is_some_and(is_not_found)
    }

    /// What the system said, if it did.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            RecordError::Read { source, .. } | RecordError::Io(source) => Some(source),
            _ => None,
        }
    }
}

/// Why the state directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another broker runs on it.
    #[error("{path} is held by another broker, process {holder}; stop that one first")]
    Held {
        /// The directory.
        path: PathBuf,
        /// Its pid, as it wrote it.
        holder: String,
    },
    /// The file system said no.
    #[error("cannot {step} {path}: {source}")]
    Io {
        /// "create", "lock", ...
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
