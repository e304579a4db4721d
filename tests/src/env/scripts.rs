//! One-line runs of `jobctl run`, for suites whose jobs are scripts. It must not start a broker.

use super::Env;

impl Env {
    /// What a script writes that `user-a` runs with these options of `jobctl run`, and that succeeds.
    pub fn sh(&self, options: &[&str], script: &str) -> String {
        let argv = [&["run"], options, &["--", "sh", "-c", script]].concat();
        self.jobctl("user-a", &argv).expect(0).out()
    }

    /// What `jobctl run` says that is refused with these options.
    pub fn refused(&self, options: &[&str]) -> String {
        let ran = self.jobctl("user-a", &[&["run"], options, &["--", "true"]].concat());
        assert_ne!(ran.code(), 0, "{}", ran.out());
        ran.err()
    }
}
