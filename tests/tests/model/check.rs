//! The checker: visits every reachable state, breadth first, so that the steps to a violation are the fewest. It must
//! not know the protocol.
//!
//! Written here instead of a dependency on stateright, whose actors and web explorer bring ten crates and a server;
//! this page is all that the model needs.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::rc::Rc;

/// A model that can be checked.
pub(crate) trait Model {
    type State: Eq + Hash;
    type Step: Copy + Display;

    fn start(&self) -> Self::State;

    /// All next steps. `Err`: the step violates the model.
    fn steps(&self, state: &Self::State) -> Vec<Way<Self::Step, Self::State>>;

    /// The violation in a state, given its next steps.
    fn fault(&self, state: &Self::State, steps: &[Self::Step]) -> Option<String>;
}

/// A step, and the next state.
pub(crate) type Way<Step, State> = (Step, Result<State, String>);

/// The result of a check.
#[derive(Debug)]
pub(crate) enum CheckResult {
    /// No violation in this number of states.
    Sound { states: usize },
    /// The violation, and the steps to it.
    Violation { fault: String, way: Vec<String> },
}

/// A state, its predecessor, and the step between them.
type Reached<M> = (Rc<<M as Model>::State>, Option<(usize, <M as Model>::Step)>);

/// Checks every state.
pub(crate) fn check<M: Model>(model: &M) -> CheckResult {
    let start = Rc::new(model.start());
    let mut seen = HashSet::<_, BuildHasherDefault<Mixer>>::default();
    seen.insert(Rc::clone(&start));
    let mut reached: Vec<Reached<M>> = vec![(start, None)];
    let mut at = 0;
    while at < reached.len() {
        let state = Rc::clone(&reached[at].0);
        let next = model.steps(&state);
        let names: Vec<_> = next.iter().map(|(step, _)| *step).collect();
        if let Some(fault) = model.fault(&state, &names) {
            return CheckResult::Violation { fault, way: way::<M>(&reached, at) };
        }
        for (step, next) in next {
            match next {
                Ok(next) => {
                    let next = Rc::new(next);
                    if seen.insert(Rc::clone(&next)) {
                        reached.push((next, Some((at, step))));
                    }
                }
                Err(fault) => {
                    let mut way = way::<M>(&reached, at);
                    way.push(step.to_string());
                    return CheckResult::Violation { fault, way };
                }
            }
        }
        at += 1;
    }
    CheckResult::Sound { states: reached.len() }
}

fn way<M: Model>(reached: &[Reached<M>], mut at: usize) -> Vec<String> {
    let mut way = Vec::new();
    while let Some((before, step)) = &reached[at].1 {
        way.push(step.to_string());
        at = *before;
    }
    way.reverse();
    way
}

/// A fast hash, as the compiler's own: a state is large, and no attacker chooses the keys.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut whole = [0; 8];
            whole[..word.len()].copy_from_slice(word);
            self.write_u64(u64::from_le_bytes(whole));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}
