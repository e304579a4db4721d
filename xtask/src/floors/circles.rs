//! Circles in a graph: sets of nodes of which each leads to each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Successors of each node.
pub(crate) type Graph<N> = BTreeMap<N, BTreeSet<N>>;

/// A set of nodes that lead to each other, and the shortest ways round it.
#[derive(Debug, PartialEq)]
pub(crate) struct Circle<N> {
    pub(crate) members: BTreeSet<N>,
    /// For each member its shortest way back, without repetitions, the shortest first. The first
    /// node of a way is not repeated at its end.
    pub(crate) ways: Vec<Vec<N>>,
}

/// Finds all circles of more than one node.
pub(crate) fn circles<N: Ord + Clone>(graph: &Graph<N>) -> Vec<Circle<N>> {
    let reached: BTreeMap<&N, BTreeSet<N>> =
        graph.keys().map(|node| (node, reachable(graph, node))).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (node, below) in &reached {
        if seen.contains(*node) || !below.contains(*node) {
            continue;
        }
        let leads_back = |other: &&N| reached.get(*other).is_some_and(|all| all.contains(*node));
        let members: BTreeSet<N> = below.iter().filter(leads_back).cloned().collect();
        seen.extend(members.iter().cloned());
        if members.len() > 1 {
            let ways = ways(graph, &members);
            found.push(Circle { members, ways });
        }
    }
    found
}

fn reachable<N: Ord + Clone>(graph: &Graph<N>, from: &N) -> BTreeSet<N> {
    let mut found = BTreeSet::new();
    let mut ahead: Vec<&N> = graph.get(from).into_iter().flatten().collect();
    while let Some(node) = ahead.pop() {
        if found.insert(node.clone()) {
            ahead.extend(graph.get(node).into_iter().flatten());
        }
    }
    found
}

fn ways<N: Ord + Clone>(graph: &Graph<N>, members: &BTreeSet<N>) -> Vec<Vec<N>> {
    let mut seen = BTreeSet::new();
    let mut ways: Vec<Vec<N>> = members
        .iter()
        .filter_map(|member| shortest(graph, member))
        .filter(|way| seen.insert(way.iter().cloned().collect::<BTreeSet<_>>()))
        .collect();
    ways.sort_by_key(Vec::len);
    ways
}

/// The shortest way from a node back to it.
fn shortest<N: Ord + Clone>(graph: &Graph<N>, start: &N) -> Option<Vec<N>> {
    let mut before: BTreeMap<&N, &N> = BTreeMap::new();
    let mut ahead = VecDeque::from([start]);
    while let Some(node) = ahead.pop_front() {
        for next in graph.get(node).into_iter().flatten() {
            if next == start {
                let mut way = vec![node.clone()];
                let mut node = node;
                while let Some(&earlier) = before.get(node) {
                    way.push(earlier.clone());
                    node = earlier;
                }
                way.reverse();
                return Some(way);
            }
            if !before.contains_key(next) {
                before.insert(next, node);
                ahead.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&'static str, &'static str)]) -> Graph<&'static str> {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry(*from).or_default().insert(*to);
        }
        graph
    }

    #[test]
    fn a_graph_without_a_circle_has_none() {
        assert_eq!(circles(&graph(&[("a", "b"), ("b", "c"), ("a", "c"), ("a", "a")])), []);
    }

    #[test]
    fn each_circle_is_found_with_its_shortest_ways() {
        let edges =
            [("a", "b"), ("b", "c"), ("c", "a"), ("b", "a"), ("x", "y"), ("y", "x"), ("x", "a")];
        let found = circles(&graph(&edges));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].members, BTreeSet::from(["a", "b", "c"]));
        assert_eq!(found[0].ways, [vec!["a", "b"], vec!["c", "a", "b"]]);
        assert_eq!(found[1].members, BTreeSet::from(["x", "y"]));
        assert_eq!(found[1].ways, [vec!["x", "y"]]);
    }
}
