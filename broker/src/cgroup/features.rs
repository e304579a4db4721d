//! What cgroups can do on this host: which controllers jobs have, and which files the kernel gives them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// What limits need.
pub(crate) const CONTROLLERS: [&str; 4] = ["cpu", "memory", "io", "pids"];

/// What cgroups can do on this host.
#[derive(Debug)]
pub(crate) struct Features {
    /// Of [`CONTROLLERS`], with the reason.
    missing: BTreeMap<&'static str, String>,
    /// The files that a cgroup has here.
    files: BTreeSet<String>,
    /// For `cgroup.subtree_control` of a job: "+cpu +memory".
    subtree_control: String,
}

impl Features {
    /// Of the cgroup at `root`, which lacks some controllers.
    ///
    /// # Errors
    /// As readdir(3).
    pub(crate) fn of(root: &Path, missing: BTreeMap<&'static str, String>) -> io::Result<Features> {
        let present = CONTROLLERS.iter().filter(|name| !missing.contains_key(**name));
        let enable: Vec<_> = present.map(|name| format!("+{name}")).collect();
        Ok(Features { files: files(root)?, missing, subtree_control: enable.join(" ") })
    }

    /// The controllers that jobs have.
    pub(crate) fn controllers(&self) -> Vec<String> {
        CONTROLLERS.iter().filter(|c| self.missing(c).is_none()).map(|c| (*c).into()).collect()
    }

    /// Why jobs cannot have a controller, if they cannot.
    pub(crate) fn missing(&self, controller: &str) -> Option<&str> {
        self.missing.get(controller).map(String::as_str)
    }

    /// Whether the kernel gives cgroups this file here.
    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.files.contains(name)
    }

    /// What a job's own cgroup is to pass down to its leaves.
    pub(crate) fn subtree_control(&self) -> &str {
        &self.subtree_control
    }
}

fn files(directory: &Path) -> io::Result<BTreeSet<String>> {
    let names = fs::read_dir(directory)?;
    names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
