//! The workloads: programs that write by their own clock. They are hidden subcommands of xtask, which is copied to a
//! directory that jobs can use, and must not depend on the workspace.

use std::io::Write;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;

/// The arguments of `cargo xtask bench-writer`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The time of each line, in nanoseconds since 1970, every few milliseconds
    Lines { count: u32, milliseconds: u64 },
    /// The bytes of [`content`] at a steady rate, `block` after `block`
    Paced { blocks: usize, block: usize, milliseconds: u64 },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match args.what {
        What::Lines { count, milliseconds } => {
            for n in 0..count {
                if n > 0 {
                    thread::sleep(Duration::from_millis(milliseconds));
                }
                // One write(2): stdout is line-buffered.
                writeln!(out, "{}", now().as_nanos())?;
            }
        }
        What::Paced { blocks, block, milliseconds } => {
            let begin = Instant::now();
            let content = content(blocks * block);
            for (block, n) in content.chunks(block).zip(1u32..) {
                out.write_all(block)?;
                out.flush()?;
                // By the clock, so that the writer catches up after a delay.
                let due = begin + Duration::from_millis(milliseconds) * n;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The time since 1970: two processes of one host share this clock.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Bytes without a short period: xorshift64 (Marsaglia 2003).
pub(crate) fn content(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
