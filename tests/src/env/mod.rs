//! A real broker in isolation: PKI, state, sockets, cgroup and port are its own, and all of it is
//! removed at the end, also when a test fails.

mod builder;
mod scripts;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use job_api::client::{self, Client, Credentials};
use job_certs::{Authority, Issued, Leaf, USER_VALIDITY};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::broker::{Broker, CRASH_AT, HOLD_AT, Log};
use crate::cgroup::Cgroup;
use crate::gate::Gate;
use crate::host;
use crate::jobctl::{Finished, Running};
use crate::programs::Programs;
use crate::scratch::{self, install};
use crate::small_disk::SmallDisk;
use crate::wait::{TIMEOUT, until};
pub use builder::Builder;

/// A running environment.
#[derive(Debug)]
pub struct Env {
    broker: Option<Broker>,
    cgroup: Cgroup,
    users: Mutex<HashMap<String, Issued>>,
    log: Log,
    port: u16,
    /// How many brokers were started, failed starts included.
    starts: u64,
    /// The crash or hold point of brokers, as a variable.
    told: Option<(&'static str, String)>,
    admins: Vec<String>,
    policy: Option<String>,
    tls: String,
    jobs: Vec<String>,
    sections: String,
    retention: Vec<String>,
    descriptors: Option<u64>,
    without: Option<&'static str>,
    programs: Programs,
    pki: Authority,
    _disk: Option<SmallDisk>,
    // Last: its files go when everything that uses them has gone.
    dir: TempDir,
}

const DRAIN_UNIT: &str = include_str!("../../../packaging/systemd/job-broker-drain.service");

/// The capabilities of a unit, as setpriv(1) takes them.
fn bounding_set(unit: &str) -> String {
    let lines = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = lines.flat_map(str::split_whitespace).map(|name| name.trim_start_matches("CAP_"));
    names.fold("-all".to_owned(), |set, name| set + ",+" + &name.to_lowercase())
}

impl Env {
    /// `127.0.0.1:PORT`, the same after each restart.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many brokers it has had, those included that found their port taken.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// The authority that signed everybody's certificates.
    pub fn pki(&self) -> &Authority {
        &self.pki
    }

    /// The jobs' cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The programs under test.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// A job's directory in the state directory.
    pub fn job_dir(&self, id: &str) -> PathBuf {
        self.path("state/jobs").join(id)
    }

