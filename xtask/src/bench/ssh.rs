//! OpenSSH as a reference: an sshd on the loopback interface, with temporary keys. It must not touch the host's sshd
//! or keys.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::interrupt::{self, Running};
use crate::process;

/// An sshd, which ends when it is dropped.
pub(crate) struct Sshd {
    dir: TempDir,
    port: u16,
    server: Running,
}

/// An open connection, by ssh's ControlMaster.
pub(crate) struct Master {
    _client: Running,
    socket: PathBuf,
}

const TIMEOUT: Duration = Duration::from_secs(10);

impl Sshd {
    /// # Errors
    /// sshd does not start, or rejects the connection.
    pub(crate) fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("job-bench-ssh-").tempdir()?;
        for name in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.path().join(name));
            process::check(&mut keygen)?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let known = fs::read_to_string(dir.path().join("host.pub"))?;
        fs::write(dir.path().join("known_hosts"), format!("[127.0.0.1]:{port} {known}"))?;
        fs::write(dir.path().join("sshd_config"), config(dir.path(), port))?;
        // sshd's privilege separation directory; a system without sshd's service has none.
        fs::create_dir_all("/run/sshd").context("cannot make /run/sshd")?;
        let mut command = Command::new("/usr/sbin/sshd");
        command.arg("-D").arg("-E").arg(dir.path().join("log"));
        command.arg("-f").arg(dir.path().join("sshd_config")).stdin(Stdio::null());
        let sshd = Sshd { server: Running::spawn(&mut command)?, dir, port };
        sshd.wait_until("sshd does not let us in", || {
            let status = sshd.ssh(&["true"]).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        })?;
        Ok(sshd)
    }

    /// The server's pid.
    pub(crate) fn pid(&self) -> u32 {
        self.server.child.id()
    }

    /// Where it listens.
    pub(super) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// ssh over a new connection.
    pub(crate) fn ssh(&self, words: &[&str]) -> Command {
        self.ssh_through(self.addr(), words)
    }

    /// The same, through a relay to [`Sshd::addr`].
    pub(super) fn ssh_through(&self, relay: SocketAddr, words: &[&str]) -> Command {
        let mut command = self.client(relay);
        command.args(["-o", "ControlPath=none", "127.0.0.1"]).args(words);
        command
    }

    /// ssh over an open connection.
    pub(crate) fn ssh_over(&self, master: &Master, words: &[&str]) -> Command {
        let mut command = self.client(self.addr());
        command.arg("-S").arg(&master.socket).arg("127.0.0.1").args(words);
        command
    }

    /// Opens a connection for [`Sshd::ssh_over`].
    pub(crate) fn master(&self, name: &str) -> Result<Master> {
        self.master_through(name, self.addr())
    }

    /// The same, through a relay to [`Sshd::addr`].
    pub(super) fn master_through(&self, name: &str, relay: SocketAddr) -> Result<Master> {
        let socket = self.dir.path().join(name);
        let mut command = self.client(relay);
        command.args(["-M", "-N", "-S"]).arg(&socket).arg("127.0.0.1");
        let master = Master { _client: Running::spawn(&mut command)?, socket };
        self.wait_until("ssh opens no ControlMaster", || {
            let mut check = self.client(self.addr());
            check.arg("-S").arg(&master.socket).args(["-O", "check", "127.0.0.1"]);
            check.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        })?;
        Ok(master)
    }

    pub(super) fn client(&self, addr: SocketAddr) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
        command.arg("-o").arg(format!("Port={}", addr.port()));
        command.arg("-o").arg(format!("HostKeyAlias=[127.0.0.1]:{}", self.port));
        for (option, file) in [("UserKnownHostsFile", "known_hosts"), ("IdentityFile", "user")] {
            let file = self.dir.path().join(file);
            command.arg("-o").arg(format!("{option}={}", file.display()));
        }
        command.stdin(Stdio::null());
        command
    }

    fn wait_until(&self, fault: &str, is_so: impl Fn() -> bool) -> Result<()> {
        let until = Instant::now() + TIMEOUT;
        while !is_so() {
            interrupt::check()?;
            if Instant::now() > until {
                let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                // One more attempt, with ssh's own messages.
                let _ = self.ssh(&["true"]).status();
                bail!("{fault}; its log:\n{log}");
            }
            thread::sleep(Duration::from_millis(20)); // between two attempts
        }
        Ok(())
    }
}

/// With SHLVL bash does not detect a login by ssh, whose start-up files can take longer than ssh itself.
fn config(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host\nPidFile {dir}/pid\n\
         AuthorizedKeysFile {dir}/user.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\nPrintMotd no\n\
         MaxStartups 100\nMaxSessions 100\nSetEnv SHLVL=9\n"
    )
}
