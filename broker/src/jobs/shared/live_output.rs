//! Caches the bytes of output of the live jobs: a start may see a value that is a second old. Enforces no
//! quota.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// The last measure.
#[derive(Debug, Default)]
pub(crate) struct LiveOutput(Mutex<Option<(Instant, u64)>>);

impl LiveOutput {
    /// A few stat(2) for each live job are 4 ms and more with 1,000 of them: not for each start.
    const FRESH: Duration = Duration::from_secs(1);

    /// The bytes, measured now if the last measure is old. Blocks.
    ///
    /// # Errors
    /// As `measure`.
    pub(crate) fn bytes(&self, measure: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
        let mut last = lock(&self.0);
        if let Some((_, bytes)) = last.filter(|(at, _)| at.elapsed() < Self::FRESH) {
            return Ok(bytes);
        }
        let bytes = measure()?;
        *last = Some((Instant::now(), bytes));
        Ok(bytes)
    }
}
