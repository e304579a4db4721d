//! The fuzz targets of the broker: functions that must have an answer for any bytes of a client, a shim, a workload, a disk
//! or an operator. In no program: only tests and `cargo xtask fuzz` have them. Each is in the room that reads.

pub use crate::audit::fuzzing::{audit, audit_search, checkpoint};
pub use crate::auth::fuzzing::{pattern, policy};
pub use crate::config::fuzzing::config;
pub use crate::grpc::fuzzing::{requests, start};
pub use crate::jobs::fuzzing::{output, shim_message};
pub use crate::model::fuzzing::identity;
pub use crate::serve::fuzzing::{certificates, crl};
pub use crate::store::fuzzing::{damage, finished, records};
pub use crate::trace::fuzzing::traceparent;

#[cfg(test)]
mod any_bytes {
    job_corpus::tests! {
        audit audit_search checkpoint pattern policy config requests start output shim_message identity certificates crl
        damage finished records traceparent
    }
}

#[cfg(test)]
mod seeds;
