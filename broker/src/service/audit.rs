//! `job-broker audit`: commands for auditors on the broker's host. They must change nothing, so that cron may run them
//! beside a broker.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use crate::audit::{self, Head, Options};
use crate::config::Config;
use crate::journal;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether a line was changed, removed, inserted, moved, or cut off at the end: exit status 0 if none was, else 1
    /// and the first line that is wrong
    Verify {
        /// A directory, or files of one. Not given: the directory of the configuration
        paths: Vec<PathBuf>,
        /// A line's number and hash that you know, from the journal or from another host: these lines must be there
        #[arg(long, value_name = "NUMBER:HASH")]
        head: Vec<Head>,
        /// PEM file of a certificate that may have signed the newest checkpoint. Not given: that of the configuration
        #[arg(long, value_name = "FILE")]
        cert: Vec<PathBuf>,
    },
}

/// Exit status 0 if all is good, 1 if something is wrong or cannot be read.
pub(super) fn run(file: &Path, command: Command) -> ExitCode {
    let Command::Verify { paths, head, cert } = command;
    let verified = options(file, paths, head, cert)
        .and_then(|options| audit::verify(&options).map_err(|e| e.to_string()));
    match verified {
        Ok(report) => {
            let _ = io::stdout().write_all(report.text.as_bytes()); // a closed pipe changes no verdict
            if report.is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(fault) => {
            journal::error(fault);
            ExitCode::FAILURE
        }
    }
}

/// What is not given is the configuration's. Given paths may be a copy on a host without one.
fn options(
    file: &Path,
    mut paths: Vec<PathBuf>,
    heads: Vec<Head>,
    mut certs: Vec<PathBuf>,
) -> Result<Options, String> {
    if paths.is_empty() {
        let config = Config::load(file).map_err(|e| e.to_string())?;
        paths.push(audit::directory(&config));
        if certs.is_empty() {
            certs.push(config.tls.cert);
        }
    }
    let signers: Result<_, _> = certs.iter().map(|cert| audit::fingerprint(cert)).collect();
    Ok(Options { paths, heads, signers: signers? })
}
