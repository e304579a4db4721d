//! Makes files of what an archive has, below a directory that is this process's root. Only for a process that can reach
//! nothing else: symbolic links of the archive are followed, and lead to what is in it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::archive::Target;

/// Most directories below each other: what removes them goes down into each.
const DEEPEST: usize = 128;

/// A directory that archives are unpacked into.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(crate) fn new(root: &Path) -> Directory {
        Directory { root: root.into() }
    }

    fn place(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    /// A place that is free, in a directory.
    fn free(&mut self, path: &[u8]) -> io::Result<PathBuf> {
        let place = self.place(path);
        remove(&place)?;
        if let Some(parent) = place.parent().filter(|parent| !parent.is_dir()) {
            make(parent)?;
        }
        Ok(place)
    }
}

impl Target for Directory {
    fn directory(&mut self, path: &[u8]) -> io::Result<()> {
        let place = self.place(path);
        if fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        make(&self.free(path)?)
    }

    fn file(
        &mut self,
        path: &[u8],
        is_program: bool,
        modified: u64,
        data: &mut dyn Read,
    ) -> io::Result<()> {
        let mode = if is_program { 0o755 } else { 0o644 };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let mut file: File = options.open(self.free(path)?)?;
        io::copy(data, &mut file)?;
        match SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(modified)) {
            Some(time) => file.set_modified(time),
            None => Ok(()),
        }
    }

    fn symlink(&mut self, path: &[u8], to: &[u8]) -> io::Result<()> {
        symlink(OsStr::from_bytes(to), self.free(path)?)
    }

    fn link(&mut self, path: &[u8], to: &[u8]) -> io::Result<()> {
        let to = self.place(to);
        if fs::symlink_metadata(&to)?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        if to == self.place(path) {
            return Ok(());
        }
        fs::hard_link(to, self.free(path)?)
    }

    fn remove(&mut self, path: &[u8]) -> io::Result<()> {
        remove(&self.place(path))
    }

    fn clear(&mut self, path: &[u8]) -> io::Result<()> {
        let place = self.place(path);
        if !fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        for entry in fs::read_dir(place)? {
            remove(&entry?.path())?;
        }
        Ok(())
    }
}

/// Makes a directory. Through symbolic links of the archive it may be deeper than its path says.
fn make(place: &Path) -> io::Result<()> {
    fs::create_dir_all(place)?;
    if fs::canonicalize(place)?.components().count() > DEEPEST {
        return Err(io::Error::other("its directory is too deep"));
    }
    Ok(())
}

fn remove(place: &Path) -> io::Result<()> {
    match fs::symlink_metadata(place) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        Err(e) => Err(e),
        Ok(found) if found.is_dir() => fs::remove_dir_all(place),
        Ok(_) => fs::remove_file(place),
    }
}
