//! Opens the program of a job as the job would find it, so that what is checked is what is executed: the descriptor,
//! never the name again. It executes nothing, and does not decide whether the program may be executed.
//!
//! Only for callers whose roles list their programs; the programs of all others are found by their shim.

mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod script;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use job_shim::launch::{self, SCRIPT_PATH};
use job_shim::search;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};

use crate::as_user;
use crate::model::account::Account;
use crate::model::spec::JobSpec;
pub use crate::program::error::ProgramError;
use crate::program::script::{FIRST_BYTES, Line};

/// `PATH` of a job that does not say.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Directories of `PATH` that are tried.
const MOST_DIRECTORIES: usize = 256;

/// A program that is executed by its descriptor.
#[derive(Debug)]
pub struct OpenProgram {
    /// What the job named.
    named: OpenFile,
    /// What the kernel would execute in its place.
    interpreter: Option<Interpreter>,
    /// After `argv[0]`, as the job gave them.
    arguments: Vec<String>,
}

/// A file, opened with O_PATH, and its name.
#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Absolute, without symbolic links, at the time when it was opened.
    path: String,
}

#[derive(Debug)]
struct Interpreter {
    open: OpenFile,
    line: Line,
}

/// What would be executed: the question for the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The file, absolute and without symbolic links.
    pub file: PathBuf,
    /// The file as `argv[0]`, and the arguments.
    pub argv: Vec<String>,
}

/// The part of a job that says which program it is: the arguments, and `PATH` of its environment.
pub fn what_is_searched(spec: &JobSpec) -> (Vec<String>, Vec<u8>) {
    let path = spec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    (spec.argv.clone(), format!("PATH={path}").into_bytes())
}

/// Finds and opens the program of a job, and the interpreter if it is a script: in the directories of `path`
/// (`PATH=value`), relative to the working directory, with the rights of its user. Blocks as long as the file systems.
///
/// # Errors
/// [`ProgramError`], which says no more than the user itself could find out.
pub fn open(
    argv: &[String],
    path: &[u8],
    directory: &str,
    account: &Account,
) -> Result<OpenProgram, ProgramError> {
    let name = argv.first().map_or("", String::as_str);
    let failed = |source| ProgramError::Open { program: name.into(), source };
    let (file, beginning) =
        as_user::run(account, || search_and_open(name, path, directory)).map_err(failed)?;
    let named = OpenFile::of(file)?;
    let interpreter = match script::line(&beginning).map_err(|fault| named.unusable(fault))? {
        None => None,
        Some(line) => Some(open_interpreter(&named, line, account)?),
    };
    Ok(OpenProgram { named, interpreter, arguments: argv.get(1..).unwrap_or_default().to_vec() })
}

/// The paths at which the program of a job may be found, `.` and double slashes left out. Touches no file.
pub fn candidates(name: &str, path: &[u8], directory: &str) -> Vec<PathBuf> {
    let env = [path.to_vec()];
    let all = search::candidates(name.as_bytes(), &env).take(MOST_DIRECTORIES);
    let place = |path: Vec<u8>| Path::new(directory).join(OsStr::from_bytes(&path));
    all.map(|path| place(path).components().collect()).collect()
}

impl OpenProgram {
    /// What would be executed, all of which must be allowed: the program; and of a script the interpreter, with its
    /// script as argument.
    pub fn invocations(&self) -> Vec<Invocation> {
        let own = &self.named.path;
        let mut all = vec![invocation(own, &[], &self.arguments)];
        if let Some(Interpreter { open, line }) = &self.interpreter {
            let before: Vec<&str> = line.argument.iter().chain([own]).map(String::as_str).collect();
            all.push(invocation(&open.path, &before, &self.arguments));
        }
        all
    }

    /// The arguments that it is executed with. `argv[0]` is what was checked and not what the caller said: programs
    /// find their files, or what they are, by that name. That of an interpreter is the script's, as ever.
    pub(crate) fn argv(&self) -> Vec<Vec<u8>> {
        let mut argv = match &self.interpreter {
            None => vec![self.named.path.clone()],
            Some(Interpreter { line, .. }) => {
                let argument = line.argument.clone();
                [line.path.clone()]
                    .into_iter()
                    .chain(argument)
                    .chain([SCRIPT_PATH.into()])
                    .collect()
            }
        };
        argv.extend_from_slice(&self.arguments);
        argv.into_iter().map(String::into_bytes).collect()
    }

    /// As the launch says it.
    pub(crate) fn kind(&self) -> launch::Program {
        match self.interpreter {
            None => launch::Program::Binary,
            Some(_) => launch::Program::Script,
        }
    }

