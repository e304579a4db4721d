//! What a job may use: the limits that there are, their ranges, the operator's defaults and ceilings.
//! Pure; `cgroup/limits` has the kernel enforce them, and the shim those that it sees to.

mod io;
mod kind;
mod rlimit;
mod set;
mod status;
mod tables;
mod violations;

pub(crate) use io::{DiskName, IoRule, MAX_PATH, Rate};
pub(crate) use job_api::units::MAX;
pub(crate) use kind::{LimitKind, MAX_DURATION};
pub(crate) use rlimit::Rlimit;
pub(crate) use set::{ByDefault, CPU_PERIOD, Limits, MAX_IO_RULES};
pub(crate) use status::LimitStatus;
pub use tables::LimitTables;
pub(crate) use tables::RoleLimits;
pub(crate) use violations::{Violation, Violations};
