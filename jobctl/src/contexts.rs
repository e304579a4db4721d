//! Named settings, kept in `config.toml`, and the commands that change them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::{self, Format, Global};
use crate::failure::{Failure, Result, say};
use crate::sink::print;
use crate::table::Table;

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
}

impl Context {
    /// Each setting from here, else from `other`.
    pub(crate) fn or(self, other: Context) -> Context {
        Context {
            addr: self.addr.or(other.addr),
            ca: self.ca.or(other.ca),
            cert: self.cert.or(other.cert),
            key: self.key.or(other.key),
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
    fn save(&self, path: &Path) -> Result<()> {
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

/// `jobctl config ...`
pub(crate) fn config(global: &Global, command: &cli::Config) -> Result<()> {
    let path = path()?;
    let mut config = Config::load(&path)?;
    match command {
        cli::Config::GetContexts => return print(&listed(&config, global)),
        cli::Config::UseContext { name } => {
            config.context(name)?;
            config.current_context = Some(name.clone());
        }
        cli::Config::SetContext { name } => set(&mut config, global, name)?,
    }
    config.save(&path)
}

fn set(config: &mut Config, global: &Global, name: &str) -> Result<()> {
    job_api::names::check_name(name)
        .map_err(|fault| Failure::usage(format!("cannot set context \"{name}\": name {fault}")))?;
    let given = Context {
        addr: global.addr.clone(),
        ca: absolute(global.ca.as_deref())?,
        cert: absolute(global.cert.as_deref())?,
        key: absolute(global.key.as_deref())?,
    };
    if given == Context::default() {
        return Err(Failure::usage(format!("cannot set context \"{name}\": nothing to set"))
            .hint("give at least one of --addr, --ca, --cert, --key"));
    }
    let old = config.contexts.remove(name).unwrap_or_default();
    config.contexts.insert(name.to_owned(), given.or(old));
    if config.current_context.is_none() {
        config.current_context = Some(name.to_owned());
        if !global.quiet {
            say(&format!("\"{name}\" is now the current context"));
        }
    }
    Ok(())
}

fn absolute(path: Option<&Path>) -> Result<Option<PathBuf>> {
    path.map(std::path::absolute)
        .transpose()
        .map_err(|e| Failure::usage(format!("cannot make a path absolute: {e}")))
}

fn listed(config: &Config, global: &Global) -> String {
    if global.quiet || global.output == Some(Format::Name) {
        return config.contexts.keys().map(|name| format!("{name}\n")).collect();
    }
    let mut table = Table::new(&["CURRENT", "NAME", "ADDR", "CA", "CERT", "KEY"]);
    let file = |path: &Option<PathBuf>| {
        path.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string())
    };
    for (name, context) in &config.contexts {
        let is_current = config.current_context.as_deref() == Some(name);
        table.row(vec![
            if is_current { "*" } else { "" }.to_owned(),
            name.clone(),
            context.addr.clone().unwrap_or_else(|| "-".to_owned()),
            file(&context.ca),
            file(&context.cert),
            file(&context.key),
        ]);
    }
    table.shown(None)
}
