//! `exit`: two records of fixed size in one preallocated file, so that a full disk cannot lose
//! them. The first says how the main process ended (or that it never ran), at once; the second
//! says that nothing is left and how much output there is, after the logs are durable.

use std::time::Duration;

use crate::wire::{Blocked, Cause, Ended, Exited, Failed, Progress, Source, Step};

/// Bytes of one record.
pub const RECORD: usize = 256;
/// Bytes of the file.
pub const FILE_LENGTH: usize = 2 * RECORD;
/// Its name in the job's directory.
pub const FILE_NAME: &str = "exit";

const MAGIC: u32 = u32::from_le_bytes(*b"JEND");
const FORMAT: u16 = 1;
const MAX_BY: usize = 64;

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExitFile {
    /// How the main process ended, if it has.
    pub outcome: Option<Outcome>,
    /// The output's totals, if all of it is durable.
    pub ended: Option<Ended>,
    /// How long the program ran, by a clock that nobody can set; earlier shims do not say it.
    pub ran: Option<Duration>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The program ran and has ended.
    Exited(Exited),
    /// The program was never run.
    Failed(Failed),
}

impl ExitFile {
    /// Reads the file's bytes. A torn or foreign record (crc, boot id) counts as absent.
    pub fn from_bytes(bytes: &[u8], boot_id: &[u8; 16]) -> ExitFile {
        let slot =
            |n: usize| bytes.get(n * RECORD..(n + 1) * RECORD).and_then(|b| open(b, boot_id));
        let first = slot(0);
        let ran = first.as_ref().map(|body| body.u64_at(88)).filter(|ns| *ns > 0);
        let outcome = first.and_then(|body| body.outcome());
        let ended = slot(1).map(|body| Ended { progress: body.progress() });
        ExitFile { outcome, ended, ran: ran.map(Duration::from_nanos) }
    }
}

