//! `job-broker audit verify`: reads an audit and says the first line that is wrong, or that none is. It must change nothing,
//! and trust nothing that it reads.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::audit::chain::{Fault, Head, Verifier};
use crate::audit::checkpoint::{self, Signed};
use crate::audit::files;

/// Bytes of the longest line that is looked at.
pub(super) const MAX_LINE: u64 = 1 << 20;

/// What to look at.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// A directory, or files of one in any order.
    pub(crate) paths: Vec<PathBuf>,
    /// Heads that somebody knows, as the journal has them.
    pub(crate) heads: Vec<Head>,
    /// SHA-256 of certificates whose checkpoints count. Empty: the newest checkpoint's signer is only named.
    pub(crate) signers: Vec<String>,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Report {
    /// For people.
    pub(crate) text: String,
    /// Nothing is wrong.
    pub(crate) is_good: bool,
}

/// The last line is not finished.
struct Unfinished(u64);

/// Verifies an audit.
///
/// # Errors
/// As open(2) and read(2).
pub(crate) fn verify(options: &Options) -> io::Result<Report> {
    let (files, dir) = files_of(&options.paths)?;
    let (signed, mut faults) = match &dir {
        Some(dir) => checkpoint::load(dir)?,
        None => (Vec::new(), Vec::new()),
    };
    faults.extend(unknown_signer(&signed, &options.signers));
    let given = options.heads.iter().map(|head| (*head, "the given head".to_owned()));
    let known = signed.iter().map(|s| (s.head, format!("the checkpoint of {}", s.time)));
    let mut verifier = Verifier::new(known.chain(given));
    let mut text = String::new();
    let mut unfinished = None;
    for (at, file) in files.iter().enumerate() {
        match read(file, &mut verifier)? {
            Err((line, fault)) => {
                let _ = writeln!(text, "{} line {line}: {fault}", file.display());
                return Ok(Report { text, is_good: false });
            }
            Ok(Some(Unfinished(bytes))) if at + 1 == files.len() => unfinished = Some(bytes),
            Ok(Some(Unfinished(_))) => {
                let _ = writeln!(text, "{}: its last line is cut off", file.display());
                return Ok(Report { text, is_good: false });
            }
            Ok(None) => {}
        }
    }
    if let Some(bytes) = unfinished {
        let _ = writeln!(
            text,
            "the last line is not finished ({bytes} bytes): the broker is writing it, or a crash of the host tore it; \
             the next broker says so in a line"
        );
    }
    match end(&verifier, dir.is_some()) {
        Err(fault) => faults.push(fault.to_string()),
        Ok(head) => {
            let _ = match files.len() {
                1 => writeln!(text, "1 file, last line {head}"),
                count => writeln!(text, "{count} files, last line {head}"),
            };
            let after = head.seq.saturating_sub(verifier.last_witnessed());
            let _ = writeln!(
                text,
                "{after} lines after the last one that a checkpoint or --head knows"
            );
        }
    }
    for fault in &faults {
        let _ = writeln!(text, "{fault}");
    }
    if faults.is_empty() {
        let signer = signed.last().map(|signed| format!(", signed by {}", signed.signer));
        let _ = writeln!(text, "good: no line is changed or missing{}", signer.unwrap_or_default());
    }
    Ok(Report { text, is_good: faults.is_empty() })
}

/// Single files need not begin with the first line.
fn end(verifier: &Verifier, is_whole: bool) -> Result<Head, Fault> {
    match verifier.end() {
        Err(Fault::NoBeginning(_)) if !is_whole => Ok(verifier.last()),
        end => end,
    }
}

/// The files in the order of their lines, and the directory if they are all of it.
fn files_of(paths: &[PathBuf]) -> io::Result<(Vec<PathBuf>, Option<PathBuf>)> {
    match paths {
        [dir] if dir.is_dir() => {
            let files = files::list(dir)?.into_iter().map(|(_, path)| path).collect::<Vec<_>>();
            Ok((files, Some(dir.clone())))
        }
        paths => {
            let mut paths = paths.to_vec();
            paths.sort(); // the names have the numbers of the first lines
            Ok((paths, None))
        }
    }
}

/// A forger can sign with a key of its own: the newest checkpoint must be by a signer that is known.
fn unknown_signer(signed: &[Signed], known: &[String]) -> Option<String> {
    let newest = signed.last()?;
    let is_known = known.is_empty() || known.contains(&newest.signer);
    (!is_known).then(|| {
        format!(
            "the newest checkpoint is signed by another certificate ({}): if it was the broker's, give it with --cert",
            newest.signer
        )
    })
}

type Verdict = Result<Option<Unfinished>, (u64, Fault)>;

fn read(path: &Path, verifier: &mut Verifier) -> io::Result<Verdict> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        let Some(text) = line.strip_suffix(b"\n") else {
            let length = line.len() as u64;
            if length == MAX_LINE {
                let fault = Fault::Malformed(format!("it has more than {MAX_LINE} bytes"));
                return Ok(Err((number, fault)));
            }
            return Ok(Ok((length > 0).then_some(Unfinished(length))));
        };
        if let Err(fault) = verifier.line(text) {
            return Ok(Err((number, fault)));
        }
    }
    Ok(Ok(None))
}
