//! `config`: the named settings in `config.toml`.

use std::path::{Path, PathBuf};

use crate::cli::{self, Format, Global};
use crate::client::contexts::{Config, Context, path};
use crate::client::settings::parse_persist;
use crate::failure::{Failure, Result, notice};
use crate::print::sink::print;
use crate::print::table::Table;

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
        cli::Config::SetContext { name, persist } => {
            set(&mut config, global, name, persist.as_deref())?;
        }
    }
    config.save(&path)
}

fn set(config: &mut Config, global: &Global, name: &str, persist: Option<&str>) -> Result<()> {
    job_api::names::check_name(name)
        .map_err(|fault| Failure::usage(format!("cannot set context \"{name}\": name {fault}")))?;
    let given = Context {
        addr: global.addr.clone(),
        ca: absolute(global.ca.as_deref())?,
        cert: absolute(global.cert.as_deref())?,
        key: absolute(global.key.as_deref())?,
        persist: persist.map(|text| parse_persist(text).map(|_| text.to_owned())).transpose()?,
    };
    if given == Context::default() {
        return Err(Failure::usage(format!("cannot set context \"{name}\": nothing to set"))
            .hint("give at least one of --addr, --ca, --cert, --key, --persist"));
    }
    let old = config.contexts.remove(name).unwrap_or_default();
    config.contexts.insert(name.to_owned(), given.or(old));
    if config.current_context.is_none() {
        config.current_context = Some(name.to_owned());
        if !global.quiet {
            notice(&format!("\"{name}\" is now the current context"));
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
