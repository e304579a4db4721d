//! `floors.toml`: which rooms a crate has, from top to bottom.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The file, at the workspace's root.
pub(crate) const FILE: &str = "floors.toml";

/// What `floors.toml` says.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// The rooms of a crate (`broker`) or of a module in it (`broker::jobs`), the highest first.
    floors: BTreeMap<String, Vec<String>>,
}

impl Order {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not understood", file.display()))
    }

    /// The rooms of a module, the highest first; none if they have no order.
    pub(crate) fn floors(&self, module: &str) -> Option<&[String]> {
        self.floors.get(module).map(Vec::as_slice)
    }

    /// The modules with an order that are in this target.
    pub(crate) fn within(&self, target: &str) -> impl Iterator<Item = &str> {
        let is_in = move |module: &&str| module.split("::").next() == Some(target);
        self.floors.keys().map(String::as_str).filter(is_in)
    }

    /// A name that no crate has would hold nothing.
    pub(crate) fn check_names(&self, targets: &[&str]) -> Result<()> {
        let modules = self.floors.keys();
        let mut names = modules.map(|module| module.split("::").next().unwrap_or(module));
        match names.find(|name| !targets.contains(name)) {
            Some(name) => bail!("{FILE}: no crate has this name: {name}"),
            None => Ok(()),
        }
    }
}
