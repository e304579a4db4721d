//! Which programs a role may execute, with which arguments. Judges a path whose symlinks are resolved; resolves nothing.

use std::path::Path;
use std::sync::Arc;

use crate::auth::policy::place::Place;
use crate::model::glob::{Pattern, Syntax};

/// Maximum bytes of arguments that are compared with globs. A longer list matches only "...".
const MAX_ARGUMENTS: usize = 64 << 10;

/// A program and its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: Place,
    pub(super) args: Args,
    /// Which clause it is, and where it stands.
    pub(crate) rule: Arc<str>,
}

/// Which arguments, `argv[0]` not among them.
#[derive(Debug, Clone, Default)]
pub(super) struct Args {
    /// The first ones, one by one.
    pub(super) first: Vec<Pattern>,
    /// All others; absent: there must be none.
    pub(super) rest: Option<Pattern>,
}

/// How near a program comes to being allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Match {
    /// Another program.
    Nothing,
    /// Other arguments.
    Path,
    /// Allowed.
    Whole,
}

impl Program {
    /// Any program with any arguments.
    pub(super) fn any(rule: &str) -> Program {
        let args = Args { first: Vec::new(), rest: Some(Pattern::any(Syntax::Text)) };
        Program { path: Place::any(), args, rule: rule.into() }
    }

    /// Whether any program may be executed with any arguments: then nothing needs to be resolved.
    pub(crate) fn is_any(&self) -> bool {
        self.path.is_any() && self.args.is_any()
    }

    /// Judges a program: its file, symlinks resolved, and its arguments, the first being `argv[0]`.
    pub(crate) fn judge(&self, file: &Path, argv: &[String]) -> Match {
        if self.is_any() {
            return Match::Whole;
        }
        let Some(file) = file.to_str() else { return Match::Nothing };
        if !self.path.is(file) {
            return Match::Nothing;
        }
        if self.args.allow(argv.get(1..).unwrap_or_default()) { Match::Whole } else { Match::Path }
    }
}

impl Args {
    fn is_any(&self) -> bool {
        self.first.is_empty() && self.rest.as_ref().is_some_and(Pattern::is_any)
    }

    fn allow(&self, args: &[String]) -> bool {
        if self.is_any() {
            return true;
        }
        if args.iter().map(String::len).sum::<usize>() > MAX_ARGUMENTS {
            return false;
        }
        let Some((first, rest)) = args.split_at_checked(self.first.len()) else { return false };
        let fit = first.iter().zip(&self.first).all(|(arg, pattern)| pattern.matches(arg));
        fit && rest.iter().all(|arg| self.rest.as_ref().is_some_and(|rest| rest.matches(arg)))
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.fmt(f)?;
        for arg in &self.args.first {
            write!(f, " {arg}")?;
        }
        match &self.args.rest {
            None => Ok(()),
            Some(rest) if rest.is_any() => f.write_str(" ..."),
            Some(rest) => write!(f, " {rest}..."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &str, first: &[&str], rest: Option<&str>) -> Program {
        let text = |text: &str| Pattern::parse(text, Syntax::Text).unwrap();
        let args =
            Args { first: first.iter().map(|arg| text(arg)).collect(), rest: rest.map(text) };
        let path = Place::parse(path, |_| None).unwrap();
        Program { path, args, rule: "r".into() }
    }

    fn judge(program: &Program, command: &str) -> Match {
        let argv: Vec<_> = command.split(' ').map(str::to_owned).collect();
        program.judge(Path::new(&argv[0]), &argv)
    }

    #[test]
    fn arguments_are_matched_one_by_one_and_none_may_be_left() {
        let make = program("/usr/bin/make", &["-j*", "all"], None);
        assert_eq!(judge(&make, "/usr/bin/make -j4 all"), Match::Whole);
        for other in ["/usr/bin/make", "/usr/bin/make -j4", "/usr/bin/make -j4 all x"] {
            assert_eq!(judge(&make, other), Match::Path, "{other}");
        }
        assert_eq!(judge(&make, "/usr/bin/sh -j4 all"), Match::Nothing);
        let rest = program("/usr/bin/make", &["all"], Some("V*=*"));
        assert_eq!(judge(&rest, "/usr/bin/make all"), Match::Whole);
        assert_eq!(judge(&rest, "/usr/bin/make all V=1 VV=2"), Match::Whole);
        assert_eq!(judge(&rest, "/usr/bin/make all V=1 --eval=x"), Match::Path);
    }

    #[test]
    fn many_bytes_of_arguments_match_only_what_says_anything() {
        let argv = vec!["/bin/x".to_owned(), "a".repeat(MAX_ARGUMENTS + 1)];
        let judge = |rest| program("/bin/x", &[], Some(rest)).judge(Path::new("/bin/x"), &argv);
        assert_eq!((judge("*"), judge("a*")), (Match::Whole, Match::Path));
    }
}
