//! A point of the broker's work at which it waits, so that a test can act between two of its steps.

use std::fs;
use std::path::PathBuf;

use crate::env::Env;
use crate::wait::until;

/// Where a broker waits: until the file is removed.
#[derive(Debug)]
pub struct Hold(PathBuf);

impl Hold {
    /// The next broker waits at this point, by its name in `job_shim::crash`, the first time that it comes to it.
    pub fn next_broker(env: &mut Env, point: &str) -> Hold {
        let mark = env.path("mark");
        env.hold_brokers(format!("{}:1:{}", point, mark.display()));
        Hold(mark)
    }

    /// A broker that waits there takes the place of the one that runs.
    pub fn at(env: &mut Env, point: &str) -> Hold {
        let hold = Hold::next_broker(env, point);
        env.restart_broker();
        hold
    }

    /// Waits until the broker waits.
    pub fn is_reached(&self) {
        let is_marked = || fs::metadata(&self.0).is_ok_and(|file| file.len() > 0);
        until("the broker is held", || is_marked().then_some(()));
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When the broker was never told to wait.
    pub fn let_go(self) {
        fs::remove_file(self.0).expect("the broker was told to wait");
    }
}
