//! Notices that certificate files were replaced. It must notice a rename, a link that points elsewhere, and a file on a
//! network file system, so it looks instead of asking the kernel to notify.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// How often the files are looked at.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);

/// What tells one version of the files from another: device, inode, size and change time of each. `None`: it is not there.
pub(super) type Stamps = Vec<Option<(u64, u64, u64, i64, i64)>>;

/// What is known of the files.
#[derive(Debug)]
pub(super) struct CertificateWatch {
    /// Of those that were read last, in force or found broken.
    read: Stamps,
    /// Of those that were found broken once: somebody may be replacing them one by one.
    broken: Option<Stamps>,
}

/// The files as they are now; links are followed.
pub(super) fn stamps(files: &[PathBuf]) -> Stamps {
    let stamp = |file: &PathBuf| {
        let found = fs::metadata(file).ok()?;
        Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
    };
    files.iter().map(stamp).collect()
}

impl CertificateWatch {
    /// These files were read.
    pub(super) fn new(read: Stamps) -> CertificateWatch {
        CertificateWatch { read, broken: None }
    }

    /// Whether they are others than those that were read.
    pub(super) fn has_changed(&self, now: &Stamps) -> bool {
        *now != self.read
    }

    /// They were read, and are in force or were told to be broken.
    pub(super) fn settle(&mut self, read: Stamps) {
        *self = CertificateWatch::new(read);
    }

    /// They were read and are broken. Whether that is to be told: not before they have stayed so for one more look.
    pub(super) fn found_broken(&mut self, now: Stamps) -> bool {
        if self.broken.as_ref() == Some(&now) {
            self.settle(now);
            return true;
        }
        self.broken = Some(now);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_and_another_target_of_a_link_are_changes_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("1")).unwrap();
        fs::create_dir(path("2")).unwrap();
        fs::write(path("1/tls.crt"), "a").unwrap();
        fs::write(path("2/tls.crt"), "a").unwrap();
        std::os::unix::fs::symlink("1", path("..data")).unwrap();
        let files = [path("..data/tls.crt")];
        let mut watch = CertificateWatch::new(stamps(&files));
        assert!(!watch.has_changed(&stamps(&files)));
        std::os::unix::fs::symlink("2", path("new")).unwrap();
        fs::rename(path("new"), path("..data")).unwrap();
        assert!(watch.has_changed(&stamps(&files)));
        watch.settle(stamps(&files));
        fs::write(path("new"), "b").unwrap();
        fs::rename(path("new"), path("2/tls.crt")).unwrap();
        assert!(watch.has_changed(&stamps(&files)));
        fs::remove_file(path("2/tls.crt")).unwrap();
        assert_eq!(stamps(&files), [None]);
    }

    #[test]
    fn broken_files_are_told_once_and_only_if_they_stay_so() {
        let of = |size| vec![Some((1, 1, size, 1, 1))];
        let mut watch = CertificateWatch::new(of(1));
        assert!(!watch.found_broken(of(2)));
        assert!(!watch.found_broken(of(3)));
        assert!(watch.found_broken(of(3)));
        assert!(!watch.has_changed(&of(3)));
    }
}
