//! Systems that have neither cgroups nor namespaces: everything is refused, at run time, by name.

use std::convert::Infallible;

use crate::builder::Builder;
use crate::error::Error;
use crate::outcome::Outcome;

/// A place to run commands in. This system has none.
#[derive(Debug)]
pub struct Sandbox(Infallible);

impl Sandbox {
    /// Asks for one.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// Never comes so far.
    pub async fn run<I>(&self, _: I) -> Result<Outcome, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        match self.0 {}
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// Never comes so far.
    pub fn run_blocking<I>(&self, _: I) -> Result<Outcome, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        match self.0 {}
    }
}

impl Builder {
    /// Opens the sandbox: for any number of runs, at once or one after the other; with streams of the caller's for one.
    ///
    /// # Errors
    /// [`Error::Refused`] names everything that cannot be had here, with the reason; or [`Error::Setup`].
    pub fn build(self) -> Result<Sandbox, Error> {
        let reason = format!(
            "limits and isolation are made of Linux's cgroups and namespaces, which {} lacks",
            std::env::consts::OS
        );
        Err(Error::refused("build", reason))
    }
}
