//! `etherctl flame`: a flame graph in the terminal, of a file or of two seconds of a running switch.
//!
//! * [`graph`]: the tree and its layout (pure)
//! * [`view`]: on a screen, and what keys do to it
//! * [`read`]: what a graph is made of

pub mod graph;
mod read;
pub mod view;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use clap::Args;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};

use crate::Wrong;
use crate::server::Server;
use crate::table::escaped;
use crate::top::End;
use crate::top::poll::Viewer;
use crate::top::prompt::{Filter, Prompt, Typed};
use crate::top::screen::{Endings, Event, Keyboard, Look, Screen};
use graph::{Graph, Placed};
use view::{Unit, View, level_of};

#[derive(Args, Debug)]
pub struct FlameArgs {
    /// What `prof record` wrote, or pprof, folded or speedscope of anybody; - is stdin [default: look at the
    /// switch for 2 s].
    pub file: Option<PathBuf>,
    /// This port only: number or name.
    #[arg(long)]
    pub port: Option<String>,
    /// Columns to print [default: the terminal's, or 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(10..=10_000))]
    pub width: Option<u16>,
    /// Print it, even on a terminal.
    #[arg(long)]
    pub print: bool,
    /// Use no colour (nor is any used when NO_COLOR is set).
    #[arg(long)]
    pub no_color: bool,
}

/// How long a switch is looked at.
const LIVE: Duration = Duration::from_secs(2);

/// `server` is asked for when there is no file.
pub fn run(args: &FlameArgs, server: impl FnOnce() -> Result<Server, Wrong>) -> Result<(), Wrong> {
    let (graph, unit) = match &args.file {
        Some(file) => read::file(file, args.port.as_deref())?,
        None => (live(server()?, args.port.as_deref())?, Unit::Nanoseconds),
    };
    let look = Look::of(args.no_color);
    // A terminal that cannot move its cursor can still be printed on.
    let terminal = io::stdout().is_terminal() && look.attributes;
    if terminal && !args.print && args.width.is_none() {
        return interact(View::new(graph, unit), look);
    }
    let size =
        || ratatui::crossterm::terminal::size().ok().map(|(width, _)| width).filter(|width| *width >= 10);
    let width = args.width.or_else(|| if terminal { size() } else { None }).unwrap_or(100);
    let look = if terminal { look } else { Look { colour: false, attributes: false } };
    Ok(crate::print(&text(&graph, unit, width, look))?)
}

/// Two seconds under a lease.
fn live(server: Server, port: Option<&str>) -> Result<Graph, Wrong> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("could not start: {e}"))?;
    let (first, then) = runtime.block_on(async {
        let (viewer, first) = Viewer::start(server).await?;
        let mut endings = Endings::caught()?;
        let then = tokio::select! {
            then = viewer.look_again(LIVE) => then,
            signal = endings.next() => {
                viewer.leave().await;
                std::process::exit(128 + signal)
            }
        };
        viewer.leave().await;
        Ok::<_, Wrong>((first, then?))
    })?;
    Ok(read::of_snapshot(&then.since(&first), port)?)
}

/// All levels, from the top down, for a terminal, a file or a pipe.
fn text(graph: &Graph, unit: Unit, width: u16, look: Look) -> String {
    if graph.is_empty() {
        return "nothing has been measured\n".into();
    }
    let mut out = format!("all {}\n", unit.text(graph.node(0).total));
    for level in graph.layout(0, width, usize::MAX) {
        out.push_str(&printed(graph, &level, width, look));
        out.push('\n');
    }
    out
}

/// One row, with the colours that it has.
fn printed(graph: &Graph, level: &[Placed], width: u16, look: Look) -> String {
    let row = Rect::new(0, 0, width, 1);
    let mut buffer = Buffer::empty(row);
    level_of(graph, level, None, None, look, row, &mut buffer);
    let mut out = String::new();
    const BARE: (Color, Color) = (Color::Reset, Color::Reset);
    let mut style = BARE;
    for cell in &buffer.content {
        if (cell.fg, cell.bg) != style {
            style = (cell.fg, cell.bg);
            out.push_str(&if style == BARE { "\x1b[0m".into() } else { sgr(style.0, style.1) });
        }
        out.push_str(cell.symbol());
    }
    if style == BARE {
        out.truncate(out.trim_end().len());
    } else {
        out.push_str("\x1b[0m");
    }
    out
}

