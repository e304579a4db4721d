//! From a path to the module that defines what it names, through every `use` on the way.

use std::collections::BTreeSet;

use super::source::{Def, Source};

/// What a path leads to. Paths that leave the crate lead to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// An item, in the file of this module.
    Item(usize),
    /// A module itself.
    Module(usize),
}

/// The names that are being looked up, so that `use` in a circle ends.
type Pending = Vec<(usize, String)>;

/// Resolves a path as written in this module.
pub(crate) fn resolve(source: &Source, module: usize, path: &[String]) -> BTreeSet<Target> {
    walk(source, module, path, &mut Pending::new())
}

fn walk(
    source: &Source,
    module: usize,
    path: &[String],
    pending: &mut Pending,
) -> BTreeSet<Target> {
    let (mut here, mut rest) = match path.split_first() {
        Some((first, rest)) => match first.as_str() {
            "crate" => (0, rest),
            "self" => (module, rest),
            "super" => match source.modules[module].parent {
                Some(parent) => (parent, rest),
                None => return BTreeSet::new(),
            },
            _ => return descend(source, lookup(source, module, first, pending), rest, pending),
        },
        None => return BTreeSet::new(),
    };
    while let Some((first, after)) = rest.split_first()
        && first == "super"
    {
        let Some(parent) = source.modules[here].parent else { return BTreeSet::new() };
        (here, rest) = (parent, after);
    }
    descend(source, BTreeSet::from([Target::Module(here)]), rest, pending)
}

/// Goes on from what the first names of a path lead to.
fn descend(
    source: &Source,
    mut found: BTreeSet<Target>,
    rest: &[String],
    pending: &mut Pending,
) -> BTreeSet<Target> {
    for name in rest {
        let modules: Vec<usize> = modules(&found).collect();
        // What follows an item is a part of it: a variant, an associated function.
        if modules.is_empty() {
            return found;
        }
        found = BTreeSet::new();
        for module in modules {
            let below = lookup(source, module, name, pending);
            match below.is_empty() {
                // What a macro defines, say: it is the module's, as far as can be seen.
                true => _ = found.insert(Target::Item(source.modules[module].node)),
                false => found.extend(below),
            }
        }
    }
    found
}

/// The modules among these.
fn modules(found: &BTreeSet<Target>) -> impl Iterator<Item = usize> {
    found.iter().filter_map(|target| match target {
        Target::Module(module) => Some(*module),
        Target::Item(_) => None,
    })
}

fn lookup(source: &Source, module: usize, name: &str, pending: &mut Pending) -> BTreeSet<Target> {
    let key = (module, name.to_owned());
    if pending.contains(&key) {
        return BTreeSet::new();
    }
    pending.push(key);
    let mut found = BTreeSet::new();
    for def in source.modules[module].names.get(name).into_iter().flatten() {
        match def {
            Def::Item => _ = found.insert(Target::Item(source.modules[module].node)),
            Def::Module(child) => _ = found.insert(Target::Module(*child)),
            Def::Import(path) => found.extend(walk(source, module, path, pending)),
        }
    }
    if found.is_empty() {
        found = through_globs(source, module, name, pending);
    }
    pending.pop();
    found
}

fn through_globs(
    source: &Source,
    module: usize,
    name: &str,
    pending: &mut Pending,
) -> BTreeSet<Target> {
    let mut found = BTreeSet::new();
    for path in &source.modules[module].globs {
        // A glob that is found through a glob: each is followed once.
        let key = (module, format!("{}::*", path.join("::")));
        if pending.contains(&key) {
            continue;
        }
        pending.push(key);
        let targets = walk(source, module, path, pending);
        for other in modules(&targets) {
            found.extend(lookup(source, other, name, pending));
        }
        pending.pop();
    }
    found
}
