//! Step 3: the four files of a job that the shim writes.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use job_shim::crash::{self, Point};
use job_shim::index::Stream;
use job_shim::record::{FILE_LENGTH, FILE_NAME, Outcome, RECORD, ended_record, outcome_record};
use job_shim::wire::{Ended, Failed, Progress, Step};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, posix_fallocate};
use nix::sys::stat::Mode;

use super::failure::{At, Failure};

/// Both logs and the index. Written at offsets that the shim keeps itself, so that a piece of
/// which only a part fitted on the disk is written over by the next attempt.
pub(crate) struct Logs {
    /// By [`Stream::index`].
    pub(crate) streams: [File; 2],
    pub(crate) index: File,
}

impl Logs {
    /// Makes all three, empty.
    ///
    /// # Errors
    /// `OpenState`; EEXIST where a shim has been at work in this directory before: no job is run
    /// twice.
    pub(crate) fn create(state: impl AsFd) -> Result<Logs, Failure> {
        let [stdout, stderr] = Stream::BOTH.map(Stream::file_name);
        Ok(Logs {
            streams: [create(&state, stdout)?, create(&state, stderr)?],
            index: create(&state, "output.idx")?,
        })
    }

    /// Makes what is written durable, as far as there is something.
    ///
    /// # Errors
    /// Those of fdatasync(2).
    pub(crate) fn sync(&self, written: &Progress) -> std::io::Result<()> {
        let lengths = [written.stdout, written.stderr, written.entries];
        let [stdout, stderr] = &self.streams;
        [stdout, stderr, &self.index]
            .into_iter()
            .zip(lengths)
            .filter(|(_, length)| *length > 0)
            .try_for_each(|(file, _)| file.sync_data())
    }
}

/// The file `exit`. Its blocks are there from the beginning, so that a full disk cannot lose how
/// the job ended.
pub(crate) struct ExitRecord {
    file: File,
    boot_id: [u8; 16],
}

impl ExitRecord {
    /// Makes it, full of zeros. Not written zeros, where the file system can: one that copies on
    /// write promises room for the first write, and that has to be the record.
    ///
    /// # Errors
    /// `OpenState`.
    pub(crate) fn create(state: impl AsFd, boot_id: [u8; 16]) -> Result<ExitRecord, Failure> {
        let file = create(state, FILE_NAME)?;
        match posix_fallocate(&file, 0, FILE_LENGTH as libc::off_t) {
            Err(Errno::EOPNOTSUPP) => {
                file.write_all_at(&[0; FILE_LENGTH], 0).at(Step::OpenState)?;
            }
            result => result.at(Step::OpenState)?,
        }
        Ok(ExitRecord { file, boot_id })
    }

    /// Writes how the main process ended, and after which time. It is durable after
    /// [`ExitRecord::sync`].
    ///
    /// # Errors
    /// Those of write(2).
    pub(crate) fn outcome(&self, outcome: &Outcome, ran: Duration) -> std::io::Result<()> {
        self.file.write_all_at(&outcome_record(outcome, ran, &self.boot_id), 0)
    }

    /// Records, and makes durable, that the program was never run. What cannot be recorded is
    /// still told.
    pub(crate) fn never_ran(&self, failed: Failed) {
        let _ = self.outcome(&Outcome::Failed(failed), Duration::ZERO).and_then(|()| self.sync());
        crash::at(Point::FailureRecorded);
    }

    /// Records the end of the whole job, and the lengths of its output.
    ///
    /// # Errors
    /// Those of write(2).
    pub(crate) fn ended(&self, ended: &Ended) -> std::io::Result<()> {
        self.file.write_all_at(&ended_record(ended, &self.boot_id), RECORD as u64)
    }

    /// Makes the records durable.
    ///
    /// # Errors
    /// Those of fdatasync(2).
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

/// An empty file may be there: the broker makes some before it knows their job. Where a shim has been at work, `exit` is
/// not empty.
fn create(state: impl AsFd, name: &str) -> Result<File, Failure> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let file = openat(state, name, flags, mode).map(File::from).at(Step::OpenState)?;
    let length = file.metadata().at(Step::OpenState)?.len();
    if length == 0 { Ok(file) } else { Err(Errno::EEXIST).at(Step::OpenState) }
}
