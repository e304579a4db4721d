//! Where the broker is and who the caller is: flags, variables, contexts, in that order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use job_api::client::Credentials;
use job_api::units::parse_duration;

use crate::cli::Global;
use crate::client::contexts;
use crate::client::contexts::{Config, Context};
use crate::failure::{Failure, Result};

/// Everything a connection needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) addr: String,
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// How long a kept connection may be idle; `None`: none is kept.
    pub(crate) persist: Option<Duration>,
}

impl Settings {
    /// From the command line, the environment and, only if something is left to say, the file.
    pub(crate) fn find(flags: &Global) -> Result<Settings> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        resolve(flags, env, || Config::load(&contexts::path()?))
    }

    /// Reads the three files.
    pub(crate) fn credentials(&self) -> Result<Credentials> {
        Ok(Credentials {
            ca: read("CA certificate", "--ca, JOBCTL_CA", &self.ca)?,
            cert: read("certificate", "--cert, JOBCTL_CERT", &self.cert)?,
            key: read("private key", "--key, JOBCTL_KEY", &self.key)?,
        })
    }
}

fn read(what: &str, from: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        Failure::usage(format!("cannot read the {what} {}: {error}", path.display()))
            .hint(format!("the path comes from {from}, or the context (jobctl config)"))
    })
}

fn resolve(
    flags: &Global,
    env: impl Fn(&str) -> Option<String>,
    config: impl FnOnce() -> Result<Config>,
) -> Result<Settings> {
    let chosen = flags.context.as_deref();
    let in_env = Context {
        addr: env("JOBCTL_ADDR"),
        ca: env("JOBCTL_CA").map(PathBuf::from),
        cert: env("JOBCTL_CERT").map(PathBuf::from),
        key: env("JOBCTL_KEY").map(PathBuf::from),
        persist: env("JOBCTL_PERSIST"),
    };
    let mut found = Context {
        addr: flags.addr.clone(),
        ca: flags.ca.clone(),
        cert: flags.cert.clone(),
        key: flags.key.clone(),
        persist: None,
    };
    if chosen.is_none() {
        found = found.or(in_env.clone());
    }
    if !found.is_complete() {
        let config = config()?;
        let from_env = env("JOBCTL_CONTEXT");
        let name = chosen.or(from_env.as_deref()).or(config.current_context.as_deref());
        if let Some(name) = name {
            found = found.or(config.context(name)?.clone());
        }
        found = found.or(in_env);
    }
    complete(found)
}

fn complete(found: Context) -> Result<Settings> {
    let mut missing = Vec::new();
    let mut note = |is_missing: bool, text: &str| {
        if is_missing {
            missing.push(text.to_owned());
        }
    };
    note(found.addr.is_none(), "the broker's address: --addr HOST:PORT or JOBCTL_ADDR");
    note(found.ca.is_none(), "the broker's CA certificate: --ca FILE or JOBCTL_CA");
    note(found.cert.is_none(), "your certificate: --cert FILE or JOBCTL_CERT");
    note(found.key.is_none(), "your private key: --key FILE or JOBCTL_KEY");
    match found {
        Context { addr: Some(addr), ca: Some(ca), cert: Some(cert), key: Some(key), persist } => {
            let persist = persist.as_deref().map(parse_persist).transpose()?;
            Ok(Settings { addr, ca, cert, key, persist })
        }
        _ => Err(Failure::usage("cannot connect: settings are missing").details(missing).hint(
            "to keep them: jobctl config set-context NAME --addr HOST:PORT --ca FILE \
             --cert FILE --key FILE",
        )),
    }
}

/// How long a kept connection may be idle.
pub(crate) fn parse_persist(text: &str) -> Result<Duration> {
    let fault = |why: &str| Failure::usage(format!("persist is \"{text}\": {why}"));
    match parse_duration(text) {
        Ok(time) if time > MAX_PERSIST => Err(fault("at most 24h are allowed")),
        Ok(time) if time.is_zero() => Err(fault("must be longer than nothing")),
        Ok(time) => Ok(time),
        Err(why) => Err(fault(&why)),
    }
}

const MAX_PERSIST: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn flags(context: Option<&str>, addr: Option<&str>) -> Global {
        Global {
            context: context.map(String::from),
            addr: addr.map(String::from),
            ca: None,
            cert: None,
            key: None,
            output: None,
            reason: None,
            quiet: false,
        }
    }

    fn context(word: &str) -> Context {
        Context {
            addr: Some(format!("{word}:1")),
            ca: Some(format!("/{word}/ca").into()),
            cert: Some(format!("/{word}/cert").into()),
            key: Some(format!("/{word}/key").into()),
            persist: None,
        }
    }

    fn config() -> Config {
        Config {
            current_context: Some("now".into()),
            contexts: ["now", "other"].map(|n| (n.to_owned(), context(n))).into(),
        }
    }

    fn env_of<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    }

    fn addr(flags: &Global, env: &[(&str, &str)]) -> String {
        resolve(flags, env_of(env), || Ok(config())).expect("resolves").addr
    }

    #[test]
    fn flags_come_before_variables_before_the_current_context() {
        let var = [("JOBCTL_ADDR", "env:1")];
        assert_eq!(addr(&flags(None, Some("flag:1")), &var), "flag:1");
        assert_eq!(addr(&flags(None, None), &var), "env:1");
        assert_eq!(addr(&flags(None, None), &[]), "now:1");
        assert_eq!(addr(&flags(None, None), &[("JOBCTL_CONTEXT", "other")]), "other:1");
    }

    #[test]
    fn a_context_named_on_the_command_line_beats_every_variable() {
        let vars = [("JOBCTL_ADDR", "env:1"), ("JOBCTL_CONTEXT", "now")];
        assert_eq!(addr(&flags(Some("other"), None), &vars), "other:1");
        assert_eq!(addr(&flags(Some("other"), Some("flag:1")), &vars), "flag:1");
    }

    #[test]
    fn a_complete_environment_needs_no_file() {
        let vars = [
            ("JOBCTL_ADDR", "env:1"),
            ("JOBCTL_CA", "a"),
            ("JOBCTL_CERT", "b"),
            ("JOBCTL_KEY", "c"),
        ];
        let file = || -> Result<Config> { panic!("was read") };
        assert!(resolve(&flags(None, None), env_of(&vars), file).is_ok());
    }

    #[test]
    fn an_unknown_context_is_named() {
        let result = resolve(&flags(Some("nope"), None), env_of(&[]), || Ok(config()));
        assert!(result.is_err());
        let empty = || Ok(Config { current_context: None, contexts: BTreeMap::new() });
        assert!(resolve(&flags(None, None), env_of(&[]), empty).is_err());
    }
}
