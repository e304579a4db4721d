//! What output leaves free on the disk, for the records of this job and of all others: one that prints
//! without end must keep nobody from starting, from ending, or from being removed.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;

/// The part of the file system that stays free, 1.6 %: more than a broker asks for at a start unless it
/// is told otherwise (`retention.min_free`, 1 %), so that a job which has filled the disk keeps no other
/// from starting.
const SHARE: u64 = 64;
/// Jobs that have printed little may use half of the reserve, this part each: they must be able to print
/// while another job has filled the disk.
const SMALL_JOB_SHARE: u64 = 16;
/// Of what is free beyond that, the part that is written before the disk is asked again: as many shims
/// may write at once.
const WRITERS: u64 = 64;

/// Bytes that may be written before statvfs(3), which takes about a microsecond, is asked again.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    allowance: u64,
}

impl Reserve {
    /// Whether `length` bytes may be written to this file, by a job that keeps `kept` bytes already.
    ///
    /// # Errors
    /// ENOSPC if they would not leave the reserve; those of fstatvfs(3).
    pub(crate) fn admit(&mut self, file: &File, length: usize, kept: u64) -> io::Result<()> {
        let length = length as u64;
        if let Some(rest) = self.allowance.checked_sub(length) {
            self.allowance = rest;
            return Ok(());
        }
        let disk = fstatvfs(file)?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
        let (size, free) = (bytes(disk.blocks()), bytes(disk.blocks_available()));
        self.allowance = allowance(size, free, length, kept).ok_or(Errno::ENOSPC)?;
        Ok(())
    }
}

/// What may be written after these `length` bytes; `None` if not even they may. A file system that does
/// not tell its size has no reserve.
fn allowance(size: u64, free: u64, length: u64, kept: u64) -> Option<u64> {
    if size == 0 {
        return Some(0);
    }
    let reserve = size / SHARE;
    let has_little = kept.saturating_add(length) <= reserve / SMALL_JOB_SHARE;
    let beyond = free.saturating_sub(if has_little { reserve / 2 } else { reserve });
    Some(beyond.checked_sub(length)? / WRITERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    #[test]
    fn output_leaves_a_part_of_the_disk_to_records() {
        let kept = MIB;
        assert_eq!(allowance(64 * MIB, 2 * MIB, MIB, kept), Some(0));
        assert_eq!(allowance(64 * MIB, 2 * MIB, MIB + 1, kept), None);
        assert_eq!(allowance(64 * MIB, MIB, 1, kept), None);
    }

    #[test]
    fn a_job_that_has_printed_little_may_say_more_than_one_that_has_filled_the_disk() {
        let words = |free, kept| allowance(64 * MIB, free, 60 * KIB, kept).is_some();
        assert!(words(MIB, 4 * KIB));
        assert!(!words(MIB, 5 * KIB), "together more than 64 KiB");
        assert!(!words(512 * KIB, 4 * KIB), "half of the reserve is nobody's");
    }

    #[test]
    fn the_disk_is_asked_less_often_the_more_is_free() {
        assert_eq!(allowance(64 * MIB, 64 * MIB, 0, MIB), Some(63 * MIB / 64));
    }

    #[test]
    fn a_disk_that_does_not_tell_its_size_has_no_reserve() {
        assert_eq!(allowance(0, 0, MIB, 0), Some(0));
    }
}
