//! `finished.idx`, the index of finished jobs: one line per job, so that a start reads one file instead of
//! two in each of 100,000 directories. A cache, which may be deleted at any time: the truth is in
//! the jobs' directories, and what this file lacks or has too much is put right from them.
//!
//! A line is the crc32 of the rest in eight hexadecimal digits, a space, and the JSON of a
//! [`Summary`]. Of two lines about one job the later counts; a line that is torn or damaged counts
//! as absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::state::State;
use crate::store::records::{FINAL, FinalRecord, SPEC, SpecRecord};

/// Its name in the state directory.
pub(crate) const INDEX: &str = "finished.idx";

/// Dead lines that are worth no rewriting.
const SLACK: usize = 10_000;

/// What memory keeps of a finished job, packed; the rest is read on demand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The job.
    pub id: JobId,
    /// Whose.
    pub owner: Identity,
    /// For people.
    #[serde(default)]
    pub name: Box<str>,
    /// For programs, sorted by key.
    #[serde(default)]
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// `finished` or `lost`.
    pub state: State,
    /// Nanoseconds since 1970.
    pub ended_ns: u64,
    /// Bytes of output that are kept, with their index.
    pub kept: u64,
    /// If it was started with a request id.
    #[serde(default)]
    pub request: Option<Box<RequestKey>>,
    /// The records that this was read from.
    pub stamp: Stamp,
}

/// What tells a repeated request from another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestKey {
    /// Chosen by the caller.
    pub id: Box<str>,
    /// See [`SpecRecord::request_digest`].
    pub digest: Box<str>,
    /// The program never ran, for a reason of the broker or the host: the request may be repeated.
    #[serde(rename = "again", default)]
    pub is_retryable: bool,
}

/// Size and time of the last change of `spec.json` and `final.json`: records that have others were
/// changed behind our back, or damaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp(u64, i64, u64, i64);

impl Stamp {
    /// As the files of a job are now.
    ///
    /// # Errors
    /// As stat(2).
    pub(crate) fn of(dir: &Path) -> io::Result<Stamp> {
        let [spec, last] = [SPEC, FINAL].map(|name| fs::metadata(dir.join(name)));
        let (spec, last) = (spec?, last?);
        let time = |file: &fs::Metadata| {
            file.mtime().saturating_mul(1_000_000_000).saturating_add(file.mtime_nsec())
        };
        Ok(Stamp(spec.len(), time(&spec), last.len(), time(&last)))
    }
}

impl Summary {
    /// From a job's records.
    pub(crate) fn new(spec: &SpecRecord, last: &FinalRecord, again: bool, stamp: Stamp) -> Summary {
        let labels = spec.spec.labels.iter();
        let key = RequestKey {
            id: spec.request_id.as_str().into(),
            digest: spec.request_digest.as_str().into(),
            is_retryable: again,
        };
        Summary {
            id: spec.id,
            owner: spec.owner.clone(),
            name: spec.spec.name.as_str().into(),
            labels: labels.map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
            state: last.state,
            ended_ns: last.ended_ns,
            kept: last.totals.kept(),
            request: (!spec.request_id.is_empty()).then(|| Box::new(key)),
            stamp,
        }
    }
}

/// The file, open for appending.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    file: File,
    /// Bytes, up to the last whole line.
    length: u64,
    lines: usize,
}

impl Index {
    /// Opens it, or makes it, and gives what each line that is whole says to `each`, in the order of the file.
    ///
    /// # Errors
    /// As open(2), read(2) and ftruncate(2).
    pub(crate) fn open(root: &Path, mut each: impl FnMut(Summary)) -> io::Result<Index> {
        let path = root.join(INDEX);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let mut reader = io::BufReader::with_capacity(1 << 20, File::open(&path)?);
        let (mut length, mut lines, mut line) = (0, 0, Vec::new());
        while reader.read_until(b'\n', &mut line)? > 0 {
            if !line.ends_with(b"\n") {
                tracing::warn!(path = %path.display(), "the index of finished jobs ended in a torn line, which the broker cut off");
                file.set_len(length)?;
                break;
            }
            length += line.len() as u64;
            lines += 1;
            read(&line).into_iter().for_each(&mut each);
            line.clear();
        }
        Ok(Index { path, file, length, lines })
    }

