//! What the screen is about, and what keys do to it. No clock, no terminal, no network: snapshots and keys
//! come in, a drawing is made of what is here.

use etherws::prof::snapshot::Snapshot;
use etherws::prof::view::sort::Column as Key;
use etherws::prof::view::{Top, tree};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::poll::News;
use super::prompt::{Filter, Prompt, Typed};
use super::table::{Base, COLUMNS, Line, Place};
use crate::flame::graph::Graph;
use crate::flame::view::{Unit, View};

/// A viewer's screen.
pub struct App {
    /// The switch, as it was named.
    pub url: String,
    pub latest: Snapshot,
    /// The one before.
    previous: Snapshot,
    /// This viewer's own zero.
    zero: Snapshot,
    /// What is shown: what came since the one before, or since the zero. `None`: not known yet.
    pub shown: Option<Snapshot>,
    pub lines: Vec<Line>,
    pub trouble: Option<String>,
    pub place: Place,
    pub order: Key,
    pub filter: Option<Filter>,
    pub prompt: Option<Prompt>,
    /// The column that the figures begin with.
    pub first_column: usize,
    /// The selected line, and where it was: lines come and go.
    selected: Option<String>,
    at: usize,
    /// Lines that fit, as last drawn.
    pub page: usize,
    pub paused: bool,
    /// Everything since the zero, not only the last interval.
    pub whole: bool,
    pub help: bool,
    pub flame: Option<View>,
}

/// What is to be done after a key or a piece of news.
#[derive(PartialEq, Eq, Debug)]
pub enum Then {
    Nothing,
    Draw,
    Quit,
    Fail(String),
}

impl App {
    /// `first` is the zero of all that is shown.
    pub fn new(url: String, first: Snapshot) -> Self {
        Self {
            url,
            previous: first.clone(),
            zero: first.clone(),
            latest: first,
            shown: None,
            lines: Vec::new(),
            trouble: None,
            place: Place::default(),
            order: Key::Own,
            filter: None,
            prompt: None,
            first_column: 0,
            selected: None,
            at: 0,
            page: 10,
            paused: false,
            whole: false,
            help: false,
            flame: None,
        }
    }

    pub fn news(&mut self, news: News) -> Then {
        match news {
            News::Fatal(why) => return Then::Fail(why),
            News::Trouble(why) if self.trouble.as_ref() == Some(&why) => return Then::Nothing,
            News::Trouble(why) => self.trouble = Some(why),
            News::Snapshot(now) => {
                let was_trouble = self.trouble.take().is_some();
                if now.elapsed_ns < self.latest.elapsed_ns {
                    // Another daemon: all that it has counted came since.
                    (self.latest, self.zero) = (Snapshot::default(), Snapshot::default());
                }
                self.previous = std::mem::replace(&mut self.latest, *now);
                if self.paused {
                    return if was_trouble { Then::Draw } else { Then::Nothing };
                }
                self.show();
            }
        }
        Then::Draw
    }

    /// How long the zero was ago.
    pub fn since_zero_ns(&self) -> u64 {
        self.latest.elapsed_ns.saturating_sub(self.zero.elapsed_ns)
    }

    fn show(&mut self) {
        let since = if self.whole { &self.zero } else { &self.previous };
        self.shown = Some(self.latest.since(since));
        self.arrange();
    }

    /// What is shown, arranged anew: after news, or a step.
    fn arrange(&mut self) {
        let Some(shown) = &self.shown else {
            self.lines.clear();
            return;
        };
        self.lines = self.place.lines(shown, self.order, self.filter.as_ref());
        if let Some(at) = self.lines.iter().position(|line| Some(&line.label) == self.selected.as_ref()) {
            self.at = at;
        }
        self.at = self.at.min(self.lines.len().saturating_sub(1));
        if self.flame.is_some() {
            let graph = self.graph();
            if let Some(view) = &mut self.flame {
                view.graph = graph;
            }
        }
    }

    /// The place's stacks. Those of a stage begin with what it stands below, as everywhere.
    fn graph(&self) -> Graph {
        let Some(shown) = &self.shown else { return Graph::of(Vec::<(Vec<&str>, u64)>::new()) };
        let tree = tree(&self.place.narrowed(shown), Top::Nothing);
        Graph::of(tree.stacks())
    }

    /// The selected line's number; lines may be none.
    pub fn selected(&self) -> usize {
        self.at
    }

    fn select(&mut self, at: usize) {
        self.at = at.min(self.lines.len().saturating_sub(1));
        self.selected = self.lines.get(self.at).map(|line| line.label.clone());
    }

