//! One per job: sets it up, execs it, keeps its output, records its end. `README.md` beside this
//! crate numbers the steps.

mod program;
mod sys;

fn main() -> std::process::ExitCode {
    program::run()
}
