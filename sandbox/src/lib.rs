#![doc = include_str!("../README.md")]

mod builder;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
mod error;
#[cfg(target_os = "linux")]
mod linux;
mod outcome;

pub use builder::{Builder, Isolation};
#[cfg(not(target_os = "linux"))]
pub use elsewhere::Sandbox;
pub use error::{Error, Refusal};
#[cfg(target_os = "linux")]
pub use linux::Sandbox;
pub use outcome::{Outcome, Usage};
