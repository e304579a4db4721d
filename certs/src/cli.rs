//! The command line.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::error::{Error, chain};
use crate::files::io_error;
use crate::validity::{CA_VALIDITY, SERVER_VALIDITY, USER_VALIDITY, days};
use crate::{Authority, Issued, Reason, ServerNames, clock, show};

/// A small certificate authority for a job broker and its users.
///
/// One directory is one authority. Typical use:
///
///   job-certs init --dir pki
///   job-certs issue server --dir pki --dns host.example.org
///   job-certs issue user ann --dir pki
///
/// The broker gets ca.crt, server.crt and server.key; a user gets ca.crt and the pair of that
/// name. ca.key stays where it is. Nothing is overwritten, but for what `renew` and `crl` replace.
#[derive(Parser)]
#[command(name = "job-certs", version, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new authority: DIR/ca.crt and DIR/ca.key
    Init(Init),
    /// Issue a certificate, with a new key
    #[command(subcommand)]
    Issue(Issue),
    /// Issue a certificate again, before it ends: same names and usages, later end
    Renew(Renew),
    /// Revoke certificates; brokers learn of it by the next list (crl)
    Revoke(Revoke),
    /// Write the revocation list, DIR/ca.crl, in the place of the one before
    Crl(CrlArgs),
    /// List what was issued, and what was revoked
    List {
        /// The authority's directory
        #[arg(long)]
        dir: PathBuf,
    },
    /// Print what certificates say, and whether they are valid now
    Show {
        /// Files with certificates, PEM or DER
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[derive(Args)]
struct Init {
    /// The authority's directory; made with mode 0700 if absent
    #[arg(long)]
    dir: PathBuf,
    /// The space in which user names are unique: users become job://TRUST_DOMAIN/NAME. It is kept
    /// in ca.crt
    #[arg(long, default_value = "local")]
    trust_domain: String,
    /// Days until the authority, and all that it has issued, expires
    #[arg(long, default_value_t = whole_days(CA_VALIDITY), value_parser = validity())]
    days: u32,
}

#[derive(Subcommand)]
enum Issue {
    /// Issue a broker's certificate (serverAuth)
    Server(Server),
    /// Issue a user's certificate (clientAuth)
    User(User),
}

#[derive(Args)]
struct Server {
    #[command(flatten)]
    place: Place,
    /// Host names under which clients reach the broker; `*.` may stand for a first label
    #[arg(long, num_args = 1.., value_name = "NAME")]
    dns: Vec<String>,
    /// Addresses under which clients reach the broker
    #[arg(long, num_args = 1.., value_name = "ADDR")]
    ip: Vec<IpAddr>,
    /// Days until it expires; never later than the authority
    #[arg(long, default_value_t = whole_days(SERVER_VALIDITY), value_parser = validity())]
    days: u32,
}

#[derive(Args)]
struct User {
    /// The user: 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit
    name: String,
    #[command(flatten)]
    place: Place,
    /// Days until it expires; never later than the authority
    #[arg(long, default_value_t = whole_days(USER_VALIDITY), value_parser = validity())]
    days: u32,
}

#[derive(Args)]
struct Renew {
    /// The certificate; it is replaced, unless --out names another place
    file: PathBuf,
    /// The authority's directory
    #[arg(long)]
    dir: PathBuf,
    /// Write PREFIX.crt, and PREFIX.key if the key is new, instead of replacing
    #[arg(long, value_name = "PREFIX")]
    out: Option<PathBuf>,
    /// Make a new key, too; the old one is replaced as well. Otherwise the key stays, and is not needed here
    #[arg(long)]
    new_key: bool,
    /// Days until it expires; never later than the authority [default: as many as before]
    #[arg(long, value_parser = validity())]
    days: Option<u32>,
}

#[derive(Args)]
struct Revoke {
    /// A certificate's file or serial number, or a name: then all its certificates that have not expired
    #[arg(value_name = "SERIAL|NAME|FILE")]
    which: String,
    /// The authority's directory
    #[arg(long)]
    dir: PathBuf,
    /// Why
    #[arg(long, value_enum, default_value_t = Reason::Unspecified)]
    reason: Reason,
}

#[derive(Args)]
struct CrlArgs {
    /// The authority's directory
    #[arg(long)]
    dir: PathBuf,
    /// Days until the next list must be there: without one, brokers refuse everybody. Make it sooner
    #[arg(long, default_value_t = 30, value_parser = validity())]
    days: u32,
    /// Write the list to FILE [default: `ca.crl` in DIR]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct Place {
    /// The authority's directory
    #[arg(long)]
    dir: PathBuf,
    /// Write PREFIX.crt and PREFIX.key [default: `server`, or the user's name, in DIR]
    #[arg(long, value_name = "PREFIX")]
    out: Option<PathBuf>,
}

/// Ten years is the longest that anybody asks for in earnest.
fn validity() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=3650)
}

fn whole_days(validity: Duration) -> u32 {
    u32::try_from(validity.as_secs() / days(1).as_secs()).unwrap_or(u32::MAX)
}

