//! Reads a tar archive, whatever is in it, and says to a [`Target`] what it has. It touches no file; every size is
//! bounded before anything is kept.

use std::io::{self, Read};

use job_grammar::echo::echo;
use tar::EntryType;

use crate::{Doing, Fault, Result, fault};

/// Most bytes of a path.
const LONGEST_PATH: usize = 1024;
/// Most directories that a path leads through.
const DEEPEST: usize = 64;
/// A whiteout of layers takes away what lower layers have by the name that follows.
const WHITEOUT: &[u8] = b".wh.";
/// Takes away all that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What else the data of an archive may have than files: headers, padding, names.
const OVERHEAD: u64 = 4096;

/// Where what an archive has goes. Paths have no empty component, no `.` and no `..`, and are not empty.
pub(crate) trait Target {
    fn directory(&mut self, path: &[u8]) -> io::Result<()>;
    fn file(
        &mut self,
        path: &[u8],
        is_program: bool,
        modified: u64,
        data: &mut dyn Read,
    ) -> io::Result<()>;
    fn symlink(&mut self, path: &[u8], to: &[u8]) -> io::Result<()>;
    /// Another name of a file that is there.
    fn link(&mut self, path: &[u8], to: &[u8]) -> io::Result<()>;
    /// Takes away what is there, if anything is.
    fn remove(&mut self, path: &[u8]) -> io::Result<()>;
    /// Takes away all that is in a directory, if it is one; the root for an empty path.
    fn clear(&mut self, path: &[u8]) -> io::Result<()>;
}

/// What may still come, of all archives of an image together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    /// Devices, FIFOs and sockets: nothing is made of them.
    pub(crate) left_out: u64,
}

/// What is done with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Everything; a whiteout is a file like any other.
    Plain,
    /// Whiteouts alone, which are of lower layers whatever their place in the archive.
    Whiteouts,
    /// All but whiteouts.
    Layer,
}

/// Reads a whole archive.
///
/// # Errors
/// What is wrong with it: cut off, too much, a path that leads elsewhere; or what the target says.
pub(crate) fn read(
    data: impl Read,
    pass: Pass,
    budget: &mut Budget,
    target: &mut impl Target,
) -> Result<()> {
    let most = budget.bytes.saturating_add(budget.files.saturating_mul(OVERHEAD));
    let mut counted = Counted { data, read: 0, most };
    let mut archive = tar::Archive::new(&mut counted);
    let mut end = 0;
    let mut entries = 0;
    for entry in archive.entries().doing(|| "cannot read the archive".into())? {
        let mut entry = entry.doing(|| "cannot read the archive".into())?;
        let size = entry.size();
        end = entry.raw_file_position().saturating_add(size.next_multiple_of(512).max(size));
        entries += 1;
        if entries > budget.files {
            return fault("the archive has more files than allowed (--max-files)");
        }
        one(&mut entry, pass, budget, target)?;
    }
    budget.files -= if pass == Pass::Whiteouts { 0 } else { entries };
    // One block of zeros at least ends an archive: what is cut off between two files is no smaller archive.
    if counted.read < end.saturating_add(512) {
        return fault("the archive is cut off: it has no end");
    }
    Ok(())
}

