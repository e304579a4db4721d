//! `docs/CLI.md`: what each program says of itself with `--help`, command by command.

use std::fmt::Write as _;

use clap::Command;

/// Columns of the page, whatever terminal makes it.
const WIDTH: usize = 100;

/// The page for these programs, in this order.
pub(crate) fn render(programs: impl IntoIterator<Item = Command>) -> String {
    let mut page = String::from(
        "# Command lines\n\n\
         Made from the programs' own `--help` by `cargo xtask tidy`: change the programs, not this page.\n",
    );
    for program in programs {
        let mut program = program.disable_help_subcommand(true).term_width(WIDTH);
        program.build();
        let name = program.get_name().to_owned();
        section(&mut page, &mut program, &name, 2);
    }
    page
}

fn section(page: &mut String, command: &mut Command, name: &str, level: usize) {
    let help = command.render_long_help().to_string();
    // A blank at the end of a line is clap's, and no editor would keep it.
    let help: Vec<_> = help.trim_end().lines().map(str::trim_end).collect();
    let _ = write!(page, "\n{} {name}\n\n```text\n{}\n```\n", "#".repeat(level), help.join("\n"));
    for below in command.get_subcommands_mut().filter(|below| !below.is_hide_set()) {
        let name = format!("{name} {}", below.get_name());
        section(page, below, &name, 3);
    }
}
