//! The requested range of a job's output. Plain data: nothing here is checked.

use job_shim::index::Stream;

/// The requested range of the output.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// One stream, or both in the order in which they were read.
    pub stream: Option<Stream>,
    /// Go on from here, by [`Stream::index`].
    pub offsets: [u64; 2],
    /// Only the last lines, this number of them.
    pub tail_lines: Option<u64>,
    /// Only what was read then or later, nanoseconds since 1970.
    pub since_ns: Option<u64>,
    /// Until the job has ended, instead of to what is there now.
    pub follow: bool,
    /// A piece for each read of the shim, instead of neighbours put together.
    pub by_entry: bool,
}