/// The bytes of the first record, for offset 0. `ran` is zero where it is not known.
pub fn outcome_record(outcome: &Outcome, ran: Duration, boot_id: &[u8; 16]) -> [u8; RECORD] {
    let mut body = Body::new(boot_id);
    body.put(88, &u64::try_from(ran.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
    match outcome {
        Outcome::Exited(exited) => {
            body.put(28, &exited.wait_status.to_le_bytes());
            body.put(32, &[exited.cause as u8, exited.source as u8]);
            body.put(40, &exited.time_ns.to_le_bytes());
            let by = &exited.by.as_bytes()[..exited.by.len().min(MAX_BY)];
            body.put(96, &[by.len() as u8]);
            body.put(97, by);
        }
        Outcome::Failed(failed) => {
            body.put(32, &[Cause::StartFailed as u8, 0, failed.step as u8]);
            body.put(36, &failed.errno.to_le_bytes());
        }
    }
    body.seal()
}

/// The bytes of the second record, for offset [`RECORD`].
pub fn ended_record(ended: &Ended, boot_id: &[u8; 16]) -> [u8; RECORD] {
    let mut body = Body::new(boot_id);
    let p = &ended.progress;
    for (n, value) in [p.stdout, p.stderr, p.entries, p.dropped].into_iter().enumerate() {
        body.put(48 + 8 * n, &value.to_le_bytes());
    }
    if let Some(Blocked::Disk(errno)) = p.blocked {
        body.put(80, &errno.to_le_bytes());
    }
    body.seal()
}

/// magic 0..4, format 4..6, boot id 8..24, wait status 28..32, cause 32, source 33, step 34,
/// errno 36..40, time 40..48, stdout, stderr, entries, dropped 48..80, errno of the disk that did not
/// take all of the output 80..84, nanoseconds that the program ran 88..96 (both 0 in records of versions
/// that do not know them; the errno also where it did take all), name 96..161 (length
/// first), crc32 of all before it 252..256. Little endian, the rest zero.
struct Body([u8; RECORD]);

impl Body {
    fn new(boot_id: &[u8; 16]) -> Body {
        let mut body = Body([0; RECORD]);
        body.put(0, &MAGIC.to_le_bytes());
        body.put(4, &FORMAT.to_le_bytes());
        body.put(8, boot_id);
        body
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn seal(mut self) -> [u8; RECORD] {
        let crc = crc32fast::hash(&self.0[..252]);
        self.put(252, &crc.to_le_bytes());
        self.0
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from(self.u32_at(at)) | u64::from(self.u32_at(at + 4)) << 32
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn outcome(&self) -> Option<Outcome> {
        let cause = Cause::from_number(self.0[32])?;
        if cause == Cause::StartFailed {
            let (step, errno) = (Step::from_number(self.0[34])?, self.u32_at(36) as i32);
            return Some(Outcome::Failed(Failed { step, errno }));
        }
        let by = self.0.get(97..97 + usize::from(self.0[96]).min(MAX_BY))?;
        Some(Outcome::Exited(Exited {
            wait_status: self.u32_at(28) as i32,
            cause,
            source: Source::from_number(self.0[33])?,
            by: String::from_utf8_lossy(by).into_owned(),
            time_ns: self.u64_at(40),
        }))
    }

    fn progress(&self) -> Progress {
        Progress {
            stdout: self.u64_at(48),
            stderr: self.u64_at(56),
            entries: self.u64_at(64),
            dropped: self.u64_at(72),
            blocked: Some(self.u32_at(80) as i32).filter(|errno| *errno != 0).map(Blocked::Disk),
        }
    }
}

fn open(bytes: &[u8], boot_id: &[u8; 16]) -> Option<Body> {
    let body = Body(bytes.try_into().ok()?);
    let whole = body.u32_at(252) == crc32fast::hash(&body.0[..252]);
    (whole && body.u32_at(0) == MAGIC && body.0[8..24] == boot_id[..]).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: [u8; 16] = [7; 16];

    fn exited() -> Outcome {
        Outcome::Exited(Exited {
            wait_status: 9,
            cause: Cause::TimedOut,
            source: Source::Timeout,
            by: "x".repeat(63),
            time_ns: u64::MAX,
        })
    }

    fn file(outcome: &Outcome, ended: Option<&Ended>) -> Vec<u8> {
        let mut bytes = outcome_record(outcome, Duration::ZERO, &BOOT).to_vec();
        bytes.extend(ended.map_or([0; RECORD], |e| ended_record(e, &BOOT)));
        bytes
    }

    #[test]
    fn both_records_survive_the_disk() {
        let ended = Ended {
            progress: Progress {
                stdout: 1,
                stderr: 2,
                entries: 3,
                dropped: 4,
                blocked: Some(Blocked::Disk(28)),
            },
        };
        let by_limit = |cause, source| {
            let (by, time_ns) = (String::new(), 1);
            Outcome::Exited(Exited { wait_status: 9, cause, source, by, time_ns })
        };
        let outcomes = [
            exited(),
            by_limit(Cause::OutOfMemory, Source::Oom),
            by_limit(Cause::TimedOut, Source::CpuTime),
            Outcome::Failed(Failed { step: Step::Chdir, errno: 13 }),
        ];
        for outcome in outcomes {
            let read = ExitFile::from_bytes(&file(&outcome, Some(&ended)), &BOOT);
            let expected =
                ExitFile { outcome: Some(outcome), ended: Some(ended.clone()), ran: None };
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn how_long_it_ran_is_told_beside_its_outcome() {
        let ran = Duration::from_nanos(12_000_000_001);
        let read = ExitFile::from_bytes(&outcome_record(&exited(), ran, &BOOT), &BOOT);
        let expected = ExitFile { outcome: Some(exited()), ended: None, ran: Some(ran) };
        assert_eq!(read, expected);
    }

    #[test]
    fn a_preallocated_file_says_nothing() {
        assert_eq!(ExitFile::from_bytes(&[0; FILE_LENGTH], &BOOT), ExitFile::default());
        assert_eq!(ExitFile::from_bytes(&[], &BOOT), ExitFile::default());
    }

    #[test]
    fn a_torn_record_counts_as_absent() {
        let mut bytes = file(&exited(), None);
        bytes[200] ^= 1;
        assert_eq!(ExitFile::from_bytes(&bytes, &BOOT).outcome, None);
    }

    #[test]
    fn a_record_of_another_boot_counts_as_absent() {
        assert_eq!(ExitFile::from_bytes(&file(&exited(), None), &[8; 16]).outcome, None);
    }
}
