//! The errors that end the program, in sentences for an operator. It must not be used for the errors of a call.

use std::io;

use crate::jobs::supervisor::SupervisorError;
use crate::service::settings::SettingsError;

/// An error, in a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    #[error("it must run as root: it makes cgroups and gives up privileges for its jobs")]
    NotRoot,
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: std::net::SocketAddr, source: io::Error },
    #[error("cannot use the socket that systemd passes: {0}")]
    PassedSocket(io::Error),
    #[error(
        "{foreign} of {all} running jobs cannot be taken over by this version, which would leave them \
         to themselves; let the broker run that has them until they have ended, or stop them"
    )]
    IncompatibleJobs { all: usize, foreign: usize },
    #[error("cannot run: {0}")]
    Io(#[from] io::Error),
}
