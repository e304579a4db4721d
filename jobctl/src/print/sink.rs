//! Standard output and error, written past std's line buffer.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};

use tokio::net::unix::pipe;

use crate::failure::{Failure, Result};

/// A whole answer to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::of_stdout(&error))
}

/// One of the two standard streams.
pub(crate) struct Sink {
    target: Target,
    pub(crate) is_terminal: bool,
}

enum Target {
    /// A file: writes take as long as they take.
    Blocking(File),
    /// A pipe or terminal, whose reader may pause: signals and keep-alives go on meanwhile.
    Patient(pipe::Sender),
}

impl Sink {
    pub(crate) fn stdout() -> Result<Sink> {
        let fd = io::stdout().as_fd().try_clone_to_owned();
        Sink::new(fd.map(File::from), "/proc/self/fd/1")
    }

    pub(crate) fn stderr() -> Result<Sink> {
        let fd = io::stderr().as_fd().try_clone_to_owned();
        Sink::new(fd.map(File::from), "/proc/self/fd/2")
    }

    fn new(file: io::Result<File>, path: &str) -> Result<Sink> {
        let file = file.map_err(|error| Failure::of_stdout(&error))?;
        let is_terminal = file.is_terminal();
        let target = match open_nonblocking(&file, path) {
            Some(own) => Target::Patient(own),
            None => Target::Blocking(file),
        };
        Ok(Sink { target, is_terminal })
    }

    /// All of it. Not cancel safe: how much was written is lost.
    pub(crate) async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.target {
            Target::Blocking(file) => file.write_all(data),
            Target::Patient(pipe) => write_all_to_pipe(pipe, data).await,
        }
    }
}

/// The same pipe or terminal as a description of its own, because O_NONBLOCK on the one we were
/// given would hit everybody who shares it. `None` where that is impossible or pointless.
fn open_nonblocking(file: &File, path: &str) -> Option<pipe::Sender> {
    let kind = file.metadata().ok()?.file_type();
    if !kind.is_fifo() && !file.is_terminal() {
        return None;
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let own = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
    // Unchecked: terminals too know readiness and non-blocking writes.
    pipe::Sender::from_file_unchecked(own).ok()
}

async fn write_all_to_pipe(pipe: &pipe::Sender, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match pipe.try_write(data) {
            Ok(written) => data = &data[written..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => pipe.writable().await?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
