//! Reserve descriptors, closed one by one when the process has none left, so that connections are accepted or closed
//! and do not stay in the kernel's queue. It must refill the reserve as soon as descriptors are free.

use std::fs::File;

/// The reserve descriptors that are open.
#[derive(Debug)]
pub(super) struct ReserveDescriptors {
    held: Vec<File>,
}

/// Enough for a few concurrent handshakes.
const MOST: usize = 8;

impl ReserveDescriptors {
    pub(super) fn new() -> ReserveDescriptors {
        let mut reserve = ReserveDescriptors { held: Vec::new() };
        reserve.fill();
        reserve
    }

    /// Reopens missing descriptors, as far as the process can. Returns whether the reserve is full.
    pub(super) fn fill(&mut self) -> bool {
        while self.held.len() < MOST {
            match File::open("/dev/null") {
                Ok(file) => self.held.push(file),
                Err(_) => return false,
            }
        }
        true
    }

    /// Closes one descriptor of the reserve. Returns false if the reserve is empty.
    pub(super) fn give_up(&mut self) -> bool {
        self.held.pop().is_some()
    }

    /// Whether more than half of the reserve is in use.
    pub(super) fn are_few(&self) -> bool {
        self.held.len() < MOST / 2
    }

    /// Whether the reserve is used up: the connection that took the last descriptor is closed at once.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_is_there_again_when_there_are_descriptors() {
        let mut reserve = ReserveDescriptors::new();
        for _ in 0..MOST {
            assert!(reserve.give_up());
        }
        assert!(reserve.is_empty() && !reserve.give_up());
        assert!(reserve.fill() && !reserve.is_empty());
    }
}
