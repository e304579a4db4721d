//! [`Timeline`]: the phases of one start, one after the other. Each mark reads a clock and adds to a histogram; it must
//! not do more.

use std::time::Instant;

use crate::metrics::METRICS;
use crate::metrics::labels::Phase;

/// The phases of one start. It goes along with the start, from the call to STARTED.
#[derive(Debug)]
pub struct Timeline {
    begin: Instant,
    last: Instant,
}

impl Timeline {
    /// Begins now, with [`Phase::Admission`].
    pub fn begin() -> Timeline {
        let now = Instant::now();
        Timeline { begin: now, last: now }
    }

    /// Ends a phase, which began with the end of the one before.
    pub(crate) fn mark(&mut self, phase: Phase) {
        let now = Instant::now();
        METRICS.phase(phase).observe(now - self.last);
        self.last = now;
    }

    /// The program runs.
    pub(crate) fn started(self) {
        METRICS.started.add(1);
        METRICS.start.observe(self.last - self.begin);
    }
}