    /// What is in a job's `stdout.log` now.
    pub fn stdout_log(&self, id: &str) -> String {
        let bytes = fs::read(self.job_dir(id).join("stdout.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A file of this environment: `state`, `run`, `job-shim`, ...
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory in which jobs may create files.
    pub fn shared(&self) -> PathBuf {
        self.path("shared")
    }

    /// The oracle, where jobs can execute it.
    pub fn oracle(&self) -> String {
        self.text_path("oracle")
    }

    /// The workload of tests of limits, where jobs can execute it.
    pub fn load(&self) -> String {
        self.text_path("load")
    }

    /// A new gate, at which a job can be made to wait.
    pub fn gate(&self) -> Gate {
        Gate::new(self.path(&format!("gate-{}", scratch::next())))
    }

    /// The files of a user's certificate, which is issued on first use.
    pub fn identity(&self, name: &str) -> Issued {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let issue = || self.pki.issue_user(name, None, USER_VALIDITY).expect("a certificate");
        users.entry(name.into()).or_insert_with(issue).clone()
    }

    /// The same, in memory.
    pub fn credentials(&self, name: &str) -> Credentials {
        let issued = self.identity(name);
        let read = |path: &Path| fs::read(path).expect("it was issued");
        Credentials {
            ca: read(&self.pki.certificate()),
            cert: read(&issued.certificate),
            key: read(&issued.key),
        }
    }

    /// Those of a new certificate, which this authority signs.
    ///
    /// # Panics
    /// When it cannot.
    pub fn signed(&self, authority: &Authority, leaf: &Leaf) -> Credentials {
        let signed = authority.sign(leaf).expect("a certificate");
        Credentials {
            ca: fs::read(self.pki.certificate()).expect("it was made"),
            cert: signed.certificate_pem.into_bytes(),
            key: signed.key_pem.into_bytes(),
        }
    }

    /// A new connection to a broker that may be dying.
    pub async fn try_client(&self, name: &str) -> Option<Client> {
        client::connect(&self.addr(), &self.credentials(name)).await.ok()
    }

    /// A new connection to the broker.
    ///
    /// # Panics
    /// When the broker cannot be reached.
    pub async fn client(&self, name: &str) -> Client {
        client::connect(&self.addr(), &self.credentials(name)).await.expect("a connection")
    }

    /// `jobctl`, run to its end without standard input.
    pub fn jobctl(&self, user: &str, args: &[impl AsRef<OsStr>]) -> Finished {
        self.spawn_jobctl(user, args).finish()
    }

    /// `jobctl`, left running without standard input.
    pub fn spawn_jobctl(&self, user: &str, args: &[impl AsRef<OsStr>]) -> Running {
        let mut command = self.command(user);
        command.args(args).stdin(Stdio::null());
        Running::spawn(command)
    }

    /// `jobctl`, left running with a pipe as its standard input.
    pub fn pipe_jobctl(&self, user: &str, args: &[impl AsRef<OsStr>]) -> Running {
        let mut command = self.command(user);
        command.args(args).stdin(Stdio::piped());
        Running::spawn(command)
    }

    /// `jobctl` as somebody, to be completed: nothing else of the caller's environment.
    pub fn command(&self, user: &str) -> Command {
        self.client_command(user, &self.programs.jobctl)
    }

    /// The same for another program that is a client, see [`crate::attack`].
    pub(crate) fn client_command(&self, user: &str, program: &Path) -> Command {
        let issued = self.identity(user);
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("JOBCTL_ADDR", self.addr())
            .env("JOBCTL_CA", self.pki.certificate())
            .env("JOBCTL_CERT", &issued.certificate)
            .env("JOBCTL_KEY", &issued.key);
        command
    }

    /// The broker's process.
    ///
    /// # Panics
    /// While it is down.
    pub fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("the broker runs")
    }

    /// kill -9.
    ///
    /// # Panics
    /// While it is down.
    pub fn kill_broker(&mut self) {
        let broker = self.broker.take().expect("the broker runs");
        broker.signal(Signal::SIGKILL);
        broker.wait();
    }

    /// SIGTERM, and a clean end.
    ///
    /// # Panics
    /// While it is down, and when it fails.
    pub fn stop_broker(&mut self) {
        let broker = self.broker.take().expect("the broker runs");
        broker.signal(Signal::SIGTERM);
        let status = broker.wait();
        assert!(status.success(), "the broker ended with {status}");
    }

    /// Starts the next broker over the same jobs, at the same address.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    pub fn start_broker(&mut self) {
        assert!(self.broker.is_none(), "one broker at a time");
        let deadline = Instant::now() + TIMEOUT;
        while let Err(said) = self.try_start() {
            let retry = said.contains("cannot listen") && Instant::now() < deadline;
            assert!(retry, "the broker did not start again; it said:\n{said}");
            thread::sleep(Duration::from_millis(50)); // somebody else has its port for a moment
        }
    }

    /// Writes the configuration as it is now, and asks the broker to read it again.
    ///
    /// # Panics
    /// While it is down.
    pub fn reload_broker(&self) {
        let text = self.config(self.port);
        fs::write(self.path("broker.toml"), text).expect("the configuration can be written");
        self.broker().signal(Signal::SIGHUP);
    }

    /// Replaces the lines of `[tls]` after the paths of the certificates, from the next start or reload on.
    pub fn set_tls(&mut self, lines: &str) {
        self.tls = lines.into();
    }

    /// Reloads, and waits until the broker has done so, or has said that it cannot.
    ///
    /// # Panics
    /// After [`TIMEOUT`].
    pub fn reload_and_wait(&self) {
        let count = || {
            let log = self.log();
            log.matches(" reloaded").count() + log.matches("reload failed").count()
        };
        let before = count();
        self.reload_broker();
        until("the reload", || (count() > before).then_some(()));
    }

    /// Replaces the policy file, from the next start or reload on; `None`: there is none.
    pub fn set_policy(&mut self, text: Option<&str>) {
        self.policy = text.map(Into::into);
    }

    /// Replaces `[retention]`, from the next start or reload on.
    pub fn set_retention(&mut self, lines: &[&str]) {
        self.retention = lines.iter().map(|line| (*line).to_owned()).collect();
    }

    /// Replaces the sections after `[jobs]`, from the next start or reload on.
    pub fn set_sections(&mut self, text: &str) {
        self.sections = text.into();
    }

    /// Replaces the extra lines of `[jobs]`, from the next start on.
    pub fn set_config(&mut self, lines: &[&str]) {
        self.jobs = lines.iter().map(|line| (*line).to_owned()).collect();
    }

    /// Limits the descriptors of brokers started from now on; `None`: the limit of this process.
    pub fn limit_descriptors(&mut self, most: Option<u64>) {
        self.descriptors = most;
    }

    /// Sets the crash point of brokers started from now on, see `job_shim::crash`.
    pub fn crash_brokers(&mut self, at: Option<String>) {
        self.told = at.map(|at| (CRASH_AT, at));
    }

    /// Sets the hold point of brokers started from now on, see `job_shim::crash`.
    pub fn hold_brokers(&mut self, at: String) {
        self.told = Some((HOLD_AT, at));
    }

    /// Whether the broker has died by itself.
    pub fn broker_has_died(&mut self) -> bool {
        self.broker.as_mut().is_none_or(Broker::has_ended)
    }

    /// Starts a broker in the place of one that has died, and sees whether that one lives.
    ///
    /// # Panics
    /// While one lives.
    pub fn try_revive_broker(&mut self) -> bool {
        assert!(self.broker_has_died(), "one broker at a time");
        self.broker = None;
        self.try_start().is_ok()
    }

    /// kill -9, and the next one.
    pub fn restart_broker(&mut self) {
        self.kill_broker();
        self.start_broker();
    }

    /// Replaces the programs, as a package does: running processes keep the old ones.
    pub fn install(&mut self, programs: Programs) {
        self.install_shim(&programs.shim);
        self.programs = programs;
    }

    /// Replaces the shim alone.
    pub fn install_shim(&self, shim: &Path) {
        install(shim, &self.path("job-shim"));
    }

    /// `job-broker preflight` of these programs, beside the broker that runs.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn preflight(&self, programs: &Programs) -> Output {
        let mut command = Command::new(&programs.broker);
        command.arg("--config").arg(self.path("broker.toml")).arg("preflight");
        command.output().expect("job-broker can be executed")
    }

