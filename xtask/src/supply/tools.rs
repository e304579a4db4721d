//! cargo's tools from others, of the versions that the project names, below the target directory. It must not use another
//! version that happens to be installed: a judgement should not depend on the machine.

use std::path::PathBuf;

use anyhow::Result;

use crate::{process, workspace};

/// A tool and its version. Without optimisation each is built in 15 to 80 s of one core, and is quick enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
}

impl Tool {
    /// The program; it is installed first if it is not there.
    ///
    /// # Errors
    /// It cannot be built, as without a registry.
    pub(crate) fn program(self) -> Result<PathBuf> {
        let Tool { name, version } = self;
        let root = workspace::target_dir()?.join("tools").join(format!("{name}-{version}"));
        let program = root.join("bin").join(name);
        if !program.exists() {
            let mut install = workspace::cargo();
            install.args(["install", name, "--version", version, "--locked", "--debug", "--root"]);
            process::check(install.arg(&root))?;
        }
        Ok(program)
    }
}
