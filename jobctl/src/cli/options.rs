//! Options and arguments that several commands have.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use job_api::units::{parse_duration, parse_size};
use job_api::v1::Compression;

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Use this context of the configuration, before any variable
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The broker [variable: JOBCTL_ADDR]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) addr: Option<String>,
    /// PEM file of the authority that signed the broker's certificate [variable: JOBCTL_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// PEM file of your certificate; its name owns what you start [variable: JOBCTL_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// PEM file of your private key [variable: JOBCTL_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// How to print answers: table, wide, json, yaml, name
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    #[arg(help = "How to print answers: table, wide, json, yaml, name")]
    pub(crate) output: Option<Format>,
    /// Why you do this, for the broker's audit; a role may demand it
    #[arg(long, global = true, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Only what was asked for: no notices; of lists, the ids
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct Reconnect {
    /// After a lost connection try this long; 0: never
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    #[arg(env = "JOBCTL_RECONNECT_TIMEOUT", hide_env_values = true)]
    pub(crate) reconnect_timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Compress {
    /// Have the broker compress the output, where the connection is slower than some 50 MB/s
    #[arg(short = 'C', long)]
    compress: bool,
}

impl Compress {
    /// As a request says it.
    pub(crate) fn compression(&self) -> Compression {
        if self.compress { Compression::Deflate } else { Compression::Unspecified }
    }
}

#[derive(Debug, Args)]
pub(crate) struct OneJob {
    /// Its id, a unique beginning of it, or its name
    pub(crate) job: String,
}

#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// Ids, unique beginnings of ids, or names
    #[arg(required = true, value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
}

pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("\"{text}\" is not KEY=VALUE")),
    }
}

pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be longer than nothing".into()),
        time => Ok(time),
    }
}

pub(crate) fn positive_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("must be more than nothing".into()),
        size => Ok(size),
    }
}