    /// `job-broker` with the broker's configuration and these arguments, not yet run.
    pub fn operate(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.broker);
        command.arg("--config").arg(self.path("broker.toml")).args(arguments);
        command
    }

    /// Runs a second broker over the same state directory, with its own sockets. It must exit by itself.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn second_broker(&self) -> Output {
        let config = self.config(0).replace("/run\"", "/run-2\"");
        let path = self.path("second.toml");
        fs::write(&path, config).expect("the configuration can be written");
        let mut command = Command::new("timeout");
        command.args(["60"]).arg(&self.programs.broker).arg("--config").arg(path);
        command.output().expect("job-broker can be executed")
    }

    /// `job-broker drain` in the place of a broker, with the capabilities that its unit leaves it.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn drain(&self, grace: Duration) -> Output {
        assert!(self.broker.is_none(), "one broker at a time");
        let mut command = Command::new("timeout");
        command.arg(TIMEOUT.as_secs().to_string());
        command.args(["setpriv", "--bounding-set", &bounding_set(DRAIN_UNIT)]);
        command.arg(&self.programs.broker).arg("--config");
        command.arg(self.path("broker.toml")).args(["drain", "--grace"]);
        command.arg(grace.as_secs().to_string()).output().expect("job-broker can be executed")
    }

    /// Everything that brokers have logged so far.
    pub fn log(&self) -> String {
        self.lock_log().clone()
    }

    /// The jobs' own directories, `$JOB_DIR`.
    ///
    /// # Panics
    /// Where the test has them elsewhere.
    pub fn own_dirs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("state-work")).expect("it is there");
        let paths = entries.map(|entry| entry.expect("it can be read").path());
        let no_jobs = ["layers", "removed", "spare"];
        let is_no_jobs = |path: &PathBuf| no_jobs.iter().any(|name| path.ends_with(name));
        paths.filter(|path| !is_no_jobs(path)).collect()
    }

    /// Waits until no job has left a cgroup or a socket behind.
    ///
    /// # Panics
    /// When one has.
    pub fn assert_clean(&self) {
        until("no cgroup, no socket and no directory of a job is left", || {
            let count = |path| fs::read_dir(self.path(path)).expect("it is there").count();
            let directories = match self.path("state-work").exists() {
                true => self.own_dirs().len() + count("state-work/removed"),
                false => 0, // the test has them elsewhere
            };
            (self.cgroup.jobs().is_empty() && count("run") == 0 && directories == 0).then_some(())
        });
    }

    fn try_start(&mut self) -> Result<(), String> {
        let path = self.path("broker.toml");
        fs::write(&path, self.config(self.port)).expect("the configuration can be written");
        self.starts += 1;
        self.broker =
            Some(Broker::start(self.broker_command(), &path, self.told.as_ref(), &self.log)?);
        Ok(())
    }

    /// Of a command that becomes the broker, and keeps its pid.
    fn broker_command(&self) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(capability) = self.without {
            let less = format!("-{capability}");
            let options = ["--bounding-set", &less, "--inh-caps", &less];
            words.extend(["setpriv"].iter().chain(&options).map(|word| word.into()));
        }
        if let Some(most) = self.descriptors {
            words.extend(["prlimit".into(), format!("--nofile={most}:{most}").into()]);
        }
        words.push(self.programs.broker.clone().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    fn config(&self, port: u16) -> String {
        let dir = self.dir.path().display();
        let cgroup = self.cgroup.path().file_name().map(|name| name.to_string_lossy());
        let cgroup = cgroup.unwrap_or_default();
        let mut policy = String::new();
        if let Some(text) = &self.policy {
            fs::write(self.path("policy.toml"), text).expect("the policy can be written");
            policy = format!("policy = \"{dir}/policy.toml\"\n");
        }
        // A number works where there is no such account.
        let mut jobs = format!(
            "state_dir = \"{dir}/state\"\nrun_dir = \"{dir}/run\"\nshim = \"{dir}/job-shim\"\n\
             shim_user = \"64998\"\ncgroup = \"{cgroup}\"\n"
        );
        self.jobs.iter().for_each(|line| jobs += &format!("{line}\n"));
        if !self.retention.is_empty() {
            jobs += &format!("[retention]\n{}\n", self.retention.join("\n"));
        }
        format!(
            "listen = \"127.0.0.1:{port}\"\nadmins = {:?}\n{policy}[tls]\ncert = \"{dir}/pki/server.crt\"\n\
             key = \"{dir}/pki/server.key\"\nclient_ca = \"{dir}/pki/ca.crt\"\n{}[jobs]\n{jobs}{}\n",
            self.admins,
            self.tls,
            self.sections.replace("{dir}", &dir.to_string()) + &self.isolation(&dir.to_string())
        )
    }

    /// Jobs are private, unless `JOB_TESTS_ISOLATION` or the test says otherwise, and see this directory and the disk.
    fn isolation(&self, dir: &str) -> String {
        if self.sections.contains("[isolation]") {
            return String::new();
        }
        let default = std::env::var("JOB_TESTS_ISOLATION").unwrap_or_else(|_| "private".into());
        let disk = host::disk_path().filter(|disk| disk.is_dir());
        let disk = disk.map(|disk| format!(", {:?}", disk.display().to_string()));
        let shared = format!("[{dir:?}{}]", disk.unwrap_or_default());
        format!("[isolation]\ndefault = {default:?}\nminimum = \"host\"\nshared = {shared}\n")
    }

    fn text_path(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().expect("temporary directories have names")
    }

    fn lock_log(&self) -> MutexGuard<'_, String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        // The broker first, so that it sees nothing of what happens to its jobs.
        drop(self.broker.take());
        self.cgroup.end();
        if thread::panicking() {
            eprintln!("--- the broker's log ---\n{}---", self.lock_log());
        }
    }
}
