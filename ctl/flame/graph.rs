//! A tree of costs and where each part of it is drawn. Edges are rounded, never widths: the column of a
//! cost is [`column`] of all that stands before it. So two boxes side by side neither overlap nor leave
//! a gap, sums stay exact, and no child leaves its parent.

use std::collections::HashMap;
use std::ops::Range;

/// Stacks added up. Node 0 is all of them; a node's children stand side by side from its left edge, the
/// dearest first, and what is left on the right is its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Graph {
    nodes: Vec<Node>,
}

/// A place in the tree; costs in whatever the stacks came in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    pub name: String,
    pub parent: usize,
    /// 0: all.
    pub depth: usize,
    pub own: u64,
    /// Its own and that of all below it.
    pub total: u64,
    /// All that stands before it, from the left edge of node 0.
    pub start: u64,
    pub children: Vec<usize>,
}

/// A node and the columns it gets; never none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    pub node: usize,
    pub columns: Range<u16>,
}

/// The column of the edge at `cost` when `total` is as wide as `width`: rounded to the nearest, a half up.
pub fn column(cost: u64, total: u64, width: u16) -> u16 {
    if total == 0 {
        return 0;
    }
    let (cost, total) = (u128::from(cost.min(total)), u128::from(total));
    // At most `width`.
    ((2 * cost * u128::from(width) + total) / (2 * total)) as u16
}

impl Graph {
    /// Stacks with their own costs, outermost name first. A sum beyond 64 bits stays at the most.
    pub fn of<'a, S>(stacks: impl IntoIterator<Item = (S, u64)>) -> Self
    where
        S: IntoIterator<Item = &'a str>,
    {
        let mut nodes = vec![Node { name: "all".into(), ..Node::default() }];
        let mut known: HashMap<(usize, &str), usize> = HashMap::new();
        let mut sum = 0_u64;
        for (stack, cost) in stacks {
            // Nothing is left out but what no sum can hold.
            let cost = cost.min(u64::MAX - sum);
            sum += cost;
            if cost == 0 {
                continue;
            }
            let mut at = 0;
            for name in stack {
                at = *known.entry((at, name)).or_insert_with(|| {
                    let (new, depth) = (nodes.len(), nodes[at].depth + 1);
                    nodes.push(Node { name: name.into(), parent: at, depth, ..Node::default() });
                    nodes[at].children.push(new);
                    new
                });
            }
            nodes[at].own += cost;
        }
        // A child always stands behind its parent: no recursion, however deep a file's stacks are.
        for at in (0..nodes.len()).rev() {
            nodes[at].total += nodes[at].own;
            if at > 0 {
                let (parent, total) = (nodes[at].parent, nodes[at].total);
                nodes[parent].total += total;
            }
        }
        for at in 0..nodes.len() {
            let mut children = std::mem::take(&mut nodes[at].children);
            children.sort_by(|&a, &b| {
                nodes[b].total.cmp(&nodes[a].total).then_with(|| nodes[a].name.cmp(&nodes[b].name))
            });
            let mut start = nodes[at].start;
            for &child in &children {
                nodes[child].start = start;
                start += nodes[child].total;
            }
            nodes[at].children = children;
        }
        Self { nodes }
    }

    pub fn node(&self, at: usize) -> &Node {
        &self.nodes[at]
    }

    pub fn is_empty(&self) -> bool {
        self.nodes[0].total == 0
    }

    /// The levels from `zoom` down, each from left to right, over `width` columns; at most `height` of
    /// them. A node that both edges of fall on one column is not drawn, nor is anything below it.
    pub fn layout(&self, zoom: usize, width: u16, height: usize) -> Vec<Vec<Placed>> {
        let whole = &self.nodes[zoom];
        let place = |at: usize| {
            let node = &self.nodes[at];
            let left = node.start - whole.start;
            let columns = column(left, whole.total, width)..column(left + node.total, whole.total, width);
            (!columns.is_empty()).then_some(Placed { node: at, columns })
        };
        let mut levels: Vec<Vec<Placed>> = Vec::new();
        let mut level: Vec<Placed> = place(zoom).into_iter().collect();
        while !level.is_empty() && levels.len() < height {
            let below = level
                .iter()
                .flat_map(|parent| &self.nodes[parent.node].children)
                .filter_map(|&child| place(child));
            let below = below.collect();
            levels.push(std::mem::replace(&mut level, below));
        }
        levels
    }

