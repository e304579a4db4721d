//! Fuzz targets: what a shim that has been taken over may say and write.

use job_shim::frame::Reader;
use job_shim::wire::FromShim;

use crate::jobs::monitor::validate;
pub use crate::jobs::output::fuzzing::output;

/// Frames of a shim, as the monitor of its job takes them: what passes has sums and times that fit.
pub fn shim_message(data: &[u8]) {
    let mut reader = Reader::<FromShim>::default();
    reader.push(data);
    while let Ok(Some(message)) = reader.next_message() {
        if let Err(fault) = validate::check(&message) {
            assert!(fault.len() < 256, "{fault}");
            continue;
        }
        if let FromShim::Progress(progress) = message {
            let sum = progress.stdout.checked_add(progress.stderr);
            assert!(sum.and_then(|sum| sum.checked_add(progress.dropped)).is_some());
        }
    }
}
