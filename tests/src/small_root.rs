//! A small system for the roots of jobs: some programs of this host, and the libraries that they need.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scratch;

/// What scripts of tests call.
const PROGRAMS: [&str; 14] = [
    "cat", "chmod", "dd", "grep", "id", "ln", "ls", "mkdir", "pwd", "readlink", "rm", "sh", "stat",
    "touch",
];

/// Makes one in this new directory, for every account to read.
///
/// # Panics
/// When a program is not there.
pub fn make(root: &Path) {
    for directory in ["usr/bin", "etc", "srv"] {
        fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    symlink("usr/bin", root.join("bin")).expect("a link");
    fs::write(root.join("etc/name"), "small\n").expect("a file");
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let program = ["/bin", "/usr/bin"].map(|at| Path::new(at).join(name));
        let program = program.iter().find(|path| path.exists()).expect("a program of this host");
        fs::copy(program, root.join("usr/bin").join(name)).expect("a program");
        libraries.extend(libraries_of(program));
    }
    for library in libraries {
        let place = root.join(library.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(place.parent().expect("a directory")).expect("a directory");
        fs::copy(&library, &place).expect("a library");
    }
    for directory in ["", "usr", "usr/bin", "etc", "srv"] {
        scratch::open_to_jobs(&root.join(directory), 0o755);
    }
}

fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let said = Command::new("ldd").arg(program).output().expect("ldd").stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}
