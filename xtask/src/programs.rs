//! `cargo xtask build`: the four programs, and where they are.

use std::collections::HashMap;
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::packages;
use crate::process;
use crate::supply::auditable;
use crate::workspace;

/// With this package among those that are built, what they share has the features that tests build it with, and is
/// built once.
const FEATURES: &str = "job-features";

/// The arguments of `cargo xtask build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimise as for a release (slow to build); job-shim always is
    #[arg(long)]
    release: bool,
}

/// How the programs other than job-shim are built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// The built programs, as absolute paths.
#[derive(Clone)]
pub(crate) struct Programs {
    pub(crate) broker: PathBuf,
    pub(crate) jobctl: PathBuf,
    pub(crate) certs: PathBuf,
    pub(crate) shim: PathBuf,
}

impl Programs {
    /// The environment in which the end-to-end tests find the programs, and [`Programs::given`].
    pub(crate) fn environment(&self) -> [(&'static str, &PathBuf); 4] {
        [
            ("JOB_BROKER_BIN", &self.broker),
            ("JOBCTL_BIN", &self.jobctl),
            ("JOB_CERTS_BIN", &self.certs),
            ("JOB_SHIM_BIN", &self.shim),
        ]
    }

    /// Those that another xtask has built: in the testbed VM nothing can be.
    ///
    /// # Errors
    /// The environment lacks one.
    pub(crate) fn given() -> Result<Self> {
        let path = |name: &str| {
            let path = std::env::var_os(name).with_context(|| format!("{name} is not set"))?;
            anyhow::Ok(PathBuf::from(path))
        };
        Ok(Programs {
            broker: path("JOB_BROKER_BIN")?,
            jobctl: path("JOBCTL_BIN")?,
            certs: path("JOB_CERTS_BIN")?,
            shim: path("JOB_SHIM_BIN")?,
        })
    }
}

/// `cargo xtask build`: prints one path per line.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let programs = build(if args.release { Profile::Release } else { Profile::Dev })?;
    for path in [&programs.broker, &programs.jobctl, &programs.certs, &programs.shim] {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds all programs. Cargo decides what is out of date.
///
/// # Errors
/// Cargo's, whose own messages are on stderr by then.
pub(crate) fn build(profile: Profile) -> Result<Programs> {
    let shim = linked_statically("job-shim", "shim")?;
    let mut command = match profile {
        Profile::Dev => workspace::cargo(),
        Profile::Release => auditable::cargo()?,
    };
    command.args(["build", "-p", "job-broker", "-p", "job-certs", "--bins"]);
    let jobctl = match profile {
        Profile::Dev => {
            // The shim once more, for the tests that make it crash (`job_shim::crash`).
            command.args(["-p", "jobctl", "-p", "job-shim", "-p", FEATURES]);
            None
        }
        Profile::Release => {
            command.arg("--release");
            // Half a millisecond less at each start, and one file for every Linux. Its C code
            // (aws-lc) wants a compiler for musl.
            packages::ensure(&[("musl-gcc", "musl-tools")], "to link jobctl statically")?;
            Some(linked_statically("jobctl", "release")?)
        }
    };
    let mut built = bins(&mut command)?;
    let mut take = |name| built.remove(name).with_context(|| format!("cargo built no {name}"));
    Ok(Programs {
        broker: take("job-broker")?,
        certs: take("job-certs")?,
        jobctl: jobctl.map_or_else(|| take("jobctl"), Ok)?,
        shim,
    })
}

/// The release build in the place of these programs, if somebody has made one: it takes minutes, and
/// is not always wanted anew.
///
/// # Errors
/// No target directory.
pub(crate) fn already_released(built: &Programs) -> Result<Option<Programs>> {
    let release = workspace::target_dir()?.join("release");
    let [broker, certs] = ["job-broker", "job-certs"].map(|name| release.join(name));
    let (jobctl, shim) = (built.jobctl.clone(), built.shim.clone());
    let is_there = broker.is_file() && certs.is_file();
    Ok(is_there.then_some(Programs { broker, jobctl, certs, shim }))
}

/// Broker and shim of the version after this one, as `job_shim::codec` rehearses it, for the tests of
/// upgrades and downgrades. To be built before the others: cargo puts its programs where those of
/// this version belong, so they are taken away from there.
///
/// # Errors
/// Cargo's, and those of copying.
pub(crate) fn build_next() -> Result<()> {
    let mut command = workspace::cargo();
    // With the same packages as [`build`], so that all that they depend on is built once.
    command.args(["build", "--bins", "-p", "job-broker", "-p", "job-certs", "-p", "jobctl"]);
    command.args(["-p", "job-shim", "-p", FEATURES, "--features"]);
    command.arg("job-broker/next-version,job-shim/next-version");
    let built = bins(&mut command)?;
    let directory = next_dir()?;
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    for name in ["job-broker", "job-shim"] {
        let from = built.get(name).with_context(|| format!("cargo built no {name}"))?;
        let to = directory.join(name);
        // Somebody may be running the one that is there.
        let _ = fs::remove_file(&to);
        fs::copy(from, &to).with_context(|| format!("cannot copy {} away", from.display()))?;
    }
    Ok(())
}

impl Programs {
    /// The same with broker and shim of the version after this one, see [`build_next`].
    ///
    /// # Errors
    /// No target directory.
    pub(crate) fn of_next_version(&self) -> Result<Programs> {
        let directory = next_dir()?;
        Ok(Programs {
            broker: directory.join("job-broker"),
            shim: directory.join("job-shim"),
            jobctl: self.jobctl.clone(),
            certs: self.certs.clone(),
        })
    }
}

fn next_dir() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("next-version"))
}

