//! Runs the scenes about limits in the testbed VM, where this host lacks a feature that they need.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::limits;
use super::stage::Stage;
use crate::programs::{Profile, Programs};
use crate::site::{MissingFeature, Site, Throwaway};
use crate::{interrupt, vm};

/// Where a host has its disk.
const HOST_DISK: &str = "/var/tmp";

/// The scenes, wherever they can be played.
pub(crate) fn play(stage: &mut Stage, site: &Site, programs: &Programs) -> Result<()> {
    let Some(missing_feature) = site.missing_feature(Path::new(HOST_DISK))? else {
        return limits::play(stage, site, Path::new(HOST_DISK));
    };
    refused(stage, site, &missing_feature)?;
    let scene = stage.scene().to_string();
    let mut words = vec!["demo-limits", "--scene", &scene, "--disk", vm::DISK];
    if stage.is_bold() {
        words.push("--bold");
    }
    let sentence = capitalized(&missing_feature.words);
    match vm::rerun_in_vm(programs, &words) {
        Ok(mut command) => {
            stage.say(&format!("{sentence}: the rest is shown in a VM whose kernel can."));
            stage.guest(&mut command)
        }
        Err(error) => {
            stage.say(&format!("{sentence}, and the rest is left out: {error:#}."));
            Ok(())
        }
    }
}

fn refused(stage: &mut Stage, site: &Site, missing_feature: &MissingFeature) -> Result<()> {
    stage.heading("A limit that this host cannot enforce");
    let shown = stage.live(site, &["run", &missing_feature.refused, "--", "true"])?;
    let is_refused = shown.status.code() == Some(125);
    stage.holds("it is refused with the reason, and nothing ran without it", is_refused);
    stage.piece("\n");
    Ok(())
}

fn capitalized(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// The arguments of `cargo xtask demo-limits`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Scenes that were played already
    #[arg(long)]
    scene: usize,
    /// A directory on a disk that can be limited
    #[arg(long)]
    disk: std::path::PathBuf,
    /// Whether headings are bold
    #[arg(long)]
    bold: bool,
}

/// In the VM: a broker of its own, and the scenes.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let programs = Programs::given()?;
    interrupt::watch()?;
    let mut stage = Stage::elsewhere(args.scene, args.bold);
    let throwaway = Throwaway::open(Profile::Dev, &programs)?;
    let played = limits::play(&mut stage, &throwaway.site, &args.disk);
    if played.is_err() || stage.failed() > 0 {
        stage.log(&throwaway.site.file("broker.log"));
    }
    let left = throwaway.close();
    played?;
    left?;
    Ok(if stage.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_begins_with_a_capital() {
        assert_eq!(capitalized("this host has none"), "This host has none");
        assert_eq!(capitalized(""), "");
    }
}
