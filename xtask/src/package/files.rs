//! The package's files and their paths. It must not write control files: `control` does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::tree::{copy, copy_compressed};
use crate::programs::Programs;
use crate::workspace;

/// From `packaging/`, to below `/`.
const PLAIN: [(&str, &str); 16] = [
    ("systemd/job-broker.service", "usr/lib/systemd/system/job-broker.service"),
    ("systemd/job-broker.socket", "usr/lib/systemd/system/job-broker.socket"),
    ("systemd/job-broker-drain.service", "usr/lib/systemd/system/job-broker-drain.service"),
    ("systemd/jobs.slice", "usr/lib/systemd/system/jobs.slice"),
    ("etc/sysusers.conf", "usr/lib/sysusers.d/job-broker.conf"),
    ("etc/tmpfiles.conf", "usr/lib/tmpfiles.d/job-broker.conf"),
    ("etc/config.toml", CONFFILES[0]),
    ("etc/needrestart.conf", CONFFILES[1]),
    ("etc/policy.toml", CONFFILES[2]),
    ("deb/copyright", "usr/share/doc/job-broker/copyright"),
    ("deb/lintian-overrides", "usr/share/lintian/overrides/job-broker"),
    ("../README.md", "usr/share/doc/job-broker/README.md"),
    ("../docs/OPERATING.md", "usr/share/doc/job-broker/docs/OPERATING.md"),
    ("monitoring/alerts.yml", "usr/share/doc/job-broker/monitoring/alerts.yml"),
    ("monitoring/dashboard.json", "usr/share/doc/job-broker/monitoring/dashboard.json"),
    ("../docs/CONFIGURATION.md", "usr/share/doc/job-broker/docs/CONFIGURATION.md"),
];

/// Files that operators edit: dpkg asks before it replaces a changed one.
pub(super) const CONFFILES: [&str; 3] = [
    "etc/job-broker/config.toml",
    "etc/needrestart/conf.d/job-broker.conf",
    "etc/job-broker/policy.toml",
];

/// Executables, below `/`.
pub(super) const PROGRAMS: [&str; 4] =
    ["usr/sbin/job-broker", "usr/bin/jobctl", "usr/bin/job-certs", "usr/lib/job-broker/job-shim"];

/// Copies all files except the control files to their paths below `root`.
///
/// # Errors
/// I/O.
pub(super) fn stage(root: &Path, programs: &Programs, manuals: &Path) -> Result<()> {
    let built = [&programs.broker, &programs.jobctl, &programs.certs, &programs.shim];
    for (from, to) in built.into_iter().zip(PROGRAMS) {
        copy(from, &root.join(to), 0o755)?;
    }
    let packaging = workspace::root().join("packaging");
    for (from, to) in PLAIN {
        copy(&packaging.join(from), &root.join(to), 0o644)?;
    }
    let changes = workspace::root().join("CHANGELOG.md");
    copy_compressed(&changes, &root.join("usr/share/doc/job-broker/changelog.gz"))?;
    for page in files_below(&manuals.join("man"))? {
        let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let section = page.extension().unwrap_or_default().to_string_lossy().into_owned();
        let place = format!("usr/share/man/man{section}/{name}.gz");
        copy_compressed(&page, &root.join(place))?;
    }
    let completions = manuals.join("completions");
    for script in files_below(&completions)? {
        let place = script.strip_prefix(&completions).context("a path outside its directory")?;
        copy(&script, &root.join("usr/share").join(place), 0o644)?;
    }
    Ok(())
}

/// All files below a directory, sorted by name.
///
/// # Errors
/// As readdir(3).
pub(super) fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory);
    let entries = entries.with_context(|| format!("cannot list {}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that name the unit, its program and its target.
    const PLAIN_WORDS: [&str; 4] = ["Description", "Documentation", "ExecStart", "WantedBy"];

    #[test]
    fn every_directive_of_a_unit_has_its_reason_above_it() {
        let units = files_below(&workspace::root().join("packaging/systemd")).expect("units");
        assert_eq!(units.len(), 4);
        for unit in units {
            let mut has_reason = false;
            for line in fs::read_to_string(&unit).expect("it can be read").lines() {
                match line.split_once('=') {
                    _ if line.starts_with('#') => has_reason = true,
                    Some((key, _)) => assert!(
                        has_reason || PLAIN_WORDS.contains(&key),
                        "{}: why {key}?",
                        unit.display()
                    ),
                    None => has_reason = false,
                }
            }
        }
    }
}
