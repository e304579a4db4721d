//! The violations of a request, bounded in number. Plain data.

/// A field that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// As in the contract: `argv`, `env`, `limits.pids_max`, ...
    pub field: &'static str,
    /// What is wrong and what is allowed.
    pub fault: String,
}

/// Broken rules: the first of them, and how many there are besides. Bounded, since somebody may break as
/// many as there are labels in 2 MB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations {
    /// At most [`Violations::FIRST`].
    pub first: Vec<Violation>,
    /// Those that are only counted.
    pub more: usize,
}

impl Violations {
    /// How many are told.
    pub const FIRST: usize = 16;

    /// Takes in one more.
    pub fn add(&mut self, violation: Violation) {
        if self.first.len() < Violations::FIRST {
            self.first.push(violation);
        } else {
            self.more += 1;
        }
    }

    /// Takes in more.
    pub fn extend(&mut self, violations: impl IntoIterator<Item = Violation>) {
        violations.into_iter().for_each(|violation| self.add(violation));
    }

    /// Whether no rule is broken.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}
