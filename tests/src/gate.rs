//! A place at which jobs wait.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use nix::sys::stat::Mode;

use crate::scratch::open_to_jobs;

/// A place at which jobs wait until the test lets them through: `read line <PATH`.
#[derive(Debug)]
pub struct Gate {
    path: PathBuf,
    fifo: File,
}

impl Gate {
    /// A fifo that everybody may open.
    pub(crate) fn new(path: PathBuf) -> Gate {
        nix::unistd::mkfifo(&path, Mode::empty()).expect("a fifo");
        open_to_jobs(&path, 0o666);
        // For reading too: then neither side waits in open(2), see fifo(7).
        let fifo = OpenOptions::new().read(true).write(true).open(&path).expect("it opens");
        Gate { path, fifo }
    }

    /// What a shell does to wait here.
    pub fn wait(&self) -> String {
        format!("read line <{}", self.path.display())
    }

    /// Lets one through.
    pub fn open(&self) {
        (&self.fifo).write_all(b"go\n").expect("a fifo has room");
    }
}
