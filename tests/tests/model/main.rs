//! A model of the protocol of start, adoption and end, in which every state is checked: broker, shim, child, disk
//! with its page cache, a client that retries its request; crashes of each of them and of the host, a second broker.
//! The decisions must be the program's own functions, `jobs::recovery_rules` and `model::state`.
//!
//! The order of the steps is in `plan.rs`, by the names of the functions that do them; the checker must catch each
//! plan with a mistake. The invariants are `World::fault`, `World::fault_at_rest`, `World::look`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod broker;
mod check;
mod faults;
mod known;
mod mistakes;
mod plan;
mod shim;
mod steps;
mod world;

use check::{CheckResult, Model, check};
use plan::{Plan, RIGHT};
use steps::{Step, Steps};
use world::{Left, World};

struct Protocol {
    plan: Plan,
    left: Left,
}

impl Model for Protocol {
    type State = World;
    type Step = Step;

    fn start(&self) -> World {
        World::new(self.left)
    }

    fn steps(&self, world: &World) -> Vec<(Step, Result<World, String>)> {
        let mut steps = Steps { plan: &self.plan, world, all: Vec::new() };
        (0..2).for_each(|b| steps.of_broker(b));
        (0..world.jobs.len()).for_each(|n| steps.of_shim(n));
        steps.of_faults();
        steps.all
    }

    fn fault(&self, world: &World, steps: &[Step]) -> Option<String> {
        let at_rest = || steps.iter().all(|step| step.from_outside);
        world.fault().or_else(|| at_rest().then(|| world.fault_at_rest()).flatten())
    }
}

/// No faults except those that a test adds.
const CALM: Left = Left {
    broker_crashes: 0,
    shim_crashes: 0,
    host_crashes: 0,
    second_brokers: 0,
    requests: 2,
    stops: 0,
    failures: 0,
};

fn found(plan: Plan, left: Left) -> CheckResult {
    let began = std::time::Instant::now();
    let found = check(&Protocol { plan, left });
    eprintln!("{left:?}: {:?}", began.elapsed());
    found
}

#[track_caller]
fn assert_sound(left: Left) {
    match found(RIGHT, left) {
        CheckResult::Sound { states } => eprintln!("{states} states"),
        CheckResult::Violation { fault, way } => {
            panic!("{fault}; it comes to this:\n{}", way.join("\n"))
        }
    }
}

/// The checker catches the mistake, and reports this violation.
#[track_caller]
fn assert_caught(plan: Plan, left: Left, expected: &str) {
    match found(plan, left) {
        CheckResult::Sound { states } => panic!("{states} states, and the mistake is in none"),
        CheckResult::Violation { fault, way } => {
            assert!(fault.contains(expected), "{fault}; it comes to this:\n{}", way.join("\n"));
        }
    }
}

#[test]
fn a_broker_that_dies_at_any_two_moments_runs_nothing_twice_and_leaves_nothing() {
    assert_sound(Left { broker_crashes: 2, ..CALM });
}

#[test]
fn neither_does_one_whose_shim_dies_as_well() {
    assert_sound(Left { broker_crashes: 1, shim_crashes: 1, ..CALM });
}

#[test]
fn nor_one_whose_starts_fail() {
    assert_sound(Left { broker_crashes: 1, shim_crashes: 1, failures: 1, ..CALM });
}

#[test]
fn nor_when_somebody_stops_the_job() {
    assert_sound(Left { broker_crashes: 1, shim_crashes: 1, stops: 1, requests: 1, ..CALM });
}

#[test]
fn nor_when_two_brokers_die_over_a_stop() {
    assert_sound(Left { broker_crashes: 2, stops: 1, requests: 1, ..CALM });
}

#[test]
fn nor_when_the_host_crashes() {
    assert_sound(Left { broker_crashes: 1, host_crashes: 1, failures: 1, ..CALM });
}

#[test]
fn nor_when_shim_and_host_crash() {
    assert_sound(Left { shim_crashes: 1, host_crashes: 1, ..CALM });
}

#[test]
fn a_second_broker_changes_nothing() {
    assert_sound(Left { broker_crashes: 1, second_brokers: 1, ..CALM });
}
