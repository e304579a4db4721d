//! Makes a tree that somebody else has unpacked root's, for everybody to read and nobody to write. It trusts nothing in
//! it; nobody may change it meanwhile.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

/// What there is, in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

/// Without recursion: it is as deep as the archive has made it.
///
/// # Errors
/// Something that is neither file, directory nor symbolic link; and those of the file system.
pub(crate) fn seal(root: &Path) -> io::Result<Sealed> {
    let mut sealed = Sealed::default();
    let mut directories: Vec<PathBuf> = vec![root.into()];
    while let Some(directory) = directories.pop() {
        own(&directory, 0o755)?;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let found = fs::symlink_metadata(&path)?;
            sealed.files += 1;
            let kind = found.file_type();
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() {
                sealed.bytes += found.len();
                let is_program = found.mode() & 0o111 != 0;
                own(&path, if is_program { 0o755 } else { 0o644 })?;
            } else if kind.is_symlink() {
                lchown(&path, Some(0), Some(0))?;
            } else {
                let fault = format!("{} is no file, directory or link", path.display());
                return Err(io::Error::other(fault));
            }
        }
    }
    Ok(sealed)
}

/// The mode last: a change of the owner takes setuid away, and a mode gives it.
fn own(path: &Path, mode: u32) -> io::Result<()> {
    lchown(path, Some(0), Some(0))?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}
