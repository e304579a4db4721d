//! `job-broker images`: commands for an operator on the broker's host, beside a broker that runs or without one. They must
//! not read an archive as root: `unpack` does, as somebody who can do nothing else.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use job_images::{Bounds, Image, Store};

use crate::config::Config;
use crate::journal;

/// What the kernel executes as this very program.
const OWN_PROGRAM: &str = "/proc/self/exe";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an image of FILE: an OCI image layout in a tar archive ("skopeo copy docker://... oci-archive:FILE"), or a tar
    /// archive of a root, as it is or compressed with gzip or zstd. An image of this name is replaced; jobs that run
    /// keep theirs
    Import {
        /// What users call it: letters, digits, '_', '.', ':' and '-'
        name: String,
        /// The archive
        file: PathBuf,
        /// Most bytes of all its files together
        #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = job_api::units::parse_size)]
        max_size: u64,
        /// Most files, directories and links, of all layers together
        #[arg(long, value_name = "NUMBER", default_value_t = 500_000)]
        max_files: u64,
    },
    /// List the images: name, digest, bytes, files
    List,
    /// Remove an image. Jobs that run keep its files; they go with a later import or removal
    Remove {
        /// Its name
        name: String,
    },
    #[command(hide = true)]
    Unpack { directory: PathBuf, bytes: u64, files: u64 },
}

/// Exit status 0, or 1 and why not.
pub(super) fn run(config: &Path, command: Command) -> ExitCode {
    if let Command::Unpack { directory, bytes, files } = command {
        return job_images::unpack(&directory, Bounds { bytes, files });
    }
    match act(config, command) {
        Ok(text) => {
            let _ = io::stdout().write_all(text.as_bytes()); // it is done, whether or not anybody reads it
            ExitCode::SUCCESS
        }
        Err(fault) => {
            journal::error(fault);
            ExitCode::FAILURE
        }
    }
}

fn act(config: &Path, command: Command) -> Result<String, String> {
    let config = Config::load(config).map_err(|e| e.to_string())?;
    let store = Store::new(&config.jobs.images_dir());
    match command {
        Command::Import { name, file, max_size, max_files } => {
            let archive =
                File::open(&file).map_err(|e| format!("cannot open {}: {e}", file.display()))?;
            let bounds = Bounds { bytes: max_size, files: max_files };
            let unpacker = [OWN_PROGRAM, "images", "unpack"].map(OsStr::new);
            let imported = job_images::import(&store, &name, archive, bounds, &unpacker);
            let (image, left_out) = imported.map_err(|fault| fault.to_string())?;
            let left_out = match left_out {
                0 => String::new(),
                count => format!("{count} devices, FIFOs or sockets were left out\n"),
            };
            Ok(left_out + &line(&image))
        }
        Command::List => {
            let images = store.list().map_err(|fault| fault.to_string())?;
            Ok(images.iter().map(line).collect())
        }
        Command::Remove { name } => {
            job_images::remove(&store, &name).map_err(|fault| fault.to_string())?;
            Ok(String::new())
        }
        Command::Unpack { .. } => Ok(String::new()), // `run` has done it
    }
}

fn line(image: &Image) -> String {
    let Image { name, digest, bytes, files, .. } = image;
    format!("{name} {digest} {bytes} {files}\n")
}
