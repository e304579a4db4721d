//! Reads an OCI image layout in a tar archive: index, manifest, configuration, and where its layers are. Every blob is
//! checked against its digest before a byte of it is used.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use aws_lc_rs::digest::{Context, SHA256};
use job_grammar::echo::echo;
use serde::Deserialize;

use crate::store::Config;
use crate::{Doing, Result, fault};

/// Most bytes of an index, a manifest or a configuration.
const LARGEST_JSON: u64 = 4 << 20;
/// Most layers.
const MOST_LAYERS: usize = 128;
/// Most files of the layout itself.
const MOST_BLOBS: usize = 4096;

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    offset: u64,
    size: u64,
}

/// The files of an archive that is a layout.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    file: &'a File,
    index: Section,
    /// By digest, in hexadecimal.
    blobs: HashMap<String, Section>,
}

/// An image of a layout.
#[derive(Debug)]
pub(crate) struct OciImage {
    /// Of the manifest.
    pub(crate) digest: String,
    pub(crate) config: Config,
    /// The lowest first, checked.
    pub(crate) layers: Vec<Section>,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct ImageFile {
    #[serde(default)]
    config: Option<ContainerConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ContainerConfig {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

impl<'a> Layout<'a> {
    /// The layout that this archive has; `None`: it is not one.
    ///
    /// # Errors
    /// It is no archive.
    pub(crate) fn find(file: &'a File) -> Result<Option<Layout<'a>>> {
        let mut archive = tar::Archive::new(file);
        let (mut index, mut is_layout, mut is_dockers) = (None, false, false);
        let mut blobs = HashMap::new();
        for entry in archive.entries_with_seek().doing(|| "cannot read the archive".into())? {
            let entry = entry.doing(|| "cannot read the archive".into())?;
            let section = Section { offset: entry.raw_file_position(), size: entry.size() };
            let name = entry.path_bytes();
            let name = name.strip_prefix(b"./").unwrap_or(&name);
            match name {
                b"oci-layout" => is_layout = true,
                b"index.json" => index = Some(section),
                b"manifest.json" => is_dockers = true,
                name => {
                    if let Some(digest) = name.strip_prefix(b"blobs/sha256/")
                        && let Ok(digest) = std::str::from_utf8(digest)
                        && !digest.is_empty()
                        && blobs.len() < MOST_BLOBS
                    {
                        blobs.insert(digest.to_owned(), section);
                    }
                }
            }
        }
        match index {
            Some(index) if is_layout => Ok(Some(Layout { file, index, blobs })),
            None if is_dockers => fault(
                "this is an archive of an older docker, without an OCI layout: make one with \
                 \"skopeo copy docker-archive:FILE oci-archive:NEW\"",
            ),
            _ => Ok(None),
        }
    }

    /// Its image for this host.
    ///
    /// # Errors
    /// It has none, or several; a blob is missing, or is not what its digest says.
    pub(crate) fn image(&self) -> Result<OciImage> {
        let index: Index = self.json("index.json", self.index)?;
        let mut chosen = choose(index.manifests)?;
        if chosen.media_type.ends_with("index.v1+json")
            || chosen.media_type.contains("manifest.list")
        {
            let index: Index = self.json("an index", self.checked(&chosen.digest)?)?;
            chosen = choose(index.manifests)?;
        }
        let manifest: Manifest = self.json("the manifest", self.checked(&chosen.digest)?)?;
        if manifest.layers.len() > MOST_LAYERS {
            let count = manifest.layers.len();
            return fault(format!(
                "the image has {count} layers; at most {MOST_LAYERS} are allowed"
            ));
        }
        let file: ImageFile =
            self.json("the configuration", self.checked(&manifest.config.digest)?)?;
        let layers = manifest.layers.iter().map(|layer| self.checked(&layer.digest));
        Ok(OciImage {
            digest: chosen.digest,
            config: config(file.config.unwrap_or_default())?,
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// A blob that is what its digest says.
    fn checked(&self, digest: &str) -> Result<Section> {
        let Some(hex) = digest.strip_prefix("sha256:") else {
            return fault(format!("{} is no digest of SHA-256", echo(digest)));
        };
        let Some(section) = self.blobs.get(hex) else {
            return fault(format!("the archive has no blob {}", echo(digest)));
        };
        let found =
            sha256(self.file, *section).doing(|| format!("cannot read {}", echo(digest)))?;
        if found != hex {
            return fault(format!(
                "the blob {} is another: its digest is sha256:{found}",
                echo(digest)
            ));
        }
        Ok(*section)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, what: &str, section: Section) -> Result<T> {
        if section.size > LARGEST_JSON {
            return fault(format!("{what} of the image is larger than {LARGEST_JSON} bytes"));
        }
        let read = BufReader::new(reader(self.file, section));
        serde_json::from_reader(read).doing(|| format!("cannot read {what} of the image"))
    }
}

/// The one for this host; or the only one, if it does not say for which.
fn choose(manifests: Vec<Descriptor>) -> Result<Descriptor> {
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let is_own = |one: &&Descriptor| {
        one.platform
            .as_ref()
            .is_some_and(|platform| platform.os == "linux" && platform.architecture == own)
    };
    let says = manifests.iter().any(|one| one.platform.is_some());
    let fitting: Vec<_> = manifests.iter().filter(|one| !says || is_own(one)).collect();
    match fitting.as_slice() {
        [one] => Ok((*one).clone()),
        [] => fault(format!("the archive has no image for linux/{own}")),
        several => fault(format!("the archive has {} images; it must have one", several.len())),
    }
}

fn config(given: ContainerConfig) -> Result<Config> {
    let argv = [given.entrypoint.unwrap_or_default(), given.cmd.unwrap_or_default()].concat();
    let config = Config {
        env: given.env.unwrap_or_default(),
        argv,
        working_directory: given.working_dir.unwrap_or_default(),
        user: given.user.unwrap_or_default(),
    };
    config.check()?;
    Ok(config)
}

/// Reads a part of a file, wherever others read.
pub(crate) fn reader(file: &File, section: Section) -> impl Read + '_ {
    SectionReader { file, at: section.offset, left: section.size }
}

/// The whole of a file.
pub(crate) fn whole(file: &File) -> io::Result<Section> {
    Ok(Section { offset: 0, size: file.metadata()?.len() })
}

/// In hexadecimal.
pub(crate) fn sha256(file: &File, section: Section) -> io::Result<String> {
    let mut data = reader(file, section);
    let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 256 << 10]);
    loop {
        match data.read(&mut buffer)? {
            0 => break,
            read => context.update(&buffer[..read]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

struct SectionReader<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for SectionReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let read = self.file.read_at(&mut into[..most], self.at)?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
