//! Where the programs under test are.

use std::path::{Path, PathBuf};

/// Absolute paths of the programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `job-broker`.
    pub broker: PathBuf,
    /// `jobctl`.
    pub jobctl: PathBuf,
    /// `job-certs`.
    pub certs: PathBuf,
    /// `job-shim`, static.
    pub shim: PathBuf,
    /// The workload of this package, see [`crate::oracle`].
    pub oracle: PathBuf,
    /// The workload of tests of limits, see its own help.
    pub load: PathBuf,
    /// A program that embeds the sandbox.
    pub sandboxed: PathBuf,
    /// What makes attacks, see [`crate::attack`].
    pub attacker: PathBuf,
    /// Who is not to notice them.
    pub bystander: PathBuf,
}

impl Programs {
    /// The same with a shim that was built for development, which can be made to crash.
    ///
    /// # Panics
    /// When it is missing.
    pub fn with_shim_for_development(self) -> Programs {
        let shim = program("JOB_SHIM_DEV_BIN", &target_dir().join("debug/job-shim"));
        Programs { shim, ..self }
    }

    /// The same with broker and shim of the version after this one, see `job_shim::codec`.
    ///
    /// # Panics
    /// When they are missing: `cargo xtask test` builds them.
    pub fn of_next_version(self) -> Programs {
        let built = target_dir().join("next-version");
        Programs {
            broker: program("JOB_BROKER_NEXT_BIN", &built.join("job-broker")),
            shim: program("JOB_SHIM_NEXT_BIN", &built.join("job-shim")),
            ..self
        }
    }

    /// From the environment (`cargo xtask test` sets it), else where `cargo xtask build` puts them.
    ///
    /// # Panics
    /// When one is missing, saying what to do.
    pub fn find() -> Programs {
        let target = target_dir();
        let debug = target.join("debug");
        let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        let glibc = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let shims = [musl, glibc].map(|triple| target.join(triple).join("shim/job-shim"));
        let [first_shim, second_shim] = &shims;
        let shim = if first_shim.exists() { first_shim } else { second_shim };
        Programs {
            broker: program("JOB_BROKER_BIN", &debug.join("job-broker")),
            jobctl: program("JOBCTL_BIN", &debug.join("jobctl")),
            certs: program("JOB_CERTS_BIN", &debug.join("job-certs")),
            shim: program("JOB_SHIM_BIN", shim),
            // Built with this very test, beside its directory `deps`.
            oracle: program("JOB_ORACLE_BIN", &own_dir().join("oracle")),
            load: program("JOB_LOAD_BIN", &own_dir().join("load")),
            sandboxed: program("JOB_SANDBOXED_BIN", &own_dir().join("sandboxed")),
            attacker: program("JOB_ATTACKER_BIN", &own_dir().join("attacker")),
            bystander: program("JOB_BYSTANDER_BIN", &own_dir().join("bystander")),
        }
    }
}

/// Cargo's target directory: the test's own executable is `<target>/<profile>/deps/<name>`.
pub fn target_dir() -> PathBuf {
    own_dir().parent().expect("cargo's layout").to_owned()
}

fn own_dir() -> PathBuf {
    let own = std::env::current_exe().expect("a process can find its program");
    own.ancestors().nth(2).expect("cargo's layout").to_owned()
}

fn program(variable: &str, default: &Path) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| default.to_owned(), PathBuf::from);
    assert!(
        path.is_file(),
        "{} is not there: run `cargo xtask build` first, or set {variable}",
        path.display()
    );
    path
}
