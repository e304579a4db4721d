//! Why a program or its directory cannot be opened for a check, in sentences for whoever wants to run it. They must not say more than
//! that user could find out.

use std::io;

use job_grammar::echo::echo;
use job_shim::step::Step;

/// Nothing was checked, and nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Not there, or not executable.
    #[error("cannot execute {}: {source}", echo(.program))]
    Open {
        /// As the job named it, or its path.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The interpreter of a script.
    #[error(
        "cannot execute the script {}: its interpreter {}: {source}", echo(.script), echo(.interpreter)
    )]
    Interpreter {
        /// The path of the script.
        script: String,
        /// As its first line says.
        interpreter: String,
        /// Why.
        source: io::Error,
    },
    /// It cannot be checked.
    #[error("cannot execute {}: {fault}", echo(.path))]
    Unusable {
        /// Its path.
        path: String,
        /// Why.
        fault: String,
    },
    /// The working directory cannot be entered.
    #[error("cannot enter {} as {account}: {source}", echo(.directory))]
    Directory {
        /// As the job named it.
        directory: String,
        /// The job's user.
        account: String,
        /// Why.
        source: io::Error,
    },
    /// `/proc` does not say what was opened.
    #[error("cannot find out what was opened: {0}")]
    Name(io::Error),
}

impl ProgramError {
    /// The step of a start that would fail so.
    pub fn step(&self) -> &'static str {
        match self {
            ProgramError::Directory { .. } => Step::Chdir.name(),
            _ => Step::Exec.name(),
        }
    }

    /// errno(3), as a failed execve(2) would have it; 0 where there is none.
    pub fn errno(&self) -> i32 {
        match self {
            ProgramError::Open { source, .. }
            | ProgramError::Interpreter { source, .. }
            | ProgramError::Directory { source, .. }
            | ProgramError::Name(source) => source.raw_os_error().unwrap_or(0),
            ProgramError::Unusable { .. } => libc::ENOEXEC,
        }
    }
}
