//! The limits of each process, and what they count in.

/// The limits that the contract has.
pub(crate) const NAMES: [&str; 7] = ["core", "cpu", "fsize", "memlock", "nofile", "nproc", "stack"];

/// What getrlimit(2) counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Seconds,
    Number,
}

/// What the limit of that name counts in; `None` for a name that the contract does not have.
pub(crate) fn rlimit_unit(name: &str) -> Option<Unit> {
    match name {
        "core" | "fsize" | "memlock" | "stack" => Some(Unit::Bytes),
        "cpu" => Some(Unit::Seconds),
        "nofile" | "nproc" => Some(Unit::Number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_unit() {
        assert!(NAMES.iter().all(|name| rlimit_unit(name).is_some()));
    }
}
