//! `etherctl capture`: frames as ports let them in, send or drop them; a line each, or a pcapng file.
//!
//! The filter is libpcap's language. tcpdump compiles it here, and the switch gets the program.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use etherws::control::api::MacAddr;
use etherws::control::api::PortRef;
use etherws::control::api::seeing::{
    Captured, NOTIFICATION, Packet, SNAPLEN, SUBSCRIBE, SubscribeCapture, Way,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use crate::Wrong;
use crate::cli::{port, span};
use crate::client::{Failure, io_text};
use crate::pcapng::CaptureFile;
use crate::prof::places::time_of_day;
use crate::server::Server;
use crate::subscription::Subscription;
use crate::table::escaped;

#[derive(Args, Debug)]
pub struct CaptureArgs {
    /// At this port only: number or name.
    #[arg(long, value_name = "PORT", value_parser = port)]
    port: Option<PortRef>,
    /// Frames that match, in libpcap's language (pcap-filter(7)): "arp or host 192.0.2.1".
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,
    /// Write pcapng to this file, or to standard output (-), instead of a line for each frame.
    #[arg(short = 'w', long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Bytes of a frame at most.
    #[arg(long, value_name = "BYTES", default_value_t = SNAPLEN, value_parser = clap::value_parser!(u32).range(14..=i64::from(SNAPLEN)))]
    snaplen: u32,
    /// End after so many frames.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time: 10s, 5m, 1h.
    #[arg(long = "for", value_name = "TIME", value_parser = span)]
    time: Option<Duration>,
}

/// Goes on until it is interrupted, as the arguments say, or until nobody reads.
pub async fn run(mut server: Server, args: &CaptureArgs, json: bool) -> Result<(), Wrong> {
    let to_stdout = args.write.as_deref() == Some(Path::new("-"));
    if json && args.write.is_some() {
        return Err(Wrong::Usage("pcapng is no JSON: leave --json or --write out".into()));
    }
    if to_stdout && io::stdout().is_terminal() {
        return Err(Wrong::Usage("a terminal cannot show pcapng: -w FILE, or -w - | tshark -r -".into()));
    }
    let filter = args.filter.as_deref().map(compile).transpose()?;
    let wanted = SubscribeCapture { port: args.port.clone(), filter, snaplen: Some(args.snaplen) };
    let mut subscribed = subscribe(&server, &wanted).await;
    if let Err(Failure::Unauthorized(_)) = subscribed
        && server.may_prompt()
    {
        server.prompt()?;
        subscribed = subscribe(&server, &wanted).await;
    }
    let mut subscription = subscribed.map_err(|failure| failure.to_string())?;
    let mut sink = Sink::open(args.write.as_deref(), json)?;
    let mut names = Names::default();
    let mut ends = Ends::new(args.time)?;
    let (mut count, mut lost) = (0, 0);
    say("capturing, ^C ends it");
    let (mut end, mut last) = (None, pin!(sleep(LAST)));
    let outcome = loop {
        let captured = tokio::select! {
            captured = subscription.next() => captured,
            () = ends.come(), if end.is_none() => {
                // The switch looks after what it has captured in turns: some of it is still to come.
                end = Some(unix_ns());
                last.as_mut().reset(Instant::now() + LAST);
                continue;
            }
            () = &mut last, if end.is_some() => break Ok(()),
        };
        let captured = captured.and_then(|value| {
            serde_json::from_value::<Captured>(value).map_err(|e| format!("unexpected notification: {e}"))
        });
        let captured = match captured {
            Ok(captured) => captured,
            Err(why) => break Err(format!("the switch at {} is gone: {why}", server.url)),
        };
        lost = captured.lost;
        names.learn(&captured);
        let left = args.count.map_or(usize::MAX, |most| (most - count) as usize);
        let packets = &captured.packets[..captured.packets.len().min(left)];
        if !sink.write(&names, packets)? {
            break Ok(());
        }
        count += packets.len() as u64;
        let is_last = end.is_some_and(|end| packets.last().is_none_or(|packet| packet.unix_ns > end));
        if is_last || args.count == Some(count) {
            break Ok(());
        }
    };
    sink.end(lost)?;
    let lost = if lost == 0 { String::new() } else { format!(", {lost} lost: there was no room for them") };
    say(&format!("{count} {}{lost}", if count == 1 { "frame" } else { "frames" }));
    Ok(outcome?)
}

async fn subscribe(server: &Server, wanted: &SubscribeCapture) -> Result<Subscription, Failure> {
    Subscription::open(server, (SUBSCRIBE, NOTIFICATION), wanted, "to capture frames").await
}

/// The program of a filter, by tcpdump.
fn compile(filter: &str) -> Result<Vec<[u32; 4]>, Wrong> {
    // Where a user's PATH may not look.
    let output = ["tcpdump", "/usr/sbin/tcpdump", "/usr/bin/tcpdump"].into_iter().find_map(|tcpdump| {
        let mut command = Command::new(tcpdump);
        command.args(["-ddd", "-y", "EN10MB", "-s", &SNAPLEN.to_string(), "--", filter]);
        match command.stdin(Stdio::null()).env("LC_ALL", "C").output() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            output => Some(output),
        }
    });
    let missing = || "--filter needs tcpdump, which compiles it: apt-get install tcpdump".to_owned();
    let output =
        output.ok_or_else(missing)?.map_err(|e| format!("could not run tcpdump: {}", io_text(&e)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or("").trim_start_matches("tcpdump: ");
        let (filter, said) = (escaped(filter), escaped(said));
        return Err(Wrong::Usage(format!("--filter {filter:?}: {said}; man pcap-filter has the language")));
    }
    program(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| Wrong::Failure("tcpdump printed something else than a program".into()))
}

/// How many instructions, then one a line.
fn program(text: &str) -> Option<Vec<[u32; 4]>> {
    let mut lines = text.lines();
    let count: usize = lines.next()?.trim().parse().ok()?;
    let instruction = |line: &str| {
        let words: Vec<u32> = line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
        words.try_into().ok()
    };
    let program: Vec<_> = lines.map(instruction).collect::<Option<_>>()?;
    (program.len() == count).then_some(program)
}

/// What the ports are called.
#[derive(Default)]
struct Names(Vec<(u32, String, String)>);

impl Names {
    fn learn(&mut self, captured: &Captured) {
        self.0
            .extend(captured.ports.iter().map(|port| (port.port, escaped(&port.name), escaped(&port.kind))));
    }

    fn of(&self, port: u32) -> (&str, &str) {
        let known = self.0.iter().rev().find(|known| known.0 == port);
        known.map_or(("gone", "port"), |(_, name, kind)| (name, kind))
    }
}

/// Now, in nanoseconds since 1970.
fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// When it is to end.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
    deadline: Option<Instant>,
}

