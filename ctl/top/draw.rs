//! The screen, drawn. It is readable without colour: the selected line begins with `>`, the column that
//! orders the lines has a `*`.

use etherws::prof::snapshot::{Clock, Connections, Snapshot};
use etherws::prof::view::number;
use etherws::prof::view::sort::Column as Key;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;

use super::app::App;
use super::screen::Look;
use super::table::{Column, Line, Of, Step, fitting};
use crate::table::escaped;

/// Draws all of it; where the cursor is to stand, if anywhere.
pub fn draw(app: &mut App, area: Rect, look: Look, buffer: &mut Buffer) -> Option<Position> {
    let mut rest = area;
    let mut line = |text: &str, style: Style, buffer: &mut Buffer| {
        if rest.height > 0 {
            buffer.set_stringn(rest.x, rest.y, text, usize::from(rest.width), style);
            rest = Rect { y: rest.y + 1, height: rest.height - 1, ..rest };
        }
    };
    line(&identity(app), look.title(), buffer);
    line(&totals(app), Style::new(), buffer);
    line(&place(app), look.title(), buffer);
    let (rest, cursor) = foot(app, rest, look, buffer);
    if app.help {
        for (text, y) in HELP.iter().zip(rest.y..rest.bottom()) {
            buffer.set_stringn(rest.x, y, text, usize::from(rest.width), Style::new());
        }
    } else if let Some(view) = &mut app.flame {
        view.draw(rest, look, buffer);
        if app.trouble.is_some() {
            buffer.set_style(rest, look.dim());
        }
    } else {
        table(app, rest, look, buffer);
    }
    cursor
}

/// Who, and how closely it is looked.
fn identity(app: &App) -> String {
    let now = &app.latest;
    let clock = match now.clock {
        Clock::Wall => format!("wall (TSC {} GHz)", number::cost(now.ghz)),
        Clock::Cpu => "cpu".into(),
    };
    // What is long comes last.
    format!(
        "etherws top  level {}  sampled 1/{}  clock {clock}  {} ({})",
        now.level.name(),
        now.sample.max(1),
        escaped(&now.host),
        escaped(&app.url)
    )
}

/// How much, and how busy.
fn totals(app: &App) -> String {
    let zero = number::cost(app.since_zero_ns() as f64 / 1e9);
    let Some(shown) = &app.shown else {
        return format!("measuring; {zero} s since the zero{}", if app.paused { "  PAUSED" } else { "" });
    };
    let seconds = shown.elapsed_ns as f64 / 1e9;
    let sum = |of: fn(&etherws::prof::snapshot::Batches) -> u64| -> f64 {
        shown.batches.iter().map(|batches| of(batches) as f64).sum()
    };
    let rate = |amount: f64| if seconds > 0.0 { number::cost(amount / seconds) } else { "-".into() };
    format!(
        "{} {} s of {zero} s  lost {}  {} kpps  {} Mb/s  busy {} %{}",
        if app.whole { "all" } else { "last" },
        number::cost(seconds),
        number::count(shown.lost),
        rate(sum(|b| b.frames) / 1e3),
        rate(sum(|b| b.bytes) * 8.0 / 1e6),
        busy(shown, None),
        if app.paused { "  PAUSED" } else { "" }
    )
}

/// The share of a thread's time, or all threads', that it had a processor.
fn busy(shown: &Snapshot, thread: Option<&str>) -> String {
    let threads = || shown.threads.iter().filter(|of| thread.is_none_or(|name| name == of.name));
    let cpu: f64 = threads().map(|thread| thread.cpu_ns as f64).sum();
    let time = shown.elapsed_ns as f64 * threads().count() as f64;
    if time > 0.0 { number::percent(100.0 * cpu / time) } else { "-".into() }
}

fn place(app: &App) -> String {
    let mut text = format!("{}  by {}", escaped(&app.place.text()), app.order.title());
    if let Some(filter) = &app.filter {
        text.push_str(&format!("  /{}/", escaped(&filter.text)));
    }
    text
}

