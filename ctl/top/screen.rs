//! The terminal: taken over and always given back, looked at for what it can show, and listened to.

use std::io::{self, IsTerminal, Stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{panic, thread};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, KeyEvent, KeyEventKind};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::style::{Color, Modifier, Style};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a screen's loop waits for.
#[derive(Debug)]
pub enum Event<News> {
    Key(KeyEvent),
    Resized,
    /// A signal that ends programs: its number.
    Ended(i32),
    /// The terminal is no more.
    Gone,
    News(News),
}

/// The error says that there is no terminal, and what to use instead.
pub fn check(instead: &str) -> Result<(), String> {
    match io::stdout().is_terminal() {
        true => Ok(()),
        false => Err(format!("stdout is no terminal ({instead})")),
    }
}

/// The terminal in raw mode and on its other page, until this is dropped; after a panic, too.
pub struct Screen {
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    pub fn open() -> Result<Self, String> {
        let first = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // What went wrong is to be read.
            restore();
            first(info);
        }));
        let open = || {
            TAKEN.store(true, Ordering::Relaxed);
            enable_raw_mode()?;
            execute!(io::stdout(), EnterAlternateScreen)?;
            Terminal::new(CrosstermBackend::new(io::stdout()))
        };
        open().map(|terminal| Self { terminal }).map_err(|e| {
            restore();
            format!("could not take over the terminal: {e}")
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether there is something to give back. Leaving the other page twice would put the cursor back once
/// more, over what has been printed since.
static TAKEN: AtomicBool = AtomicBool::new(false);

fn restore() {
    if TAKEN.swap(false, Ordering::Relaxed) {
        // Nothing is left to do about a terminal that went away.
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    }
}

/// What may be used to draw: everything is readable without any of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    pub colour: bool,
    /// Bold, dim, reverse.
    pub attributes: bool,
}

impl Look {
    /// What is there, unless `--no-color` or <https://no-color.org> forbids.
    pub fn of(no_color: bool) -> Self {
        let of = |name| std::env::var(name).unwrap_or_default();
        Self::decide(no_color || !of("NO_COLOR").is_empty(), &of("TERM"))
    }

    fn decide(no_color: bool, term: &str) -> Self {
        let dumb = matches!(term, "" | "dumb" | "unknown");
        let grey = term.starts_with("vt") || term.ends_with("-m") || term.ends_with("-mono");
        Self { colour: !(no_color || dumb || grey), attributes: !dumb }
    }

    pub fn selected(self) -> Style {
        self.with(Modifier::REVERSED)
    }

    pub fn title(self) -> Style {
        self.with(Modifier::BOLD)
    }

    pub fn dim(self) -> Style {
        self.with(Modifier::DIM)
    }

    pub fn alarm(self) -> Style {
        let style = self.with(Modifier::BOLD);
        if self.colour { style.fg(Color::Red) } else { style }
    }

    /// A box of a flame graph: each part of a frame's way in a colour, its stages in shades of it.
    pub fn flame(self, name: &str) -> Style {
        if !self.colour {
            return Style::new();
        }
        let shade = name.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)) % 3;
        let shades = match name.split('.').next().unwrap_or("") {
            "rx" => [Color::Cyan, Color::LightCyan, Color::LightBlue],
            "sw" => [Color::Green, Color::LightGreen, Color::Green],
            "tx" => [Color::Yellow, Color::LightYellow, Color::LightRed],
            _ => [Color::Gray, Color::White, Color::LightMagenta],
        };
        Style::new().fg(Color::Black).bg(shades[usize::from(shade)])
    }

    fn with(self, modifier: Modifier) -> Style {
        if self.attributes { Style::new().add_modifier(modifier) } else { Style::new() }
    }
}

