//! The cgroup features of this host: available controllers and interface files. It only reports features;
//! which of them a job needs is decided in `limits`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// The controllers that limits need.
pub const CONTROLLERS: [&str; 4] = ["cpu", "memory", "io", "pids"];

/// The cgroup features of this host.
#[derive(Debug)]
pub struct Features {
    /// The unavailable ones of [`CONTROLLERS`], each with the reason.
    missing: BTreeMap<&'static str, String>,
    /// The interface files of a cgroup on this host.
    files: BTreeSet<String>,
    /// The text for `cgroup.subtree_control` of a job: "+cpu +memory".
    subtree_control: String,
}

impl Features {
    /// Reads the features of the cgroup at `root`; `missing` lists its unavailable controllers.
    ///
    /// # Errors
    /// As readdir(3).
    pub(crate) fn of(root: &Path, missing: BTreeMap<&'static str, String>) -> io::Result<Features> {
        let present = CONTROLLERS.iter().filter(|name| !missing.contains_key(**name));
        let enable: Vec<_> = present.map(|name| format!("+{name}")).collect();
        Ok(Features { files: files(root)?, missing, subtree_control: enable.join(" ") })
    }

    /// The controllers available to jobs.
    pub fn controllers(&self) -> Vec<String> {
        CONTROLLERS.iter().filter(|c| self.missing(c).is_none()).map(|c| (*c).into()).collect()
    }

    /// The reason why a controller is unavailable; `None` if it is available.
    pub fn missing(&self, controller: &str) -> Option<&str> {
        self.missing.get(controller).map(String::as_str)
    }

    /// Whether cgroups have this interface file on this host.
    pub fn has_file(&self, name: &str) -> bool {
        self.files.contains(name)
    }

    /// What a job's cgroup writes to its `cgroup.subtree_control`.
    pub(crate) fn subtree_control(&self) -> &str {
        &self.subtree_control
    }
}

fn files(directory: &Path) -> io::Result<BTreeSet<String>> {
    let names = fs::read_dir(directory)?;
    names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
