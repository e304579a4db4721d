//! The files of the audit: `audit-<number of the first line>.jsonl` in one directory. It finds, opens, repairs and removes
//! them; it must not know what a line says.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::audit::chain::{self, Dropped, Hash, Head};

/// Bytes at the end of a file within which its last line begins: more than the longest line.
const TAIL: u64 = 256 << 10;

/// A file that lines are added to.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Bytes of whole lines.
    pub(super) length: u64,
}

/// What a crash left behind the last whole line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Torn {
    /// How many bytes.
    pub(super) bytes: u64,
    /// Their hash.
    pub(super) hash: Hash,
}

/// All files, oldest first, each with the number of its first line.
///
/// # Errors
/// As readdir(3).
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let first =
            name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".jsonl"));
        if let Some(first) = first.and_then(|first| first.parse().ok()) {
            files.push((first, dir.join(&name)));
        }
    }
    files.sort();
    Ok(files)
}

fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("audit-{first:020}.jsonl"))
}

/// A new file whose first line will follow this head. Its name is durable.
///
/// # Errors
/// As open(2) and fsync(2).
pub(super) fn create(dir: &Path, head: Head) -> io::Result<LogFile> {
    let path = path(dir, head.seq + 1);
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
    file.set_len(0)?; // what a failed attempt left behind the head: nobody was told that it is durable
    File::open(dir)?.sync_all()?;
    Ok(LogFile { file, path, length: 0 })
}

/// The newest file with lines, its head, and what was torn off its last line and is now removed. `None` where there is no
/// line at all.
///
/// # Errors
/// As open(2), read(2), ftruncate(2); `InvalidData` for a last line that is whole and no audit line: it was altered, and
/// writing on would hide that.
pub(super) fn reopen(dir: &Path) -> io::Result<Option<(LogFile, Head, Option<Torn>)>> {
    for (_, path) in list(dir)?.into_iter().rev() {
        let mut file = OpenOptions::new().read(true).append(true).open(&path)?;
        let (last, torn) = last_line(&mut file)?;
        let length = file.metadata()?.len() - torn.as_ref().map_or(0, |torn| torn.bytes);
        if torn.is_some() {
            file.set_len(length)?;
            file.sync_data()?;
        }
        if let Some(last) = last {
            let link = chain::link(&last).map_err(|fault| {
                let fault = format!("the last line of {} is damaged: {fault}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, fault)
            })?;
            let head = Head { seq: link.seq, hash: Hash::of(&last) };
            return Ok(Some((LogFile { file, path, length }, head, torn)));
        }
        if torn.is_some() {
            tracing::warn!("{}: its only line was never finished", path.display());
        }
        fs::remove_file(&path)?; // a rotation or a first line that a crash broke off
    }
    Ok(None)
}

/// The file again, without what was written behind the line of this head: nobody was told that it is durable.
///
/// # Errors
/// As open(2), read(2), ftruncate(2); `InvalidData` if the line is not there any more.
pub(super) fn cut_behind(path: &Path, head: Head) -> io::Result<LogFile> {
    let mut file = OpenOptions::new().read(true).append(true).open(path)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let (mut length, mut is_found) = (0, head == Head::EMPTY);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n").filter(|_| !is_found) else { break };
        length += line.len() as u64 + 1;
        is_found = Hash::of(line) == head.hash;
    }
    if !is_found {
        let fault = format!("{} lacks line {head}", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
    }
    file.set_len(length)?;
    file.sync_data()?;
    Ok(LogFile { file, path: path.into(), length })
}

/// The last whole line of a file, and what follows it.
///
/// # Errors
/// As read(2); `InvalidData` for a line longer than any that was written.
pub(super) fn last_line(file: &mut File) -> io::Result<(Option<Vec<u8>>, Option<Torn>)> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let rest = &tail[whole..];
    let torn = (!rest.is_empty()).then(|| Torn { bytes: rest.len() as u64, hash: Hash::of(rest) });
    if whole == 0 {
        let is_whole_file = from == 0;
        let fault = || io::Error::new(io::ErrorKind::InvalidData, "its end is no line of an audit");
        return if is_whole_file { Ok((None, torn)) } else { Err(fault()) };
    }
    let lines = &tail[..whole - 1];
    let begin = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if begin == 0 && from > 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its last line is too long"));
    }
    Ok((Some(lines[begin..].to_vec()), torn))
}

/// The files to remove so that `kept` are left, and what the line has to say that stays behind.
///
/// # Errors
/// As readdir(3) and read(2).
pub(super) fn surplus(dir: &Path, kept: u32) -> io::Result<Option<(Vec<PathBuf>, Dropped)>> {
    let mut files = list(dir)?;
    let surplus = files.len().saturating_sub(kept as usize);
    let Some(first_kept) = files.get(surplus).map(|(first, _)| *first) else { return Ok(None) };
    files.truncate(surplus);
    let (Some((first, _)), Some((_, newest))) = (files.first(), files.last()) else {
        return Ok(None);
    };
    let (last, _) = last_line(&mut File::open(newest)?)?;
    let last_hash = last.map_or(Head::EMPTY.hash, |line| Hash::of(&line));
    let dropped = Dropped { lines: first_kept - first, last_seq: first_kept - 1, last_hash };
    Ok(Some((files.into_iter().map(|(_, path)| path).collect(), dropped)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_tore_off_is_removed_and_told_and_a_whole_line_that_is_none_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(reopen(dir.path()).unwrap().is_none());
        let mut head = Head::EMPTY;
        let lines = format!("{}\n{}\n", head.append("{}", None), head.append("{}", None));
        let path = path(dir.path(), 1);
        fs::write(&path, format!("{lines}{{\"half")).unwrap();
        let (log, found, torn) = reopen(dir.path()).unwrap().unwrap();
        assert_eq!((found, log.length), (head, lines.len() as u64));
        assert_eq!(torn, Some(Torn { bytes: 6, hash: Hash::of(b"{\"half") }));
        assert!(reopen(dir.path()).unwrap().unwrap().2.is_none());
        fs::write(&path, format!("{lines}x\n")).unwrap();
        assert_eq!(reopen(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_rotation_that_a_crash_broke_off_goes_on_where_the_lines_are() {
        let dir = tempfile::tempdir().unwrap();
        let mut head = Head::EMPTY;
        fs::write(path(dir.path(), 1), format!("{}\n", head.append("{}", None))).unwrap();
        create(dir.path(), head).unwrap();
        let (log, found, _) = reopen(dir.path()).unwrap().unwrap();
        assert_eq!((found, log.path), (head, path(dir.path(), 1)));
    }

    #[test]
    fn of_surplus_files_the_last_hash_and_the_count_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut heads = vec![Head::EMPTY];
        for _ in 0..3 {
            let mut head = *heads.last().unwrap();
            let name = path(dir.path(), head.seq + 1);
            fs::write(name, format!("{}\n{}\n", head.append("{}", None), head.append("{}", None)))
                .unwrap();
            heads.push(head);
        }
        assert!(surplus(dir.path(), 3).unwrap().is_none());
        let (files, dropped) = surplus(dir.path(), 1).unwrap().unwrap();
        assert_eq!(files.len(), 2);
        let Head { seq, hash } = heads[2];
        assert_eq!(dropped, Dropped { lines: 4, last_seq: seq, last_hash: hash });
    }
}
