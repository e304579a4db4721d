//! A target's modules and the arrows between them, as the checks and the reader want them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::circles::{Graph, circles};
use super::edges;
use super::order::Order;
use super::source::Source;

/// One arrow: from one module file to another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Edge {
    pub(crate) from: Vec<String>,
    pub(crate) to: Vec<String>,
    /// `file:line` of the first word that makes it so.
    pub(crate) at: String,
}

/// The modules of one target.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) name: String,
    /// Module files, by the names from the root; the root's is empty.
    pub(crate) modules: BTreeSet<Vec<String>>,
    pub(crate) edges: Vec<Edge>,
}

impl House {
    /// Reads a target; files are named relative to the workspace.
    pub(crate) fn read(name: &str, root: &Path, workspace: &Path) -> Result<Self> {
        let source = Source::read(root)?;
        let files = source.modules.iter().enumerate().filter(|(index, it)| it.node == *index);
        let modules = files.map(|(_, module)| module.path.clone()).collect();
        let edges = edges::find(&source).into_iter().map(|((from, to), line)| {
            let (from, to) = (&source.modules[from], &source.modules[to]);
            let file = from.file.strip_prefix(workspace).unwrap_or(&from.file);
            let at = format!("{}:{line}", file.display());
            Edge { from: from.path.clone(), to: to.path.clone(), at }
        });
        Ok(Self { name: name.to_owned(), modules, edges: edges.collect() })
    }

    /// Module files as a graph.
    pub(crate) fn files(&self) -> Graph<Vec<String>> {
        let mut graph = Graph::new();
        for edge in &self.edges {
            graph.entry(edge.from.clone()).or_insert_with(BTreeSet::new).insert(edge.to.clone());
        }
        graph
    }

    /// The rooms in a module: its children, each with all below it.
    pub(crate) fn rooms(&self, module: &[String]) -> BTreeSet<String> {
        self.modules.iter().filter_map(|path| room(module, path)).collect()
    }

    /// The arrows between the rooms in a module, each with all that makes it so.
    pub(crate) fn between_rooms(
        &self,
        module: &[String],
    ) -> BTreeMap<(String, String), Vec<&Edge>> {
        let mut found: BTreeMap<_, Vec<&Edge>> = BTreeMap::new();
        for edge in &self.edges {
            if let (Some(from), Some(to)) = (room(module, &edge.from), room(module, &edge.to))
                && from != to
            {
                found.entry((from, to)).or_default().push(edge);
            }
        }
        found
    }

    /// The rooms in a module as a graph.
    pub(crate) fn graph_of_rooms(&self, module: &[String]) -> Graph<String> {
        let mut graph = Graph::new();
        for (from, to) in self.between_rooms(module).into_keys() {
            graph.entry(from).or_insert_with(BTreeSet::new).insert(to);
        }
        graph
    }

    /// Every module that has children, the root first.
    pub(crate) fn folders(&self) -> BTreeSet<Vec<String>> {
        let parents = self.modules.iter().filter_map(|path| path.split_last());
        parents.map(|(_, parent)| parent.to_vec()).collect()
    }

    /// `broker` for the root, `broker::jobs` for a module.
    pub(crate) fn shown(&self, module: &[String]) -> String {
        let names = std::iter::once(self.name.clone()).chain(module.iter().cloned());
        names.collect::<Vec<_>>().join("::")
    }

    /// The rooms of a module and the arrows between them, as a diagram in Mermaid; none if the module
    /// has no rooms. An arrow is left out where a longer way leads to the same room.
    pub(crate) fn mermaid(&self, module: &str, order: &Order) -> Option<String> {
        let module: Vec<String> =
            module.split("::").filter(|it| !it.is_empty()).map(str::to_owned).collect();
        let rooms = self.rooms(&module);
        if rooms.is_empty() {
            return None;
        }
        let arrows: BTreeSet<(String, String)> = self.between_rooms(&module).into_keys().collect();
        // In a circle every arrow can be gone along others.
        let has_circle = !circles(&self.graph_of_rooms(&module)).is_empty();
        let floors = order.floors(&self.shown(&module)).unwrap_or_default();
        let place = |room: &String| floors.iter().position(|it| it == room);
        let mut rooms: Vec<String> = rooms.into_iter().collect();
        rooms.sort_by_key(place);
        let mut text = String::from("```mermaid\nflowchart TD\n");
        for room in &rooms {
            let below: Vec<&String> = rooms
                .iter()
                .filter(|to| arrows.contains(&(room.clone(), (*to).clone())))
                .filter(|to| has_circle || !is_implied(&arrows, room, to))
                .collect();
            if below.is_empty() && !arrows.iter().any(|(_, to)| to == room) {
                _ = writeln!(text, "    {room}");
            }
            for to in below {
                _ = writeln!(text, "    {room} --> {to}");
            }
        }
        text.push_str("```");
        Some(text)
    }
}

/// The room of `module` that `path` is in.
fn room(module: &[String], path: &[String]) -> Option<String> {
    path.strip_prefix(module)?.first().cloned()
}

/// Whether there is another way from the one room to the other.
fn is_implied(arrows: &BTreeSet<(String, String)>, from: &str, to: &str) -> bool {
    let next = |room: &str| -> Vec<&String> {
        arrows.iter().filter(|(it, _)| it == room).map(|(_, to)| to).collect()
    };
    let mut ahead: Vec<&String> = next(from).into_iter().filter(|it| *it != to).collect();
    let mut seen = BTreeSet::new();
    while let Some(room) = ahead.pop() {
        if room == to {
            return true;
        }
        if seen.insert(room) && room != from {
            ahead.extend(next(room));
        }
    }
    false
}
