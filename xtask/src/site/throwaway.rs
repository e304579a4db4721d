//! A temporary site, for as long as a command runs. It must leave nothing behind, even after a failure.

use std::env;
use std::path::Path;

use anyhow::Result;

use super::{Place, Site};
use crate::programs::{Profile, Programs};

/// A site with its broker, removed in any case.
pub(crate) struct Throwaway {
    pub(crate) site: Site,
    is_closed: bool,
}

impl Throwaway {
    /// In the directory for temporary files.
    ///
    /// # Errors
    /// As [`Throwaway::open_in`].
    pub(crate) fn open(profile: Profile, programs: &Programs) -> Result<Self> {
        Self::open_in(&env::temp_dir(), profile, programs)
    }

    /// In a new directory in this one.
    ///
    /// # Errors
    /// As [`Site::create`] and [`Site::start`]; then everything is removed.
    pub(crate) fn open_in(parent: &Path, profile: Profile, programs: &Programs) -> Result<Self> {
        let site = Site::create(Place::In(parent), None, profile, programs)?;
        let throwaway = Throwaway { site, is_closed: false };
        throwaway.site.start(programs)?;
        Ok(throwaway)
    }

    /// # Errors
    /// Something could not be removed.
    pub(crate) fn close(mut self) -> Result<()> {
        self.is_closed = true;
        self.site.tear_down()?;
        self.site.remove()
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        if !self.is_closed
            && let Err(error) = self.site.tear_down().and_then(|()| self.site.remove())
        {
            eprintln!("xtask: {} is not cleaned up: {error:#}", self.site.dir().display());
        }
    }
}
