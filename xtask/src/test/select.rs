//! From a name on the command line to the suites to build and the tests to run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Tests that are built together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Suite {
    /// The file below `tests/tests`, or a package's folder for its own tests.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// The functions in it that are tests.
    tests: Vec<String>,
    /// It starts programs of the next version, too.
    pub(super) needs_next: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A package's own tests, with the path of its `Cargo.toml`.
    Package(PathBuf),
    /// Against the real programs.
    EndToEnd,
    /// Against the installed package, in a machine with systemd.
    Systemd,
}

/// The suites that were asked for, each with the names that tests must contain; none: all of it.
pub(super) type Chosen = BTreeMap<Suite, Vec<String>>;

/// Suites that change the machine they run on.
const SYSTEMD: [&str; 2] = ["systemd", "reboot"];

/// Every suite of the workspace, by its sources alone: nothing is built.
pub(super) fn suites(root: &Path) -> Result<Vec<Suite>> {
    let mut suites = Vec::new();
    for folder in [
        "api",
        "broker",
        "certs",
        "grammar",
        "jobctl",
        "launch",
        "packaging/manuals",
        "sandbox",
        "shim",
        "xtask",
    ] {
        let directory = root.join(folder);
        let (tests, _) = read(&[directory.join("src"), directory.join("tests")])?;
        let name = folder.rsplit('/').next().unwrap_or(folder).to_owned();
        let kind = Kind::Package(directory.join("Cargo.toml"));
        suites.push(Suite { name, kind, tests, needs_next: false });
    }
    for path in entries(&root.join("tests/tests"))? {
        let is_suite =
            path.extension().is_some_and(|it| it == "rs") || path.join("main.rs").exists();
        if !is_suite {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (tests, text) = read(&[path])?;
        let is_systemd = SYSTEMD.contains(&name.as_str());
        let kind = if is_systemd { Kind::Systemd } else { Kind::EndToEnd };
        let needs_next = is_systemd || text.contains("next_version");
        suites.push(Suite { name, kind, tests, needs_next });
    }
    Ok(suites)
}

/// Finds what each name means: a suite of that name, else all tests with it in theirs.
///
/// # Errors
/// Nothing has that name: what is nearest to it, and what there is.
pub(super) fn choose(names: &[String], suites: &[Suite]) -> Result<Chosen> {
    let mut chosen = Chosen::new();
    for name in names {
        if let Some(suite) = suites.iter().find(|suite| suite.name == *name) {
            chosen.insert(suite.clone(), Vec::new());
            continue;
        }
        let last = name.rsplit("::").next().unwrap_or(name);
        let mut found = false;
        for suite in suites.iter().filter(|it| it.tests.iter().any(|test| test.contains(last))) {
            found = true;
            let known = chosen.get(suite).is_some_and(Vec::is_empty);
            if !known {
                chosen.entry(suite.clone()).or_default().push(name.clone());
            }
        }
        if !found {
            bail!("{}", unknown(name, suites));
        }
    }
    Ok(chosen)
}

fn unknown(name: &str, suites: &[Suite]) -> String {
    let tests = suites.iter().flat_map(|suite| suite.tests.iter().map(String::as_str));
    let all = suites.iter().map(|suite| suite.name.as_str()).chain(tests);
    let nearest = all.min_by_key(|known| distance(name, known)).unwrap_or_default();
    let list = |is: fn(&Kind) -> bool| {
        let of = suites.iter().filter(|suite| is(&suite.kind)).map(|suite| suite.name.as_str());
        of.collect::<Vec<_>>().join(", ")
    };
    format!(
        "no suite is called \"{name}\", and no test has it in its name; the nearest is {nearest}\n\
         packages: {}\nend to end: {}\nunder systemd: {}",
        list(|kind| matches!(kind, Kind::Package(_))),
        list(|kind| *kind == Kind::EndToEnd),
        list(|kind| *kind == Kind::Systemd),
    )
}

/// How many letters to insert, remove or replace.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for column in 0..other.len() {
            let replaced = diagonal + usize::from(letter != other[column]);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

/// The tests in these files and folders, and all of their text.
fn read(paths: &[PathBuf]) -> Result<(Vec<String>, String)> {
    let mut text = String::new();
    let mut ahead: Vec<PathBuf> = paths.iter().filter(|path| path.exists()).cloned().collect();
    while let Some(path) = ahead.pop() {
        if path.is_dir() {
            ahead.extend(entries(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
        }
    }
    Ok((test_functions(&text), text))
}

/// The function after each `#[test]` or `#[tokio::test(...)]`.
fn test_functions(text: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let name = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "));
        if let Some(name) = name.filter(|_| is_test) {
            tests.push(name.split('(').next().unwrap_or(name).to_owned());
            is_test = false;
        }
    }
    tests
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot read {}", directory.display());
    let entries = fs::read_dir(directory).with_context(context)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(context)?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    fn suite(name: &str, kind: Kind, tests: &[&str]) -> Suite {
        let tests = tests.iter().map(|test| (*test).to_owned()).collect();
        Suite { name: name.into(), kind, tests, needs_next: false }
    }

    fn all() -> [Suite; 3] {
        [
            suite("jobctl", Kind::Package("jobctl/Cargo.toml".into()), &["a_limit_is_shown"]),
            suite("limits", Kind::EndToEnd, &["a_limit_holds", "nothing_is_lost"]),
            suite("reboot", Kind::Systemd, &["jobs_are_lost"]),
        ]
    }

    fn names(words: &[&str]) -> Result<Vec<(String, Vec<String>)>> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let chosen = choose(&words, &all())?;
        Ok(chosen.into_iter().map(|(suite, filter)| (suite.name, filter)).collect())
    }

    #[test]
    fn a_suite_is_run_whole_and_a_part_of_a_name_where_it_is() {
        assert_eq!(names(&["limits"]).expect("a suite"), [("limits".into(), vec![])]);
        let parts = names(&["a_limit"]).expect("two tests");
        let part = |suite: &str| (suite.to_owned(), vec!["a_limit".to_owned()]);
        assert_eq!(parts, [part("jobctl"), part("limits")]);
        assert_eq!(names(&["limits", "a_limit_holds"]).expect("a suite")[0].1, [""; 0]);
    }

    #[test]
    fn an_unknown_name_is_told_the_nearest_and_what_there_is() {
        let error = names(&["limit5"]).expect_err("nothing is called so").to_string();
        assert!(error.contains("the nearest is limits"), "{error}");
        assert!(error.ends_with("packages: jobctl\nend to end: limits\nunder systemd: reboot"));
    }

    #[test]
    fn the_workspace_s_suites_and_their_tests_are_found() {
        let suites = suites(&workspace::root()).expect("sources");
        let find =
            |name: &str| suites.iter().find(|suite| suite.name == name).expect("it is there");
        let own = "the_workspace_s_suites_and_their_tests_are_found";
        assert!(find("xtask").tests.iter().any(|test| test == own));
        assert!(!find("lifecycle").tests.is_empty() && !find("attacks").tests.is_empty());
        assert!(find("versions").needs_next && !find("lifecycle").needs_next);
        assert_eq!(find("reboot").kind, Kind::Systemd);
    }
}
