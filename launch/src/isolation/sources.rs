//! Opens what a job mounts, with the rights of its user, and checks what it is: a link that is changed meanwhile leads
//! to nothing else than what was checked.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use job_grammar::echo::echo;

use super::mounts::hosts_at_or_below;
use crate::as_user;
use crate::model::account::Account;
use crate::model::isolation::IsolationRules;

/// A directory or regular file of the host.
#[derive(Debug)]
pub(super) struct OpenSource {
    pub(super) file: OwnedFd,
    pub(super) is_file: bool,
}

/// Opens a path as the job's user, for reading: O_PATH would need no permission for the last component. Blocks as long
/// as the file system.
///
/// # Errors
/// In words for the caller, who learns no more than the user could find out.
pub(super) fn open(
    path: &str,
    read_only: bool,
    account: &Account,
    rules: &IsolationRules,
) -> Result<OpenSource, String> {
    let failed = |e: io::Error| format!("cannot mount {} as {}: {e}", echo(path), account.name);
    let (file, is_file) = open_as(path, account).map_err(failed)?;
    let resolved = resolved(&file).map_err(failed)?;
    rules.may_mount(&resolved, read_only)?;
    nothing_of_the_hosts(path, &resolved)?;
    Ok(OpenSource { file: file.into(), is_file })
}

/// Opens the directory that is to be the root of a job, in the same way.
///
/// # Errors
/// As [`open`].
pub(super) fn open_root(
    path: &str,
    account: &Account,
    rules: &IsolationRules,
) -> Result<OwnedFd, String> {
    let failed = |e: io::Error| format!("cannot use {} as {}: {e}", echo(path), account.name);
    let (file, is_file) = open_as(path, account).map_err(failed)?;
    if is_file {
        return Err(failed(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    let resolved = resolved(&file).map_err(failed)?;
    rules.may_be_root(&resolved)?;
    nothing_of_the_hosts(path, &resolved)?;
    Ok(file.into())
}

/// The file or directory, and whether it is a file.
fn open_as(path: &str, account: &Account) -> io::Result<(File, bool)> {
    let open = || {
        let named = as_user::open_path(Path::new(path))?;
        let kind = named.metadata()?.file_type();
        if !kind.is_dir() && !kind.is_file() {
            return Err(io::Error::other("it is neither a directory nor a regular file"));
        }
        let mut again = fs::OpenOptions::new();
        again.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = again.open(format!("/proc/thread-self/fd/{}", named.as_raw_fd()))?;
        Ok((file, kind.is_file()))
    };
    as_user::run(account, open)
}

/// What is mounted below comes with a directory.
fn nothing_of_the_hosts(path: &str, resolved: &str) -> Result<(), String> {
    let failed = |e: io::Error| format!("cannot mount {}: {e}", echo(path));
    match hosts_at_or_below(Path::new(resolved)).map_err(failed)? {
        Some(place) => {
            let place = echo(&place.to_string_lossy()).to_string();
            Err(format!("{} is not mounted: {place} is the host's", echo(path)))
        }
        None => Ok(()),
    }
}

fn resolved(file: &File) -> io::Result<String> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    path.into_os_string().into_string().map_err(|_| io::Error::other("its path is not UTF-8"))
}