    /// Adds a line. Not synced: what a crash of the host takes is read from the job's directory.
    ///
    /// # Errors
    /// As write(2); nothing is added then.
    pub(crate) fn append(&mut self, summary: &Summary) -> io::Result<()> {
        let line = line(summary)?;
        if let Err(e) = self.file.write_all(&line) {
            self.file.set_len(self.length)?; // not even half of it
            return Err(e);
        }
        self.length += line.len() as u64;
        self.lines += 1;
        Ok(())
    }

    /// Whether most lines are about jobs that are not there any more.
    pub(crate) fn is_worn(&self, jobs: usize) -> bool {
        self.lines > 2 * jobs + SLACK
    }

    /// Makes it anew, with these lines alone.
    ///
    /// # Errors
    /// As write(2) and rename(2); the old one stays then.
    pub(crate) fn rewrite(&mut self, all: impl Iterator<Item = Summary>) -> io::Result<()> {
        let draft = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = io::BufWriter::with_capacity(1 << 20, options.open(&draft)?);
        let (mut length, mut lines) = (0, 0);
        for summary in all {
            let line = line(&summary)?;
            file.write_all(&line)?;
            length += line.len() as u64;
            lines += 1;
        }
        file.flush()?;
        fs::rename(&draft, &self.path)?;
        let file = OpenOptions::new().append(true).open(&self.path)?;
        *self = Index { path: std::mem::take(&mut self.path), file, length, lines };
        Ok(())
    }
}

pub(super) fn line(summary: &Summary) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(summary)?;
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

pub(super) fn read(line: &[u8]) -> Option<Summary> {
    let (crc, json) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    let crc = u32::from_str_radix(std::str::from_utf8(&crc[..8]).ok()?, 16).ok()?;
    (crc == crc32fast::hash(json)).then(|| serde_json::from_slice(json).ok())?
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A job of this owner that has ended at this time.
    pub(crate) fn summary(owner: &str, ended_ns: u64) -> Summary {
        Summary {
            id: JobId::fresh(),
            owner: Identity::new(owner).unwrap(),
            name: "n".into(),
            labels: [("team".into(), "a".into())].into(),
            state: State::Finished,
            ended_ns,
            kept: 10,
            request: None,
            stamp: Stamp::default(),
        }
    }

    fn index_of(all: &[Summary]) -> (tempfile::TempDir, Index) {
        let dir = tempfile::tempdir().unwrap();
        let mut index = Index::open(dir.path(), drop).unwrap();
        all.iter().for_each(|summary| index.append(summary).unwrap());
        (dir, index)
    }

    fn read_again(dir: &tempfile::TempDir) -> Vec<Summary> {
        let mut all = BTreeMap::new();
        Index::open(dir.path(), |summary| _ = all.insert(summary.id, summary)).unwrap();
        all.into_values().collect()
    }

    #[test]
    fn what_was_appended_is_read_again_and_the_later_line_counts() {
        let [one, two] = [summary("a", 1), summary("b", 2)];
        let changed = Summary { kept: 99, ..one.clone() };
        let (dir, _) = index_of(&[one, two.clone(), changed.clone()]);
        assert_eq!(read_again(&dir), [changed, two]);
    }

    #[test]
    fn a_torn_or_damaged_line_is_absent_and_the_next_one_is_whole() {
        let all = [summary("a", 1), summary("b", 2), summary("c", 3)];
        let (dir, _) = index_of(&all);
        let path = dir.path().join(INDEX);
        let mut bytes = fs::read(&path).unwrap();
        bytes[30] ^= 1;
        bytes.truncate(bytes.len() - 5);
        fs::write(&path, bytes).unwrap();
        let mut read = Vec::new();
        let mut index = Index::open(dir.path(), |summary| read.push(summary)).unwrap();
        assert_eq!(read, [all[1].clone()]);
        index.append(&all[2]).unwrap();
        assert_eq!(read_again(&dir), all[1..]);
    }

    #[test]
    fn a_rewritten_index_has_what_it_was_given_and_goes_on() {
        let all = [summary("a", 1), summary("b", 2), summary("c", 3)];
        let (dir, mut index) = index_of(&all[..2]);
        index.rewrite(all[1..2].iter().cloned()).unwrap();
        index.append(&all[2]).unwrap();
        assert_eq!(read_again(&dir), all[1..]);
        assert!(!index.is_worn(2) && Index { lines: 20_000, ..index }.is_worn(2));
    }
}
