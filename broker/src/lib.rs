//! Runs commands for remote users who are not trusted with a shell.
//!
//! [`Supervisor`] is all of it without the network: it starts, stops, waits for, lists and follows
//! jobs; `examples/run.rs` shows it. [`run`] is the service around it: configuration, mutual TLS,
//! gRPC, signals.
//!
//! The rooms, each using only those after it: `serve` and `grpc` (the network), [`authorize`],
//! [`jobs`], [`launch`], [`store`]; and [`limits`], which all of them speak of.

pub mod authorize;
pub mod config;
mod descriptors;
mod grpc;
mod host;
mod id;
pub mod identity;
pub mod jobs;
mod journal;
pub mod launch;
pub mod limits;
mod quota;
mod serve;
mod service;
pub mod store;
mod sys;
mod systemd;
mod turns;

pub use id::JobId;
pub use jobs::Supervisor;
pub use service::{command, run};