/// The escape sequence of a box's colours.
fn sgr(fg: Color, bg: Color) -> String {
    let code = |colour| match colour {
        Color::Black => 0,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Cyan => 6,
        Color::Gray => 7,
        Color::LightRed => 61,
        Color::LightGreen => 62,
        Color::LightYellow => 63,
        Color::LightBlue => 64,
        Color::LightMagenta => 65,
        Color::LightCyan => 66,
        Color::White => 67,
        // The terminal's own.
        _ => 9,
    };
    format!("\x1b[{};{}m", 30 + code(fg), 40 + code(bg))
}

/// The graph on the whole screen, until `q` or a signal.
fn interact(mut view: View, look: Look) -> Result<(), Wrong> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("could not start: {e}"))?;
    let mut endings = runtime.block_on(async { Endings::caught() })?;
    let (to, events) = mpsc::channel::<Event<()>>();
    let mut screen = Screen::open()?;
    let ended = to.clone();
    thread::spawn(move || {
        let signal = runtime.block_on(endings.next());
        let _ = ended.send(Event::Ended(signal));
    });
    let keyboard = Keyboard::listen(to);
    let end = watch(&mut view, &mut screen, look, &events);
    drop((keyboard, screen));
    end.done()
}

fn watch(view: &mut View, screen: &mut Screen, look: Look, events: &Receiver<Event<()>>) -> End {
    let mut prompt: Option<Prompt> = None;
    loop {
        let drawn = screen.terminal.draw(|frame| {
            let area = frame.area();
            let rest = Rect { height: area.height.saturating_sub(1), ..area };
            view.draw(rest, look, frame.buffer_mut());
            let text = match &prompt {
                Some(prompt) => format!("/{}", escaped(&prompt.text)),
                None => "arrows move  enter zoom  esc out  / search  q quit".into(),
            };
            let style = if prompt.is_some() { Style::new() } else { look.dim() };
            frame.buffer_mut().set_stringn(area.x, rest.bottom(), text, usize::from(area.width), style);
        });
        if let Err(e) = drawn {
            return End::Failed(format!("could not draw: {e}"));
        }
        let Ok(event) = events.recv() else { return End::Quit };
        let key = match event {
            Event::Key(key) => key,
            Event::Resized | Event::News(()) => continue,
            Event::Ended(signal) => return End::Signal(signal),
            Event::Gone => return End::Quit,
        };
        if key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL {
            return End::Quit;
        }
        match &mut prompt {
            Some(line) => match line.key(key) {
                Typed::More => {}
                Typed::Cancelled => prompt = None,
                Typed::Done => {
                    view.search = Filter::of(&line.text);
                    prompt = None;
                }
            },
            None if key.code == KeyCode::Char('q') => return End::Quit,
            None if key.code == KeyCode::Char('/') => prompt = Some(Prompt::default()),
            None => {
                view.key(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_printed_with_and_without_colour() {
        let graph = Graph::of([("rx;rx.tap.read".split(';'), 750), ("tx".split(';'), 250)]);
        let plain = Look { colour: false, attributes: false };
        assert_eq!(
            text(&graph, Unit::Nanoseconds, 40, plain),
            "all 1.00 us\n|all 100.00 %\n|rx 75.00 %                   |tx\n|rx.tap.read 75.00 %\n"
        );
        let colour = Look { colour: true, attributes: true };
        let text = text(&graph, Unit::Nanoseconds, 40, colour);
        assert!(text.contains("\x1b[30;106m|rx") || text.contains("\x1b[30;46m|rx"), "{text:?}");
        assert!(text.lines().skip(1).all(|line| line.ends_with("\x1b[0m")), "{text:?}");
    }

    #[test]
    fn every_colour_of_a_box_has_a_code() {
        let look = Look { colour: true, attributes: true };
        for name in
            ["rx", "sw", "tx", "q", "ctl"].iter().flat_map(|a| (0..9).map(move |b| format!("{a}.{b}")))
        {
            let style = look.flame(&name);
            let code = sgr(style.fg.unwrap(), style.bg.unwrap());
            assert!(code.starts_with("\x1b[30;") && !code.ends_with("49m"), "{name}: {code:?}");
        }
    }
}
