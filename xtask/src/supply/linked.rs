//! The crates that are linked into the programs that run as root are those that somebody has looked at: the list is
//! `packaging/supply/linked-crates.toml`.

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;

    use crate::{process, workspace};

    const LIST: &str = "packaging/supply/linked-crates.toml";

    /// Program, crate, why.
    type Reviewed = BTreeMap<String, BTreeMap<String, String>>;

    /// Without macros, which run in the compiler only. Features are those of the whole workspace's lock file.
    fn linked(package: &str) -> BTreeSet<String> {
        let mut tree = workspace::cargo();
        tree.args(["tree", "--locked", "-p", package, "-e", "normal,no-proc-macro"]);
        tree.args(["--target", "x86_64-unknown-linux-gnu", "--prefix", "none", "--format", "{p}"]);
        let text = process::output(&mut tree).unwrap();
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    }

    #[test]
    fn root_runs_the_crates_of_the_reviewed_list_and_no_other() {
        let text = fs::read_to_string(workspace::root().join(LIST)).unwrap();
        let reviewed: Reviewed = toml::from_str(&text).unwrap();
        assert_eq!(reviewed.keys().collect::<Vec<_>>(), ["job-broker", "job-shim"]);
        for (package, crates) in reviewed {
            assert!(
                crates.values().all(|why| !why.is_empty()),
                "{package}: a crate without a reason"
            );
            let listed: BTreeSet<String> = crates.into_keys().collect();
            let linked = linked(&package);
            let new: Vec<_> = linked.difference(&listed).collect();
            let gone: Vec<_> = listed.difference(&linked).collect();
            assert!(
                new.is_empty(),
                "{package} has new crates, to be looked at and listed in {LIST}: {new:?}"
            );
            assert!(
                gone.is_empty(),
                "{package} has these no more; remove them from {LIST}: {gone:?}"
            );
        }
    }
}
