//! Describes and starts an environment.

use std::fs;
use std::sync::Mutex;

use job_certs::{Authority, CA_VALIDITY, SERVER_VALIDITY, ServerNames};

use super::Env;
use crate::broker::Log;
use crate::cgroup::Cgroup;
use crate::programs::Programs;
use crate::scratch::{self, install};
use crate::small_disk::SmallDisk;

/// Describes an environment; see [`Env::builder`].
#[derive(Debug, Default)]
#[must_use = "nothing is started before `start`"]
pub struct Builder {
    users: Vec<String>,
    admins: Vec<String>,
    policy: Option<String>,
    jobs: Vec<String>,
    sections: String,
    disk: Option<String>,
    retention: Vec<String>,
    programs: Option<Programs>,
    descriptors: Option<u64>,
    without: Option<&'static str>,
}

impl Env {
    /// A builder with nothing set: any user may start jobs, nobody is an admin.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts one with nothing set.
    pub fn start() -> Env {
        Env::builder().start()
    }
}

impl Builder {
    /// Issues a certificate to this user now. Others get theirs on first use.
    pub fn user(mut self, name: &str) -> Builder {
        self.users.push(name.into());
        self
    }

    /// Makes this user an admin, who controls everybody's jobs.
    pub fn admin(mut self, name: &str) -> Builder {
        self.admins.push(name.into());
        self
    }

    /// Gives the broker a policy file.
    pub fn policy(mut self, text: &str) -> Builder {
        self.policy = Some(text.into());
        self
    }

    /// Adds a line to the section `[jobs]` of the broker's configuration.
    pub fn config(mut self, line: &str) -> Builder {
        self.jobs.push(line.into());
        self
    }

    /// Adds sections to the broker's configuration; `{dir}` in them is the environment's directory.
    pub fn sections(mut self, text: &str) -> Builder {
        self.sections += text;
        self
    }

    /// Puts the state directory on a tmpfs of this size, as mount(8) takes it.
    pub fn state_disk(mut self, size: &str) -> Builder {
        self.disk = Some(size.into());
        self
    }

    /// Adds a line to the section `[retention]` of the broker's configuration.
    pub fn retention(mut self, line: &str) -> Builder {
        self.retention.push(line.into());
        self
    }

    /// Uses these programs in place of the built ones.
    pub fn programs(mut self, programs: Programs) -> Builder {
        self.programs = Some(programs);
        self
    }

    /// Limits the broker's descriptors, RLIMIT_NOFILE.
    pub fn descriptors(mut self, most: u64) -> Builder {
        self.descriptors = Some(most);
        self
    }

    /// Takes a capability away from the broker and all that it starts, as setpriv(1) calls it.
    pub fn without(mut self, capability: &'static str) -> Builder {
        self.without = Some(capability);
        self
    }

    /// Starts the broker; answers when it accepts connections.
    ///
    /// # Panics
    /// When it does not, with what it said.
    pub fn start(self) -> Env {
        let mut env = self.prepare();
        for _ in 0..100 {
            // Below the range of ports that outgoing connections take at random: the broker's must
            // still be free when it comes back.
            env.port = scratch::next_port();
            match env.try_start() {
                Err(said) if said.contains("cannot listen") => {}
                Err(said) => panic!("the broker did not start; it said:\n{said}"),
                Ok(()) => return env,
            }
        }
        panic!("no free port was found");
    }

    fn prepare(self) -> Env {
        assert!(nix::unistd::geteuid().is_root(), "the end-to-end tests run as root: brokers do");
        scratch::sweep();
        let name = scratch::name();
        let dir = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir();
        let dir = dir.expect("a directory");
        scratch::open_to_jobs(dir.path(), 0o755);
        let shared = dir.path().join("shared");
        fs::create_dir(&shared).expect("a directory");
        scratch::open_to_jobs(&shared, 0o777);
        let programs = self.programs.unwrap_or_else(Programs::find);
        let copied =
            [(&programs.shim, "job-shim"), (&programs.oracle, "oracle"), (&programs.load, "load")];
        // The target directory may be below one that jobs cannot enter.
        copied.into_iter().for_each(|(from, to)| install(from, &dir.path().join(to)));
        let disk = self.disk.map(|size| SmallDisk::mount(&dir.path().join("state"), &size));
        let pki = Authority::create(&dir.path().join("pki"), "local", CA_VALIDITY);
        let pki = pki.expect("a certificate authority");
        let names = ServerNames { dns: vec!["localhost".into()], ips: vec![[127, 0, 0, 1].into()] };
        pki.issue_server(&names, None, SERVER_VALIDITY).expect("a certificate");
        let env = Env {
            cgroup: Cgroup::named(&name),
            users: Mutex::default(),
            log: Log::default(),
            broker: None,
            port: 0,
            starts: 0,
            told: None,
            admins: self.admins,
            policy: self.policy,
            tls: String::new(),
            jobs: self.jobs,
            sections: self.sections,
            retention: self.retention,
            descriptors: self.descriptors,
            without: self.without,
            programs,
            pki,
            _disk: disk,
            dir,
        };
        env.admins.iter().chain(&self.users).for_each(|name| _ = env.identity(name));
        env
    }
}
