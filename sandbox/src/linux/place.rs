//! Where a sandbox lives: a cgroup and a directory of its own, gone with it; and if its process was killed, with the next
//! sandbox in the same place.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::held::{self, Held};
use crate::builder::Builder;
use crate::error::Error;
use job_launch::cgroup::hierarchy::{self, Hierarchy};

/// The directories of one sandbox.
#[derive(Debug)]
pub(super) struct Directories {
    base: Held,
}

impl Directories {
    /// Makes them.
    ///
    /// # Errors
    /// `Setup`.
    pub(super) fn make(builder: &Builder) -> Result<Directories, Error> {
        let parent = builder.state.clone().unwrap_or_else(std::env::temp_dir);
        held::remove_left(&parent, |left| _ = fs::remove_dir_all(left)); // or the next one does
        Directories::make_in(&parent)
            .map_err(|source| Error::Setup { step: "make the sandbox's directory", source })
    }

    /// The commands pass through the first, to their own directories.
    fn make_in(parent: &Path) -> io::Result<Directories> {
        let made = Directories { base: Held::make(parent, 0o711)? };
        for private in [made.run(), made.state()] {
            DirBuilder::new().mode(0o700).create(private)?;
        }
        Ok(made)
    }

    /// Of the shims' sockets.
    pub(super) fn run(&self) -> PathBuf {
        self.base.path().join("run")
    }

    /// Of the output of running commands.
    pub(super) fn state(&self) -> PathBuf {
        self.base.path().join("state")
    }

    /// Of the commands' own directories.
    pub(super) fn work(&self) -> PathBuf {
        self.base.path().join("work")
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.base.path()); // the host's temporary directory is cleaned by others, too
    }
}

/// A cgroup of the sandbox's own, with the controllers that can be had. It is held as long as the second of them.
///
/// # Errors
/// `Refused`.
pub(super) fn hierarchy(builder: &Builder) -> Result<(Hierarchy, Held), Error> {
    let refused = |reason: String| Error::refused("cgroup", reason);
    let mount = hierarchy::mount().map_err(|e| refused(e.to_string()))?;
    let parent = match &builder.cgroup {
        Some(path) => mount.join(path), // an absolute one stays what it is
        None => above_own(&mount).map_err(refused)?,
    };
    if !parent.starts_with(&mount) {
        return Err(refused(format!("{} is not in {}", parent.display(), mount.display())));
    }
    held::remove_left(&parent, |left| _ = remove_tree(left)); // what does not end keeps it
    // Not with those above it: who names a cgroup that is not there has mistaken its name.
    let root = Held::make(&parent, 0o700).map_err(|e| {
        let (parent, hint) =
            (parent.display(), "root, or a cgroup that was delegated to this user, can");
        refused(format!("cannot make a cgroup in {parent}: {e} ({hint})"))
    })?;
    match Hierarchy::open(mount, root.path().to_owned(), None, &[]) {
        Ok(hierarchy) => Ok((hierarchy, root)),
        Err(e) => {
            let _ = fs::remove_dir(root.path());
            Err(refused(e.to_string()))
        }
    }
}

/// Removes a cgroup and those below it, which hold no process: the supervisors have ended with what they were tied to.
fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// The nearest cgroup above this process's own without a process: others cannot give limits to what is below them.
fn above_own(mount: &Path) -> Result<PathBuf, String> {
    let text = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = mount.join(own.ok_or("this process is in no cgroup of version 2")?);
    let above = own.ancestors().take_while(|path| path.starts_with(mount));
    let is_free = |path: &Path| {
        path == mount
            || fs::read_to_string(path.join("cgroup.procs"))
                .is_ok_and(|processes| processes.is_empty())
    };
    let found = above.into_iter().find(|path| is_free(path));
    Ok(found.unwrap_or(mount).to_owned())
}