    pub fn key(&mut self, key: KeyEvent) -> Then {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Then::Quit;
        }
        if self.prompt.is_some() {
            return self.typed(key);
        }
        if self.help {
            self.help = false;
            // Any key ends the help; q means no more than that here.
            return Then::Draw;
        }
        if control {
            return if key.code == KeyCode::Char('l') { Then::Draw } else { Then::Nothing };
        }
        match key.code {
            KeyCode::Char('q') => return Then::Quit,
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('/') => {
                let old = self.flame.as_ref().map_or(&self.filter, |view| &view.search);
                let text = old.as_ref().map(|filter| filter.text.clone()).unwrap_or_default();
                self.prompt = Some(Prompt { text });
            }
            KeyCode::Char(' ') => {
                self.paused = !self.paused;
                if !self.paused {
                    self.show();
                }
            }
            KeyCode::Char('r') => self.reset(),
            KeyCode::Char('c') => {
                self.whole = !self.whole;
                if self.shown.is_some() {
                    self.show();
                }
            }
            KeyCode::Char('t') => self.turn(Base::Threads),
            KeyCode::Char('p') => self.turn(Base::Ports),
            KeyCode::Char('F') => {
                self.flame = match self.flame {
                    Some(_) => None,
                    None => Some(View::new(self.graph(), Unit::Nanoseconds)),
                }
            }
            _ => {
                let Some(view) = &mut self.flame else { return self.table_key(key.code) };
                if !view.key(key) {
                    if key.code != KeyCode::Esc {
                        return Then::Nothing;
                    }
                    self.flame = None;
                }
            }
        }
        Then::Draw
    }

    fn table_key(&mut self, key: KeyCode) -> Then {
        match key {
            KeyCode::Down | KeyCode::Char('j') => self.select(self.at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.select(self.at.saturating_sub(1)),
            KeyCode::PageDown => self.select(self.at + self.page),
            KeyCode::PageUp => self.select(self.at.saturating_sub(self.page)),
            KeyCode::Home | KeyCode::Char('g') => self.select(0),
            KeyCode::End | KeyCode::Char('G') => self.select(usize::MAX),
            KeyCode::Right | KeyCode::Char('l') => {
                self.first_column = (self.first_column + 1).min(COLUMNS.len() - 1);
            }
            KeyCode::Left | KeyCode::Char('h') => self.first_column = self.first_column.saturating_sub(1),
            KeyCode::Char('[') => self.reorder(false),
            KeyCode::Char(']') => self.reorder(true),
            KeyCode::Enter => match self.lines.get(self.at).and_then(|line| line.step.clone()) {
                Some(step) => {
                    self.place.steps.push(step);
                    self.arrive(None);
                }
                None => return Then::Nothing,
            },
            KeyCode::Esc => return self.out(),
            _ => return Then::Nothing,
        }
        Then::Draw
    }

    /// One step out: of the zoom, of the filter, of threads and ports.
    fn out(&mut self) -> Then {
        if let Some(step) = self.place.steps.pop() {
            use super::table::Step::{Port, Stage, Thread};
            let (Stage(label) | Port(_, label) | Thread(label)) = step;
            self.arrive(Some(label));
        } else if self.filter.take().is_some() {
            self.arrange();
        } else if self.place.base != Base::Stages {
            self.turn(self.place.base);
        } else {
            return Then::Nothing;
        }
        Then::Draw
    }

    /// A filter is for the table that it was typed at.
    fn arrive(&mut self, selected: Option<String>) {
        (self.filter, self.selected, self.at) = (None, selected, 0);
        self.arrange();
    }

    /// To that base, or from it back to the stages.
    fn turn(&mut self, base: Base) {
        let there = self.place.base == base;
        self.place = Place { base: if there { Base::Stages } else { base }, steps: Vec::new() };
        self.arrive(None);
    }

    fn reset(&mut self) {
        (self.zero, self.previous) = (self.latest.clone(), self.latest.clone());
        self.shown = None;
        self.arrange();
        if let Some(view) = &mut self.flame {
            view.graph = Graph::of(Vec::<(Vec<&str>, u64)>::new());
        }
    }

    /// The next sort column to the left or right; behind the last comes the label's.
    fn reorder(&mut self, right: bool) {
        let mut keys: Vec<Key> = COLUMNS.iter().map(|column| column.order).collect();
        // cyc/f has the order of own/f.
        let mut seen = Vec::new();
        keys.retain(|key| {
            !seen.contains(key) && {
                seen.push(*key);
                true
            }
        });
        keys.push(Key::Stage);
        let at = keys.iter().position(|key| *key == self.order).unwrap_or(0);
        let step = if right { 1 } else { keys.len() - 1 };
        self.order = keys[(at + step) % keys.len()];
        self.arrange();
    }

    fn typed(&mut self, key: KeyEvent) -> Then {
        let Some(prompt) = &mut self.prompt else { return Then::Nothing };
        match prompt.key(key) {
            Typed::More => {}
            Typed::Cancelled => self.prompt = None,
            Typed::Done => {
                let filter = Filter::of(&prompt.text);
                self.prompt = None;
                match &mut self.flame {
                    Some(view) => view.search = filter,
                    None => self.filter = filter,
                }
                self.arrange();
            }
        }
        Then::Draw
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::snapshot;
    use super::*;

    /// After two snapshots: everything doubled in the second.
    fn app() -> App {
        let first = snapshot();
        let mut app = App::new("unix:/x".into(), first.clone());
        assert_eq!(app.news(News::Snapshot(Box::new(times(&first, 2)))), Then::Draw);
        app
    }

    fn times(first: &Snapshot, factor: u64) -> Snapshot {
        let mut now = first.clone();
        now.elapsed_ns *= factor;
        now.cells
            .iter_mut()
            .for_each(|cell| (cell.ns, cell.frames) = (cell.ns * factor, cell.frames * factor));
        now.threads.iter_mut().for_each(|thread| {
            (thread.cpu_ns, thread.staged_cpu_ns) = (thread.cpu_ns * factor, thread.staged_cpu_ns * factor);
        });
        now
    }

    fn press(app: &mut App, keys: &str) {
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                c => KeyCode::Char(c),
            };
            app.key(code.into());
        }
    }

    fn labels(app: &App) -> Vec<&str> {
        app.lines.iter().map(|line| line.label.as_str()).collect()
    }

    #[test]
    fn zooming_in_and_out_comes_back_to_the_line() {
        let mut app = app();
        press(&mut app, "jj");
        let label = app.lines[2].label.clone();
        press(&mut app, "\n\n");
        assert_eq!(app.place.steps.len(), 2);
        press(&mut app, "\n");
        assert_eq!(app.place.steps.len(), 2, "a size is the end");
        press(&mut app, "\x1b\x1b");
        assert_eq!((app.place.steps.len(), &app.lines[app.selected()].label), (0, &label));
        press(&mut app, "p\n");
        assert_eq!(app.place.text(), "ports > 1 vms (tap)");
        press(&mut app, "t");
        assert_eq!((app.place.text(), labels(&app)), ("threads".into(), vec!["data-0", "data-1"]));
        press(&mut app, "t");
        assert_eq!(app.place.text(), "stages");
    }

    #[test]
    fn the_selection_follows_its_line() {
        let mut app = app();
        press(&mut app, "j");
        let label = app.lines[1].label.clone();
        press(&mut app, "[[");
        assert_eq!((app.order, &app.lines[app.selected()].label), (Key::Frames, &label));
        press(&mut app, "[");
        assert_eq!((app.order, app.lines[0].label.as_str()), (Key::Stage, "rx.tap.read"));
        press(&mut app, "]]]");
        assert_eq!(app.order, Key::Own);
    }

    #[test]
    fn a_filter_is_typed_applied_and_cancelled() {
        let mut app = app();
        press(&mut app, "/tapq\x1b");
        assert!(app.filter.is_none() && app.prompt.is_none() && app.lines.len() > 2);
        press(&mut app, "/tap\n");
        assert_eq!(labels(&app), ["tx.tap.write", "rx.tap.read"]);
        press(&mut app, "\x1b");
        assert!(app.filter.is_none() && app.lines.len() > 2);
        assert_eq!(app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Then::Quit);
        assert_eq!(app.key(KeyCode::Char('q').into()), Then::Quit);
    }

    #[test]
    fn intervals_pause_and_this_viewer_s_zero() {
        let first = snapshot();
        let mut app = app();
        let own = |app: &App| app.lines[0].row.own_ns;
        assert_eq!(own(&app), 400);
        app.news(News::Snapshot(Box::new(times(&first, 5))));
        assert_eq!(own(&app), 1200);
        press(&mut app, "c");
        assert_eq!((own(&app), app.since_zero_ns()), (1600, 4_000_000_000));
        press(&mut app, " ");
        app.news(News::Snapshot(Box::new(times(&first, 6))));
        assert_eq!(own(&app), 1600);
        press(&mut app, " ");
        assert_eq!(own(&app), 2000);
        press(&mut app, "r");
        assert!(app.lines.is_empty() && app.since_zero_ns() == 0);
        app.news(News::Snapshot(Box::new(times(&first, 7))));
        assert_eq!(own(&app), 400);
    }

    #[test]
    fn a_daemon_that_dies_and_comes_back() {
        let first = snapshot();
        let mut app = app();
        app.news(News::Snapshot(Box::new(times(&first, 9))));
        assert_eq!(app.news(News::Trouble("gone".into())), Then::Draw);
        assert_eq!(app.news(News::Trouble("gone".into())), Then::Nothing, "nothing new to draw");
        assert!(app.trouble.is_some() && !app.lines.is_empty(), "the last figures stay");
        app.news(News::Snapshot(Box::new(first)));
        assert!(app.trouble.is_none());
        assert_eq!((app.lines[0].row.own_ns, app.since_zero_ns()), (400, 1_000_000_000));
        assert_eq!(app.news(News::Fatal("no".into())), Then::Fail("no".into()));
    }

    #[test]
    fn the_flame_is_of_the_same_figures() {
        let mut app = app();
        press(&mut app, "p\nF");
        assert_eq!(app.flame.as_ref().unwrap().graph.node(0).total, 600);
        press(&mut app, "/tap\n");
        assert!(app.filter.is_none() && app.flame.as_ref().unwrap().search.is_some());
        app.news(News::Snapshot(Box::new(times(&snapshot(), 4))));
        assert_eq!(app.flame.as_ref().unwrap().graph.node(0).total, 1200);
        press(&mut app, "\x1b\x1b");
        assert!(app.flame.is_none());
        assert_eq!(app.place.text(), "ports > 1 vms (tap)");
    }
}
