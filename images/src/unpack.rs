//! The process that unpacks: it takes an archive as standard input, makes files in the one directory that it can reach,
//! and says on standard output what the image is. It must not read a byte of the archive before it is confined.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use serde::{Deserialize, Serialize};

use crate::archive::{self, Budget, Pass};
use crate::extract::Directory;
use crate::oci::{Layout, OciImage, Section, reader, sha256, whole};
use crate::store::Config;
use crate::{Bounds, Doing, Result, confine, fault};

/// What is said on standard output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Made(Made),
    Failed(String),
}

/// What was unpacked.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) digest: String,
    pub(crate) config: Config,
    /// Devices, FIFOs and sockets.
    pub(crate) left_out: u64,
}

/// The whole of that process, whose arguments are a directory and bounds. Its exit status says nothing: the report does.
pub fn unpack(directory: &Path, bounds: Bounds) -> ExitCode {
    let made = confine::confine(directory, bounds).and_then(|()| {
        let file = io::stdin().as_fd().try_clone_to_owned().doing(|| "no archive".into())?;
        image(&File::from(file), bounds, &mut Directory::new(Path::new("/")))
    });
    let report = match made {
        Ok(made) => Report::Made(made),
        Err(fault) => Report::Failed(fault.0),
    };
    let text = serde_json::to_vec(&report).unwrap_or_default();
    let written = io::stdout().write_all(&text);
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Unpacks an archive, whichever of the two kinds it is.
pub(crate) fn image(
    file: &File,
    bounds: Bounds,
    target: &mut impl archive::Target,
) -> Result<Made> {
    let all = whole(file).doing(|| "cannot read the archive".into())?;
    let mut budget = Budget { bytes: bounds.bytes, files: bounds.files, left_out: 0 };
    let layout = match compression(file, all)? {
        Compression::None => Layout::find(file)?,
        _ => None,
    };
    let (digest, config) = match layout {
        None => {
            let digest = sha256(file, all).doing(|| "cannot read the archive".into())?;
            layer(file, all, Pass::Plain, &mut budget, target)?;
            (format!("sha256:{digest}"), Config::default())
        }
        Some(layout) => {
            let OciImage { digest, config, layers } = layout.image()?;
            for section in layers {
                layer(file, section, Pass::Whiteouts, &mut budget, target)?;
                layer(file, section, Pass::Layer, &mut budget, target)?;
            }
            (digest, config)
        }
    };
    Ok(Made { digest, config, left_out: budget.left_out })
}

fn layer(
    file: &File,
    section: Section,
    pass: Pass,
    budget: &mut Budget,
    target: &mut impl archive::Target,
) -> Result<()> {
    let data = BufReader::with_capacity(256 << 10, reader(file, section));
    match compression(file, section)? {
        Compression::None => archive::read(data, pass, budget, target),
        Compression::Gzip => archive::read(MultiGzDecoder::new(data), pass, budget, target),
        Compression::Zstd => {
            let decoder = StreamingDecoder::new(data).doing(|| "cannot decompress".into())?;
            archive::read(decoder, pass, budget, target)
        }
    }
}

enum Compression {
    None,
    Gzip,
    Zstd,
}

/// By its first bytes.
fn compression(file: &File, section: Section) -> Result<Compression> {
    let mut first = Vec::new();
    reader(file, section)
        .take(6)
        .read_to_end(&mut first)
        .doing(|| "cannot read the archive".into())?;
    Ok(match first.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0] | [b'B', b'Z', b'h', ..] => {
            return fault("it is compressed with xz or bzip2; gzip and zstd are supported");
        }
        _ => Compression::None,
    })
}
