//! Runs one command in a sandbox, prints what it wrote, and exits as it did:
//!
//! ```text
//! sudo JOB_SANDBOX_SHIM=target/x86_64-unknown-linux-musl/shim/job-shim target/debug/examples/run sh -c 'id; exit 7'
//! ```

use std::process::exit;
use std::time::Duration;

use job_sandbox::{Error, Sandbox};

fn main() -> Result<(), Error> {
    let sandbox = Sandbox::builder().timeout(Duration::from_secs(60)).build()?;
    let outcome = sandbox.run_blocking(std::env::args().skip(1))?;
    drop(sandbox); // with all that it has on this host: `exit` drops nothing
    print!("{}", String::from_utf8_lossy(&outcome.stdout));
    eprint!("{}", String::from_utf8_lossy(&outcome.stderr));
    // As shells have it: 128+N for signal N.
    exit(outcome.exit_code.or(outcome.signal.map(|number| 128 + number)).unwrap_or(1))
}
