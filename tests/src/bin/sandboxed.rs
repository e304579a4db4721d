//! A program that embeds the sandbox, for tests of what becomes of it and of its user: `sandboxed SHIM CGROUP ISOLATION
//! PROCESSES COMMAND [ARGUMENT...]`. Writes what the command writes, as it comes, and then how it ended.

use std::process::ExitCode;

use job_sandbox::{Isolation, Sandbox};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shim, cgroup, isolation, processes, command @ ..] = arguments.as_slice() else {
        eprintln!("usage: sandboxed SHIM CGROUP ISOLATION PROCESSES COMMAND [ARGUMENT...]");
        return ExitCode::from(2);
    };
    let isolation = match isolation.as_str() {
        "host" => Isolation::Host,
        "private" => Isolation::Private,
        _ => Isolation::Strict,
    };
    let mut sandbox = Sandbox::builder().shim(shim).cgroup(cgroup).isolation(isolation);
    if let Ok(processes) = processes.parse() {
        sandbox = sandbox.processes(processes);
    }
    let outcome = match sandbox.stdout(tokio::io::stdout()).build() {
        Ok(sandbox) => sandbox.run(command.to_vec()).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(outcome) => println!("\nended {outcome:?}"),
        Err(error) => println!("\nfailed {error}"),
    }
    ExitCode::SUCCESS
}
