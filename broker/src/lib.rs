//! Runs commands for remote users who are not trusted with a shell. No action on a job may bypass the policy: each
//! takes an [`Authorized`] value, which only the policy grants.
//!
//! [`Supervisor`] is the broker without a network: it starts, stops, awaits, lists and follows jobs.
//! [`run`] is the service around it: configuration, mutual TLS, gRPC, signals.

mod audit;
mod auth;
mod backoff;
pub mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod grpc;
mod jobs;
mod journal;
mod launch;
mod metrics;
mod model;
mod quota;
mod serve;
mod service;
mod store;
mod sync;
mod sys;
mod systemd;
mod trace;

pub use audit::Audit;
pub use auth::{Authorized, Caller, Denied, Policy, Role, Rule, StartPlan, StartRefusal, action};
pub use jobs::commands::wait::Until;
pub use jobs::job::Job;
pub use jobs::output::{OutputReader, Range};
pub use jobs::shared::calls::{Call, Kind};
pub use jobs::supervisor::Supervisor;
pub use model::id::JobId;
pub use model::identity::Identity;
pub use model::isolation::{
    Isolation, IsolationRequest, IsolationRules, Mount, Profile, Seccomp, Share,
};
pub use model::limits::LimitTables;
pub use model::request::Request;
pub use model::spec::JobRequest;
pub use quota::Quotas;
pub use service::{command, run};
pub use trace::Timeline;

/// The pure decisions and their records, for the model checker in `tests/`.
pub mod decisions {
    pub use crate::jobs::recovery_rules::{self, Facts, StopOrigin, Verdict};
    pub use crate::model::request::older_digest;
    pub use crate::model::state::{Contact, Event, Failure, Snapshot, State, Totals};
    pub use crate::model::usage::Usage;
    pub use crate::store::records;
}
