//! The `job-certs` program; everything is in the library.
fn main() -> std::process::ExitCode {
    job_certs::run()
}
