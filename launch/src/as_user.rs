//! Acts as the user of a job where a path comes from a client: what this user may not see stays hidden, and nothing
//! of root's is a way around that. It must not do anything else as another user, and looks no name up twice.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;

use caps::CapSet;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::model::account::Account;
use crate::sys;

/// Runs `action` with the rights of that user for files, and without a capability. Blocks.
///
/// # Errors
/// That of `action`; or this process cannot become the user.
pub(crate) fn run<T: Send>(
    account: &Account,
    action: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    // A thread of its own, which ends afterwards: it does nothing else as that user and never has to become
    // root again.
    thread::scope(|scope| {
        let act = || become_user(account).and_then(|()| action());
        let thread = thread::Builder::new().name("as-user".into()).spawn_scoped(scope, act)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread of the user panicked")))
    })
}

/// Opens a path as that user, with O_PATH: no device wakes up and no FIFO blocks. Blocks where a file system does.
///
/// # Errors
/// As openat2(2); ELOOP for the magic links of proc(5).
pub(crate) fn open(account: &Account, path: &Path) -> io::Result<File> {
    run(account, || open_path(path))
}

/// Opens a path with O_PATH, as whoever this thread is. Does not follow the magic links of proc(5), which bypass the
/// permissions of directories: `/proc/self/fd` would be the broker's.
///
/// # Errors
/// As openat2(2).
pub(crate) fn open_path(path: &Path) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(AT_FDCWD, path, how)?.into())
}

/// Gives this thread the file system uid, gid and groups of the user, setfsuid(2), and drops all of its
/// capabilities. setfsuid(2) drops CAP_DAC_READ_SEARCH and the like, capabilities(7), but not CAP_SYS_PTRACE,
/// which bypasses permissions in `/proc`.
fn become_user(account: &Account) -> io::Result<()> {
    let own = Uid::effective();
    if !own.is_root() && own.as_raw() == account.uid {
        return Ok(()); // it is that user, and could not change its groups
    }
    sys::set_thread_groups(&account.groups)?;
    let (gid, uid) = (Gid::from_raw(account.gid), Uid::from_raw(account.uid));
    // Both calls return the previous id and report no failure: the second call shows the result.
    let is_set = (setfsgid(gid), setfsgid(gid)).1 == gid && (setfsuid(uid), setfsuid(uid)).1 == uid;
    if !is_set {
        let fault = format!("the broker cannot become {} for file systems", account.name);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, fault));
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
    use std::process::Command;

    use nix::unistd::{getgid, getgroups};
    use tempfile::TempDir;

    use super::*;

    fn open_as(path: &str, account: &Account) -> io::Result<File> {
        open(account, Path::new(path))
    }

    fn account(groups: &[u32]) -> Account {
        let (name, home) = ("somebody".into(), "/".into());
        Account { name, uid: 65_533, gid: 65_533, groups: groups.to_vec(), home }
    }

    /// A directory that everybody may look into.
    fn public() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    /// A directory of root's, of a group, with another in it.
    fn inside(dir: &Path, mode: u32, group: u32) -> String {
        let outer = dir.join(format!("{mode:o}-{group}"));
        fs::DirBuilder::new().mode(mode).create(&outer).unwrap();
        chown(&outer, None, Some(group)).unwrap();
        fs::create_dir(outer.join("inner")).unwrap();
        outer.join("inner").to_string_lossy().into_owned()
    }

    #[test]
    fn a_path_is_looked_up_with_the_rights_and_the_groups_of_the_jobs_user_and_no_other() {
        if !nix::unistd::geteuid().is_root() {
            return; // only root can change its uid
        }
        let dir = public();
        let [roots, rootgroups, teams] = [(0o700, 0), (0o750, 0), (0o750, 64_997)]
            .map(|(mode, group)| inside(dir.path(), mode, group));
        let before = getgroups().unwrap();
        for hidden in [&roots, &rootgroups, &teams] {
            assert!(open_as(hidden, &account(&[])).is_err(), "{hidden}");
        }
        assert!(open_as(&teams, &account(&[64_997])).is_ok());
        assert_eq!(getgroups().unwrap(), before);
        assert!(Path::new(&roots).exists(), "the caller is root as ever");
    }

    #[test]
    fn what_was_opened_stays_what_it_is_when_its_name_is_given_to_something_else() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = public();
        let name = dir.path().join("link");
        symlink("/proc", &name).unwrap();
        let file = open_as(name.to_str().unwrap(), &account(&[])).unwrap();
        fs::remove_file(&name).unwrap();
        symlink("/", &name).unwrap();
        let device = |path: &str| fs::metadata(path).unwrap().dev();
        assert_eq!(file.metadata().unwrap().dev(), device("/proc"));
        assert_ne!(device("/proc"), device("/"));
    }

    #[test]
    fn the_links_of_processes_in_proc_are_no_way_around_the_rights_of_their_directories() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = public();
        let hidden = inside(dir.path(), 0o700, 0);
        let opened = File::open(&hidden).unwrap();
        let own = format!("/proc/self/fd/{}", opened.as_raw_fd());
        let mut roots = Command::new("sleep").arg("600").current_dir(&hidden).spawn().unwrap();
        let [cwd, root] = ["cwd", "root"].map(|link| format!("/proc/{}/{link}", roots.id()));
        let tried = [own, cwd, root].map(|path| {
            let as_user = open_as(&path, &account(&[])).map(drop);
            let below = open_as(&format!("{path}/."), &account(&[])).map(drop);
            (path, as_user, below)
        });
        // Without the flag: this thread has none of root's rights in /proc.
        let by_permission = thread::scope(|scope| {
            let look = || become_user(&account(&[])).and_then(|()| fs::metadata(&tried[1].0));
            scope.spawn(look).join().unwrap().map(drop)
        });
        roots.kill().unwrap();
        roots.wait().unwrap();
        for ((path, as_user, below), errno) in
            tried.into_iter().zip([libc::ELOOP, libc::EACCES, libc::EACCES])
        {
            assert_eq!(as_user.unwrap_err().raw_os_error(), Some(errno), "{path}");
            assert_eq!(below.unwrap_err().raw_os_error(), Some(errno), "{path}/.");
        }
        assert_eq!(by_permission.unwrap_err().raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn a_change_of_uid_that_does_not_take_is_noticed() {
        // setfsuid(2) ignores the invalid uid -1 and reports no error.
        let nobody = Account { uid: u32::MAX, gid: getgid().as_raw(), ..account(&[]) };
        assert!(open_as("/", &nobody).is_err());
    }
}
