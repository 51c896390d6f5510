//! A flame graph on a screen: drawn from the top down, walked about in, zoomed into. Without colour a box
//! is told by the `|` it begins with, the chosen one by `>`, one that was looked for by `*`.

use etherws::prof::view::number;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::layout::Rect;
use ratatui::style::Modifier;

use super::graph::{Graph, Placed};
use crate::table::escaped;
use crate::top::prompt::Filter;
use crate::top::screen::Look;

/// What a graph's costs are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unit {
    #[default]
    Nanoseconds,
    /// Of whatever the file counts.
    Count,
}

impl Unit {
    pub fn text(self, cost: u64) -> String {
        match self {
            Self::Nanoseconds => number::time(cost as f64),
            Self::Count => number::count(cost),
        }
    }
}

/// A graph, where in it one is, and what is looked for. Places are names, so that they outlive the graph.
pub struct View {
    pub graph: Graph,
    pub unit: Unit,
    pub search: Option<Filter>,
    zoom: Vec<String>,
    cursor: Vec<String>,
    /// As last drawn.
    width: u16,
}

impl View {
    pub fn new(graph: Graph, unit: Unit) -> Self {
        Self { graph, unit, search: None, zoom: Vec::new(), cursor: Vec::new(), width: 80 }
    }

    /// Whether the key meant anything.
    pub fn key(&mut self, key: KeyEvent) -> bool {
        match key.code {
            KeyCode::Down | KeyCode::Char('j') => self.down(),
            KeyCode::Up | KeyCode::Char('k') => self.up(),
            KeyCode::Left | KeyCode::Char('h') => self.sideways(false),
            KeyCode::Right | KeyCode::Char('l') => self.sideways(true),
            KeyCode::Enter => self.zoom = self.graph.names(self.at_cursor()),
            KeyCode::Esc => return self.out(),
            _ => return false,
        }
        true
    }

    /// One step out of the zoom, or of the search; `false`: nowhere to go.
    fn out(&mut self) -> bool {
        if self.zoom.pop().is_some() {
            return true;
        }
        self.search.take().is_some()
    }

    fn at_zoom(&self) -> usize {
        self.graph.find(&self.zoom)
    }

    /// Always at or below the zoom.
    fn at_cursor(&self) -> usize {
        let zoom = self.at_zoom();
        let cursor = self.graph.find(&self.cursor);
        if self.graph.ancestry(cursor).contains(&zoom) { cursor } else { zoom }
    }

    fn down(&mut self) {
        let at = self.at_cursor();
        let level = self.level(self.graph.node(at).depth + 1);
        if let Some(child) = level.iter().find(|placed| self.graph.node(placed.node).parent == at) {
            self.cursor = self.graph.names(child.node);
        }
    }

    fn up(&mut self) {
        let at = self.at_cursor();
        if at != self.at_zoom() {
            self.cursor = self.graph.names(self.graph.node(at).parent);
        }
    }

    fn sideways(&mut self, right: bool) {
        let at = self.at_cursor();
        let level = self.level(self.graph.node(at).depth);
        let here = level.iter().position(|placed| placed.node == at);
        let there = here.and_then(|here| if right { Some(here + 1) } else { here.checked_sub(1) });
        if let Some(placed) = there.and_then(|there| level.get(there)) {
            self.cursor = self.graph.names(placed.node);
        }
    }

    /// What is drawn of the level `depth` below node 0.
    fn level(&self, depth: usize) -> Vec<Placed> {
        let zoom = self.at_zoom();
        let below = depth.saturating_sub(self.graph.node(zoom).depth);
        self.graph.layout(zoom, self.width, below + 1).into_iter().nth(below).unwrap_or_default()
    }

    /// A line on where one is, the boxes, a line on what is chosen.
    pub fn draw(&mut self, area: Rect, look: Look, buffer: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        self.width = area.width;
        let (zoom, cursor) = (self.at_zoom(), self.at_cursor());
        let width = usize::from(area.width);
        buffer.set_stringn(area.x, area.y, self.place(zoom), width, look.title());
        if self.graph.is_empty() {
            if area.height > 1 {
                buffer.set_stringn(area.x, area.y + 1, "nothing has been measured", width, look.dim());
            }
            return;
        }
        let height = usize::from(area.height.saturating_sub(2));
        // The chosen one stays in sight.
        let depth = self.graph.node(cursor).depth - self.graph.node(zoom).depth;
        let skip = (depth + 1).saturating_sub(height);
        let levels = self.graph.layout(zoom, area.width, skip + height);
        for (row, level) in (area.y + 1..).zip(levels.iter().skip(skip)) {
            let row = Rect { y: row, height: 1, ..area };
            level_of(&self.graph, level, Some(cursor), self.search.as_ref(), look, row, buffer);
        }
        if area.height > 1 {
            buffer.set_stringn(area.x, area.bottom() - 1, self.facts(cursor), width, look.title());
        }
    }

    fn place(&self, zoom: usize) -> String {
        let names: Vec<String> =
            self.graph.ancestry(zoom).into_iter().map(|at| escaped(&self.graph.node(at).name)).collect();
        let mut text =
            format!("flame: {}  {}", names.join(" > "), self.unit.text(self.graph.node(zoom).total));
        if let Some(search) = &self.search {
            let found = self.graph.cost_of(|name| search.finds(name));
            let percent = number::percent(share(found, self.graph.node(0).total));
            text.push_str(&format!("  /{}/ {percent} %", escaped(&search.text)));
        }
        text
    }

