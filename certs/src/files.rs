//! Certificate and key files: new ones only, both or neither, keys private from the first moment.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;

pub(crate) const CERTIFICATE_MODE: u32 = 0o644;
pub(crate) const KEY_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// Where a certificate and its key lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pair {
    /// `PREFIX.crt` and `PREFIX.key`; dots within the prefix stay.
    pub(crate) fn at(prefix: &Path) -> Result<Self, Error> {
        let ends_in_a_name =
            prefix.file_name().is_some() && !prefix.as_os_str().as_bytes().ends_with(b"/");
        if !ends_in_a_name {
            return Err(Error::NoFileName(prefix.to_owned()));
        }
        let with = |suffix| {
            let mut path = prefix.as_os_str().to_owned();
            path.push(suffix);
            PathBuf::from(path)
        };
        Ok(Self { certificate: with(".crt"), key: with(".key") })
    }

    /// Writes both, or leaves neither behind. `record` is called when both can be written and neither is.
    ///
    /// # Errors
    /// Where one of them exists, naming it, followed by `advice`: what to do instead.
    pub(crate) fn write(
        &self,
        certificate_pem: &str,
        key_pem: &str,
        advice: &'static str,
        record: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut made = Made::default();
        // Both are created before either is filled, so that a refusal costs nothing.
        let mut key = made.file(&self.key, KEY_MODE, advice)?;
        let mut certificate = made.file(&self.certificate, CERTIFICATE_MODE, advice)?;
        record()?;
        fill(&mut key, key_pem).map_err(io_error("writing", &self.key))?;
        fill(&mut certificate, certificate_pem).map_err(io_error("writing", &self.certificate))?;
        made.keep();
        Ok(())
    }

    /// The same for the certificate alone: its key is elsewhere.
    pub(crate) fn write_certificate(
        &self,
        certificate_pem: &str,
        advice: &'static str,
        record: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut made = Made::default();
        let mut certificate = made.file(&self.certificate, CERTIFICATE_MODE, advice)?;
        record()?;
        fill(&mut certificate, certificate_pem).map_err(io_error("writing", &self.certificate))?;
        made.keep();
        Ok(())
    }
}

/// What was created so far; removed again on drop unless kept.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    fn file(&mut self, path: &Path, mode: u32, advice: &'static str) -> Result<File, Error> {
        // create_new is O_EXCL: it neither overwrites nor follows a symbolic link.
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        match opened {
            Ok(file) => {
                self.0.push(path.to_owned());
                Ok(file)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::Exists { path: path.to_owned(), advice })
            }
            Err(e) => Err(io_error("creating", path)(e)),
        }
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            // The error that led here is the one to report.
            let _ = fs::remove_file(path);
        }
    }
}

fn fill(file: &mut File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Replaces a file: others see the old one or the new one, also after a crash.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let mut made = Made::default();
    let mut file = made.file(&temporary, mode, "another job-certs may have died: remove it")?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(io_error("writing", &temporary))?;
    fs::rename(&temporary, path).map_err(io_error("replacing", path))?;
    made.keep();
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("syncing", dir))
}

/// Makes `dir` with mode 0700 unless it is there; says whether it was made.
pub(crate) fn private_directory(dir: &Path) -> Result<bool, Error> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(false),
        // Parents are not made: they would have to get a mode that nobody asked for.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NoParent(dir.to_owned())),
        Err(e) => Err(io_error("creating the directory", dir)(e)),
    }
}

/// Reads a private key, and refuses one that others can read, as ssh does: such a key has to be
/// taken for known.
pub(crate) fn read_key(path: &Path) -> Result<String, Error> {
    let metadata = fs::metadata(path).map_err(io_error("reading", path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.to_owned(), mode });
    }
    fs::read_to_string(path).map_err(io_error("reading", path))
}

/// Names what was attempted on which file.
pub(crate) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_keeps_its_dots() {
        let pair = Pair::at(Path::new("d/ann.lee")).unwrap();
        assert_eq!(pair.certificate, Path::new("d/ann.lee.crt"));
        assert_eq!(pair.key, Path::new("d/ann.lee.key"));
    }

    #[test]
    fn a_prefix_without_a_file_name_is_refused() {
        for prefix in ["", "/", "d/", ".."] {
            assert!(Pair::at(Path::new(prefix)).is_err(), "{prefix:?} was taken");
        }
    }

    #[test]
    fn when_the_certificate_cannot_be_made_no_key_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let pair = Pair::at(&dir.path().join("x")).unwrap();
        fs::write(&pair.certificate, "old").unwrap();
        let error = pair.write("new", "secret", "move it away", || Ok(())).unwrap_err().to_string();
        assert!(error.contains("x.crt exists") && error.ends_with("move it away"), "{error}");
        assert!(!pair.key.exists());
        assert_eq!(fs::read_to_string(&pair.certificate).unwrap(), "old");
    }

    #[test]
    fn a_dangling_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let pair = Pair::at(&dir.path().join("x")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &pair.key).unwrap();
        assert!(pair.write("new", "secret", "", || Ok(())).is_err());
        assert!(!dir.path().join("elsewhere").exists() && !pair.certificate.exists());
    }
}
