//! The log of a job's end: cause, status, what it used, and the end of its output where that is configured. Records
//! nothing: `final.json` has it all.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use job_shim::index::Stream;

use crate::jobs::job::Job;
use crate::journal::{self, AUDIT};
use crate::model::id::JobId;
use crate::model::usage::{IoUsage, Usage};

/// Most lines of the end of one stream.
const LINES: usize = 64;

/// Writes the audit line of the end, and the end of the output in `dir`. Blocks.
pub(super) fn write(job: &Job, usage: &Usage, dir: &Path) {
    log_end(job, usage);
    let most = journal::output_tail();
    if most > 0 {
        for stream in Stream::BOTH {
            log_tail(job.id(), stream, dir, most);
        }
    }
}

fn log_end(job: &Job, usage: &Usage) {
    let (id, owner, known) = (job.id(), job.owner(), job.snapshot());
    let Some(exited) = &known.exited else {
        let state = known.state;
        return match &known.failure {
            Some(failure) => {
                tracing::info!(target: AUDIT, job = %id, %owner, ?state, "ended: {failure}");
            }
            None => tracing::info!(target: AUDIT, job = %id, %owner, ?state, "ended"),
        };
    };
    let status = exited.wait_status;
    let exit_code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    let (cause, by) = (exited.cause, Some(&exited.by).filter(|by| !by.is_empty()));
    let milliseconds = |usec: Option<u64>| usec.map(|usec| usec / 1000);
    let ran_ms = job.wall_time().map(|ran| u64::try_from(ran.as_millis()).unwrap_or(u64::MAX));
    let written = job.progress();
    tracing::info!(
        target: AUDIT,
        job = %id,
        %owner,
        ?cause,
        exit_code,
        signal,
        by,
        ran_ms,
        cpu_ms = milliseconds(usage.cpu_usage_usec),
        throttled_ms = milliseconds(usage.cpu_throttled_usec),
        memory_peak = usage.memory_peak_bytes,
        oom_kills = usage.memory_oom_kills,
        io = devices(&usage.io),
        stdout = written.stdout,
        stderr = written.stderr,
        dropped = Some(written.dropped).filter(|dropped| *dropped > 0),
        "ended"
    );
}

/// `sda 4096/0`: bytes read and written, of each device that was used.
fn devices(all: &[IoUsage]) -> Option<String> {
    let shown = all.iter().map(|disk| {
        let name = if disk.name.is_empty() { &disk.device } else { &disk.name };
        format!("{name} {}/{}", disk.rbytes, disk.wbytes)
    });
    (!all.is_empty()).then(|| shown.collect::<Vec<_>>().join(", "))
}

/// The last lines within the last `most` bytes of a stream. The log bounds and escapes each line, and its rate bounds
/// all of them: these are no audit lines.
fn log_tail(job: JobId, stream: Stream, dir: &Path, most: u64) {
    let tail = match read_tail(&dir.join(stream.file_name()), most) {
        Ok(tail) => tail,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => return tracing::warn!(%job, "the end of the output cannot be read: {e}"),
    };
    let text = String::from_utf8_lossy(&tail);
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    let stream = stream.file_name().trim_end_matches(".log");
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        tracing::info!(%job, stream, "output: {line}");
    }
}

fn read_tail(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut tail = Vec::new();
    file.take(most).read_to_end(&mut tail)?;
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_file_is_read_and_no_more() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789").unwrap();
        for (most, tail) in [(0, ""), (3, "789"), (10, "0123456789"), (99, "0123456789")] {
            assert_eq!(read_tail(file.path(), most).unwrap(), tail.as_bytes());
        }
    }

    #[test]
    fn each_device_that_was_used_is_named_with_its_bytes() {
        let disk = |device: &str, name: &str| IoUsage {
            device: device.into(),
            name: name.into(),
            rbytes: 1,
            wbytes: 2,
            ..IoUsage::default()
        };
        assert_eq!(devices(&[]), None);
        let all = [disk("8:0", "sda"), disk("7:1", "")];
        assert_eq!(devices(&all).as_deref(), Some("sda 1/2, 7:1 1/2"));
    }
}