/// A program without a loader and without relocations. job-shim stays resident once per job: 25 to
/// 33 kB of its own with musl, where a dynamic glibc has hundreds.
fn linked_statically(package: &str, profile: &str) -> Result<PathBuf> {
    let musl = format!("{ARCH}-unknown-linux-musl");
    if has_target(&musl) || add_target(&musl) {
        return build_for(package, profile, &musl, r#"["-Crelocation-model=static"]"#);
    }
    let glibc = format!("{ARCH}-unknown-linux-gnu");
    eprintln!(
        "xtask: there is no Rust target {musl} here: {package} is linked statically against glibc \
         and needs some more memory"
    );
    let flags = r#"["-Ctarget-feature=+crt-static","-Crelocation-model=static"]"#;
    build_for(package, profile, &glibc, flags)
}

/// `flags` is a TOML array. A position-dependent program has no relocations to apply at start, each
/// of which would make a page of the program private.
fn build_for(package: &str, profile: &str, target: &str, flags: &str) -> Result<PathBuf> {
    let mut command = workspace::cargo();
    command.args(["build", "-p", package, "--bins", "--profile", profile, "--target", target]);
    command.arg("--config").arg(format!("target.{target}.rustflags={flags}"));
    // These would override the flags above, and a dynamic program would go unnoticed.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    bins(&mut command)?.remove(package).with_context(|| format!("cargo built no {package}"))
}

fn has_target(target: &str) -> bool {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.current_dir(workspace::root()).args(["--print=target-libdir", "--target", target]);
    process::output(&mut rustc).is_ok_and(|directory| PathBuf::from(directory.trim()).is_dir())
}

fn add_target(target: &str) -> bool {
    if process::find("rustup").is_none() {
        return false;
    }
    eprintln!("xtask: adding the Rust target {target}, for programs that are linked statically");
    let mut rustup = Command::new("rustup");
    rustup.current_dir(workspace::root()).args(["target", "add", target]);
    process::check(rustup.stdout(std::io::stderr())).is_ok() && has_target(target)
}

/// What cargo has built and can be run.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Executable {
    /// The directory of its package.
    pub(crate) package: PathBuf,
    pub(crate) path: PathBuf,
    /// That of its target.
    pub(crate) name: String,
    is_test: bool,
}

/// Runs a cargo command that builds tests, and returns their executables, package by package.
///
/// # Errors
/// Cargo's.
pub(crate) fn tests(command: &mut Command) -> Result<Vec<Executable>> {
    let mut tests = executables(command)?;
    tests.retain(|executable| executable.is_test);
    tests.sort();
    Ok(tests)
}

/// The same for programs, by name.
fn bins(command: &mut Command) -> Result<HashMap<String, PathBuf>> {
    let built = executables(command)?.into_iter().filter(|executable| !executable.is_test);
    Ok(built.map(|executable| (executable.name, executable.path)).collect())
}

fn executables(command: &mut Command) -> Result<Vec<Executable>> {
    command.arg("--message-format=json-render-diagnostics");
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("{} ended with {}", process::shown(command), output.status);
    }
    let mut found = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Value = serde_json::from_slice(line).context("cargo: bad JSON message")?;
        found.extend(executable(&message));
    }
    Ok(found)
}

fn executable(message: &Value) -> Option<Executable> {
    Some(Executable {
        path: message["executable"].as_str()?.into(),
        name: message["target"]["name"].as_str()?.to_owned(),
        package: Path::new(message["manifest_path"].as_str()?).parent()?.into(),
        is_test: message["profile"]["test"].as_bool()?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::json;

    use super::*;

    /// What these packages are linked with, each crate with the features that it is built with.
    fn built_with(selection: &[&str]) -> BTreeMap<String, String> {
        let mut tree = workspace::cargo();
        tree.args(["tree", "--quiet", "--offline", "--prefix=none", "--no-dedupe"]).args(selection);
        let listed = process::output(tree.args(["--format", "{p}|{f}"])).expect("cargo's tree");
        let crates = listed.lines().filter_map(|line| line.split_once('|'));
        crates.map(|(name, features)| (name.to_owned(), features.to_owned())).collect()
    }

    #[test]
    fn programs_tests_and_xtask_build_what_they_share_once() {
        let linked = "--edges=normal,no-proc-macro";
        let packages = ["-pjob-broker", "-pjob-certs", "-pjobctl", "-pjob-shim", "-pjob-features"];
        let programs = built_with(&[&packages[..], &[linked]].concat());
        let xtask = built_with(&["-p", "xtask", linked]);
        let tests = built_with(&["--workspace", "--edges=normal,dev,no-proc-macro"]);
        let all = [&programs, &xtask, &tests];
        let twice: BTreeSet<_> = all
            .iter()
            .flat_map(|built| built.iter())
            .filter(|(name, features)| {
                all.iter().any(|built| built.get(*name).is_some_and(|other| other != *features))
            })
            .collect();
        assert!(
            programs.len() > 150 && twice.is_empty(),
            "give {FEATURES} what is missing: {twice:#?}"
        );
    }

    #[test]
    fn an_executable_has_its_package_and_is_a_test_or_not() {
        for is_test in [true, false] {
            let message = json!({
                "reason": "compiler-artifact", "executable": "/t/x", "manifest_path": "/w/p/Cargo.toml",
                "profile": {"test": is_test}, "target": {"kind": ["bin"], "name": "x"},
            });
            let [path, package] = ["/t/x", "/w/p"].map(PathBuf::from);
            let found = Executable { name: "x".to_owned(), path, package, is_test };
            assert_eq!(executable(&message), Some(found));
        }
    }

    #[test]
    fn artifacts_without_an_executable_are_passed_over() {
        let message = json!({"reason": "compiler-artifact", "executable": null});
        assert_eq!(executable(&message), None);
    }
}