impl Ends {
    fn new(time: Option<Duration>) -> Result<Self, String> {
        let on = |kind| signal(kind).map_err(|e| format!("could not listen for signals: {e}"));
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            deadline: time.map(|time| Instant::now() + time),
        })
    }

    async fn come(&mut self) {
        let deadline = self.deadline;
        let late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = late => {}
        }
    }
}

/// Where frames go.
enum Sink {
    Lines,
    Json,
    File(CaptureFile<Box<dyn Write>>, String),
}

impl Sink {
    fn open(write: Option<&Path>, json: bool) -> Result<Self, String> {
        let Some(path) = write else { return Ok(if json { Self::Json } else { Self::Lines }) };
        let shown = path.display().to_string();
        let out: Box<dyn Write> = match path == Path::new("-") {
            true => Box::new(BufWriter::new(io::stdout())),
            false => Box::new(BufWriter::new(File::create(path).map_err(|e| unwritten(&shown, &e))?)),
        };
        let file = CaptureFile::new(out).map_err(|e| unwritten(&shown, &e))?;
        Ok(Self::File(file, shown))
    }

    /// `false`: nobody reads any more.
    fn write(&mut self, names: &Names, packets: &[Packet]) -> Result<bool, String> {
        let done = match self {
            Self::Lines => lines(packets, |packet, data| line(packet, data, names.of(packet.port).0)),
            Self::Json => lines(packets, |packet, _| serde_json::to_string(packet).unwrap_or_default()),
            Self::File(file, _) => packets
                .iter()
                .try_for_each(|packet| {
                    let (name, kind) = names.of(packet.port);
                    file.interface(packet.port, name, kind)?;
                    file.packet(packet, &data_of(packet), &comment(packet, name))
                })
                .and_then(|()| file.flush()),
        };
        self.judge(done)
    }

