//! Named settings, kept in `config.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current_context: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One broker as one user sees it. Paths are absolute in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
    /// How long a kept connection may be idle, as "10m"; without it none is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) persist: Option<String>,
}

impl Context {
    /// Each setting from here, else from `other`.
    pub(crate) fn or(self, other: Context) -> Context {
        Context {
            addr: self.addr.or(other.addr),
            ca: self.ca.or(other.ca),
            cert: self.cert.or(other.cert),
            key: self.key.or(other.key),
            persist: self.persist.or(other.persist),
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.addr.is_some() && self.ca.is_some() && self.cert.is_some() && self.key.is_some()
    }
}

/// `$XDG_CONFIG_HOME/jobctl/config.toml`, or `~/.config/jobctl/config.toml`.
pub(crate) fn path() -> Result<PathBuf> {
    // A relative XDG_CONFIG_HOME is to be ignored (XDG base directory specification).
    let xdg = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let base = xdg.or_else(|| std::env::home_dir().map(|home| home.join(".config")));
    base.map(|dir| dir.join("jobctl/config.toml")).ok_or_else(|| {
        Failure::usage("cannot find the configuration: neither XDG_CONFIG_HOME nor HOME is set")
    })
}

impl Config {
    /// A file that does not exist is an empty configuration.
    pub(crate) fn load(path: &Path) -> Result<Config> {
        let fault = |why: String| {
            Failure::usage(format!("cannot read the configuration {}: {why}", path.display()))
        };
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|e| fault(e.to_string())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
            Err(e) => Err(fault(e.to_string())),
        }
    }

    pub(crate) fn context(&self, name: &str) -> Result<&Context> {
        self.contexts.get(name).ok_or_else(|| {
            let known = self.contexts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "there are none".into() } else { known };
            Failure::usage(format!("there is no context \"{name}\": known are: {known}"))
                .hint("jobctl config set-context NAME --addr HOST:PORT ... makes one")
        })
    }

    /// Replaces the file as a whole, so that a reader never sees half of it.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let fault = |why: String| {
            Failure::usage(format!("cannot write the configuration {}: {why}", path.display()))
        };
        let text = toml::to_string(self).map_err(|e| fault(e.to_string()))?;
        replace(path, text.as_bytes()).map_err(|e| fault(e.to_string()))
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    // A link stays one: people keep their configuration in repositories.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let new = path.with_extension(format!("toml.{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, &path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}
