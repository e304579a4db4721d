//! See the library.

fn main() {
    // Not a return: a thread that is blocked in reading the terminal must not hold the process.
    std::process::exit(jobctl::run(std::env::args_os()));
}
