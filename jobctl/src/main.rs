//! See the library.

/// musl's own allocator is too slow for output at full speed.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // Not a return: a thread that is blocked in reading the terminal must not hold the process.
    std::process::exit(jobctl::run(std::env::args_os()));
}