    fn facts(&self, at: usize) -> String {
        let node = self.graph.node(at);
        let whole = self.graph.node(0).total;
        let path = self.graph.names(at).join(";");
        let amount = |cost| format!("{} ({} %)", self.unit.text(cost), number::percent(share(cost, whole)));
        format!(
            "{}  own {}  deep {}",
            if at == 0 { "all".into() } else { escaped(&path) },
            amount(node.own),
            amount(node.total)
        )
    }
}

/// One level's boxes on one row.
pub fn level_of(
    graph: &Graph,
    level: &[Placed],
    chosen: Option<usize>,
    search: Option<&Filter>,
    look: Look,
    row: Rect,
    buffer: &mut Buffer,
) {
    for placed in level {
        let node = graph.node(placed.node);
        let wide = usize::from(placed.columns.end - placed.columns.start);
        let chosen = chosen == Some(placed.node);
        let found = search.is_some_and(|search| search.finds(&node.name));
        let mark = match (chosen, found) {
            (true, _) => '>',
            (_, true) => '*',
            _ => '|',
        };
        let mut style = look.flame(&node.name);
        if look.attributes && chosen {
            style = style.add_modifier(Modifier::REVERSED | Modifier::BOLD);
        }
        if look.attributes && found {
            style = style.add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
        }
        let mut text = format!("{mark}{}", escaped(&node.name));
        let percent = format!(" {} %", number::percent(share(node.total, graph.node(0).total)));
        if text.chars().count() + percent.len() <= wide {
            text.push_str(&percent);
        }
        let x = row.x + placed.columns.start;
        buffer.set_style(Rect { x, width: wide as u16, ..row }, style);
        buffer.set_stringn(x, row.y, text, wide, style);
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { colour: false, attributes: false };

    fn drawn(view: &mut View, width: u16, height: u16) -> Vec<String> {
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        view.draw(area, PLAIN, &mut buffer);
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    fn view() -> View {
        let stacks = [("rx;rx.tap.read", 600), ("tx;tx.ws.encode", 100), ("tx;tx.ws.encode;tx.ws.mask", 300)];
        View::new(Graph::of(stacks.map(|(path, cost)| (path.split(';'), cost))), Unit::Nanoseconds)
    }

    fn press(view: &mut View, keys: &[KeyCode]) {
        for &key in keys {
            view.key(key.into());
        }
    }

    #[test]
    fn it_is_walked_and_zoomed() {
        let mut view = view();
        let expected = [
            "flame: all  1.00 us",
            ">all 100.00 %",
            "|rx 60.00 %             |tx 40.00 %",
            "|rx.tap.read 60.00 %    |tx.ws.encode",
            "                        |tx.ws.mask",
            "all  own 0 ns (0.00 %)  deep 1.00 us (10",
        ];
        assert_eq!(drawn(&mut view, 40, 6), expected);
        press(&mut view, &[KeyCode::Down, KeyCode::Char('l'), KeyCode::Char('j')]);
        let text = drawn(&mut view, 100, 6);
        assert!(
            text[5].starts_with("tx;tx.ws.encode  own 100 ns (10.00 %)  deep 400 ns (40.00 %)"),
            "{text:?}"
        );
        press(&mut view, &[KeyCode::Enter]);
        assert_eq!(drawn(&mut view, 40, 3)[1], ">tx.ws.encode 40.00 %");
        assert_eq!(drawn(&mut view, 40, 9)[2], "|tx.ws.mask 30.00 %");
        press(&mut view, &[KeyCode::Up, KeyCode::Left]);
        assert_eq!(drawn(&mut view, 40, 9)[1], ">tx.ws.encode 40.00 %", "not out of the zoom");
        press(&mut view, &[KeyCode::Esc, KeyCode::Esc]);
        assert!(drawn(&mut view, 40, 9)[0].starts_with("flame: all  "));
        assert!(!view.key(KeyCode::Esc.into()));
    }

    #[test]
    fn what_is_looked_for_is_marked_and_added_up_once() {
        let mut view = view();
        view.search = Filter::of("^tx");
        let text = drawn(&mut view, 60, 6);
        assert!(text[0].ends_with("/^tx/ 40.00 %"), "{text:?}");
        assert!(text[2].contains("*tx 40") && text[4].contains("*tx.ws.mask"), "{text:?}");
    }

    #[test]
    fn the_chosen_one_stays_in_sight_and_the_place_outlives_the_graph() {
        let stack: Vec<String> = (0..50).map(|n| format!("f{n}")).collect();
        let deep = |cost| Graph::of([(stack.iter().map(String::as_str), cost)]);
        let mut view = View::new(deep(3), Unit::Count);
        press(&mut view, &[KeyCode::Down; 40]);
        assert!(drawn(&mut view, 30, 8).iter().any(|line| line.starts_with(">f39 ")));
        view.graph = deep(7);
        assert!(drawn(&mut view, 30, 8).iter().any(|line| line.starts_with(">f39 ")));
        view.graph = Graph::of([(["x"], 1)]);
        assert_eq!(drawn(&mut view, 30, 8)[1], ">all 100.00 %");
        view.graph = Graph::of([(["x"], 0)]);
        assert_eq!(drawn(&mut view, 30, 8)[1], "nothing has been measured");
    }

    #[test]
    fn names_from_a_file_are_harmless() {
        let mut view = View::new(Graph::of([(["a\x1b[2J\u{202e}"], 1)]), Unit::Count);
        assert_eq!(drawn(&mut view, 30, 8)[2], "|a\\u{1b}[2J\\u{202e} 100.00 %");
    }
}
