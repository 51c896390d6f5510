//! A real switch with two links and frames between them; no privilege is needed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message};

pub struct Real {
    child: Child,
    stop: Arc<AtomicBool>,
    traffic: Vec<JoinHandle<()>>,
}

impl Real {
    /// Control is at the Unix socket `control`.
    pub fn start(control: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etherws"));
        command.args(["sw", "--host", "127.0.0.1", "--port", "0", "--log", "info", "--ctlsock"]).arg(control);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended before it listened");
            if let Some((_, address)) = line.trim().split_once("listening: data ") {
                break address.to_owned();
            }
        };
        let stop = Arc::new(AtomicBool::new(false));
        let mut traffic = vec![thread::spawn(move || drop(log.read_to_end(&mut Vec::new())))];
        for number in [1, 2] {
            let (stop, stream) = (stop.clone(), TcpStream::connect(&address).unwrap());
            traffic.push(thread::spawn(move || talk(stream, number, &stop)));
        }
        Self { child, stop, traffic }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
        for thread in self.traffic.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Broadcasts, and takes what comes, until the end of either.
fn talk(stream: TcpStream, number: u8, stop: &AtomicBool) {
    stream.set_nodelay(true).unwrap();
    let Ok((mut ws, _)) = tungstenite::client("ws://localhost/", stream) else { return };
    ws.get_mut().set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, number, 0x88, 0xb5]);
    frame.resize(200, 0);
    while !stop.load(Ordering::Relaxed) {
        if ws.send(Message::binary(frame.clone())).is_err() {
            return;
        }
        // The processors are for others, too.
        thread::sleep(Duration::from_micros(100));
        match ws.read() {
            Ok(_) => {}
            Err(tungstenite::Error::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// The result of a method without parameters.
pub fn ask(control: &Path, method: &str) -> Value {
    let body =
        json!({"jsonrpc": "2.0", "id": 0, "method": format!("etherws.control.{method}"), "params": {}});
    let body = body.to_string();
    let mut stream = UnixStream::connect(control).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST /ctl HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (_, body) = reply.split_once("\r\n\r\n").unwrap();
    serde_json::from_str::<Value>(body).unwrap()["result"].take()
}
