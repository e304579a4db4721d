//! What a job may use: the limits that there are, their ranges, the operator's defaults and ceilings.
//! Pure; `cgroup/limits` has the kernel enforce them, and the shim those that it sees to.

mod io;
mod kind;
mod rlimit;
mod set;
mod status;
mod tables;
mod violations;

pub use io::{DiskName, IoRule, MAX_PATH, Rate};
pub use job_grammar::units::MAX;
pub use kind::{LimitKind, MAX_DURATION};
pub use rlimit::Rlimit;
pub use set::{ByDefault, CPU_PERIOD, Limits, MAX_IO_RULES};
pub use status::LimitStatus;
pub use tables::LimitTables;
pub use tables::RoleLimits;
pub use violations::{Violation, Violations};
