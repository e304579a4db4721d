//! The table of faults, `docs/FAULTS.md`: what it names is there.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn the_table_of_faults_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = fs::read_to_string(root.join("docs/FAULTS.md")).unwrap();
    let mut sources = String::new();
    for directory in ["tests/tests", "tests/tests/attacks", "shim/tests/behaviour"] {
        for path in files(&root.join(directory)) {
            sources += &fs::read_to_string(path).unwrap();
        }
    }
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert_eq!(rows.len(), 38, "a row for each fault");
    for row in rows {
        let names = row.rsplit(" | ").next().unwrap().split('`').skip(1).step_by(2);
        for name in names.filter(|name| name.len() > 20 && !name.contains('/')) {
            assert!(sources.contains(&format!("fn {name}()")), "there is no test {name}: {row}");
        }
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}
