//! `DEBIAN/`: the package's metadata for dpkg. Source: deb-control(5), Debian's policy manual. The version and the
//! glibc dependency must come from the programs.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::files::{CONFFILES, files_below};
use super::tree::{copy, copy_compressed, write};
use crate::{process, workspace};

/// The maintainer, as Debian's own tools take it: `DEBFULLNAME` and `DEBEMAIL`.
fn maintainer() -> String {
    let variable = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.into());
    let name = variable("DEBFULLNAME", "maintainers of job-broker");
    format!("{name} <{}>", variable("DEBEMAIL", "job-broker@localhost"))
}

/// The package's control data.
pub(super) struct Control {
    version: String,
    architecture: &'static str,
    /// The oldest glibc with all symbols that the programs use.
    glibc: String,
    kilobytes: u64,
}

impl Control {
    /// The control data of the files below `root`; `dynamic` are the files that need glibc.
    pub(super) fn new(revision: u32, root: &Path, dynamic: &[&Path]) -> Result<Control> {
        let mut bytes = 0;
        for file in files_below(root)? {
            bytes += file.metadata()?.len();
        }
        let mut glibc = (2, 34); // from this version on threads and dl are in libc6 itself
        for program in dynamic {
            let text = fs::read(program).with_context(|| program.display().to_string())?;
            glibc = glibc.max(newest_glibc(&text));
        }
        Ok(Control {
            version: format!("{}-{revision}", env!("CARGO_PKG_VERSION")),
            architecture: if ARCH == "aarch64" { "arm64" } else { "amd64" },
            glibc: format!("{}.{}", glibc.0, glibc.1),
            kilobytes: bytes.div_ceil(1024),
        })
    }

    pub(super) fn file_name(&self) -> PathBuf {
        format!("job-broker_{}_{}.deb", self.version, self.architecture).into()
    }

    /// Writes the control files, and the files outside that contain the version.
    pub(super) fn write(&self, root: &Path) -> Result<()> {
        let own = workspace::root().join("packaging/deb");
        let control = root.join("DEBIAN");
        self.write_changelog(root)?;
        write(&control.join("md5sums"), md5sums(root)?, 0o644)?;
        let description = fs::read_to_string(own.join("description"))?;
        write(&control.join("control"), self.text(&description), 0o644)?;
        let conffiles: String = CONFFILES.iter().map(|path| format!("/{path}\n")).collect();
        write(&control.join("conffiles"), conffiles, 0o644)?;
        for script in ["postinst", "prerm", "postrm"] {
            copy(&own.join(script), &control.join(script), 0o755)?;
        }
        Ok(())
    }

    /// systemd of Debian 12: the oldest version that the units and the scope are tested with. The broker creates the
    /// scope over D-Bus.
    fn text(&self, description: &str) -> String {
        let Control { version, architecture, glibc, kilobytes } = self;
        let maintainer = maintainer();
        format!(
            "Package: job-broker\nVersion: {version}\nArchitecture: {architecture}\n\
             Maintainer: {maintainer}\nInstalled-Size: {kilobytes}\n\
             Depends: libc6 (>= {glibc}), libgcc-s1, systemd (>= 252), dbus\n\
             Section: admin\nPriority: optional\nDescription: {description}"
        )
    }

    fn write_changelog(&self, root: &Path) -> Result<()> {
        let mut date = Command::new("date");
        date.args(["-R", "-u"]);
        if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
            date.arg(format!("--date=@{epoch}"));
        }
        let date = process::output(&mut date)?;
        let entry = format!(
            "job-broker ({}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- {}  {date}",
            self.version,
            maintainer()
        );
        let plain = root.with_file_name("changelog.Debian");
        write(&plain, entry, 0o644)?;
        copy_compressed(&plain, &root.join("usr/share/doc/job-broker/changelog.Debian.gz"))
    }
}

/// In md5sum(1)'s order and form; dpkg itself records conffiles.
fn md5sums(root: &Path) -> Result<String> {
    let mut command = Command::new("md5sum");
    command.current_dir(root);
    for file in files_below(root)? {
        let path = file.strip_prefix(root).context("a path outside its directory")?;
        if !CONFFILES.iter().any(|conffile| Path::new(conffile) == path) {
            command.arg(path);
        }
    }
    process::output(&mut command)
}

/// The newest glibc symbol version that a program needs: `GLIBC_2.34` in its table.
fn newest_glibc(program: &[u8]) -> (u32, u32) {
    let marks = program.windows(6).enumerate().filter(|(_, bytes)| bytes == b"GLIBC_");
    let version = |start: usize| {
        let rest = &program[start + 6..program.len().min(start + 16)];
        let end = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.')?;
        let (major, minor) = str::from_utf8(&rest[..end]).ok()?.split_once('.')?;
        Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
    };
    marks.filter_map(|(start, _)| version(start)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_that_is_needed_is_found() {
        let table = b"\0GLIBC_2.2.5\0GLIBC_2.34\0memcpy\0GLIBC_2.14\0GLIBC_PRIVATE\0GLIBC_";
        assert_eq!(newest_glibc(table), (2, 34));
        assert_eq!(newest_glibc(b"static"), (0, 0));
    }
}
