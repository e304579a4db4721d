//! Directories that are made before there is a job for them. To make a file takes ext4 from 20 us to a millisecond (it
//! passes over what was deleted in the last minute), to rename a directory 20 us. It knows no jobs: a spare is none, and
//! whoever opens the place anew removes what is there.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// The most that wait.
const MOST: usize = 16;
/// From the first that is taken to the making of others: what took it is to be done first.
const PAUSE: Duration = Duration::from_millis(20);

/// Spares in one directory: as many as have been wanted so far, [`MOST`] at most.
#[derive(Debug)]
pub struct Spares {
    ready: Arc<Mutex<Vec<PathBuf>>>,
    /// To the thread that makes them.
    asked: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Spares {
    /// Uses this directory, makes it if it is not there (0700), and empties it. `fill` makes what is to be in each.
    ///
    /// # Errors
    /// As mkdir(2) and unlink(2).
    pub fn open(directory: PathBuf, fill: fn(&Path) -> io::Result<()>) -> io::Result<Spares> {
        remove_all(&directory)?;
        DirBuilder::new().mode(0o700).create(&directory)?;
        let ready = Arc::<Mutex<Vec<PathBuf>>>::default();
        let (asked, wanted) = mpsc::channel();
        let maker = Maker { directory, fill, ready: Arc::clone(&ready), made: 0, most: 0 };
        let thread =
            thread::Builder::new().name("spares".into()).spawn(move || maker.work(&wanted))?;
        Ok(Spares { ready, asked: Some(asked), thread: Some(thread) })
    }

    /// Moves one to where it is wanted, which must be on the same file system. False if there is none.
    pub fn take(&self, to: &Path) -> bool {
        let spare = lock(&self.ready).pop();
        if let Some(asked) = &self.asked {
            let _ = asked.send(()); // the thread lives as long as this
        }
        // Gone or not to be moved: the caller makes its own, and says what is wrong.
        spare.is_some_and(|spare| fs::rename(spare, to).is_ok())
    }
}

impl Drop for Spares {
    /// Returns when nothing is made any more.
    fn drop(&mut self) {
        drop(self.asked.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic of it has been printed
        }
    }
}

/// The thread's.
struct Maker {
    directory: PathBuf,
    fill: fn(&Path) -> io::Result<()>,
    ready: Arc<Mutex<Vec<PathBuf>>>,
    made: u64,
    most: usize,
}

impl Maker {
    fn work(mut self, wanted: &Receiver<()>) {
        while wanted.recv().is_ok() {
            self.most = (self.most + 1 + self.rest(wanted)).min(MOST);
            while lock(&self.ready).len() < self.most {
                // Not worth a line: whoever finds none makes its own, and hears of a full disk.
                let Ok(spare) = self.make() else { break };
                lock(&self.ready).push(spare);
            }
        }
        let _ = remove_all(&self.directory); // or whoever opens it next does
    }

    /// Waits for a moment, and counts what is wanted meanwhile.
    fn rest(&self, wanted: &Receiver<()>) -> usize {
        let end = Instant::now() + PAUSE;
        let next = || wanted.recv_timeout(end.saturating_duration_since(Instant::now()));
        std::iter::from_fn(|| match next() {
            Ok(()) => Some(()),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        })
        .count()
    }

    fn make(&mut self) -> io::Result<PathBuf> {
        self.made += 1;
        let path = self.directory.join(self.made.to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        (self.fill)(&path)?;
        Ok(path)
    }
}

fn remove_all(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(spare: &Path) -> io::Result<()> {
        fs::write(spare.join("file"), "")
    }

    /// Takes until one is there.
    fn take(spares: &Spares, to: &Path) {
        let end = Instant::now() + Duration::from_secs(60);
        while !spares.take(to) {
            assert!(Instant::now() < end, "no spare is made");
            thread::yield_now();
        }
    }

    #[test]
    fn the_first_finds_none_and_the_next_ones_do() {
        let dir = tempfile::tempdir().unwrap();
        let spares = Spares::open(dir.path().join("spare"), fill).unwrap();
        assert!(!spares.take(&dir.path().join("0")));
        for name in ["1", "2"] {
            take(&spares, &dir.path().join(name));
            assert!(dir.path().join(name).join("file").exists());
        }
    }

    #[test]
    fn what_a_crash_left_is_no_spare_and_nothing_is_left_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("spare");
        fs::create_dir_all(place.join("1/left")).unwrap();
        let spares = Spares::open(place.clone(), fill).unwrap();
        take(&spares, &dir.path().join("one"));
        assert!(!dir.path().join("one/left").exists());
        drop(spares);
        assert!(!place.exists());
    }
}
