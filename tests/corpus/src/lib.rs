//! Runs a fuzz target, a function that must have an answer for any bytes, over its kept corpus and over what proptest
//! makes of that. It must not know what a target reads: the targets are in `fuzzing.rs` of the crate that reads.
//!
//! A target panics where a property does not hold. `files/NAME/` is the corpus of the target NAME, for the tests here
//! and for `cargo xtask fuzz`, which runs the same targets under libFuzzer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod mutate;
mod sys;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

pub use sys::Counting;

/// What reads bytes.
pub type Target = fn(&[u8]);

/// Set by `cargo xtask fuzz`: each target runs for so many seconds, with a new seed for each round.
const SECONDS: &str = "JOB_FUZZ_SECONDS";
/// The seed of the first round, to repeat a run.
const SEED: &str = "JOB_FUZZ_SEED";

/// Cases of one round; a test has one round.
const CASES: u32 = 1500;

/// What a target may have allocated at any moment, beside so many bytes for each byte of its input.
const MEMORY: usize = 4 << 20;
const MEMORY_PER_BYTE: usize = 256;

/// Makes a test of each target, over the corpus of its name; with the allocator that counts.
#[macro_export]
macro_rules! tests {
    ($($name:ident)*) => {
        $crate::counted!();
        $(
            #[test]
            fn $name() {
                $crate::check(stringify!($name), super::$name);
            }
        )*
    };
}

/// Has the program count what it allocates, as [`bounded`] needs.
#[macro_export]
macro_rules! counted {
    () => {
        #[global_allocator]
        static ALLOCATOR: $crate::Counting = $crate::Counting;
    };
}

/// Runs the target over its corpus, then over inputs made of that.
///
/// # Panics
/// Where the target does; the smallest such input is kept in the corpus.
pub fn check(name: &str, target: Target) {
    let dir = corpus(name);
    let seeds = read(&dir);
    assert!(
        !seeds.is_empty(),
        "{} has no file: what is valid, and what is nearly so",
        dir.display()
    );
    for (path, bytes) in &seeds {
        println!("{}", path.display()); // the last one printed is the one that fails
        bounded(bytes, target);
    }
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|(_, bytes)| bytes).collect();
    let Some(time) = number(SECONDS).map(Duration::from_secs) else {
        return round(name, target, &seeds, 0);
    };
    let first = number(SEED).unwrap_or_else(|| u64::from(std::process::id()) << 32);
    let (started, mut seed) = (Instant::now(), first);
    while started.elapsed() < time {
        round(name, target, &seeds, seed);
        seed += 1;
    }
    println!("{name}: {} cases, {SEED}={first}", (seed - first) * u64::from(CASES));
}

/// Runs the target once.
///
/// # Panics
/// Where the target does, or takes more memory than its input explains.
pub fn bounded(data: &[u8], target: Target) {
    let took = sys::peak(|| target(data));
    let most = MEMORY + MEMORY_PER_BYTE * data.len();
    assert!(
        took <= most,
        "{took} bytes of memory for {} bytes of input: at most {most}",
        data.len()
    );
}

/// Writes a file of a corpus, for what makes a corpus of real encoders.
///
/// # Panics
/// As write(2).
pub fn write(target: &str, name: &str, bytes: &[u8]) {
    let dir = corpus(target);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(name), bytes).unwrap();
}

fn round(name: &str, target: Target, seeds: &[Vec<u8>], seed: u64) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let strategy = mutate::inputs(seeds.to_vec());
    let run = TestRunner::new_with_rng(config, rng).run(&strategy, |data| {
        bounded(&data, target);
        Ok(())
    });
    match run {
        Ok(()) => {}
        Err(TestError::Fail(why, data)) => {
            let path = keep(name, &data);
            let (why, shown) =
                (why.message().chars().take(600).collect::<String>(), data.len().min(300));
            let shown = data[..shown].escape_ascii();
            panic!("{name}, {SEED}={seed}: {why}; the input is kept as {path}: {shown}");
        }
        Err(TestError::Abort(why)) => panic!("{name}, {SEED}={seed}: {why}"),
    }
}

/// The path, or why there is none: a test may run where it can write nothing.
fn keep(name: &str, data: &[u8]) -> String {
    let path = corpus(name).join(format!("found-{:08x}", hash(data)));
    match fs::write(&path, data) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("nothing ({}: {error})", path.display()),
    }
}

/// FNV-1a, for a name.
fn hash(data: &[u8]) -> u32 {
    data.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("files").join(name)
}

/// In the order of their names.
fn read(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(dir).into_iter().flatten();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}; it must be a number")))
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    crate::counted!();

    #[test]
    fn a_target_that_takes_more_memory_than_its_input_explains_fails() {
        let claims: Target = |data| drop(Vec::<u8>::with_capacity(data.len() << 20));
        bounded(&[0; 2], claims);
        assert!(catch_unwind(|| bounded(&[0; 64], claims)).is_err());
    }

    #[test]
    fn a_property_that_few_inputs_break_is_found_and_its_input_is_the_smallest() {
        let target: Target = |data| assert!(!data.windows(2).any(|pair| pair == b"\xff\xff"));
        let seeds = [b"abc".to_vec(), b"0123456789".to_vec()];
        let found = catch_unwind(|| round("of-no-directory", target, &seeds, 7)).unwrap_err();
        let said = found.downcast_ref::<String>().unwrap();
        assert!(said.contains("JOB_FUZZ_SEED=7") && said.contains("kept as nothing"), "{said}");
    }
}
