//! What the documents name is there: links, files, commands of xtask. Names in text that no compiler reads
//! go stale with the first file that moves.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of the workspace: a name in backticks that begins with one is a path.
const FOLDERS: [&str; 10] =
    ["api", "broker", "certs", "docs", "jobctl", "packaging", "proto", "shim", "tests", "xtask"];
/// A name in backticks that ends so is a file.
const ENDINGS: [&str; 4] = [".rs", ".md", ".proto", ".service"];
/// Files of the running system.
const ELSEWHERE: [&str; 1] = ["job-broker-drain.service"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All files of the workspace, and all folders, relative to it.
fn all(below: &Path, root: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "target" || name == ".git" {
            continue;
        }
        found.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
        if path.is_dir() {
            all(&path, root, found);
        }
    }
}

/// Every document that people write; what is generated or history is not.
fn documents() -> Vec<(PathBuf, String)> {
    let root = workspace();
    let mut found = Vec::new();
    all(&root, &root, &mut found);
    let is_written = |path: &String| {
        path.ends_with(".md")
            && !["CHANGELOG.md", "docs/CLI.md", "docs/API.md"].contains(&path.as_str())
    };
    let read = |path: String| (root.join(&path), fs::read_to_string(root.join(path)).unwrap());
    let documents: Vec<_> = found.into_iter().filter(is_written).map(read).collect();
    assert!(documents.len() > 20);
    documents
}

/// Text between backticks, outside blocks of code.
fn names(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn links_lead_to_what_is_there() {
    for (path, text) in documents() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(to.exists(), "{}: there is no {target}", path.display());
            let is_heading = |line: &str| line.starts_with('#') && slug(line) == anchor;
            assert!(
                anchor.is_empty() || fs::read_to_string(&to).unwrap().lines().any(is_heading),
                "{}: no heading {target}",
                path.display()
            );
        }
    }
}

/// A heading as links name it.
fn slug(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    let text: String = heading.trim_start_matches('#').trim().chars().filter(kept).collect();
    text.to_lowercase().replace(' ', "-")
}

#[test]
fn files_that_documents_name_are_there() {
    let mut there = Vec::new();
    all(&workspace(), &workspace(), &mut there);
    let mut stale = Vec::new();
    for (path, text) in documents() {
        for name in names(&text) {
            let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
            let first = name.split('/').next().unwrap_or_default();
            let is_path = name.contains('/') && FOLDERS.contains(&first);
            let is_file = ENDINGS.iter().any(|ending| name.ends_with(ending));
            if !is_plain || !(is_path || is_file) || ELSEWHERE.contains(&name) {
                continue;
            }
            let wanted = name.trim_end_matches('/');
            // `tests/attacks` is short for `tests/tests/attacks`, and `tests/identity` for its file.
            let is_it = |path: &String| {
                let path = path.strip_suffix(".rs").filter(|_| !is_file).unwrap_or(path);
                path == wanted || path.ends_with(&format!("/{wanted}"))
            };
            if !there.iter().any(is_it) {
                stale.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(stale.is_empty(), "no such files:\n{}", stale.join("\n"));
}

/// Every row of the threat model, and of what isolation is, names the tests that hold it, unless it says that nothing
/// stops this.
#[test]
fn each_line_of_the_threat_model_is_held_by_tests_that_are_there() {
    let mut there = Vec::new();
    all(&workspace(), &workspace(), &mut there);
    let sources = there.iter().filter(|path| path.ends_with(".rs"));
    let sources: String =
        sources.map(|path| fs::read_to_string(workspace().join(path)).unwrap()).collect();
    let tests: HashSet<&str> = sources
        .split("#[test]")
        .flat_map(|part| part.split("#[tokio::test"))
        .skip(1)
        .filter_map(|rest| rest.split_once("fn ")?.1.split('(').next())
        .collect();
    for (page, least) in [("THREAT-MODEL.md", 50), ("docs/ISOLATION.md", 25)] {
        let text = fs::read_to_string(workspace().join(page)).unwrap();
        let mut count = 0;
        for row in rows_shown_by(&text) {
            let cell =
                row.trim_end_matches('|').trim_end().rsplit(" | ").next().unwrap_or_default();
            let is_open = row.contains("**not stopped");
            assert!(is_open || cell.contains('`'), "{page}: no test holds it: {row}");
            let named = names(cell).into_iter().filter(|name| !name.contains(['/', '.', ' ']));
            for name in named.filter(|_| !is_open) {
                assert!(tests.contains(name), "{page}: there is no test {name}: {row}");
                count += 1;
            }
        }
        assert!(count > least, "{page}: {count} tests");
    }
}

/// The rows of the tables whose last column is that.
fn rows_shown_by(text: &str) -> impl Iterator<Item = &str> {
    let mut is_shown = false;
    text.lines().filter(move |line| {
        let is_head = line.ends_with("| shown by |");
        is_shown = is_head || (is_shown && line.starts_with('|'));
        is_shown && !is_head && !line.starts_with("|---")
    })
}

#[test]
fn commands_of_xtask_that_documents_name_are_there() {
    let commands = fs::read_to_string(workspace().join("xtask/src/cli.rs")).unwrap();
    for (path, text) in documents() {
        for rest in text.split("cargo xtask ").skip(1) {
            let name: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
            let mut variant = name.clone();
            variant.get_mut(..1).into_iter().for_each(str::make_ascii_uppercase);
            let is_there = name.is_empty() || commands.contains(&format!("    {variant}("));
            assert!(is_there, "{}: cargo xtask {name}", path.display());
        }
    }
}

#[test]
fn the_rooms_of_the_architecture_stand_in_the_order_that_is_held() {
    let read = |path: &str| fs::read_to_string(workspace().join(path)).unwrap();
    let floors: toml::Table = toml::from_str(&read("floors.toml")).unwrap();
    let rooms = floors["floors"]["broker"].as_array().unwrap();
    let page = read("ARCHITECTURE.md");
    let diagram = page.split("```").find(|block| block.contains(" service/")).unwrap();
    let place = |room: &str| {
        let names = [format!(" {room}/"), format!(" {room}.rs")];
        names.iter().find_map(|name| diagram.find(name)).unwrap_or_else(|| panic!("no {room}"))
    };
    let places: Vec<_> = rooms.iter().map(|room| place(room.as_str().unwrap())).collect();
    assert!(places.len() > 10 && places.is_sorted(), "{rooms:?}\n{diagram}");
}

#[test]
fn what_is_read_first_stays_short() {
    let read = |path: &str| fs::read_to_string(workspace().join(path)).unwrap();
    let architecture = read("ARCHITECTURE.md");
    let widest = architecture.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(architecture.lines().count() <= 250 && widest <= 100, "{widest} columns");
    for row in read("THREAT-MODEL.md").lines().filter(|line| line.starts_with('|')) {
        let is_short = |cell: &str| cell.chars().count() <= 300;
        assert!(row.split('|').all(is_short), "more than three lines: notes are below: {row}");
    }
}