/// The keyboard being listened to, until this is dropped: what is typed then is the shell's.
pub struct Keyboard {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keyboard {
    /// Sends on what is typed.
    pub fn listen<News: Send + 'static>(to: Sender<Event<News>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let event = match event::poll(PATIENCE).and_then(|some| some.then(event::read).transpose()) {
                    Ok(Some(event::Event::Key(key))) if key.kind != KeyEventKind::Release => Event::Key(key),
                    Ok(Some(event::Event::Resize(..))) => Event::Resized,
                    Ok(_) => continue,
                    Err(_) => Event::Gone,
                };
                let last = matches!(event, Event::Gone);
                if to.send(event).is_err() || last {
                    break;
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return };
        // Behind a terminal that is gone the reader never comes back; the program's end takes it along.
        let end = Instant::now() + 4 * PATIENCE;
        while !thread.is_finished() && Instant::now() < end {
            thread::sleep(PATIENCE / 20);
        }
        if thread.is_finished() {
            // Its panic has said why.
            let _ = thread.join();
        }
    }
}

/// How long a look at the keyboard takes.
const PATIENCE: Duration = Duration::from_millis(100);

/// Signals that end a program, caught from when this is made.
pub struct Endings([(i32, Signal); 3]);

impl Endings {
    /// Within a runtime.
    pub fn caught() -> Result<Self, String> {
        let caught = |kind: SignalKind| io::Result::Ok((kind.as_raw_value(), signal(kind)?));
        let all = || -> io::Result<_> {
            Ok([
                caught(SignalKind::terminate())?,
                caught(SignalKind::hangup())?,
                caught(SignalKind::interrupt())?,
            ])
        };
        Ok(Self(all().map_err(|e| format!("could not catch signals: {e}"))?))
    }

    /// The number of the next one.
    pub async fn next(&mut self) -> i32 {
        let [(term, sigterm), (hup, sighup), (int, sigint)] = &mut self.0;
        tokio::select! {
            _ = sigterm.recv() => *term,
            _ = sighup.recv() => *hup,
            _ = sigint.recv() => *int,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_where_it_is_wanted_and_possible() {
        for (no_color, term, colour, attributes) in [
            (false, "xterm-256color", true, true),
            (false, "linux", true, true),
            (true, "xterm-256color", false, true),
            (false, "vt100", false, true),
            (false, "xterm-mono", false, true),
            (false, "dumb", false, false),
            (false, "", false, false),
        ] {
            assert_eq!(Look::decide(no_color, term), Look { colour, attributes }, "{term}");
        }
        let plain = Look { colour: false, attributes: false };
        for style in [plain.selected(), plain.title(), plain.dim(), plain.alarm(), plain.flame("rx")] {
            assert_eq!(style, Style::new());
        }
    }

    /// The test starts itself once more, in a terminal, where it panics.
    #[test]
    fn a_panic_gives_the_terminal_back() {
        use std::process::Command;
        const IN_TERMINAL: &str = "ETHERCTL_TEST_PANICS";
        if std::env::var_os(IN_TERMINAL).is_some() {
            let mut screen = Screen::open().unwrap();
            screen.terminal.draw(|_| ()).unwrap();
            panic!("as expected");
        }
        let socket = format!("etherctl-panic-{}", std::process::id());
        let tmux =
            |args: &[&str]| Command::new("tmux").env_remove("TMUX").args(["-L", &socket]).args(args).output();
        let this = std::env::current_exe().unwrap();
        let program = format!(
            "{IN_TERMINAL}=1 {} --exact top::screen::tests::a_panic_gives_the_terminal_back --nocapture; \
             stty -a; echo end; exec cat",
            this.display()
        );
        let started = tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "200", "-y", "50", &program]);
        if started.is_err() {
            return eprintln!("skipped: tmux is not there (scripts/install-deps.sh test installs it)");
        }
        let text = |args: &[&str]| String::from_utf8_lossy(&tmux(args).unwrap().stdout).into_owned();
        let began = std::time::Instant::now();
        let mut screen = String::new();
        while !screen.contains("\nend\n") && began.elapsed().as_secs() < 30 {
            thread::sleep(Duration::from_millis(20));
            screen = text(&["capture-pane", "-p", "-S", "-100"]);
        }
        let state = text(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        let _ = tmux(&["kill-server"]);
        assert!(screen.contains("as expected"), "what went wrong is to be read: {screen}");
        assert!(screen.contains(" icanon ") && !screen.contains("-icanon"), "{screen}");
        assert_eq!(state.trim(), "0 1", "{screen}");
    }
}