fn one<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    pass: Pass,
    budget: &mut Budget,
    target: &mut impl Target,
) -> Result<()> {
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(());
    }
    let name = entry.path_bytes().into_owned();
    let Some(path) = inside(&name)? else { return Ok(()) }; // the root itself
    let (directory, file_name) = split(&path);
    if pass != Pass::Plain && file_name.starts_with(WHITEOUT) {
        let directory_of = |name: &[u8]| match directory.is_empty() {
            true => name.to_vec(),
            false => [directory, b"/", name].concat(),
        };
        return match (pass, file_name) {
            (Pass::Layer, _) => Ok(()),
            (_, OPAQUE) => target.clear(directory),
            (_, name) => match &name[WHITEOUT.len()..] {
                b"" | b"." | b".." => return fault(format!("{} is no whiteout", shown(&path))),
                name => target.remove(&directory_of(name)),
            },
        }
        .doing(|| format!("cannot apply {}", shown(&path)));
    }
    if pass == Pass::Whiteouts {
        return Ok(());
    }
    let made = match kind {
        EntryType::Directory => target.directory(&path),
        EntryType::Symlink => {
            let to = link_target(entry, &path)?;
            target.symlink(&path, &to)
        }
        EntryType::Link => {
            let to = link_target(entry, &path)?;
            let to = inside(&to)?
                .ok_or_else(|| Fault(format!("{} is a link to the root", shown(&path))))?;
            target.link(&path, &to)
        }
        EntryType::Regular | EntryType::Continuous => {
            let size = entry.size();
            if size > budget.bytes {
                return fault("the files of the archive are larger than allowed (--max-size)");
            }
            budget.bytes -= size;
            let (mode, modified) = (entry.header().mode(), entry.header().mtime());
            let mode = mode.doing(|| format!("{} has no mode", shown(&path)))?;
            let mut data = Whole { data: entry, left: size };
            target.file(&path, mode & 0o111 != 0, modified.unwrap_or_default(), &mut data)
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            budget.left_out += 1;
            Ok(())
        }
        _ => return fault(format!("{} is of a kind that is not supported", shown(&path))),
    };
    made.doing(|| format!("cannot unpack {}", shown(&path)))
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>, path: &[u8]) -> Result<Vec<u8>> {
    let to = entry.link_name_bytes().map(|to| to.into_owned()).unwrap_or_default();
    if to.is_empty() || to.len() > LONGEST_PATH || to.contains(&0) {
        return fault(format!("{} is a link to nothing, or to a very long name", shown(path)));
    }
    Ok(to)
}

/// A name of the archive as a path below the root; `None`: the root.
///
/// # Errors
/// An absolute name, `..`, NUL, too long, too deep.
fn inside(name: &[u8]) -> Result<Option<Vec<u8>>> {
    if name.len() > LONGEST_PATH {
        return fault(format!(
            "a path has {} bytes; at most {LONGEST_PATH} are allowed",
            name.len()
        ));
    }
    if name.starts_with(b"/") || name.contains(&0) {
        return fault(format!("{} is not a path in the archive", shown(name)));
    }
    let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let parts: Vec<&[u8]> = parts.collect();
    if parts.contains(&&b".."[..]) {
        return fault(format!("{} leads out of the archive", shown(name)));
    }
    if parts.len() > DEEPEST || parts.iter().any(|part| part.len() > 255) {
        return fault(format!("{} is too deep, or has too long a name", shown(name)));
    }
    Ok(Some(parts.join(&b'/')).filter(|path| !path.is_empty()))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn shown(path: &[u8]) -> String {
    echo(&String::from_utf8_lossy(path)).to_string()
}

/// Ends with an error where there is more than allowed: a bomb is as long as its budget.
struct Counted<R> {
    data: R,
    read: u64,
    most: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.data.read(into)?;
        self.read += read as u64;
        if self.read > self.most {
            return Err(io::Error::other("it has more bytes than allowed (--max-size)"));
        }
        Ok(read)
    }
}

/// A file's data; an error where it ends early.
struct Whole<'a, R> {
    data: &'a mut R,
    left: u64,
}

impl<R: Read> Read for Whole<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.data.read(into)?;
        self.left = self.left.saturating_sub(read as u64);
        if read == 0 && !into.is_empty() && self.left > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_root() {
        let path = |name: &str| inside(name.as_bytes());
        assert_eq!(path("./a//b/."), Ok(Some(b"a/b".to_vec())));
        assert_eq!(path("./"), Ok(None));
        for wrong in ["/a", "../a", "a/../../b", "a/..", &"a/".repeat(65), &"a".repeat(256), "a\0"]
        {
            assert!(path(wrong).is_err(), "{wrong}");
        }
    }
}
