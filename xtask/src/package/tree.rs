//! Writes the package's files and directories with their modes. The umask must not change a mode.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Writes a file and its parent directories.
pub(super) fn write(path: &Path, text: impl AsRef<[u8]>, mode: u32) -> Result<()> {
    make_directory(path)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    chmod(path, mode)
}

/// Copies a file, and makes its parent directories.
pub(super) fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    make_directory(to)?;
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    chmod(to, mode)
}

/// Compresses as Debian's policy requires for manuals and changelogs: gzip -9 without name and time.
pub(super) fn copy_compressed(from: &Path, to: &Path) -> Result<()> {
    make_directory(to)?;
    let out = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    process::check(Command::new("gzip").args(["-9nc"]).arg(from).stdout(out))?;
    chmod(to, 0o644)
}

fn make_directory(file: &Path) -> Result<()> {
    let mut missing = Vec::new();
    let mut directory = file.parent();
    while let Some(path) = directory.filter(|path| !path.exists()) {
        missing.push(path);
        directory = path.parent();
    }
    for path in missing.into_iter().rev() {
        fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
        chmod(path, 0o755)?; // independent of the umask
    }
    Ok(())
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot chmod {}", path.display()))
}
