//! Where images are: `names/NAME.json` says which tree below `trees/` an image is, and what it is. A tree is in use as long
//! as somebody holds a shared lock on its directory, whatever has become of its name. Nothing here makes an image.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use job_grammar::echo::echo;
use job_grammar::names::{check_env, check_image_name};
use nix::fcntl::FlockArg;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Doing, Fault, Result, fault};

/// Most images.
const MOST_IMAGES: usize = 1024;
/// Most bytes of a record, and of what an image says of its programs.
const LARGEST_RECORD: u64 = 1 << 20;
const LARGEST_CONFIG: usize = 64 << 10;
/// Most variables, and arguments.
const MOST_STRINGS: usize = 256;
/// How often a name is looked up that another process changes meanwhile.
const TRIES: usize = 8;

/// The directory of the images of a broker.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) dir: PathBuf,
}

/// An image, as its record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What it is called here.
    pub name: String,
    /// `sha256:` and hexadecimal: of the manifest of an OCI image; of the archive that it was otherwise.
    pub digest: String,
    /// The directory below `trees/`.
    pub(crate) tree: Uuid,
    /// Seconds since 1970.
    pub imported: u64,
    /// Of its files.
    pub bytes: u64,
    /// Files, directories and links.
    pub files: u64,
    /// What it says of its programs.
    #[serde(default)]
    pub config: Config,
}

/// What an OCI image says of how it is run; empty for a plain archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Entrypoint and Cmd.
    pub argv: Vec<String>,
    /// Empty: none.
    pub working_directory: String,
    /// Whom it would run as; ignored, but said.
    pub user: String,
}

/// An image that stays as long as its descriptor is open, here or in another process.
#[derive(Debug)]
pub struct OpenImage {
    /// Its record.
    pub image: Image,
    /// The directory, with a shared lock that goes when the last duplicate is closed.
    pub root: OwnedFd,
}

impl Config {
    /// Its bounds. Nothing of it is used that a request may not say.
    pub(crate) fn check(&self) -> Result<()> {
        let Config { env, argv, working_directory, user } = self;
        let bytes = env.iter().chain(argv).map(String::len).sum::<usize>();
        if env.len() > MOST_STRINGS || argv.len() > MOST_STRINGS || bytes > LARGEST_CONFIG {
            return fault("the image says too much of its environment and arguments");
        }
        if working_directory.len() > 4095 || user.len() > 256 {
            return fault("the image names a very long directory or user");
        }
        let has_nul = |text: &String| text.contains('\0');
        if env.iter().chain(argv).chain([working_directory]).any(has_nul) {
            return fault("the image has a NUL byte in its configuration");
        }
        if !working_directory.is_empty() && !working_directory.starts_with('/') {
            return fault("the image's working directory is not absolute");
        }
        Ok(())
    }

    /// The variables that a job may have: `LD_*` is left out, as it is refused in a request.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.env.iter().filter_map(|entry| entry.split_once('='));
        pairs.filter(|(name, value)| check_env(name, value).is_ok())
    }
}

impl Store {
    /// That of this directory, which need not be there.
    pub fn new(dir: &Path) -> Store {
        Store { dir: dir.into() }
    }

    /// The image of this name, held. Blocks as long as the disk.
    ///
    /// # Errors
    /// In words for whoever named it.
    pub fn open(&self, name: &str) -> Result<OpenImage> {
        check_image_name(name).map_err(|what| Fault(format!("the name of an image {what}")))?;
        for _ in 0..TRIES {
            let image = self.read(name)?;
            // Absent, or locked by who removes it: its name is another's by now, or nobody's.
            let Ok(root) = File::open(self.tree(image.tree)) else { continue };
            if !lock(&root, FlockArg::LockSharedNonblock).doing(|| shown(name))? {
                continue;
            }
            if self.read(name)? == image {
                return Ok(OpenImage { image, root: root.into() });
            }
        }
        fault(format!("the image {} is being replaced; try again", echo(name)))
    }

    /// All, by name. Blocks as long as the disk.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<Image>> {
        let entries = match fs::read_dir(self.names()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.doing(|| format!("cannot read {}", self.names().display()))?,
        };
        let mut images = Vec::new();
        for entry in entries.flatten().take(MOST_IMAGES) {
            let name = entry.file_name().into_string().unwrap_or_default();
            // What another process removes or replaces meanwhile is not there.
            if let Some(name) = name.strip_suffix(".json")
                && let Ok(image) = self.read(name)
            {
                images.push(image);
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    pub(crate) fn read(&self, name: &str) -> Result<Image> {
        let path = self.record(name);
        let found = match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return fault(format!("there is no image {} here", echo(name)));
            }
            found => found.doing(|| shown(name))?,
        };
        if found.len() > LARGEST_RECORD {
            return fault(format!("the record of the image {} is too large", echo(name)));
        }
        let text = fs::read(&path).doing(|| shown(name))?;
        let image: Image = serde_json::from_slice(&text).doing(|| shown(name))?;
        image.config.check()?;
        Ok(image)
    }

    /// Makes the directories, which nobody but root may enter.
    pub(crate) fn make(&self) -> Result<()> {
        for dir in [self.dir.clone(), self.names(), self.trees(), self.work()] {
            let made = match DirBuilder::new().mode(0o700).create(&dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => made,
            };
            made.doing(|| format!("cannot make {}", dir.display()))?;
        }
        let found =
            fs::metadata(&self.dir).doing(|| format!("cannot use {}", self.dir.display()))?;
        if found.uid() != 0 || found.mode() & 0o077 != 0 {
            let dir = self.dir.display();
            return fault(format!("{dir} must be root's, with mode 0700"));
        }
        Ok(())
    }

    pub(crate) fn names(&self) -> PathBuf {
        self.dir.join("names")
    }

    pub(crate) fn trees(&self) -> PathBuf {
        self.dir.join("trees")
    }

    /// What is being made, and what is being removed.
    pub(crate) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    pub(crate) fn tree(&self, tree: Uuid) -> PathBuf {
        self.trees().join(tree.to_string())
    }

    pub(crate) fn record(&self, name: &str) -> PathBuf {
        self.names().join(format!("{name}.json"))
    }
}

fn shown(name: &str) -> String {
    format!("cannot use the image {}", echo(name))
}

/// Whether the lock was taken. It belongs to the open file, and so to all that have a duplicate of its descriptor.
#[allow(deprecated, reason = "`Flock` lets go of the lock when it is dropped, for every duplicate")]
pub(crate) fn lock(file: &File, how: FlockArg) -> io::Result<bool> {
    match nix::fcntl::flock(file.as_raw_fd(), how) {
        Err(nix::Error::EWOULDBLOCK) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}
