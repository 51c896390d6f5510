//! `etherctl top`: what frames cost, live. Three threads that wait for nobody but their own source: one
//! polls the switch ([`poll`]), one reads keys ([`screen`]), and the main one draws what came of it.
//!
//! * [`app`]: the state, and what keys and snapshots do to it (pure)
//! * [`table`]: rows, columns, zoom
//! * [`draw`]: the state as text
//! * [`prompt`]: the line being typed
//! * [`poll`]: lease and snapshots
//! * [`screen`]: the terminal

pub mod app;
pub mod draw;
pub mod poll;
pub mod prompt;
pub mod screen;
pub mod table;

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use tokio::sync::oneshot;

use crate::Wrong;
use crate::server::Server;
use app::{App, Then};
use poll::{News, Viewer};
use screen::{Endings, Event, Keyboard, Look, Screen};

#[derive(Args, Debug)]
pub struct TopArgs {
    /// Seconds between looks, 0.1 to 3600.
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub interval: Duration,
    /// Use no colour (nor is any used when NO_COLOR is set).
    #[arg(long)]
    pub no_color: bool,
}

/// Looks until `q`, a signal, or an error that does not pass.
pub fn run(args: &TopArgs, server: Server) -> Result<(), Wrong> {
    screen::check("`etherctl prof show` prints to anything")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("could not start: {e}"))?;
    // Before the screen: a password may have to be asked for.
    let (viewer, first) = runtime.block_on(Viewer::start(server))?;
    let mut app = App::new(viewer.url(), first);
    let endings = runtime.block_on(async { Endings::caught() })?;
    let (to, events) = mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let (interval, sender) = (args.interval, to.clone());
    let mut screen = Screen::open()?;
    let network = thread::spawn(move || {
        let farewell = Farewell(sender.clone());
        runtime.block_on(viewer.run(interval, sender, endings, stopped));
        drop(farewell);
    });
    let keyboard = Keyboard::listen(to);
    let end = watch(&mut app, &mut screen, Look::of(args.no_color), &events);
    // The terminal comes first; giving the lease back may take a moment.
    drop((keyboard, screen));
    let _ = stop.send(());
    match network.join() {
        Ok(()) => end.done(),
        // The panic has said why.
        Err(_) => Err(Wrong::Failure("the connection to the switch broke down".into())),
    }
}

/// The screen does not outlive the network's side, not even its panic.
struct Farewell(Sender<Event<News>>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Gone);
    }
}

/// How a screen ended.
pub enum End {
    Quit,
    Signal(i32),
    Failed(String),
}

impl End {
    /// A signal's end is told as a shell tells it.
    pub fn done(self) -> Result<(), Wrong> {
        match self {
            Self::Quit => Ok(()),
            Self::Signal(number) => std::process::exit(128 + number),
            Self::Failed(why) => Err(why.into()),
        }
    }
}

fn watch(app: &mut App, screen: &mut Screen, look: Look, events: &Receiver<Event<News>>) -> End {
    let mut stale = true;
    loop {
        if stale {
            let drawn = screen.terminal.draw(|frame| {
                let area = frame.area();
                if let Some(cursor) = draw::draw(app, area, look, frame.buffer_mut()) {
                    frame.set_cursor_position(cursor);
                }
            });
            if let Err(e) = drawn {
                return End::Failed(format!("could not draw: {e}"));
            }
            stale = false;
        }
        // What has come meanwhile is drawn once.
        let Ok(first) = events.recv() else { return End::Quit };
        for event in std::iter::once(first).chain(events.try_iter()) {
            let then = match event {
                Event::Key(key) => {
                    if key.code == KeyCode::Char('l') && key.modifiers == KeyModifiers::CONTROL {
                        // A screen that something else wrote on.
                        let _ = screen.terminal.clear();
                    }
                    app.key(key)
                }
                Event::Resized => Then::Draw,
                Event::News(news) => app.news(news),
                Event::Ended(signal) => return End::Signal(signal),
                Event::Gone => return End::Quit,
            };
            match then {
                Then::Nothing => {}
                Then::Draw => stale = true,
                Then::Quit => return End::Quit,
                Then::Fail(why) => return End::Failed(why),
            }
        }
    }
}

/// 0.1 to 3600.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected seconds, 0.1 to 3600".into()),
    }
}
