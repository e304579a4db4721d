//! `cargo xtask package`: the Debian package, from the release build and `packaging/`. It must need dpkg-deb and no
//! other packaging tool.
//!
//! It uses dpkg-deb, not cargo-deb: the package's contents are a table (`files`) and a few texts, and every machine
//! that can install the package has dpkg-deb. cargo-deb would have to be compiled first, for minutes, and would need
//! a second description of the units in a Cargo.toml.

mod control;
mod files;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::programs::{self, Profile, Programs};
use crate::supply::sbom;
use crate::{packages, process, workspace};

/// The arguments of `cargo xtask package`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Package the programs of the development build: quick to make, for tests
    #[arg(long)]
    dev: bool,
    /// Debian's revision of the package, after the programs' version
    #[arg(long, default_value_t = 1, value_name = "N")]
    revision: u32,
}

/// Makes the package, checks it with lintian if installed, and prints its path.
///
/// # Errors
/// The build, I/O, dpkg-deb, or lintian's errors.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let profile = if args.dev { Profile::Dev } else { Profile::Release };
    let path = make(profile, args.revision, &programs::build(profile)?)?;
    if profile == Profile::Release {
        run_lintian(&path)?;
    }
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Makes the package of these programs. Returns its path below the target directory.
///
/// # Errors
/// As [`run`].
pub(crate) fn make(profile: Profile, revision: u32, programs: &Programs) -> Result<PathBuf> {
    let needed = [("dpkg-deb", "dpkg"), ("gzip", "gzip"), ("strip", "binutils")];
    packages::ensure(&needed, "to make a Debian package")?;
    let directory = workspace::target_dir()?.join("package");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    // Private to this run: tests and a release may make packages at the same time.
    let scratch = tempfile::tempdir_in(&directory).context("cannot make a directory")?;
    let (root, manuals) = (scratch.path().join("root"), scratch.path().join("manuals"));
    write_manuals(&manuals)?;
    files::stage(&root, programs, &manuals)?;
    let bill = root.join("usr/share/doc/job-broker/sbom.cdx.json");
    fs::write(&bill, sbom::document()?)
        .with_context(|| format!("cannot write {}", bill.display()))?;
    if profile == Profile::Dev {
        strip(&root)?;
    }
    let control = control::Control::new(revision, &root, &[&programs.broker, &programs.certs])?;
    control.write(&root)?;
    let made = scratch.path().join(control.file_name());
    let mut build = Command::new("dpkg-deb");
    // Development builds are discarded soon.
    let compression = if profile == Profile::Dev { ["-Zgzip", "-z1"] } else { ["-Zxz", "-z6"] };
    build.args(["--root-owner-group"]).args(compression).arg("--build").arg(&root).arg(&made);
    process::check(build.stdout(std::io::stderr()))?;
    let path = directory.join(control.file_name());
    fs::rename(&made, &path).with_context(|| format!("cannot rename to {}", path.display()))?;
    Ok(path)
}

/// Strips a release of debug information. It is the larger half of a development build, which a test's machine would
/// unpack for half a minute.
fn strip(root: &Path) -> Result<()> {
    let programs = files::PROGRAMS.map(|place| root.join(place));
    process::check(Command::new("strip").arg("--strip-debug").args(programs))
}

fn write_manuals(directory: &Path) -> Result<()> {
    let mut write = workspace::cargo();
    write.args(["run", "--quiet", "-p", "job-manuals", "--"]).arg(directory);
    process::check(&mut write)
}

/// lintian's errors fail the packaging; its warnings are only printed.
fn run_lintian(package: &Path) -> Result<()> {
    if process::find("lintian").is_none() {
        eprintln!("xtask: lintian is not installed; the package was not judged");
        return Ok(());
    }
    process::check(Command::new("lintian").args(["--fail-on", "error"]).arg(package))
}
