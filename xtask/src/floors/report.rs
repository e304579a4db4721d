//! What is wrong in a target, in lines for whoever has to mend it.

use std::collections::BTreeMap;

use super::circles::circles;
use super::graph::{Edge, House};
use super::order::{FILE, Order};

/// Lines to print, and how many faults they tell of.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) lines: Vec<String>,
    pub(crate) faults: usize,
}

/// The arrows of this many files are printed for an arrow between rooms, and this many members of a circle.
const EXAMPLES: usize = 5;
/// This many circles of those that have members in common: one wrong arrow makes dozens.
const WAYS: usize = 2;

/// Judges a target: arrows that go up, which say best what to cut, then circles of files and of rooms.
pub(crate) fn report(house: &House, order: &Order) -> Report {
    let mut report = Report::default();
    for module in order.within(&house.name) {
        report.order(house, order, module);
    }
    report.circles_of_files(house);
    for folder in house.folders() {
        report.circles_of_rooms(house, &folder);
    }
    report
}

impl Report {
    fn circles_of_files(&mut self, house: &House) {
        let at: BTreeMap<(&[String], &[String]), &str> =
            house.edges.iter().map(|it| ((&*it.from, &*it.to), &*it.at)).collect();
        for circle in circles(&house.files()) {
            let members: Vec<String> = circle.members.iter().map(|it| house.shown(it)).collect();
            self.fault(format!("{} files in a circle: {}", members.len(), some(&members)));
            let at = |(from, to): (&Vec<String>, &Vec<String>)| {
                at.get(&(&**from, &**to)).copied().unwrap_or_default()
            };
            if let Some((count, (from, to))) = busiest(&circle.ways) {
                let all = circle.ways.len();
                self.lines.push(format!("  {count} of its {all} circles go through:"));
                self.arrow(&house.shown(from), &house.shown(to), at((from, to)));
            }
            for way in circle.ways.iter().take(WAYS) {
                self.lines.push(format!("  a circle of {}:", way.len()));
                for (from, to) in steps(way) {
                    self.arrow(&house.shown(from), &house.shown(to), at((from, to)));
                }
            }
        }
    }

    /// Folders that use each other. A circle of single files has been reported already.
    fn circles_of_rooms(&mut self, house: &House, folder: &[String]) {
        let between = house.between_rooms(folder);
        let files = house.files();
        for circle in circles(&house.graph_of_rooms(folder)) {
            let is_of_files = |way: &Vec<String>| {
                steps(way).all(|(from, to)| {
                    let file = |room: &String| [folder, std::slice::from_ref(room)].concat();
                    files.get(&file(from)).is_some_and(|below| below.contains(&file(to)))
                })
            };
            let ways: Vec<_> = circle.ways.iter().filter(|way| !is_of_files(way)).collect();
            if ways.is_empty() {
                continue;
            }
            let members: Vec<String> = circle.members.iter().cloned().collect();
            let (place, members) = (house.shown(folder), some(&members));
            self.fault(format!("rooms of {place} in a circle, each with all below it: {members}"));
            for way in ways.into_iter().take(WAYS) {
                self.lines.push(format!("  a circle of {}:", way.len()));
                for (from, to) in steps(way) {
                    self.examples(house, &between[&(from.clone(), to.clone())]);
                }
            }
        }
    }

    fn order(&mut self, house: &House, order: &Order, module: &str) {
        let floors = order.floors(module).unwrap_or_default();
        let folder: Vec<String> = module.split("::").skip(1).map(str::to_owned).collect();
        let rooms = house.rooms(&folder);
        for room in &rooms {
            if !floors.contains(room) {
                self.fault(format!("{FILE} has no floor for {module}::{room}"));
            }
        }
        for room in floors.iter().filter(|room| !rooms.contains(*room)) {
            self.fault(format!("{FILE} has a floor for {module}::{room}, which is no module"));
        }
        let place = |room: &str| floors.iter().position(|it| it == room);
        for ((from, to), edges) in house.between_rooms(&folder) {
            if let (Some(above), Some(below)) = (place(&from), place(&to))
                && above > below
            {
                self.fault(format!("{module}: {from} uses {to}, which is above it"));
                self.examples(house, &edges);
            }
        }
        // What holds the rooms is above all of them.
        for edge in house.edges.iter().filter(|edge| edge.to == folder) {
            if let Some(room) = edge.from.strip_prefix(&*folder).and_then(|below| below.first()) {
                self.fault(format!("{module}: {room} uses what {module} itself defines, above it"));
                self.examples(house, &[edge]);
            }
        }
    }

    fn fault(&mut self, text: String) {
        self.faults += 1;
        self.lines.push(text);
    }

    fn examples(&mut self, house: &House, edges: &[&Edge]) {
        for edge in edges.iter().take(EXAMPLES) {
            self.arrow(&house.shown(&edge.from), &house.shown(&edge.to), &edge.at);
        }
        if edges.len() > EXAMPLES {
            self.lines.push(format!("    and {} more", edges.len() - EXAMPLES));
        }
    }

    fn arrow(&mut self, from: &str, to: &str, at: &str) {
        self.lines.push(format!("    {from} -> {to}    {at}"));
    }
}

/// The arrows of a way that leads back to its first node.
fn steps<N>(way: &[N]) -> impl Iterator<Item = (&N, &N)> {
    way.iter().zip(way.iter().cycle().skip(1))
}

/// The first of these, and how many there are besides.
fn some(names: &[String]) -> String {
    let first = names.iter().take(EXAMPLES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(EXAMPLES) {
        0 => first,
        more => format!("{first}, and {more} more"),
    }
}

/// The arrow that is in most of many ways, with their number: to cut it ends them.
fn busiest<N: Ord>(ways: &[Vec<N>]) -> Option<(usize, (&N, &N))> {
    let mut counts = BTreeMap::new();
    for step in ways.iter().flat_map(|way| steps(way)) {
        *counts.entry(step).or_insert(0) += 1;
    }
    let (step, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (ways.len() > WAYS).then_some((count, step))
}
