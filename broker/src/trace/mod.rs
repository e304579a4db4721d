//! What happened in a start, and when: the phases that the metrics count. It must not delay what it measures, nor
//! know what a job is.

mod timeline;

pub use crate::trace::timeline::Timeline;