/// The grammar of the command line, for the manual page and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process.
///
/// Exit status: 0; 1 where the command failed, with the reason on stderr; 2 for bad usage.
#[must_use]
pub fn run() -> ExitCode {
    match Cli::parse().command.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("job-certs: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn execute(self) -> Result<(), Error> {
        match self {
            Self::Init(args) => args.execute(),
            Self::Issue(Issue::Server(args)) => args.execute(),
            Self::Issue(Issue::User(args)) => args.execute(),
            Self::Renew(args) => args.execute(),
            Self::Revoke(args) => args.execute(),
            Self::Crl(args) => args.execute(),
            Self::List { dir } => print(&Authority::open(&dir)?.list(SystemTime::now())?),
            Self::Show { files } => show_all(&files),
        }
    }
}

impl Init {
    fn execute(self) -> Result<(), Error> {
        let ca = Authority::create(&self.dir, &self.trust_domain, days(self.days))?;
        print(&format!(
            "{}: the authority of trust domain {}, valid until {}\n\
             {}: its key; whoever reads it can be anybody\n",
            ca.certificate().display(),
            ca.trust_domain(),
            readable(ca.not_after())?,
            self.dir.join("ca.key").display(),
        ))
    }
}

impl Server {
    fn execute(self) -> Result<(), Error> {
        let ca = Authority::open(&self.place.dir)?;
        let names = ServerNames { dns: self.dns, ips: self.ip };
        let validity = days(self.days);
        report(&ca, &ca.issue_server(&names, self.place.out.as_deref(), validity)?, validity)
    }
}

impl User {
    fn execute(self) -> Result<(), Error> {
        let ca = Authority::open(&self.place.dir)?;
        let validity = days(self.days);
        report(&ca, &ca.issue_user(&self.name, self.place.out.as_deref(), validity)?, validity)
    }
}

impl Renew {
    fn execute(self) -> Result<(), Error> {
        let ca = Authority::open(&self.dir)?;
        let validity = self.days.map(days);
        let out = self.out.as_deref();
        let issued = ca.renew(&self.file, out, validity, self.new_key)?;
        let path = issued.certificate.display();
        print(&format!("{path}: valid until {}\n", readable(issued.not_after)?))?;
        if self.new_key {
            print(&format!("{}: its new key, mode 0600\n", issued.key.display()))?;
        }
        Ok(())
    }
}

impl Revoke {
    fn execute(self) -> Result<(), Error> {
        let ca = Authority::open(&self.dir)?;
        for revoked in ca.revoke(&self.which, self.reason)? {
            let name = revoked.name.map(|name| format!(" ({name})")).unwrap_or_default();
            let known = if revoked.is_known { " before" } else { "" };
            print(&format!("{}{name}: revoked{known}\n", revoked.serial))?;
        }
        eprintln!(
            "job-certs: note: brokers learn of it by a new list: job-certs crl --dir {}",
            self.dir.display()
        );
        Ok(())
    }
}

impl CrlArgs {
    fn execute(self) -> Result<(), Error> {
        let crl = Authority::open(&self.dir)?.write_crl(days(self.days), self.out.as_deref())?;
        print(&format!(
            "{}: {} revoked; the next list must be there by {}\n",
            crl.path.display(),
            crl.revoked,
            readable(crl.next_update)?
        ))
    }
}

fn report(ca: &Authority, issued: &Issued, asked: Duration) -> Result<(), Error> {
    // A leaf always ends before its CA unless its validity had to be cut.
    if issued.not_after == ca.not_after() {
        let days = whole_days(asked);
        eprintln!("job-certs: note: not valid for {days} days, because the CA expires before then");
    }
    print(&format!(
        "{}: valid until {}\n{}: its key, mode 0600\n",
        issued.certificate.display(),
        readable(issued.not_after)?,
        issued.key.display(),
    ))
}

/// Shows every file that can be shown, then fails for the first that could not.
fn show_all(files: &[PathBuf]) -> Result<(), Error> {
    let now = SystemTime::now();
    let mut failed = None;
    for (n, path) in files.iter().enumerate() {
        match describe(path, now) {
            Ok(text) => print(&format!("{}{text}", if n > 0 { "\n" } else { "" }))?,
            Err(error) => match &failed {
                None => failed = Some(error),
                Some(_) => eprintln!("job-certs: {}", chain(&error)),
            },
        }
    }
    failed.map_or(Ok(()), Err)
}

fn describe(path: &Path, now: SystemTime) -> Result<String, Error> {
    let bytes = std::fs::read(path).map_err(io_error("reading", path))?;
    let text = show::file(&bytes, now)
        .map_err(|source| Error::Certificate { path: path.to_owned(), source })?;
    Ok(format!("{}\n{text}", path.display()))
}

fn readable(time: SystemTime) -> Result<String, Error> {
    Ok(clock::readable(clock::to_asn1(time)?))
}

/// To stdout; a reader who has gone (`| head`) has seen what they wanted.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::Stdout(e)),
        _ => Ok(()),
    }
}
