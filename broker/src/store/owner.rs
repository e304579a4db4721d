//! Checks that directories belong to root: a root service must not trust what another account can write.
//! Repairs nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::geteuid;

use crate::store::error::RecordError;

/// Permissions of group and others, of which there are to be none.
const OTHERS: u32 = 0o077;

/// What is found of a directory that is to be root's alone. One that is not there yet is fine.
///
/// # Errors
/// `PermissionDenied` with the remedy for a directory of another account, or a link that another account can
/// turn elsewhere; `NotADirectory`; else as stat(2).
pub(crate) fn check(path: &Path) -> io::Result<Option<String>> {
    let link = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    // An operator may have put the directory elsewhere: the link and what it leads to are both looked at.
    is_ours(path, link.uid())?;
    let metadata = fs::metadata(path)?;
    is_ours(path, metadata.uid())?;
    if !metadata.is_dir() {
        let fault = format!("{} is not a directory", path.display());
        return Err(io::Error::new(io::ErrorKind::NotADirectory, fault));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let repaired = || {
        format!("{} was open to others (mode {mode:04o}): its mode is to be 0700", path.display())
    };
    Ok((mode & OTHERS != 0).then(repaired))
}

/// Of one job: made by the broker, so neither a link nor anybody else's.
///
/// # Errors
/// `Damaged` where it is; else as stat(2).
pub(crate) fn check_job(dir: &Path) -> Result<(), RecordError> {
    let metadata = match fs::symlink_metadata(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    let fault = |what: String| Err(RecordError::Damaged(what));
    if !metadata.is_dir() {
        return fault("the job's path is not a directory".into());
    }
    if !is_root(metadata.uid()) {
        return fault(format!(
            "the job's directory belongs to uid {}, not to root",
            metadata.uid()
        ));
    }
    Ok(())
}

fn is_ours(path: &Path, uid: u32) -> io::Result<()> {
    if is_root(uid) {
        return Ok(());
    }
    let path = path.display();
    let fault = format!(
        "{path} belongs to uid {uid}, not to root: look at what is in it, then chown -hR root:root {path}"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, fault))
}

/// Root, or the effective uid: a unit test need not be root.
fn is_root(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, lchown, symlink};

    use super::*;

    const NOBODY: Option<u32> = Some(65534);

    #[test]
    fn a_directory_of_another_owner_is_refused_with_the_remedy() {
        if !geteuid().is_root() {
            return; // nobody else can give a directory away
        }
        let dir = tempfile::tempdir().unwrap();
        let (state, link) = (dir.path().join("state"), dir.path().join("link"));
        assert_eq!(check(&state).unwrap(), None, "it is made");
        fs::create_dir(&state).unwrap();
        symlink(&state, &link).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!((check(&state).unwrap(), check(&link).unwrap()), (None, None));
        lchown(&link, NOBODY, None).unwrap();
        assert!(check(&link).is_err() && check(&state).is_ok());
        chown(&state, NOBODY, None).unwrap();
        let fault = check(&state).unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::PermissionDenied);
        assert!(fault.to_string().contains("chown -hR root:root"), "{fault}");
        assert!(check_job(&state).unwrap_err().is_damage());
    }

    #[test]
    fn a_mode_that_lets_others_in_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(check(dir.path()).unwrap().unwrap().contains("0777"));
    }

    #[test]
    fn a_job_is_a_directory_and_no_link_to_one() {
        let dir = tempfile::tempdir().unwrap();
        let (job, link, file) =
            (dir.path().join("job"), dir.path().join("l"), dir.path().join("f"));
        fs::create_dir(&job).unwrap();
        symlink(&job, &link).unwrap();
        fs::write(&file, "").unwrap();
        assert!(check_job(&job).is_ok() && check_job(&dir.path().join("none")).is_ok());
        assert!(check_job(&link).is_err() && check_job(&file).is_err());
    }
}