    fn end(&mut self, lost: u64) -> Result<(), String> {
        let done = match self {
            Self::File(file, _) => file.end(lost),
            _ => Ok(()),
        };
        self.judge(done).map(|_| ())
    }

    /// A reader that went away (`-w - | head`) is no failure.
    fn judge(&self, done: io::Result<()>) -> Result<bool, String> {
        let shown = if let Self::File(_, shown) = self { shown } else { "-" };
        match done {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(unwritten(shown, &e)),
        }
    }
}

fn unwritten(shown: &str, error: &io::Error) -> String {
    format!("could not write {}: {}", escaped(shown), io_text(error))
}

fn lines(packets: &[Packet], text: impl Fn(&Packet, &[u8]) -> String) -> io::Result<()> {
    let mut out = io::stdout().lock();
    packets.iter().try_for_each(|packet| writeln!(out, "{}", text(packet, &data_of(packet))))?;
    out.flush()
}

fn data_of(packet: &Packet) -> Vec<u8> {
    BASE64_STANDARD.decode(&packet.data).unwrap_or_default()
}

/// `10:20:30.123456 in 1 (tap0) 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff 0x0806, 60 bytes`
fn line(packet: &Packet, data: &[u8], name: &str) -> String {
    let mac = |at: usize| {
        let octets = data.get(at..at + 6).and_then(|octets| octets.try_into().ok());
        octets.map_or("-".to_owned(), |octets| MacAddr::new(octets).to_string())
    };
    let kind = data.get(12..14).map_or(String::new(), |kind| format!(" 0x{:02x}{:02x}", kind[0], kind[1]));
    let (time, way) = (time_of_day(packet.unix_ns), way(packet));
    let what = format!("{} > {}{kind}, {} bytes{}", mac(6), mac(0), packet.len, details(packet));
    format!("{time} {way} {} ({name}) {what}", packet.port)
}

fn comment(packet: &Packet, name: &str) -> String {
    format!("{} at port {} ({name}){}", way(packet), packet.port, details(packet))
}

fn way(packet: &Packet) -> &'static str {
    match packet.way {
        Way::In => "in",
        Way::Out => "out",
    }
}

fn details(packet: &Packet) -> String {
    let mut text = match (packet.gso_size, packet.frames) {
        (Some(size), frames) => {
            format!(", super-frame: gso size {size}, {} frames", frames.unwrap_or(1))
        }
        (None, Some(frames)) => format!(", {frames} frames"),
        (None, None) => String::new(),
    };
    if let Some(reason) = &packet.drop {
        text.push_str(&format!(", dropped: {}", escaped(reason)));
    }
    text
}

/// What was captured before the end may come so long after it. The switch looks every 50 ms.
const LAST: Duration = Duration::from_millis(500);

fn say(text: &str) {
    // Nowhere is left to say that stderr is gone.
    let _ = writeln!(io::stderr(), "etherctl: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tcpdump_prints_is_a_program() {
        assert_eq!(program("2\n40 0 0 12\n6 0 0 262144\n"), Some(vec![[40, 0, 0, 12], [6, 0, 0, 262_144]]));
        for wrong in ["", "1\n", "1\n6 0 0\n", "x\n6 0 0 0\n", "2\n6 0 0 0\n", "1\n6 0 0 -1\n"] {
            assert_eq!(program(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_frame_is_a_line_and_a_comment() {
        let packet = Packet {
            unix_ns: 1_000_000,
            port: 2,
            way: Way::In,
            len: 65_000,
            data: String::new(),
            drop: Some("storm-broadcast".into()),
            gso_size: Some(1448),
            frames: Some(45),
        };
        let details = "super-frame: gso size 1448, 45 frames, dropped: storm-broadcast";
        assert_eq!(comment(&packet, "vms"), format!("in at port 2 (vms), {details}"));
        let data = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6]].concat();
        assert_eq!(
            line(&packet, &data, "vms"),
            format!(
                "00:00:00.001000 in 2 (vms) 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff 0x0806, 65000 bytes, {details}"
            )
        );
        assert!(line(&packet, &[1, 2], "vms").contains("- > -, 65000 bytes"));
    }
}
