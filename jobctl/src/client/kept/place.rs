//! Where a kept connection is found: a socket in a directory that nobody else can enter. It must not use a directory
//! that is not its user's alone.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use job_api::client::{Credentials, fingerprint};
use tokio::net::UnixListener;

use crate::sys;

/// What the holder says first: it has a connection, and a place for one more command.
pub(super) const WELCOME: u8 = b'+';

/// The files of one kept connection. Another address, certificate or key has another.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    dir: PathBuf,
    name: String,
}

impl Place {
    /// Makes the directory if it is not there.
    ///
    /// # Errors
    /// The directory cannot be made, or is not this user's alone.
    pub(crate) fn find(addr: &str, credentials: &Credentials) -> io::Result<Place> {
        let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let dir = match given.filter(|dir| dir.is_absolute() && is_private(dir).is_ok()) {
            Some(dir) => dir.join("jobctl"),
            None => PathBuf::from(format!("/tmp/jobctl-{}", sys::own_uid())),
        };
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => is_private(&dir)?,
        }
        Ok(Place { dir, name: fingerprint(addr, credentials) })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// The right to listen here, held with the file; `None` if another process has it.
    pub(super) fn lock(&self) -> io::Result<Option<File>> {
        let path = self.dir.join(format!("{}.lock", self.name));
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        Ok(sys::try_lock(&file).then_some(file))
    }

    /// Listens in the place of a holder that has left its socket behind. The caller has the lock.
    pub(super) fn listen(&self) -> io::Result<UnixListener> {
        let socket = self.socket();
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    /// The caller has the lock.
    pub(super) fn leave(&self) {
        let _ = fs::remove_file(self.socket());
    }
}

/// A directory, no link, which is this user's and closed to all others.
fn is_private(dir: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(dir)?;
    let is_ours = found.is_dir() && found.uid() == sys::own_uid() && found.mode() & 0o077 == 0;
    if is_ours {
        return Ok(());
    }
    let fault = format!("{} is not a directory of yours alone (mode 0700)", dir.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_can_enter_and_a_link_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir.path(), private).expect("its mode");
        assert!(is_private(dir.path()).is_ok());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).expect("a link");
        assert!(is_private(&link).is_err());
        for mode in [0o750, 0o701, 0o777] {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(dir.path(), mode).expect("its mode");
            assert!(is_private(dir.path()).is_err());
        }
    }
}
