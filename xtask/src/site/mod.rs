//! A broker with all its files, in one directory. It must not touch the host outside that directory and the jobs'
//! cgroup.
//!
//! | file | what |
//! |---|---|
//! | `site.json` | how the site was made, for `restart` and `down` |
//! | `config.toml` | the broker's configuration; may be edited between restarts |
//! | `pki/` | a temporary authority, the broker's certificate, those of [`IDENTITIES`] |
//! | `<identity>.env` | for `. D/admin.env`: jobctl's variables for that identity |
//! | `state/`, `run/` | the broker's own, root 0700 |
//! | `broker.pid`, `broker.log` | while the broker runs, and its log |

mod address;
mod broker;
mod cgroup;
mod missing_feature;
mod throwaway;

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use job_api::client::Credentials;
use job_certs::{Authority, CA_VALIDITY, SERVER_VALIDITY, USER_VALIDITY};
use serde::{Deserialize, Serialize};

use crate::process::quoted;
use crate::programs::{Profile, Programs};
use crate::{process, root, vm};
pub(crate) use broker::Ending;
pub(crate) use missing_feature::MissingFeature;
pub(crate) use throwaway::Throwaway;

/// The identities with a certificate. The first is an admin.
pub(crate) const IDENTITIES: [&str; 3] = ["admin", "user-a", "user-b"];

/// Why root is needed.
const ROOT_REASON: &str =
    "for the broker, which makes cgroups and gives up privileges for its jobs";

/// The uid of the shims, without an account: just below the uids of the broker's pool, above `nobody` and systemd's
/// `DynamicUser=` (61184-65519).
const SHIM_UID: &str = "69999";

/// One broker's directory.
pub(crate) struct Site {
    dir: PathBuf,
    made: Made,
    config: Config,
}

/// How a site was made.
#[derive(Serialize, Deserialize)]
struct Made {
    release: bool,
    /// The site created the directory, so `down` removes it.
    made_dir: bool,
    jobctl: PathBuf,
}

/// The configuration keys that xtask sets, or reads after an operator's edit.
#[derive(Serialize, Deserialize)]
struct Config {
    listen: SocketAddr,
    admins: Vec<String>,
    tls: Tls,
    jobs: Jobs,
    #[serde(default)]
    isolation: Isolation,
}

#[derive(Serialize, Deserialize)]
struct Tls {
    cert: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
}