    /// The nodes from node 0 to this one.
    pub fn ancestry(&self, at: usize) -> Vec<usize> {
        let mut path = vec![at];
        let mut at = at;
        while at != 0 {
            at = self.nodes[at].parent;
            path.push(at);
        }
        path.reverse();
        path
    }

    /// The names from below node 0 to this one.
    pub fn names(&self, at: usize) -> Vec<String> {
        self.ancestry(at).into_iter().skip(1).map(|at| self.nodes[at].name.clone()).collect()
    }

    /// The node of these names, or the last on the way there that exists.
    pub fn find(&self, names: &[String]) -> usize {
        let mut at = 0;
        for name in names {
            match self.nodes[at].children.iter().find(|&&child| self.nodes[child].name == *name) {
                Some(&child) => at = child,
                None => break,
            }
        }
        at
    }

    /// What the nodes chosen cost with all below them, nothing twice.
    pub fn cost_of(&self, chosen: impl Fn(&str) -> bool) -> u64 {
        let mut within = vec![false; self.nodes.len()];
        let mut sum = 0;
        for (at, node) in self.nodes.iter().enumerate().skip(1) {
            let counted = within[node.parent];
            let here = chosen(&node.name);
            within[at] = counted || here;
            sum += if here && !counted { node.total } else { 0 };
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn graph(lines: &[(&str, u64)]) -> Graph {
        Graph::of(lines.iter().map(|(path, cost)| (path.split(';'), *cost)))
    }

    fn drawn(graph: &Graph, width: u16) -> Vec<Vec<(&str, Range<u16>)>> {
        let levels = graph.layout(0, width, usize::MAX);
        let name = |placed: &Placed| (graph.node(placed.node).name.as_str(), placed.columns.clone());
        levels.iter().map(|level| level.iter().map(name).collect()).collect()
    }

    #[test]
    fn edges_are_rounded_not_widths() {
        // Three thirds of ten columns: widths rounded would be 3 + 3 + 3.
        let graph = graph(&[("a", 1), ("b", 1), ("c", 1)]);
        assert_eq!(drawn(&graph, 10), [vec![("all", 0..10)], vec![("a", 0..3), ("b", 3..7), ("c", 7..10)]]);
        for (cost, total, width, at) in
            [(1, 2, 1, 1), (1, 3, 1, 0), (0, 9, 80, 0), (9, 9, 80, 80), (0, 0, 80, 0)]
        {
            assert_eq!(column(cost, total, width), at, "{cost}/{total} of {width}");
        }
        assert_eq!(column(u64::MAX, u64::MAX, u16::MAX), u16::MAX);
    }

    #[test]
    fn the_dearest_stands_left_and_own_time_right() {
        let graph = graph(&[("sw.flood", 20), ("sw.flood;tx.tap.write", 20), ("rx", 60), ("sw.flood", 0)]);
        assert_eq!(
            drawn(&graph, 100),
            [
                vec![("all", 0..100)],
                vec![("rx", 0..60), ("sw.flood", 60..100)],
                vec![("tx.tap.write", 60..80)]
            ]
        );
        let flood = graph.find(&["sw.flood".into()]);
        assert_eq!((graph.node(flood).own, graph.node(flood).total), (20, 40));
        assert_eq!(graph.names(graph.find(&["sw.flood".into(), "gone".into()])), ["sw.flood"]);
        let zoomed = graph.layout(flood, 10, 9);
        assert_eq!(zoomed[1][0].columns, 0..5);
        assert_eq!(graph.cost_of(|name| name.starts_with("sw") || name.starts_with("tx")), 40);
    }

    #[test]
    fn one_name_below_two_parents_stays_two() {
        let graph = graph(&[("a;x", 3), ("b;x", 1)]);
        assert_eq!(drawn(&graph, 4)[2], [("x", 0..3), ("x", 3..4)]);
    }

    #[test]
    fn sums_beyond_64_bits_and_endless_stacks_are_drawn() {
        let graph = graph(&[("a", u64::MAX), ("b", u64::MAX), ("a;c", 5)]);
        assert_eq!(graph.node(0).total, u64::MAX);
        assert_eq!(drawn(&graph, 80)[1], [("a", 0..80)]);
        let deep = vec!["f"; 100_000];
        let graph = Graph::of([(deep, 7)]);
        assert_eq!(graph.layout(0, 80, usize::MAX).len(), 100_001);
        assert_eq!(graph.layout(0, 80, 24).len(), 24);
        assert!(Graph::of([(["a"], 0)]).is_empty());
        assert!(Graph::of([(["a"], 0)]).layout(0, 80, 24).is_empty());
    }

    /// Thousands of stacks in 64 KiB, as a file of them is.
    #[test]
    fn a_profile_of_64_kib_is_laid_out() {
        let mut text = String::new();
        let mut state = 1_u64;
        while text.len() < 64 << 10 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let name = |shift: u32| (state >> shift) % 23;
            text.push_str(&format!(
                "f{};g{};h{};i{} {}\n",
                name(8),
                name(16),
                name(24),
                name(32),
                state >> 44
            ));
        }
        let began = std::time::Instant::now();
        let lines = || text.lines().filter_map(|line| line.rsplit_once(' '));
        let graph = Graph::of(lines().map(|(path, cost)| (path.split(';'), cost.parse().unwrap())));
        let levels = graph.layout(0, 200, usize::MAX);
        println!("{} nodes in {:?}", graph.nodes.len(), began.elapsed());
        assert!(graph.nodes.len() > 4000, "{}", graph.nodes.len());
        let sum: u64 = lines().map(|(_, cost)| cost.parse::<u64>().unwrap()).sum();
        assert_eq!(graph.node(0).total, sum);
        assert_eq!(levels.len(), 5);
        check(&graph, 0, 200);
    }

    /// All that the rule promises.
    fn check(graph: &Graph, zoom: usize, width: u16) {
        for node in &graph.nodes {
            let below: u64 = node.children.iter().map(|&child| graph.nodes[child].total).sum();
            assert_eq!(node.total, node.own + below, "sums are exact");
        }
        let whole = &graph.nodes[zoom];
        let levels = graph.layout(zoom, width, usize::MAX);
        for (depth, level) in levels.iter().enumerate() {
            let mut edge = 0;
            for placed in level {
                let node = &graph.nodes[placed.node];
                assert!(placed.columns.start >= edge && placed.columns.start < placed.columns.end);
                edge = placed.columns.end;
                // Within one half column of where it belongs.
                let exact = |cost: u64| cost as f64 * f64::from(width) / whole.total as f64;
                let left = node.start - whole.start;
                for (column, cost) in [(placed.columns.start, left), (placed.columns.end, left + node.total)]
                {
                    assert!((f64::from(column) - exact(cost)).abs() <= 0.5 + 1e-6);
                }
                if depth > 0 {
                    let inside = |parent: &&Placed| parent.node == node.parent;
                    let parent = levels[depth - 1].iter().find(inside).expect("its parent is drawn");
                    assert!(parent.columns.start <= placed.columns.start);
                    assert!(placed.columns.end <= parent.columns.end);
                }
            }
            assert!(edge <= width);
        }
        // Side by side without a gap: what is drawn of the children ends where their sum does.
        for placed in levels.iter().flatten() {
            let node = &graph.nodes[placed.node];
            let widths = node.children.iter().map(|&child| {
                let left = graph.nodes[child].start - whole.start;
                let end = column(left + graph.nodes[child].total, whole.total, width);
                end - column(left, whole.total, width)
            });
            let end = column(node.start - whole.start + node.total - node.own, whole.total, width);
            assert_eq!(widths.sum::<u16>(), end - placed.columns.start);
        }
    }

    proptest! {
        #[test]
        fn no_child_leaves_its_parent(
            stacks in prop::collection::vec(
                (prop::collection::vec("[a-d]", 1..6), prop_oneof![0..9_u64, 0..1_u64 << 40, any::<u64>()]),
                0..40,
            ),
            width in prop_oneof![Just(0), Just(1), 0..300_u16, Just(u16::MAX)],
            pick in any::<prop::sample::Index>(),
        ) {
            let graph = Graph::of(stacks.iter().map(|(names, cost)| (names.iter().map(String::as_str), *cost)));
            check(&graph, 0, width);
            check(&graph, pick.index(graph.nodes.len()), width);
        }
    }
}