/// The line being typed, what is wrong, or the keys; what is left above it.
fn foot(app: &App, area: Rect, look: Look, buffer: &mut Buffer) -> (Rect, Option<Position>) {
    if area.height < 2 {
        return (area, None);
    }
    let width = usize::from(area.width).max(1);
    let (text, style) = match (&app.prompt, &app.trouble) {
        (Some(prompt), _) => (format!("/{}", escaped(&prompt.text)), Style::new()),
        (None, Some(trouble)) => (trouble.clone(), look.alarm()),
        _ if app.help => ("any key ends the help".into(), look.dim()),
        _ if app.flame.is_some() => (
            "arrows move  enter zoom  esc out  / search  F table  space pause  ? help  q quit".into(),
            look.dim(),
        ),
        _ => (
            "arrows move  enter zoom  esc out  [ ] sort  / filter  t p F view  ? help  q quit".into(),
            look.dim(),
        ),
    };
    let characters: Vec<char> = text.chars().collect();
    let mut lines: Vec<String> = characters.chunks(width).map(|line| line.iter().collect()).collect();
    // What is being typed is seen at its end, the rest from its beginning.
    let most =
        if app.trouble.is_some() && app.prompt.is_none() { usize::from(area.height / 2).min(3) } else { 1 };
    if app.prompt.is_some() {
        let tail = characters.len().saturating_sub(width - 1);
        lines = vec![characters[tail..].iter().collect()];
    }
    lines.truncate(most);
    let height = lines.len() as u16;
    let top = area.bottom() - height;
    for (line, y) in lines.iter().zip(top..) {
        buffer.set_stringn(area.x, y, line, width, style);
    }
    let cursor = app.prompt.as_ref().map(|_| {
        let column = lines.last().map_or(0, |line| line.chars().count()).min(width - 1);
        Position { x: area.x + column as u16, y: area.bottom() - 1 }
    });
    (Rect { height: area.height - height, ..area }, cursor)
}

fn table(app: &mut App, area: Rect, look: Look, buffer: &mut Buffer) {
    if area.height == 0 || area.width == 0 {
        return;
    }
    let columns = fitting(app.first_column, app.order, area.width);
    let width = usize::from(area.width);
    buffer.set_stringn(area.x, area.y, header(app, &columns), width, look.title());
    let height = usize::from(area.height - 1);
    app.page = height.saturating_sub(1).max(1);
    if app.lines.is_empty() && height > 0 {
        let text = match (&app.shown, &app.filter) {
            (None, _) => "measuring",
            (_, Some(_)) => "nothing that the filter finds (esc takes it away)",
            _ => "no frames, no time spent",
        };
        buffer.set_stringn(area.x, area.y + 1, text, width, look.dim());
    }
    let ghz = app.latest.ghz;
    // The selected line stays in sight.
    let skip = (app.selected() + 1).saturating_sub(height);
    let shown = app.lines.iter().enumerate().skip(skip).take(height);
    for ((number, line), y) in shown.zip(area.y + 1..) {
        let selected = number == app.selected();
        let mut style = if selected { look.selected() } else { Style::new() };
        if app.trouble.is_some() {
            style = style.patch(look.dim());
        }
        let mut text = figures(line, &columns, ghz, selected);
        // Of a long path, its end tells more.
        let mut label = escaped(&line.label);
        if let Some(connections) = connections(app, line) {
            label.push_str(&format!(" {connections}"));
        }
        let room = width.saturating_sub(text.chars().count());
        match label.chars().count() {
            long if long > room && room > 2 => {
                text.push_str("..");
                text.extend(label.chars().skip(long - (room - 2)));
            }
            _ => text.push_str(&label),
        }
        if let (Of::Thread, Some(shown)) = (app.place.of(), &app.shown) {
            text.push_str(&format!(" (busy {} %)", busy(shown, Some(&line.row.thread))));
        }
        buffer.set_style(Rect { y, height: 1, ..area }, style);
        buffer.set_stringn(area.x, y, text, width, style);
    }
}

/// Of a line for a link of several connections.
fn connections(app: &App, line: &Line) -> Option<Connections> {
    let Some(Step::Port(number, _)) = &line.step else { return None };
    app.shown.as_ref()?.ports.iter().find(|port| port.port == *number)?.connections
}

fn header(app: &App, columns: &[&Column]) -> String {
    let title = |title: &str, sorted: bool| if sorted { format!("*{title}") } else { title.to_owned() };
    let mut text = String::from(" ");
    for column in columns {
        // cyc/f has the order of own/f, and own/f has the mark.
        let sorted = column.order == app.order && column.title != "cyc/f";
        text.push_str(&format!("{:>1$} ", title(column.title, sorted), usize::from(column.width)));
    }
    let label = match app.place.of() {
        Of::Stage => "stage",
        Of::Port => "port",
        Of::Thread => "thread",
        Of::Size => "size",
    };
    text + &title(label, app.order == Key::Stage)
}

/// All but the label.
fn figures(line: &Line, columns: &[&Column], ghz: f64, selected: bool) -> String {
    let mut text = String::from(if selected { ">" } else { " " });
    for column in columns {
        text.push_str(&format!("{:>1$} ", (column.text)(&line.row, ghz), usize::from(column.width)));
    }
    text
}

