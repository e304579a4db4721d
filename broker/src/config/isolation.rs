//! `[isolation]`: what jobs see of the host. It only builds the rules of `model::isolation`.

use job_api::units::parse_size;
use serde::Deserialize;

use crate::model::glob::{Pattern, Syntax, check_path};
use crate::model::isolation::{IsolationRules, Profile};

/// The shim takes as many.
const MAX_SHARED: usize = 8;

/// What a job sees of the host, docs/ISOLATION.md.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Isolation {
    /// The profile of a job that does not say: `host`, `private`, or `strict`.
    ///
    /// Default: `"private"`
    pub default: Profile,
    /// The weakest profile that a job may ask for; each of its pieces must be at least as strong.
    ///
    /// Default: `"private"`
    pub minimum: Profile,
    /// Globs of paths that jobs may mount read-only, as far as their accounts may read them; `*` stops at a slash, `**`
    /// does not. `/proc`, `/sys`, `/dev` and `/run` are never mounted.
    ///
    /// Default: `["/**"]`
    pub read_only: Vec<String>,
    /// Likewise for writing, as far as their accounts may.
    ///
    /// Default: `[]`
    pub read_write: Vec<String>,
    /// Globs of the directories that may be the root of a job (`--rootfs`), as unpacked or debootstrapped systems; it must
    /// match what the path leads to. The job's account must be able to read them. Read-only, whatever their modes.
    ///
    /// Default: `[]`
    pub rootfs: Vec<String>,
    /// Whether what belongs to root in such a directory belongs to a job that may write to it (`--tmpfs-size`,
    /// `--root-size`), into a layer of its own: its account may change and read all of that, files with mode 0600
    /// included. In an image it always does.
    ///
    /// Default: `false`
    pub rootfs_owned: bool,
    /// Globs of the images that jobs may use (`--image`), of those that `job-broker images import` has made.
    ///
    /// Default: `["*"]`
    pub images: Vec<String>,
    /// Paths that every job sees as they are on the host, and may write to as far as its account may: a cache, a
    /// spool. At most 8. A job with a root of its own does not.
    ///
    /// Default: `[]`
    pub shared: Vec<String>,
    /// Maximum size of a job's own `/tmp`, `/var/tmp` and `/dev/shm` together, of what it writes into a root of its own,
    /// and of each of its other directories in memory. It counts as the job's memory.
    ///
    /// Default: `"1G"`
    pub tmp_size: String,
    /// Maximum size of what a job writes into a root of its own on disk (`--root-size`), where `jobs.work_dir` has project
    /// quotas.
    ///
    /// Default: `"10G"`
    pub root_size: String,
}

impl Default for Isolation {
    fn default() -> Self {
        let IsolationRules { default, minimum, .. } = IsolationRules::default();
        let (read_only, read_write) = (vec!["/**".into()], Vec::new());
        let (rootfs, rootfs_owned, shared) = (Vec::new(), false, Vec::new());
        let (tmp_size, root_size) = ("1G".into(), "10G".into());
        let images = vec!["*".into()];
        Isolation {
            default,
            minimum,
            read_only,
            read_write,
            rootfs,
            rootfs_owned,
            images,
            shared,
            tmp_size,
            root_size,
        }
    }
}

impl Isolation {
    /// The rules.
    ///
    /// # Errors
    /// The key that cannot be used, and why.
    pub fn rules(&self) -> Result<IsolationRules, (&'static str, String)> {
        let size = |key, text| parse_size(text).map_err(|fault| (key, fault));
        let tmp_bytes = size("isolation.tmp_size", &self.tmp_size)?;
        let root_bytes = size("isolation.root_size", &self.root_size)?;
        let globs = |key, globs: &[String]| -> Result<Vec<Pattern>, (&'static str, String)> {
            let parse = |glob: &String| {
                Pattern::parse(glob, Syntax::Path)
                    .map_err(|fault| (key, format!("{glob:?} {fault}")))
            };
            globs.iter().map(parse).collect()
        };
        let name = |glob: &String| {
            let parsed = Pattern::parse(glob, Syntax::Text);
            parsed.map_err(|fault| ("isolation.images", format!("{glob:?} {fault}")))
        };
        let is_path = |path: &String| check_path(path).is_ok() && path != "/";
        if self.shared.len() > MAX_SHARED || !self.shared.iter().all(is_path) {
            let fault = format!("must be at most {MAX_SHARED} absolute paths, not \"/\"");
            return Err(("isolation.shared", fault));
        }
        Ok(IsolationRules {
            shared: self.shared.clone(),
            default: self.default,
            minimum: self.minimum,
            read_only: globs("isolation.read_only", &self.read_only)?,
            read_write: globs("isolation.read_write", &self.read_write)?,
            rootfs: globs("isolation.rootfs", &self.rootfs)?,
            rootfs_owned: self.rootfs_owned,
            images: self.images.iter().map(name).collect::<Result<_, _>>()?,
            tmp_bytes,
            root_bytes,
        })
    }
}
