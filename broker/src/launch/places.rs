//! Looking for the disks of a job's limits, as far as its own user may look: the answer tells
//! nothing of what only root may know.

use std::fs;
use std::io;

use nix::unistd::{Gid, Uid, getgroups, setfsgid, setfsuid};

use super::limits::{Found, Plan, Unenforceable};
use super::tree::Tree;
use crate::jobs::spec::JobSpec;
use crate::limits::{DiskName, Knob, Limits};
use crate::store::records::Account;
use crate::sys;

/// Finds the disks, and makes sure that this host can enforce all limits. Blocks; the calling
/// thread is somebody else meanwhile, for file systems only.
///
/// # Errors
/// [`Unenforceable`].
pub fn find(
    tree: &Tree,
    limits: &Limits,
    spec: &JobSpec,
    account: &Account,
) -> Result<Found, Unenforceable> {
    for (limit, path) in asked(limits, &spec.working_directory) {
        visible(path, account).map_err(|e| Unenforceable {
            limit,
            controller: "io",
            reason: format!("{} cannot look up {path}: {e}", account.name),
        })?;
    }
    // What lies below, such as the layers of an overlay, is the host's affair and not the job's.
    let found = Found::find(limits, tree, &spec.working_directory)?;
    Plan::new(limits, &found).check(tree)?;
    Ok(found)
}

/// All paths that somebody outside has given and that will be looked up, with the limit that needs
/// it. What the job cannot see it could not work in either.
fn asked<'a>(
    limits: &'a Limits,
    directory: &'a str,
) -> impl Iterator<Item = (&'static str, &'a str)> {
    let of_rules = limits.io.iter().filter_map(move |rule| match &rule.disk {
        DiskName::WorkingDirectory => Some(("io.max", directory)),
        DiskName::Path(path) => Some(("io.max", path.as_str())),
        DiskName::Device(_) => None,
    });
    of_rules.chain(limits.knob(Knob::IoWeight).map(|_| ("io.weight", directory)))
}

fn visible(path: &str, account: &Account) -> io::Result<()> {
    let _as_user = AsUser::become_user(account)?;
    fs::metadata(path).map(drop)
}

/// The file system identity of this thread, until it is dropped: setfsuid(2), and the groups. With it
/// go the capabilities that let root look everywhere, capabilities(7).
struct AsUser {
    groups: Vec<u32>,
}

impl AsUser {
    fn become_user(account: &Account) -> io::Result<AsUser> {
        let groups = getgroups()?.into_iter().map(Gid::as_raw).collect();
        sys::set_thread_groups(&account.groups)?;
        setfsgid(Gid::from_raw(account.gid));
        setfsuid(Uid::from_raw(account.uid));
        Ok(AsUser { groups })
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(0));
        let _ = sys::set_thread_groups(&self.groups); // which root does not need
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
    use std::path::Path;

    use super::*;

    fn account(groups: &[u32]) -> Account {
        let (name, home) = ("somebody".into(), "/".into());
        Account { name, uid: 65_533, gid: 65_533, groups: groups.to_vec(), home }
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
            return; // who cannot become anybody else
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let [roots, rootgroups, teams] = [(0o700, 0), (0o750, 0), (0o750, 64_997)]
            .map(|(mode, group)| inside(dir.path(), mode, group));
        let before = getgroups().unwrap();
        for hidden in [&roots, &rootgroups, &teams] {
            assert!(visible(hidden, &account(&[])).is_err(), "{hidden}");
        }
        assert!(visible(&teams, &account(&[64_997])).is_ok());
        assert_eq!(getgroups().unwrap(), before);
        assert!(Path::new(&roots).exists(), "this thread is root again");
    }
}
