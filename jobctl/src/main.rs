//! See the library.

/// musl's own allocator is too slow for output at full speed.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    jobctl::leave(jobctl::run(std::env::args_os()));
}
