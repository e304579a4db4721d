//! What happened in a start, and when: the phases that the metrics count, and their export as OpenTelemetry spans. It
//! must not delay what it measures, nor know what a job is.

mod context;
pub(crate) mod exporter;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod otlp;
mod timeline;

pub use crate::trace::timeline::Timeline;
