//! Writing small files so that a reader finds the old one or the new one, whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use job_shim::crash::{self, Point};

/// Writes `dir/name` under another name and renames it: atomic against a crash of this process.
/// After a crash of the host the name may be there and the bytes not: a file system writes the
/// bytes of a new file later than its name.
///
/// # Errors
/// As open(2), write(2) and rename(2); the old file stays.
pub fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<File> {
    let (file, draft) = draft(dir, name, bytes)?;
    fs::rename(draft, dir.join(name))?;
    Ok(file)
}

/// The same, atomic against a crash of the host, too, and durable when this returns: the bytes are
/// on the disk before the name is.
///
/// # Errors
/// As [`replace`], and fsync(2).
pub fn replace_durably(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (file, draft) = draft(dir, name, bytes)?;
    crash::at(Point::DraftWritten);
    file.sync_data()?;
    crash::at(Point::DraftSynced);
    fs::rename(draft, dir.join(name))?;
    crash::at(Point::RecordRenamed);
    File::open(dir)?.sync_all()
}

fn draft(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<(File, PathBuf)> {
    let draft = dir.join(format!(".{name}.new"));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    Ok((file, draft))
}
