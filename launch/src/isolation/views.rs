//! The views in force, and how they are made: beside everything else, since a directory of theirs may be on a disk that hangs.
//! Nobody waits for that longer than a moment; what a view is made of is `view`'s.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use job_shim::isolation::{Mount, Source};

use crate::isolation::owner::Owners;
use crate::isolation::view::View;
use crate::model::isolation::{IsolationRules, Profile};
use crate::sync::lock;

/// How long a start or a reload waits for the views. They take some milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Who uses a profile until its view is there.
const NOT_YET: &str =
    "the host's directories do not answer: a disk may hang, the broker waits for it";

/// What every job of `private` and `strict` sees as it is on the host.
type Shared = Vec<(Arc<OwnedFd>, Mount)>;

/// What jobs have in common.
#[derive(Debug, Clone)]
pub(super) struct Views {
    /// By profile; or why this host has none.
    all: [Result<Arc<View>, String>; 3],
    /// Or why nobody can say what it is.
    pub(super) shared: Result<Shared, String>,
}

/// The views in force. A job that is being started keeps its own.
#[derive(Debug)]
pub struct Isolator(Arc<Mutex<State>>, Owners);

#[derive(Debug)]
struct State {
    views: Views,
    /// Which making these are of: a part of an earlier one that comes late is nobody's any more.
    making: u64,
}

/// A part of the views that is made.
enum Part {
    View(Profile, Result<Arc<View>, String>),
    Shared(Shared),
}

impl Views {
    fn none() -> Views {
        let all = Profile::ALL.map(|profile| Err(lacking(profile, &NOT_YET)));
        Views { all, shared: Err(format!("isolation.shared: {NOT_YET}")) }
    }

    pub(super) fn of(&self, profile: Profile) -> Result<Arc<View>, String> {
        self.all[profile as usize].clone()
    }

    fn set(&mut self, part: Part) {
        match part {
            Part::View(profile, view) => self.all[profile as usize] = view,
            Part::Shared(shared) => self.shared = Ok(shared),
        }
    }

    /// Why jobs of a profile cannot be started.
    fn lack(&self, profile: Profile) -> Option<String> {
        let shared = self.shared.as_ref().err().filter(|_| profile != Profile::Host);
        self.of(profile).err().or_else(|| shared.cloned())
    }
}

impl Isolator {
    /// Makes the views. Blocks for some milliseconds, or until [`TIMEOUT`]; what is not made by then comes later, and until
    /// then its jobs are refused.
    pub fn new(rules: &IsolationRules) -> Isolator {
        let isolator = Isolator::of(State { views: Views::none(), making: 0 });
        isolator.renew(rules);
        for (_, why) in isolator.missing() {
            tracing::warn!("{why}");
        }
        isolator
    }

    /// Makes them anew, since the host's mounts have changed. Blocks as [`Isolator::new`]; what is not made in time stays as
    /// it was until it is.
    pub fn renew(&self, rules: &IsolationRules) {
        let making = {
            let mut state = lock(&self.0);
            state.making += 1;
            state.making
        };
        let (made, parts) = mpsc::channel();
        for profile in Profile::ALL {
            self.make(making, made.clone(), move || {
                let view = View::make(profile).map(Arc::new).map_err(|e| lacking(profile, &e));
                Part::View(profile, view)
            });
        }
        let paths = rules.shared.clone();
        self.make(making, made, move || Part::Shared(share_all(&paths)));
        let until = Instant::now() + TIMEOUT;
        loop {
            match parts.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("the jobs' view of the host is not made yet: {NOT_YET}");
                    return;
                }
            }
        }
    }

    /// A thread for each part: one that hangs keeps no other.
    fn make(
        &self,
        making: u64,
        made: mpsc::Sender<()>,
        make: impl FnOnce() -> Part + Send + 'static,
    ) {
        let state = Arc::clone(&self.0);
        let begin = Instant::now();
        let work = move || {
            let part = make();
            let mut state = lock(&state);
            if state.making == making {
                state.views.set(part);
                if begin.elapsed() > TIMEOUT {
                    tracing::info!("a part of the jobs' view of the host is there now");
                }
            }
            drop(state);
            let _ = made.send(()); // nobody may wait any more
        };
        if let Err(e) = thread::Builder::new().name("views".into()).spawn(work) {
            tracing::error!("the jobs' view of the host is not made: {e}");
        }
    }

    /// What this host cannot do of the profiles, by profile, with the reasons.
    pub fn missing(&self) -> Vec<(Profile, String)> {
        let views = self.views();
        Profile::ALL.into_iter().filter_map(|p| Some((p, views.lack(p)?))).collect()
    }

    /// Why what is root's in a root on the file system of this directory cannot be its job's. Blocks for a millisecond.
    pub fn lacks_owners(&self, directory: &File) -> Option<io::Error> {
        self.owners().lack(directory.as_fd())
    }

    pub(super) fn owners(&self) -> &Owners {
        &self.1
    }

    fn of(state: State) -> Isolator {
        Isolator(Arc::new(Mutex::new(state)), Owners::default())
    }

    pub(super) fn views(&self) -> Views {
        lock(&self.0).views.clone()
    }
}

fn lacking(profile: Profile, why: &dyn fmt::Display) -> String {
    format!("this host cannot isolate jobs as \"{}\": {why}", profile.name())
}

/// What cannot be opened is left out, and told.
fn share_all(paths: &[String]) -> Shared {
    let shared = paths.iter().filter_map(|path| match share(path) {
        Ok(shared) => Some(shared),
        Err(e) => {
            tracing::warn!("isolation.shared: jobs do not see {path}: {e}");
            None
        }
    });
    shared.collect()
}

/// A path of the operator's, for every job.
fn share(path: &str) -> io::Result<(Arc<OwnedFd>, Mount)> {
    let source = File::open(path)?;
    let source_kind = Source::Inherited { read_only: false, file: source.metadata()?.is_file() };
    Ok((Arc::new(source.into()), Mount { target: path.into(), source: source_kind }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_comes_too_late_is_not_in_force() {
        let isolator = Isolator::of(State { views: Views::none(), making: 2 });
        let (made, parts) = mpsc::channel();
        isolator.make(1, made.clone(), || Part::Shared(Vec::new()));
        parts.recv().unwrap();
        assert!(isolator.views().shared.is_err());
        isolator.make(2, made, || Part::Shared(Vec::new()));
        parts.recv().unwrap();
        assert!(isolator.views().shared.is_ok());
        let missing: Vec<_> = isolator.missing().into_iter().map(|(profile, _)| profile).collect();
        assert_eq!(missing, Profile::ALL, "their views are not made");
    }
}
