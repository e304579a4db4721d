//! Launches a command under limits and isolation: for the broker, and for programs that embed `job-sandbox`. It knows no
//! callers, no policy and no records, and says GO only through [`handshake::Shim::go`].
//!
//! [`launcher::Launcher`] goes from a checked [`model::spec::JobSpec`] to a shim that waits for GO; [`cgroup`] is all of
//! cgroup v2; [`model`] has the words.

pub mod accounts;
pub mod as_user;
pub mod cgroup;
pub mod directory;
pub mod errors;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod handshake;
pub mod host;
pub mod isolation;
pub mod job_dirs;
pub mod launcher;
pub mod model;
pub mod program;
pub mod projects;
pub mod request;
pub mod settings;
pub mod shim_limits;
pub mod spares;
mod spawn;
pub mod sync;
pub mod sys;
