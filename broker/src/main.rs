//! The root service. All of it is in the library.

fn main() -> std::process::ExitCode {
    job_broker::run()
}
