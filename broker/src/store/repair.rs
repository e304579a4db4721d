//! Repairs the output index after its shim died during a write. Never changes a log.

use std::fs::OpenOptions;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use job_shim::index::{ENTRY, Entry, Stream};

use crate::model::state::Totals;
use crate::store::log::INDEX_NAME;

/// Truncates `output.idx` to its last valid entry and gives the bytes of the logs that it does
/// not cover an entry of their own: no byte of a log is ever lost. Only for a job without a shim.
/// What was dropped is in none of the files, and 0 here.
///
/// # Errors
/// As open(2), read(2) and write(2).
pub(crate) fn repair(dir: &Path) -> io::Result<Totals> {
    let lengths = Stream::BOTH.map(|s| dir.join(s.file_name()).metadata().map_or(0, |m| m.len()));
    let mut options = OpenOptions::new();
    let index = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(INDEX_NAME))?;
    let (mut entries, mut last) = valid_prefix(BufReader::new(&index), lengths)?;
    index.set_len(entries * ENTRY as u64)?;
    for stream in Stream::BOTH {
        let at = stream.index();
        if last.ends[at] < lengths[at] {
            last.ends[at] = lengths[at];
            last.stream = stream;
            index.write_all_at(&last.to_bytes(), entries * ENTRY as u64)?;
            entries += 1;
        }
    }
    Ok(Totals { stdout: lengths[0], stderr: lengths[1], entries, dropped: 0 })
}

/// How many entries from the beginning are whole, in order, and covered by the logs; the last.
fn valid_prefix(mut index: impl Read, lengths: [u64; 2]) -> io::Result<(u64, Entry)> {
    let mut last = Entry { time_ns: 0, ends: [0, 0], stream: Stream::Stdout };
    let mut entries = 0;
    let mut bytes = [0; ENTRY];
    loop {
        match index.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e),
        }
        let Some(entry) = Entry::from_bytes(&bytes) else { break };
        let ordered = (0..2).all(|s| (last.ends[s]..=lengths[s]).contains(&entry.ends[s]));
        if !ordered {
            break;
        }
        last = entry;
        entries += 1;
    }
    Ok((entries, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn entry(ends: [u64; 2], stream: Stream) -> [u8; ENTRY] {
        Entry { time_ns: 5, ends, stream }.to_bytes()
    }

    fn job(stdout: &str, stderr: &str, index: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("stdout.log"), stdout).unwrap();
        fs::write(dir.path().join("stderr.log"), stderr).unwrap();
        fs::write(dir.path().join(INDEX_NAME), index).unwrap();
        dir
    }

    #[test]
    fn a_torn_tail_is_cut_and_its_bytes_get_an_entry() {
        let mut index = entry([3, 0], Stream::Stdout).to_vec();
        index.extend(&entry([3, 4], Stream::Stderr)[..20]);
        let dir = job("abcde", "wxyz", &index);
        let totals = repair(dir.path()).unwrap();
        assert_eq!(totals, Totals { stdout: 5, stderr: 4, entries: 3, dropped: 0 });
        let index = fs::read(dir.path().join(INDEX_NAME)).unwrap();
        let last: &[u8; ENTRY] = index.last_chunk().unwrap();
        assert_eq!(Entry::from_bytes(last).unwrap().ends, [5, 4]);
    }

    #[test]
    fn a_whole_index_stays_as_it_is() {
        let index = entry([2, 0], Stream::Stdout);
        let dir = job("ab", "", &index);
        assert_eq!(repair(dir.path()).unwrap().entries, 1);
        assert_eq!(fs::read(dir.path().join(INDEX_NAME)).unwrap(), index);
    }

    #[test]
    fn entries_that_claim_more_than_the_log_holds_are_cut() {
        let index = [entry([2, 0], Stream::Stdout), entry([9, 0], Stream::Stdout)].concat();
        let dir = job("abc", "", &index);
        assert_eq!(repair(dir.path()).unwrap().entries, 2);
    }

    #[test]
    fn a_job_without_files_has_no_output() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(repair(dir.path()).unwrap(), Totals::default());
    }
}
