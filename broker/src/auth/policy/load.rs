//! Reads the policy file: one that others than root can write to must be refused, and so must one that has a fault.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::auth::policy::Policy;
use crate::auth::policy::check::{check, line};
use crate::auth::policy::file::PolicyFile;

pub(crate) use crate::auth::policy::check::Host;

/// Maximum bytes of the file.
const MAX_FILE: u64 = 256 << 10;

/// Why there is no policy; the text names file, line and key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    /// The file does not exist or is not readable.
    #[error("cannot read the policy {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else than root could have written it.
    #[error(
        "{path}: the policy must be root's, and writable by nobody else (it has uid {uid}, mode \
         {mode:04o}): chown root {path}; chmod go-w {path}"
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Its permissions.
        mode: u32,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{path}: {detail}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's message, with the line.
        detail: String,
    },
    /// A value that cannot be.
    #[error("{path}, line {line}: {fault}")]
    Value {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Which key, and what is wrong with it.
        fault: String,
    },
}

/// Reads and checks the file.
///
/// # Errors
/// [`PolicyError`], in words for an operator.
pub(crate) fn load(path: &Path, host: &Host<'_>) -> Result<Policy, PolicyError> {
    parse(&read(path)?, path, host)
}

/// Makes a policy of the text of the file at `path`.
///
/// # Errors
/// [`PolicyError::Parse`] and [`PolicyError::Value`].
pub(crate) fn parse(text: &str, path: &Path, host: &Host<'_>) -> Result<Policy, PolicyError> {
    let parsed: Result<PolicyFile, _> = toml::from_str(text);
    let file =
        parsed.map_err(|e| PolicyError::Parse { path: path.into(), detail: e.to_string() })?;
    check(text, file, host).map_err(|fault| {
        let line = line(text, fault.at.start);
        PolicyError::Value { path: path.into(), line, fault: fault.what }
    })
}

/// Owner and mode are those of the file that is read, not of whatever has its name later.
fn read(path: &Path) -> Result<String, PolicyError> {
    let failed = |source| PolicyError::Read { path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    let (uid, mode) = (found.uid(), found.mode() & 0o7777);
    if uid != 0 || mode & 0o022 != 0 {
        return Err(PolicyError::Owner { path: path.into(), uid, mode });
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        let fault = format!("has more than {MAX_FILE} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, fault)));
    }
    Ok(text)
}
