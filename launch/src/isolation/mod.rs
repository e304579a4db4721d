//! From a job's isolation to what its shim is told and given. The shim does it; the rules are `model::isolation`'s.

mod mounts;
mod owner;
mod sources;
mod view;
mod views;

pub use views::Isolator;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use job_grammar::echo::echo;
use job_shim::filter::Filter;
use job_shim::isolation::{Files, JOB_DIR, Mount as ShimMount, Root, Scratch, Source};

use crate::job_dirs::OwnDirs;
use crate::model::account::Account;
use crate::model::isolation::{Isolation, IsolationRules, Mount, Profile, Seccomp, Share};
use crate::sys::NO_DESCRIPTOR;

/// A file in memory for each of this many bytes, and some at least: an inode costs the kernel about a kilobyte.
const BYTES_PER_INODE: u64 = 16 << 10;
const FEWEST_INODES: u64 = 1024;

/// What one launch needs, open until the shim is there.
#[derive(Debug)]
pub(crate) struct Isolated {
    /// Where the job finds its directory.
    pub(super) job_dir: PathBuf,
    /// For the launch.
    pub(super) isolation: Option<job_shim::isolation::Isolation>,
    /// Likewise; the first of the sources.
    pub(super) root: Option<Root>,
    view: Option<Arc<OwnedFd>>,
    sources: Vec<Arc<OwnedFd>>,
}

impl Isolator {
    /// Opens what the job mounts, as its user. Blocks as long as the file systems.
    ///
    /// # Errors
    /// In words for the caller.
    pub(super) fn prepare(
        &self,
        isolation: &Isolation,
        account: &Account,
        dirs: OwnDirs,
        (image, rules): (Option<&Arc<OwnedFd>>, &IsolationRules),
    ) -> Result<Isolated, String> {
        if isolation.is_none() {
            return Ok(Isolated {
                job_dir: dirs.path,
                isolation: None,
                root: None,
                view: None,
                sources: Vec::new(),
            });
        }
        let own_files = isolation.profile != Profile::Host;
        let views = self.views();
        let mut sources = Vec::new();
        let root = self.root(isolation, account, dirs.layer, (image, rules), &mut sources)?;
        // The smallest for a root of its own, which takes nothing of it but `/dev`.
        let profile = if root.is_some() { Profile::Strict } else { isolation.profile };
        let of_profile = views.of(profile);
        let files = isolation.has_files().then(|| -> Result<Files, String> {
            let mut mounts = Vec::new();
            if own_files {
                sources.push(Arc::new(dirs.job_dir));
                let source = Source::Inherited { read_only: false, file: false };
                mounts.push(ShimMount { target: JOB_DIR.into(), source });
            }
            if own_files && root.is_none() {
                for (source, mount) in views.shared.as_ref().map_err(String::clone)? {
                    sources.push(Arc::clone(source));
                    mounts.push(mount.clone());
                }
            }
            for mount in &isolation.mounts {
                mounts.push(open(mount, account, rules, &mut sources)?);
            }
            Ok(Files {
                read_only: own_files,
                scratch: isolation.private_tmp.then(|| scratch(isolation.tmp_bytes)),
                root: root.is_none() && needs_root(isolation, mounts.len()),
                devices: own_files || isolation.pids == Share::Own,
                mounts,
            })
        });
        let files = files.transpose()?;
        let view = || -> Result<Arc<OwnedFd>, String> {
            let failed =
                |e| format!("what the host has mounted cannot be hidden from the job: {e}");
            of_profile?.namespace().map_err(failed)
        };
        let view = files.is_some().then(view).transpose()?;
        let isolation = job_shim::isolation::Isolation {
            pids: isolation.pids == Share::Own,
            ipc: own_files,
            network: isolation.network == Share::Own,
            hostname: isolation.hostname.clone().into_bytes(),
            filter: match isolation.seccomp {
                Seccomp::None => Filter::None,
                Seccomp::Default => Filter::Default,
                Seccomp::Strict => Filter::Strict,
            },
            filter_logs: isolation.seccomp_log,
            files,
        };
        let job_dir = if own_files { JOB_DIR.into() } else { dirs.path };
        Ok(Isolated { job_dir, isolation: Some(isolation), root, view, sources })
    }

    /// The directory that is the job's root, which goes before all other sources; whose it is, if it is the job's; and
    /// where the job writes, if that is on disk.
    fn root(
        &self,
        isolation: &Isolation,
        account: &Account,
        layer: Option<OwnedFd>,
        (image, rules): (Option<&Arc<OwnedFd>>, &IsolationRules),
        sources: &mut Vec<Arc<OwnedFd>>,
    ) -> Result<Option<Root>, String> {
        if !isolation.has_root() {
            return Ok(None);
        }
        let overlay = (isolation.root_bytes > 0).then(|| scratch(isolation.root_bytes));
        let (root, may_own) = match (isolation.image.as_str(), image) {
            ("", _) => {
                let root = sources::open_root(&isolation.rootfs, account, rules)?;
                (Arc::new(root), rules.rootfs_owned)
            }
            (_, Some(image)) => (Arc::clone(image), true), // all may read all of it anyway
            (name, None) => return Err(format!("there is no image {}", echo(name))),
        };
        let (on_disk, writable) = (layer.is_some(), overlay.is_some() || layer.is_some());
        let owner = (writable && may_own).then(|| self.owners().of(&root, account)).flatten();
        let owned = owner.is_some();
        sources.push(root);
        sources.extend(owner);
        sources.extend(layer.map(Arc::new));
        Ok(Some(Root { overlay, owned, on_disk }))
    }
}

impl Isolated {
    /// Whether the shim is process 1 of a pid namespace.
    pub(super) fn new_pid_namespace(&self) -> bool {
        self.isolation.as_ref().is_some_and(|isolation| isolation.pids)
    }

    /// What the shim inherits from [`job_shim::isolation::VIEW_FD`] on.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let view = self.view.as_ref().map_or(NO_DESCRIPTOR, |view| view.as_raw_fd());
        [view].into_iter().chain(self.sources.iter().map(|source| source.as_raw_fd()))
    }
}

fn open(
    mount: &Mount,
    account: &Account,
    rules: &IsolationRules,
    sources: &mut Vec<Arc<OwnedFd>>,
) -> Result<ShimMount, String> {
    let source = match mount {
        Mount::Tmpfs { bytes, .. } => Source::Empty(scratch(bytes.unwrap_or(rules.tmp_bytes))),
        Mount::Bind { source, read_only, .. } => {
            let open = sources::open(source, *read_only, account, rules)?;
            sources.push(Arc::new(open.file));
            Source::Inherited { read_only: *read_only, file: open.is_file }
        }
    };
    Ok(ShimMount { target: mount.target().into(), source })
}

fn scratch(bytes: u64) -> Scratch {
    Scratch { bytes, inodes: (bytes / BYTES_PER_INODE).max(FEWEST_INODES) }
}

/// Whether one of these mounts may have no place in the view: with a path of its own, or where the view has little. The
/// first is the job's directory, which has its place.
fn needs_root(isolation: &Isolation, mounts: usize) -> bool {
    let has_place = |mount: &Mount| match mount {
        Mount::Bind { source, target, .. } => source == target,
        Mount::Tmpfs { .. } => false,
    };
    match isolation.profile {
        Profile::Host => false,
        Profile::Private => !isolation.mounts.iter().all(has_place),
        Profile::Strict => mounts > 1,
    }
}
