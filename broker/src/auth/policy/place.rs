//! A file or a directory that a role names: a pattern, and what it led to if it is one path, since that may be a symlink.
//! Compares texts; it resolves nothing.

use std::fmt;

use crate::model::glob::{Pattern, Syntax, check_path};

/// Where a program or a working directory may be.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pattern: Pattern,
    /// What the pattern named when the policy was read, where that is one path: `/bin/sh` may be a symlink.
    target: Option<Box<str>>,
}

impl Place {
    /// Anywhere.
    pub(super) fn any() -> Place {
        Place { pattern: Pattern::any(Syntax::Path), target: None }
    }

    /// Reads a pattern of paths; `resolve` says where a path leads.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str, resolve: fn(&str) -> Option<String>) -> Result<Place, String> {
        let pattern = Pattern::parse(text, Syntax::Path)?;
        let target = pattern.exact().and_then(resolve).filter(|target| check_path(target).is_ok());
        Ok(Place { pattern, target: target.map(Into::into) })
    }

    /// Whether it is any path.
    pub(crate) fn is_any(&self) -> bool {
        self.pattern.is_any()
    }

    /// Whether this path is meant, by the name that the role has for it or by the one that this led to. A path that does
    /// not name one place is not: `/srv/../etc`.
    pub(crate) fn is(&self, path: &str) -> bool {
        self.is_any()
            || check_path(path).is_ok()
                && (self.pattern.matches(path) || self.target.as_deref() == Some(path))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pattern.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_the_name_in_the_policy_and_the_one_that_it_led_to() {
        let to_dash = |path: &str| (path == "/bin/sh").then(|| "/usr/bin/dash".to_owned());
        let sh = Place::parse("/bin/sh", to_dash).unwrap();
        assert!(sh.is("/bin/sh") && sh.is("/usr/bin/dash") && !sh.is("/usr/bin/bash"));
        let glob = Place::parse("/srv/**", to_dash).unwrap();
        assert!(glob.is("/srv/a/b") && !glob.is("/srv/../etc") && !glob.is("/srv"));
        assert!(Place::any().is("/") && Place::any().is("relative"));
    }
}
