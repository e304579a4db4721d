//! `cargo xtask fuzz`: the fuzz targets for as long as one likes. Under libFuzzer, which needs cargo-fuzz and a C++ compiler
//! and no nightly toolchain: only its sanitizers do. Else by proptest, as the tests run them. What breaks a target is
//! kept in its corpus; nothing else of the source is changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::supply::tools::Tool;
use crate::{process, workspace};

const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };
/// The crate with the targets; its build results and the inputs that it finds are below the target directory.
const CRATE: &str = "tests/fuzz";
/// The kept inputs of each target.
const CORPUS: &str = "tests/corpus/files";

/// Bytes of an input: two of the longest lines that are read, and no more, so that there are many inputs.
const LONGEST: u32 = 16 << 10;
/// Seconds for one input, and MiB of memory for all.
const TIMEOUT: u32 = 20;
const MEMORY: u32 = 2048;

/// The arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these targets; all of them, one after the other, if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// By proptest, as the tests do it, without libFuzzer
    #[arg(long)]
    proptest: bool,
}

/// Target, and the crate that has its function.
type Targets = BTreeMap<String, String>;

/// Runs the targets; one that fails does not keep others from being run.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let all = targets(&workspace::root())?;
    let chosen = choose(&all, &args.targets)?;
    let engine = match (args.proptest, missing()) {
        (true, _) => None,
        (false, Ok(program)) => Some(program),
        (false, Err(missing)) => {
            eprintln!(
                "xtask: no libFuzzer: {missing:#}; proptest takes its place, without coverage"
            );
            None
        }
    };
    let mut failed = Vec::new();
    for (target, package) in chosen {
        println!("\n=== {target}: {} s", args.seconds);
        let done = match &engine {
            Some(program) => under_libfuzzer(program, target, args.seconds),
            None => by_proptest(package, target, args.seconds),
        };
        if let Err(error) = done {
            eprintln!("xtask: {target}: {error:#}");
            failed.push(target);
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("xtask: failed: {}; inputs: {CORPUS}/TARGET/found-*", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn choose<'a>(all: &'a Targets, names: &[String]) -> Result<Vec<(&'a str, &'a str)>> {
    let pair = |(target, package): (&'a String, &'a String)| (target.as_str(), package.as_str());
    if names.is_empty() {
        return Ok(all.iter().map(pair).collect());
    }
    let known = || all.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let find = |name: &String| {
        all.get_key_value(name)
            .map(pair)
            .with_context(|| format!("there is no target {name}; the targets are {}", known()))
    };
    names.iter().map(find).collect()
}

/// cargo-fuzz, or what libFuzzer lacks here.
fn missing() -> Result<std::path::PathBuf> {
    if process::find("c++").is_none() {
        bail!("there is no C++ compiler (c++) to build it with");
    }
    CARGO_FUZZ.program().context("cargo-fuzz cannot be installed")
}

fn under_libfuzzer(program: &Path, target: &str, seconds: u32) -> Result<()> {
    let (root, build) = (workspace::root(), workspace::target_dir()?.join("fuzz"));
    let grown = build.join("corpus").join(target);
    fs::create_dir_all(&grown)?;
    let kept = root.join(CORPUS).join(target);
    let mut fuzz = Command::new(program);
    fuzz.current_dir(&root).args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir", CRATE]);
    fuzz.arg("--target-dir").arg(&build).arg(target).args([&grown, &kept]).arg("--");
    fuzz.arg(format!("-artifact_prefix={}/found-", kept.display()));
    fuzz.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={LONGEST}"));
    fuzz.arg(format!("-timeout={TIMEOUT}")).arg(format!("-rss_limit_mb={MEMORY}"));
    process::check(&mut fuzz)
}

/// The test of the target, with a budget of time; it prints its seed.
fn by_proptest(package: &str, target: &str, seconds: u32) -> Result<()> {
    let mut test = workspace::cargo();
    test.args(["test", "--quiet", "-p", package, "--lib", "--"]);
    test.args(["--exact", "--nocapture", &format!("fuzzing::any_bytes::{target}")]);
    process::check(test.env("JOB_FUZZ_SECONDS", seconds.to_string()))
}

/// By the files of the targets, each of which names a function.
fn targets(root: &Path) -> Result<Targets> {
    let dir = root.join(CRATE).join("fuzz_targets");
    let mut all = Targets::new();
    for file in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = file?.path();
        let text = fs::read_to_string(&path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let function = text.split_once(&format!("::fuzzing::{name})"));
        let (before, _) =
            function.with_context(|| format!("{} names no target", path.display()))?;
        let start = before.rfind(' ').map_or(0, |at| at + 1);
        all.insert(name, before[start..].replace('_', "-"));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Bytes of all files together: a corpus is to be read in reviews.
    const MOST: u64 = 300 << 10;

    #[test]
    fn each_target_has_a_program_a_test_and_a_small_corpus() {
        let root = workspace::root();
        let all = targets(&root).unwrap();
        let manifest = fs::read_to_string(root.join(CRATE).join("Cargo.toml")).unwrap();
        let mut sum = 0;
        for (target, package) in &all {
            assert!(
                manifest.contains(&format!("name = \"{target}\"")),
                "{target} is not in {CRATE}"
            );
            let folder = package.strip_prefix("job-").unwrap_or(package);
            let tests = root.join(folder).join("src/fuzzing.rs");
            let tests = fs::read_to_string(&tests).unwrap();
            let (_, tests) = tests.split_once("job_corpus::tests!").unwrap();
            let mut words = tests.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            assert!(words.any(|word| word == target), "{package} has no test of {target}");
            let files = fs::read_dir(root.join(CORPUS).join(target)).unwrap();
            let sizes: Vec<u64> =
                files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
            assert!((3..=30).contains(&sizes.len()), "{target} has {} files", sizes.len());
            sum += sizes.iter().sum::<u64>();
        }
        assert!(sum < MOST, "the corpus has {sum} bytes");
        let corpora: BTreeSet<_> = fs::read_dir(root.join(CORPUS))
            .unwrap()
            .map(|dir| dir.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(corpora, all.into_keys().collect(), "a corpus without a target");
    }

    #[test]
    fn a_target_that_there_is_not_is_refused_with_those_that_there_are() {
        let all = Targets::from([("frame".to_owned(), "job-shim".to_owned())]);
        assert_eq!(choose(&all, &[]).unwrap(), [("frame", "job-shim")]);
        let said = choose(&all, &["farme".to_owned()]).unwrap_err().to_string();
        assert_eq!(said, "there is no target farme; the targets are frame");
    }
}
