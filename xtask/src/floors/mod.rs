//! `cargo xtask floors`: which module uses which, and that none does in a circle or upwards.
//!
//! `source` reads the files of a target, `resolve` follows names to where they are defined, `edges`
//! makes the arrows, `circles` finds those that lead back, `order` holds `floors.toml`, `report` words
//! what is wrong, `graph` draws. Compilers allow circles of modules; readers pay for them.

mod circles;
mod edges;
mod graph;
mod order;
mod report;
mod resolve;
mod source;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{process, workspace};
use graph::House;
use order::Order;

/// The arguments of `cargo xtask floors`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Draw the rooms and the arrows between them, in Mermaid
    #[arg(long)]
    graph: bool,
    /// Only these crates or modules: `broker`, `jobctl`, `broker::jobs` [default: all]
    crates: Vec<String>,
}

/// A target of a package: a crate, as the compiler sees it.
struct Target {
    /// The package's folder for its library, the root file without `.rs` for anything else.
    name: String,
    root: PathBuf,
}

/// Prints what is wrong, or draws; fails if something is wrong.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let order = Order::read(&workspace::root().join(order::FILE))?;
    let targets = targets()?;
    order.check_names(&targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>())?;
    let chosen = chosen(targets, &args.crates)?;
    let mut faults = 0;
    for (target, below) in &chosen {
        let house = House::read(&target.name, &target.root, &workspace::root())?;
        if args.graph {
            if let Some(diagram) = house.mermaid(below, &order) {
                println!("{}:\n{diagram}\n", house.name);
            }
            continue;
        }
        let report = report::report(&house, &order);
        report.lines.iter().for_each(|line| println!("{line}"));
        faults += report.faults;
    }
    match faults {
        0 => Ok(ExitCode::SUCCESS),
        1 => bail!("a fault in the order of modules ({} has the order)", order::FILE),
        _ => bail!("{faults} faults in the order of modules ({} has the order)", order::FILE),
    }
}

/// The targets that were asked for, each with the module to look at.
fn chosen(targets: Vec<Target>, wanted: &[String]) -> Result<Vec<(Target, String)>> {
    let mut unknown: Vec<&String> = wanted.iter().collect();
    let chosen = targets.into_iter().filter_map(|target| {
        if wanted.is_empty() {
            return Some((target, String::new()));
        }
        let (at, below) = wanted.iter().find_map(|word| {
            let (name, below) = word.split_once("::").unwrap_or((word, ""));
            let is_it = target.name == name || target.name.starts_with(&format!("{name}/"));
            is_it.then_some((word, below))
        })?;
        unknown.retain(|word| *word != at);
        Some((target, below.to_owned()))
    });
    let chosen = chosen.collect();
    match unknown.first() {
        Some(word) => bail!("no crate has this name: {word} (a crate's name is its folder's)"),
        None => Ok(chosen),
    }
}

/// All targets of the workspace, as cargo tells them.
fn targets() -> Result<Vec<Target>> {
    let mut command = workspace::cargo();
    command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&process::output(&mut command)?)
        .context("cargo metadata: bad JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let mut targets = Vec::new();
    for target in packages.iter().flat_map(|package| package["targets"].as_array()).flatten() {
        let root = target["src_path"].as_str().context("a target without a file")?;
        let root = PathBuf::from(root);
        targets.push(Target { name: name(&root, &workspace::root())?, root });
    }
    Ok(targets)
}

fn name(root: &Path, workspace: &Path) -> Result<String> {
    let inside = root.strip_prefix(workspace).context("a target outside of the workspace")?;
    let name = inside.with_extension("").to_string_lossy().into_owned();
    let name =
        name.strip_suffix("/src/lib").or_else(|| name.strip_suffix("/main")).unwrap_or(&name);
    Ok(name.to_owned())
}
