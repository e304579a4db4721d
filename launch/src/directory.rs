//! Where the working directory of a job is, all symbolic links resolved, as its user sees it. Judges nothing, and enters
//! nothing: the shim does, and follows no link where a program was checked.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};

use crate::as_user;
use crate::model::account::Account;

/// The path without symbolic links of a directory that this user may enter. Blocks as long as the file systems.
///
/// # Errors
/// As chdir(2) of that user; EILSEQ for a path that is not UTF-8, which no role can name.
pub fn resolve(directory: &str, account: &Account) -> io::Result<String> {
    let look = || {
        let file = as_user::open_path(Path::new(directory))?;
        if !file.metadata()?.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        faccessat(&file, "", AccessFlags::X_OK, AtFlags::AT_EMPTY_PATH | AtFlags::AT_EACCESS)?;
        Ok(file)
    };
    let file = as_user::run(account, look)?;
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    path.into_os_string().into_string().map_err(|_| Errno::EILSEQ.into())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn links_are_resolved_with_the_rights_of_the_jobs_user() {
        if !nix::unistd::geteuid().is_root() {
            return; // only root can be somebody else
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        let (open, shut) = (root.join("open"), root.join("shut"));
        fs::create_dir(&open).unwrap();
        fs::create_dir(&shut).unwrap();
        mode(&root, 0o755).unwrap();
        mode(&open, 0o755).unwrap();
        mode(&shut, 0o700).unwrap();
        symlink("open", root.join("link")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let (name, home) = ("somebody".into(), "/".into());
        let somebody = Account { name, uid: 65_533, gid: 65_533, groups: vec![], home };
        let resolve = |name: &str| resolve(root.join(name).to_str().unwrap(), &somebody);
        assert_eq!(resolve("link").unwrap(), open.to_str().unwrap());
        let errno = |name| resolve(name).unwrap_err().raw_os_error();
        assert_eq!(errno("absent"), Some(libc::ENOENT));
        assert_eq!(errno("file"), Some(libc::ENOTDIR));
        assert_eq!(errno("shut"), Some(libc::EACCES));
    }
}
