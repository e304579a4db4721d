//! Attacks on a broker: each is made by a process of its own while a well-behaved client of another
//! identity is measured, see `job_tests::attack`. One file for each room that is attacked; the short
//! form of each runs here, the long one in `cargo xtask soak --attacks`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod admission;
mod baseline;
mod calls;
mod connections;
mod log;
mod messages;
mod output;
mod readers;
mod records;
mod requests;
mod scale;
mod starts;
mod table;

/// For what is measured from outside of a runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
}