const HELP: [&str; 20] = [
    "up down j k      move among the lines (PgUp PgDn Home End, too)",
    "left right h l   show columns that are further left or right",
    "enter            zoom into the line: a stage's ports, their sizes of frames",
    "esc              one step out",
    "[ ]              order by the column to the left, to the right (marked *)",
    "space            pause, go on",
    "/                show only what a pattern, or plain text, is found in",
    "r                the zero of this screen is now; nobody else's",
    "c                everything since the zero, or only the last interval",
    "t                threads, and back",
    "p                ports, and back",
    "F                flame graph of the same figures, and back",
    "q, Ctrl-C        quit",
    "",
    "own   the stage alone       deep  with all that stands below it",
    "/f    ns a frame   cyc/f  cycles a frame   ns/B  ns a byte",
    "%     of all processor time, zoomed in or not",
    "wall  time that passes without a processor: it is in no sum",
    "p50 p99 max      ns; of a batch, for what is done once a batch",
    "3/4   behind a link: so many of its connections are up",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyCode;

    use super::super::poll::News;
    use super::super::table::tests::{any_snapshot, snapshot};
    use super::*;

    const PLAIN: Look = Look { colour: false, attributes: false };

    fn screen(app: &mut App, width: u16, height: u16, look: Look) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal
            .draw(|frame| {
                let area = frame.area();
                draw(app, area, look, frame.buffer_mut());
            })
            .unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    fn app() -> App {
        let zero = Snapshot { ghz: 2.0, ..Snapshot::default() };
        let mut app = App::new("unix:/run/x".into(), zero);
        app.news(News::Snapshot(Box::new(snapshot())));
        app
    }

    #[test]
    fn a_small_screen_says_what_matters() {
        let mut app = app();
        let text = screen(&mut app, 80, 24, PLAIN);
        assert_eq!(
            text[0],
            "etherws top  level count  sampled 1/1  clock wall (TSC 2.00 GHz)  here (unix:/ru"
        );
        assert_eq!(text[1], "last 1.00 s of 1.00 s  lost 0  20.0 kpps  16.0 Mb/s  busy 20.00 %");
        assert_eq!(text[2], "stages  by own time");
        assert_eq!(text[3], "    frames    own/f   *own%   deep%     p50     p99 stage");
        assert_eq!(text[4], ">       20     20.0   36.36   36.36       -       - tx.tap.write");
        app.key(KeyCode::Char('t').into());
        assert!(screen(&mut app, 80, 24, PLAIN)[4].ends_with("data-0 (busy 25.00 %)"));
        app.key(KeyCode::Char('/').into());
        app.key(KeyCode::Char('x').into());
        assert_eq!(screen(&mut app, 80, 24, PLAIN)[23], "/x");
    }

    /// Of a link that may have several, and of no other.
    #[test]
    fn a_link_s_connections_stand_behind_it() {
        let mut several = snapshot();
        several.ports[1].connections = Some(Connections { up: 3, of: 4 });
        let mut app = App::new("unix:/run/x".into(), Snapshot::default());
        app.news(News::Snapshot(Box::new(several)));
        app.key(KeyCode::Char('p').into());
        let text = screen(&mut app, 80, 24, PLAIN);
        assert!(text[4].ends_with(" 1 vms (tap)"), "{text:?}");
        assert!(text[5].ends_with(" 2 far (client) 3/4"), "{text:?}");
    }

    #[test]
    fn trouble_is_said_above_the_last_figures() {
        let mut app = app();
        app.news(News::Trouble(
            "the switch at unix:/run/x does not answer: connection refused, retrying".into(),
        ));
        let text = screen(&mut app, 40, 12, PLAIN);
        assert_eq!(text[10], "the switch at unix:/run/x does not answe");
        assert_eq!(text[11], "r: connection refused, retrying");
        assert!(text[4].ends_with("tx.tap.write"), "{text:?}");
    }

    #[test]
    fn nothing_from_the_wire_reaches_the_terminal_raw() {
        let mut evil = snapshot();
        evil.host = "h\x1b[2J".into();
        evil.ports[0].name = "\u{202e}p".into();
        evil.cells[0].path = "a\nb".into();
        let mut app = App::new("unix:/x".into(), Snapshot::default());
        app.news(News::Snapshot(Box::new(evil)));
        for key in ['x', 'p', 'F'] {
            app.key(KeyCode::Char(key).into());
            let text = screen(&mut app, 120, 24, PLAIN).concat();
            assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_snapshot_is_drawn_on_any_screen(
            snapshots in prop::collection::vec(any_snapshot(), 1..4),
            keys in prop::collection::vec(
                prop::sample::select("jkhl[] rctpF/?\nx\x1b.".chars().collect::<Vec<_>>()), 0..25),
            (width, height) in (1..130_u16, 1..40_u16),
            colour in any::<bool>(),
        ) {
            let mut snapshots = snapshots.into_iter();
            let mut app = App::new("unix:/x".into(), snapshots.next().unwrap_or_default());
            let look = Look { colour, attributes: colour };
            for key in keys {
                app.key(match key {
                    '\n' => KeyCode::Enter,
                    '\x1b' => KeyCode::Esc,
                    key => KeyCode::Char(key),
                }.into());
                if let Some(snapshot) = snapshots.next() {
                    app.news(News::Snapshot(Box::new(snapshot)));
                }
                let text = screen(&mut app, width, height, look);
                prop_assert!(!text.concat().chars().any(char::is_control));
            }
        }
    }
}