/// Jobs may write to the disks that demonstrations limit.
#[derive(Default, Serialize, Deserialize)]
struct Isolation {
    read_write: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Jobs {
    state_dir: PathBuf,
    run_dir: PathBuf,
    shim: PathBuf,
    shim_user: String,
    cgroup: PathBuf,
}

/// Where a site is made.
pub(crate) enum Place<'a> {
    /// In this directory.
    At(&'a Path),
    /// In a new directory in this one.
    In(&'a Path),
}

impl Site {
    /// Makes a site; starts nothing. `addr` is HOST:PORT, where port 0 stands for a free one; the default is a free port
    /// on 127.0.0.1.
    ///
    /// # Errors
    /// The address is not available, the directory already contains a file of these names, or I/O.
    pub(crate) fn create(
        place: Place<'_>,
        addr: Option<&str>,
        profile: Profile,
        programs: &Programs,
    ) -> Result<Self> {
        let (host, listen) = address::choose(addr.unwrap_or("127.0.0.1:0"))?;
        let is_new = matches!(place, Place::In(_));
        let (dir, made_dir) = make_dir(place)?;
        let jobctl = programs.jobctl.clone();
        let made = Made { release: profile == Profile::Release, made_dir, jobctl };
        let mut config = Config::new(&dir, listen, &programs.shim);
        if is_new && let Some(run_dir) = in_memory(&dir) {
            config.jobs.run_dir = run_dir;
        }
        let site = Site { dir, made, config };
        let filled = site.fill(&host, programs);
        if filled.is_err() && made_dir {
            // Reports the first error, not one of the removal.
            let _ = fs::remove_dir_all(&site.dir);
        }
        filled.map(|()| site)
    }

    /// The site in `dir`; `None` if there is none.
    ///
    /// # Errors
    /// A file cannot be read or parsed.
    pub(crate) fn find(dir: &Path) -> Result<Option<Self>> {
        let Ok(dir) = dir.canonicalize() else { return Ok(None) };
        let file = dir.join("site.json");
        let made = match fs::read(&file) {
            Ok(json) => json,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => bail!("cannot read {}: {error}", file.display()),
        };
        let made = serde_json::from_slice(&made).with_context(|| file.display().to_string())?;
        let file = dir.join("config.toml");
        let config =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let config = toml::from_str(&config).with_context(|| file.display().to_string())?;
        Ok(Some(Site { dir, made, config }))
    }

    /// The site in `dir`, which must exist.
    ///
    /// # Errors
    /// As [`Site::find`].
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        Self::find(dir)?.with_context(|| {
            format!("{} was not made by `cargo xtask up`: there is no site.json", dir.display())
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a file or directory of the site.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The build profile of the site's programs.
    pub(crate) fn profile(&self) -> Profile {
        if self.made.release { Profile::Release } else { Profile::Dev }
    }

    /// The clients' address on this host, HOST:PORT.
    pub(crate) fn addr(&self) -> SocketAddr {
        address::to_connect(self.config.listen)
    }

    /// jobctl as one of [`IDENTITIES`].
    pub(crate) fn jobctl(&self, identity: &str) -> Command {
        let mut command = Command::new(&self.made.jobctl);
        command.env_remove("JOBCTL_CONTEXT").envs(self.environment(identity));
        command
    }

    /// A client library's credentials of one of [`IDENTITIES`].
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn credentials(&self, identity: &str) -> Result<Credentials> {
        let read = |name: String| {
            let path = self.file("pki").join(name);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Credentials {
            ca: read("ca.crt".into())?,
            cert: read(format!("{identity}.crt"))?,
            key: read(format!("{identity}.key"))?,
        })
    }

    /// Removes the directory if the site created it, and its place in memory; else only the files that mark a running
    /// broker.
    ///
    /// # Errors
    /// rm(1) failed.
    pub(crate) fn remove(&self) -> Result<()> {
        let what = if self.made.made_dir { self.dir.clone() } else { self.file("broker.pid") };
        let mut rm = root::command("rm", "to remove what the broker has written")?;
        rm.args(["-rf", "--one-file-system", "--"]).arg(what);
        // By its name, which no other has: wherever an operator has put the sockets is not ours.
        let own = in_memory(&self.dir).filter(|own| *own == self.config.jobs.run_dir);
        process::check(rm.args(own))
    }

    /// Whether [`Site::remove`] removes everything.
    pub(crate) fn is_temporary(&self) -> bool {
        self.made.made_dir
    }

    fn fill(&self, host: &str, programs: &Programs) -> Result<()> {
        self.issue_certificates(host)?;
        let config = toml::to_string(&self.config).context("cannot write TOML")?;
        self.write("config.toml", &config)?;
        for identity in IDENTITIES {
            self.write(&format!("{identity}.env"), &self.env_file(identity, programs))?;
        }
        // Last: this file marks a complete site.
        self.write("site.json", &serde_json::to_string_pretty(&self.made)?)
    }

    fn issue_certificates(&self, host: &str) -> Result<()> {
        let authority = Authority::create(&self.file("pki"), "local", CA_VALIDITY)?;
        let names = address::names(host, self.config.listen);
        authority.issue_server(&names, None, SERVER_VALIDITY)?;
        for identity in IDENTITIES {
            authority.issue_user(identity, None, USER_VALIDITY)?;
        }
        Ok(())
    }

    /// jobctl's variables, except PATH.
    fn environment(&self, identity: &str) -> [(&'static str, String); 4] {
        let pki = |name: String| self.file("pki").join(name).display().to_string();
        [
            ("JOBCTL_ADDR", self.addr().to_string()),
            ("JOBCTL_CA", pki("ca.crt".into())),
            ("JOBCTL_CERT", pki(format!("{identity}.crt"))),
            ("JOBCTL_KEY", pki(format!("{identity}.key"))),
        ]
    }

    fn env_file(&self, identity: &str, programs: &Programs) -> String {
        let mut lines = Vec::new();
        for (name, value) in self.environment(identity) {
            lines.push(format!("export {name}={}\n", quoted(&value)));
        }
        if let Some(directory) = programs.jobctl.parent() {
            let directory = quoted(&directory.display().to_string());
            lines.push(format!("export PATH={directory}:\"$PATH\"\n"));
        }
        lines.concat()
    }

    /// Never overwrites a file.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.file(name);
        let write = || {
            let mut file = fs::File::create_new(&path)?;
            std::io::Write::write_all(&mut file, text.as_bytes())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Config {
    fn new(dir: &Path, listen: SocketAddr, shim: &Path) -> Self {
        let pki = dir.join("pki");
        Config {
            listen,
            admins: vec![IDENTITIES[0].into()],
            tls: Tls {
                cert: pki.join("server.crt"),
                key: pki.join("server.key"),
                client_ca: pki.join("ca.crt"),
            },
            jobs: Jobs {
                state_dir: dir.join("state"),
                run_dir: dir.join("run"),
                shim: shim.to_owned(),
                shim_user: SHIM_UID.into(),
                cgroup: cgroup_name().into(),
            },
            isolation: Isolation {
                read_write: [vm::DISK, "/var/tmp"].map(|disk| format!("{disk}/**")).into(),
            },
        }
    }
}

/// Where the sockets of a site in a new directory are, whose name is random: in memory, as `/run` is on a host with
/// systemd.
fn in_memory(dir: &Path) -> Option<PathBuf> {
    const MEMORY: &str = "/dev/shm";
    let name = dir.file_name()?;
    fs::metadata(MEMORY).ok()?.is_dir().then(|| Path::new(MEMORY).join(name))
}

/// Brokers must not share a cgroup, and directories may be moved or have the same name: hence the time.
fn cgroup_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("job-broker-dev-{}-{:x}", std::process::id(), since.as_micros())
}

/// The directory's canonical path, and whether it was created, with mode 0700.
fn make_dir(place: Place<'_>) -> Result<(PathBuf, bool)> {
    let dir = match place {
        Place::At(dir) => dir,
        Place::In(parent) => {
            let dir = tempfile::Builder::new().prefix("job-broker-").tempdir_in(parent);
            let dir = dir
                .with_context(|| format!("cannot make a directory in {}", parent.display()))?
                .keep();
            return Ok((dir.canonicalize()?, true));
        }
    };
    let named = || format!("cannot make the directory {}", dir.display());
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).with_context(named)?;
    }
    let made = match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => false,
        Err(error) => return Err(error).with_context(named),
    };
    Ok((dir.canonicalize().with_context(named)?, made))
}
