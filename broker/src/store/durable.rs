//! Writing small files so that a reader finds the old one or the new one, whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes `dir/name` under another name and renames it: atomic against a crash of this process.
/// Against a crash of the host it is durable only after the file and [`sync_directory`].
///
/// # Errors
/// As open(2), write(2) and rename(2); the old file stays.
pub fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<File> {
    let draft = dir.join(format!(".{name}.new"));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    fs::rename(&draft, dir.join(name))?;
    Ok(file)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// As fsync(2).
pub fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
