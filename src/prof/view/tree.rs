//! Stacks as a tree, for flame graphs: made of a snapshot, or of stacks from anywhere.

use super::super::snapshot::Snapshot;
use super::super::stage::is_wall;
use super::{group, unaccounted};

/// A box of a flame graph: what it took itself, and what stands on it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    pub name: String,
    /// Nanoseconds, or samples.
    pub own_ns: u64,
    pub children: Vec<Node>,
}

/// What stands between the root and the stages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Top {
    #[default]
    Nothing,
    Port,
    Dir,
    Thread,
}

/// Boxes deeper than this are left off: a graph of them cannot be drawn, and no recursion is unbounded.
pub const MAX_DEPTH: usize = 512;

/// The snapshot's processor time: all, (what `top` says,) rx, sw, tx or other, the stages. Waits are left
/// out.
pub fn tree(snapshot: &Snapshot, top: Top) -> Node {
    let mut root = Node::new("all");
    for cell in snapshot.cells.iter().chain(&unaccounted(snapshot)).filter(|cell| !is_wall(&cell.path)) {
        let above = match top {
            Top::Nothing => None,
            Top::Port => Some(port_name(snapshot, cell.port)),
            Top::Dir => Some(cell.dir.name().to_owned()),
            Top::Thread => Some(cell.thread.clone()),
        };
        let group = group(&cell.path).unwrap_or("other");
        root.add(above.as_deref().into_iter().chain([group]).chain(cell.path.split(';')), cell.ns);
    }
    root.sort();
    root
}

/// A port as people call it; `-`: no port's.
pub fn port_name(snapshot: &Snapshot, port: u32) -> String {
    let found = snapshot.ports.iter().find(|p| p.port == port && !p.name.is_empty());
    match found {
        _ if port == 0 => "-".into(),
        Some(port) => port.name.clone(),
        None => port.to_string(),
    }
}

impl Node {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Own time and all that stands on it.
    pub fn total(&self) -> u64 {
        self.children.iter().fold(self.own_ns, |sum, child| sum.saturating_add(child.total()))
    }

    /// Levels, this one included.
    pub fn depth(&self) -> usize {
        1 + self.children.iter().map(Self::depth).max().unwrap_or(0)
    }

    /// Gives `ns` to the box at the end of a stack, outermost name first. Beyond [`MAX_DEPTH`] names it
    /// is given to the last that is left.
    pub fn add<'a>(&mut self, stack: impl IntoIterator<Item = &'a str>, ns: u64) {
        let mut at = self;
        for name in stack.into_iter().take(MAX_DEPTH) {
            // Stacks of one origin mostly come together: the last child first.
            let found = at.children.iter().rposition(|child| child.name == name);
            let index = found.unwrap_or_else(|| {
                at.children.push(Self::new(name));
                at.children.len() - 1
            });
            at = &mut at.children[index];
        }
        at.own_ns = at.own_ns.saturating_add(ns);
    }

    /// Children by name, so that two graphs of one program look alike; empty boxes go.
    pub fn sort(&mut self) {
        self.children.retain_mut(|child| {
            child.sort();
            child.own_ns > 0 || !child.children.is_empty()
        });
        self.children.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Every box with own time: its stack from below this node on, and that time.
    pub fn stacks(&self) -> Vec<(Vec<&str>, u64)> {
        fn walk<'a>(node: &'a Node, stack: &mut Vec<&'a str>, out: &mut Vec<(Vec<&'a str>, u64)>) {
            if node.own_ns > 0 {
                out.push((stack.clone(), node.own_ns));
            }
            for child in &node.children {
                stack.push(&child.name);
                walk(child, stack, out);
                stack.pop();
            }
        }
        let mut out = Vec::new();
        walk(self, &mut Vec::new(), &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_and_one_name_is_one_box() {
        let mut root = Node::new("all");
        root.add(["a", "b"], 3);
        root.add(["a"], 2);
        root.add(["c"], 1);
        root.add(["a", "b"], 4);
        root.add(["empty"], 0);
        root.sort();
        assert_eq!((root.total(), root.depth(), root.children.len()), (10, 3, 2));
        assert_eq!(root.stacks(), [(vec!["a"], 2), (vec!["a", "b"], 7), (vec!["c"], 1)]);
    }

    #[test]
    fn what_is_too_deep_is_cut_and_counted() {
        let mut root = Node::new("all");
        root.add(std::iter::repeat_n("f", 100_000), 5);
        assert_eq!((root.total(), root.depth()), (5, MAX_DEPTH + 1));
    }
}
