//! The system-call filters: what each says about every number, and what each does to real calls and real programs.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod attempts;
mod child;
mod cost;
mod interpreter;
mod programs;
mod shim;
mod tables;
