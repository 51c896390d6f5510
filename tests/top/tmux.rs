//! A terminal with a shell in it, on a tmux server of its own that ends with this.

use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::fake::Dir;

pub struct Tmux {
    dir: Dir,
}

/// How long something may take on a busy machine.
const BOUND: Duration = Duration::from_secs(30);
/// At the shell, before and after.
const PROMPT: &str = "ready$";

impl Tmux {
    /// `None`: there is no tmux.
    pub fn start(width: u16, height: u16) -> Option<Self> {
        Command::new("tmux").arg("-V").output().ok()?;
        let tmux = Self { dir: Dir::new() };
        let (width, height) = (width.to_string(), height.to_string());
        let shell = format!("PS1='{PROMPT} ' exec sh -i");
        tmux.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, &shell]);
        tmux.until("a shell", |text| text.contains(PROMPT));
        Some(tmux)
    }

    pub fn run(&self, line: &str) {
        self.literal("clear");
        self.key("Enter");
        // So that the line is not echoed before its prompt.
        self.until("a clear screen", |text| text == PROMPT);
        self.literal(line);
        self.key("Enter");
    }

    /// By tmux's name for it.
    pub fn key(&self, name: &str) {
        self.tmux(&["send-keys", name]);
    }

    pub fn literal(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    /// To what the shell runs.
    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args(["-s", signal, &self.child()]).status().unwrap().success());
    }

    /// The process that the shell runs.
    pub fn child(&self) -> String {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        children.split_whitespace().next().expect("the shell runs something").to_owned()
    }

    pub fn resize(&self, width: u16, height: u16) {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// What is to be seen, without empty lines at its end.
    pub fn screen(&self) -> String {
        let text = self.tmux(&["capture-pane", "-p"]);
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// All numbers of the SGR sequences that the screen is made of.
    pub fn escapes(&self) -> Vec<u32> {
        let text = self.tmux(&["capture-pane", "-p", "-e"]);
        let sequences = text.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m'));
        sequences
            .flat_map(|(codes, _)| codes.split([';', ':']).filter_map(|code| code.parse().ok()))
            .collect()
    }

    /// The screen, as soon as it is as expected.
    pub fn until(&self, what: &str, expected: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let screen = self.screen();
            if expected(&screen) {
                return screen;
            }
            assert!(began.elapsed() < BOUND, "never seen: {what}; the screen is\n{screen}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// At the shell again, on the page and in the mode that it was left in.
    pub fn until_restored(&self) {
        self.until("the prompt", |text| text.lines().last() == Some(PROMPT));
        let state = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        assert_eq!(state.trim(), "0 1", "the other page is left, the cursor is shown");
        self.literal("stty -a | tr ' ;' '\\n\\n' | grep -xE -- '-?(icanon|echo|isig)' | tr '\\n' ' '");
        self.key("Enter");
        self.until("lines and echo", |text| text.contains("isig icanon echo "));
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn output(&self, args: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        // Its socket lies in our directory: nobody else's server is seen.
        command.env("TMUX_TMPDIR", &self.dir.0).env_remove("TMUX").env_remove("NO_COLOR");
        command.args(["-u", "-L", "top"]).args(args).output().expect("tmux")
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.output(&["kill-server"]);
    }
}
