//! `job-manuals DIR`: writes the manual pages and completions. All of it is in the library.

fn main() -> std::process::ExitCode {
    job_manuals::run()
}
