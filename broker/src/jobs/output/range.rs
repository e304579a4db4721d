//! The requested range of a job's output. Plain data: it must not check anything.

use job_shim::index::Stream;

/// The requested range of the output.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// One stream, or both in the order of the shim's reads.
    pub stream: Option<Stream>,
    /// The start offset of each stream, by [`Stream::index`].
    pub offsets: [u64; 2],
    /// Only this number of lines at the end.
    pub tail_lines: Option<u64>,
    /// Only output read at or after this time, nanoseconds since 1970.
    pub since_ns: Option<u64>,
    /// Until the job's end, not only to the current end.
    pub follow: bool,
    /// One piece for each of the shim's reads, without merging adjacent reads.
    pub by_entry: bool,
    /// Compressed, where that makes it smaller.
    pub deflate: bool,
}
