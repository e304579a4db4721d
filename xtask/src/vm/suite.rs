//! The Debian releases of a machine with systemd. Each must have systemd 252 or newer.

use clap::ValueEnum;

/// A Debian release.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// systemd 252
    Bookworm,
    /// systemd 257
    Trixie,
    /// Debian's testing: the systemd of the day, 262 when this was written
    Forky,
}

impl Suite {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }
}
