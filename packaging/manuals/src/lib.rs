//! Manual pages and completions of the installed programs, generated from their own command lines, and
//! the pages of `docs/` that are generated from these, from the contract and from the types of the
//! configuration: what they say and what the programs take cannot differ.

mod api_page;
mod cli_page;
mod config_page;
#[cfg(test)]
mod documents;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// The program: the directory to write to, or `--pages` for the pages of `docs/`. Exit status 0, 1 after
/// an error, 2 for a wrong command line.
pub fn run() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: job-manuals DIR | job-manuals --pages");
        return ExitCode::from(2);
    };
    let written =
        if directory == "--pages" { write_pages() } else { write(&PathBuf::from(directory)) };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("job-manuals: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes `man/NAME.SECTION` and `completions/{bash,zsh,fish}/...` below `directory`.
///
/// # Errors
/// Files that cannot be written.
pub fn write(directory: &Path) -> Result<()> {
    let programs =
        [(jobctl::command(), "1"), (job_certs::command(), "1"), (job_broker::command(), "8")];
    let man = directory.join("man");
    create(&man)?;
    for (command, section) in &programs {
        pages(&man, &command.clone().disable_help_subcommand(true), section)?;
    }
    for (command, _) in programs {
        complete(&directory.join("completions"), command)?;
    }
    Ok(())
}

/// The generated pages of `docs/`: where they are, and what they say.
///
/// # Errors
/// A contract or types of the configuration that do not parse.
fn docs() -> Result<[(PathBuf, String); 3]> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let programs = [jobctl::command(), job_broker::command(), job_certs::command()];
    Ok([
        (workspace.join("docs/CLI.md"), cli_page::render(programs)),
        (workspace.join("docs/API.md"), api_page::render(&workspace.join("proto"))?),
        (
            workspace.join("docs/CONFIGURATION.md"),
            config_page::render(
                &workspace.join("broker/src/config"),
                &workspace.join("broker/src/auth/policy/file.rs"),
            )?,
        ),
    ])
}

fn write_pages() -> Result<()> {
    for (path, text) in docs()? {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// One page for the program, and one for each of its commands: `jobctl-run(1)`.
fn pages(directory: &Path, command: &Command, section: &'static str) -> Result<()> {
    let mut command = command.clone();
    command.build();
    page(directory, &command, command.get_name().to_owned(), section)
}

fn page(directory: &Path, command: &Command, name: String, section: &'static str) -> Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        if below.get_name() != "help" {
            page(directory, below, format!("{name}-{}", below.get_name()), section)?;
        }
    }
    let title: &'static str = name.clone().leak(); // clap wants names that last as long as the process
    let file = directory.join(format!("{name}.{section}"));
    let mut text = Vec::new();
    let man = Man::new(command.clone().name(title)).section(section).source("job-broker");
    man.render(&mut text).with_context(|| name)?;
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// In the places where each shell looks, below `/usr/share`.
fn complete(directory: &Path, mut command: Command) -> Result<()> {
    let name = command.get_name().to_owned();
    let places = [
        (Shell::Bash, format!("bash-completion/completions/{name}")),
        (Shell::Zsh, format!("zsh/vendor-completions/_{name}")),
        (Shell::Fish, format!("fish/vendor_completions.d/{name}.fish")),
    ];
    for (shell, place) in places {
        let file = directory.join(place);
        create(file.parent().unwrap_or(directory))?;
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, &name, &mut script);
        fs::write(&file, script).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn create(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_pages_of_docs_are_up_to_date() {
        for (path, text) in docs().unwrap() {
            let there = fs::read_to_string(&path).unwrap_or_default();
            assert!(there == text, "{}: run cargo xtask tidy and commit it", path.display());
        }
    }

    #[test]
    fn every_program_and_command_has_a_page_and_each_shell_its_completions() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        for page in ["job-broker.8", "job-broker-drain.8", "jobctl.1", "jobctl-run.1"] {
            let text = fs::read_to_string(dir.path().join("man").join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
        for place in ["bash-completion/completions/jobctl", "zsh/vendor-completions/_job-certs"] {
            assert!(dir.path().join("completions").join(place).exists(), "{place}");
        }
    }
}