    /// What the shim inherits from [`launch::PROGRAM_FD`] on.
    pub(crate) fn descriptors(&self) -> Vec<i32> {
        let named = self.named.file.as_raw_fd();
        match &self.interpreter {
            None => vec![named],
            Some(interpreter) => vec![interpreter.open.file.as_raw_fd(), named],
        }
    }
}

fn invocation(file: &str, before: &[&str], arguments: &[String]) -> Invocation {
    let argv = [file].into_iter().chain(before.iter().copied()).map(str::to_owned);
    Invocation { file: file.into(), argv: argv.chain(arguments.iter().cloned()).collect() }
}

/// The interpreter of a script, which is no script itself.
fn open_interpreter(
    script: &OpenFile,
    line: Line,
    account: &Account,
) -> Result<Interpreter, ProgramError> {
    let failed = |source| ProgramError::Interpreter {
        script: script.path.clone(),
        interpreter: line.path.clone(),
        source,
    };
    // The script first: its interpreter opens it as this user.
    as_user::run(account, || readable(&script.file))
        .map_err(|source| ProgramError::Open { program: script.path.clone(), source })?;
    let look = || executable(Path::new(&line.path));
    let (file, beginning) = as_user::run(account, look).map_err(failed)?;
    let open = OpenFile::of(file)?;
    match script::line(&beginning) {
        Ok(None) => Ok(Interpreter { open, line }),
        _ => Err(script.unusable(format!("its interpreter, {}, is a script itself", open.path))),
    }
}

/// As execvp(3) would find it; without a path there is nothing to execute.
fn search_and_open(name: &str, path: &[u8], directory: &str) -> io::Result<(File, Vec<u8>)> {
    let mut answer = Errno::ENOENT;
    let env = [path.to_vec()];
    for path in search::candidates(name.as_bytes(), &env).take(MOST_DIRECTORIES) {
        let path = Path::new(directory).join(OsStr::from_bytes(&path));
        match executable(&path) {
            Err(e) if is(&e, Errno::ENOENT) || is(&e, Errno::ENOTDIR) => {}
            Err(e) if is(&e, Errno::EACCES) => answer = Errno::EACCES,
            result => return result,
        }
    }
    Err(answer.into())
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// A regular file that this user may execute, and its first bytes as far as the user may read them: the kernel reads
/// more, but a script that its user cannot read does not run.
fn executable(path: &Path) -> io::Result<(File, Vec<u8>)> {
    let file = as_user::open_path(path)?;
    if !file.metadata()?.is_file() {
        return Err(Errno::EACCES.into()); // as execve(2)
    }
    // By its descriptor; with the ids for files, which are the user's.
    faccessat(&file, "", AccessFlags::X_OK, AtFlags::AT_EMPTY_PATH | AtFlags::AT_EACCESS)?;
    let beginning = match first_bytes(&file) {
        Err(e) if is(&e, Errno::EACCES) => Vec::new(),
        result => result?,
    };
    Ok((file, beginning))
}

fn readable(file: &File) -> io::Result<()> {
    Ok(faccessat(file, "", AccessFlags::R_OK, AtFlags::AT_EMPTY_PATH | AtFlags::AT_EACCESS)?)
}

/// A regular file, which does not block but for its file system. O_NONBLOCK: EAGAIN where somebody has a lease on it.
fn first_bytes(file: &File) -> io::Result<Vec<u8>> {
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let again = options.open(format!("/proc/thread-self/fd/{}", file.as_raw_fd()))?;
    let mut bytes = Vec::new();
    again.take(FIRST_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl OpenFile {
    /// Its name, as the kernel says it: that of the file which was opened, wherever links lead by now.
    fn of(file: File) -> Result<OpenFile, ProgramError> {
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let path = fs::read_link(link).map_err(ProgramError::Name)?;
        let links = file.metadata().map_err(ProgramError::Name)?.nlink();
        match path.into_os_string().into_string() {
            Ok(path) if links > 0 && path.starts_with('/') => Ok(OpenFile { file, path }),
            Ok(path) => Err(ProgramError::Unusable { path, fault: "it has been removed".into() }),
            Err(path) => Err(ProgramError::Unusable {
                path: path.to_string_lossy().into_owned(),
                fault: "its path is not UTF-8, and no role can list it".into(),
            }),
        }
    }

    fn unusable(&self, fault: String) -> ProgramError {
        ProgramError::Unusable { path: self.path.clone(), fault }
    }
}

#[cfg(test)]
mod tests;
