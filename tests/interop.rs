//! Independent peers: tokio-tungstenite, Python's websockets and Node's ws in both roles, servers that do
//! not understand our offer, and clients of the classic dialect with their habits.

mod lab;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use lab::frames::{BROADCAST, Wire, frame, mac, payload};
use lab::switch::TwoHosts;
use lab::{Host, Process, SOON, Switch, block_on, inside, sh, wait_until, ws};
use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{self, Message};

const PYTHON: &str = "/usr/bin/python3";

/// A switch on B with a TAP, and a wire on that.
fn listener(hosts: &TwoHosts) -> (Switch<'_>, Wire, String) {
    let b = Switch::start(&hosts.b, &[]);
    b.ctl_ok(&["addport", "tap", "t0"]);
    let wire = Wire::open(&hosts.b, "t0");
    (b, wire, format!("{}:80", hosts.link.b))
}

#[test]
fn tungstenite_as_client() {
    let hosts = TwoHosts::new();
    let (_b, wire, addr) = listener(&hosts);
    let stream = hosts.a.connect(&addr).expect("connect");
    stream.set_nonblocking(true).expect("nonblocking");
    block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream).expect("stream");
        let (mut ws, answer) =
            tokio_tungstenite::client_async(format!("ws://{addr}/"), stream).await.expect("handshake");
        assert!(answer.headers().get("sec-websocket-extensions").is_none());
        for len in [46, 200, 1500] {
            let sent = frame(BROADCAST, mac(1), &[(0x8100, 3)], &payload(len - 4));
            ws.send(Message::binary(sent.clone())).await.expect("send");
            assert!(wire.receives(&sent, SOON));
            let back = frame(mac(1), mac(2), &[], &payload(len));
            wire.send(&back);
            assert_eq!(next_binary(&mut ws, &back).await, back);
        }
        ws.send(Message::Ping("are you there".into())).await.expect("ping");
        ws.send(Message::text("ping:4711")).await.expect("text");
        let mut answers = Vec::new();
        while answers.len() < 2 {
            match ws.next().await.expect("open").expect("message") {
                Message::Pong(data) => answers.push(String::from_utf8_lossy(&data).into_owned()),
                Message::Text(text) => answers.push(text.to_string()),
                _ => {}
            }
        }
        assert_eq!(answers, ["are you there", "pong:4711"]);
        ws.close(None).await.expect("close");
        while let Some(Ok(_)) = ws.next().await {}
    });
}

#[test]
fn tungstenite_as_server() {
    let hosts = TwoHosts::new();
    let server = hosts.b.listen("0.0.0.0:8000");
    server.set_nonblocking(true).expect("nonblocking");
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    a.ctl_ok(&["addport", "tap", "t0"]);
    let wire = Wire::open(&hosts.a, "t0");
    a.ctl_ok(&["addport", "client", &format!("ws://{}:8000/some/path", hosts.link.b), "--name", "link"]);
    block_on(async {
        let server = tokio::net::TcpListener::from_std(server).expect("listener");
        let (stream, _) = server.accept().await.expect("accept");
        let mut ws = tokio_tungstenite::accept_async(stream).await.expect("handshake");
        for len in [46, 300, 1500] {
            let sent = frame(BROADCAST, mac(1), &[], &payload(len));
            ws.send(Message::binary(sent.clone())).await.expect("send");
            assert!(wire.receives(&sent, SOON));
            let back = frame(mac(1), mac(2), &[(0x88a8, 9)], &payload(len - 4));
            wire.send(&back);
            assert_eq!(next_binary(&mut ws, &back).await, back);
        }
        // A fragmented message is put together again.
        use tokio_tungstenite::tungstenite::protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        };
        let sent = frame(BROADCAST, mac(1), &[], &payload(400));
        for (opcode, range, fin) in [
            (Data::Binary, 0..100, false),
            (Data::Continue, 100..101, false),
            (Data::Continue, 101..414, true),
        ] {
            let part = Frame::message(sent[range].to_vec(), OpCode::Data(opcode), fin);
            ws.send(Message::Frame(part)).await.expect("fragment");
        }
        assert!(wire.receives(&sent, SOON));
    });
    a.wait_reason("link", &["clos", "reset", "end", "eof", "refused"]);
}

/// The next binary message that is `wanted`; the kernel's own chatter on the TAP comes between.
async fn next_binary<S>(ws: &mut S, wanted: &[u8]) -> Vec<u8>
where
    S: StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        let Message::Binary(data) = ws.next().await.expect("open").expect("message") else { continue };
        if data.len() == wanted.len() && data[12..] == wanted[12..] {
            return data.to_vec();
        }
    }
}

const PYTHON_PEER: &str = r#"
import asyncio, sys, websockets
role, where, want, give = sys.argv[1:5]
want, give, known = bytes.fromhex(want), bytes.fromhex(give), sys.argv[5:] or None
done = asyncio.Event()
async def talk(ws, path=None):
    print("open", ws.subprotocol, ws.extensions if hasattr(ws, "extensions") else "", flush=True)
    await ws.send(give)
    async for message in ws:
        if message == want:
            print("got it", flush=True)
            await ws.ping()
            done.set()
            return
async def main():
    if role == "client":
        async with websockets.connect(where, subprotocols=known) as ws:
            await talk(ws)
    else:
        async with websockets.serve(talk, "0.0.0.0", int(where), subprotocols=known):
            print("listening", flush=True)
            await done.wait()
asyncio.run(asyncio.wait_for(main(), 40))
"#;

/// As the Python peer; a server with default options, which takes the first subprotocol offered.
const NODE_PEER: &str = r#"
const { WebSocket, WebSocketServer } = require("ws");
const [role, where, want, give, ...known] = process.argv.slice(2);
setTimeout(() => process.exit(1), 40000);
function talk(ws) {
    console.log("open", ws.protocol || "None");
    ws.send(Buffer.from(give, "hex"));
    ws.on("message", (data) => {
        if (data.toString("hex") !== want) return;
        console.log("got it");
        ws.on("close", () => process.exit(0));
        ws.close();
    });
}
if (role === "client") {
    const ws = new WebSocket(where, known);
    ws.on("open", () => talk(ws));
} else {
    const server = new WebSocketServer({ host: "0.0.0.0", port: Number(where) });
    server.on("listening", () => console.log("listening"));
    server.on("connection", talk);
}
"#;

/// A program that runs a peer's script.
struct Peer {
    command: &'static [&'static str],
    script: &'static str,
}

const PYTHON_WEBSOCKETS: Peer = Peer { command: &[PYTHON], script: PYTHON_PEER };
const NODE_WS: Peer = Peer { command: NODE, script: NODE_PEER };
/// Debian's modules, for a Node.js of others' making too.
const NODE: &[&str] = &["env", "NODE_PATH=/usr/share/nodejs:/usr/lib/nodejs", "node"];

impl Peer {
    fn run(&self, host: &Host, arguments: &[&str]) -> Process {
        let script = host.file("peer", self.script);
        host.spawn("peer", &[self.command, &[&script], arguments].concat())
    }

    /// The peer dials us and offers `known`; it must see `chosen`.
    fn as_client(&self, known: &[&str], chosen: &str) {
        let hosts = TwoHosts::new();
        let (_b, wire, addr) = listener(&hosts);
        let (want, give) = (filler(1), filler(2));
        let arguments = ["client", &format!("ws://{addr}/"), &hex(&want), &hex(&give)];
        let mut peer = self.run(&hosts.a, &[&arguments, known].concat());
        assert!(wire.receives(&give, SOON), "{}", peer.log());
        wait_until("the peer has the frame", SOON, || {
            wire.send(&want);
            peer.log().contains("got it")
        });
        assert!(peer.log().contains(&format!("open {chosen}")), "{}", peer.log());
        assert_eq!(peer.wait(SOON), 0, "{}", peer.log());
    }

    /// We dial the peer, which knows `known`; it must have chosen `chosen`, and the link is classic.
    fn as_server(&self, known: &[&str], chosen: &str) {
        let hosts = TwoHosts::new();
        let (want, give) = (filler(1), filler(2));
        let arguments = ["server", "8000", &hex(&want), &hex(&give)];
        let mut peer = self.run(&hosts.b, &[&arguments, known].concat());
        wait_until("the peer listens", SOON, || peer.log().contains("listening"));
        let a = Switch::start(&hosts.a, &["--no-listen"]);
        a.ctl_ok(&["addport", "tap", "t0"]);
        let wire = Wire::open(&hosts.a, "t0");
        a.ctl_ok(&["addport", "client", &format!("ws://{}:8000/", hosts.link.b), "--name", "link"]);
        assert!(wire.receives(&give, SOON), "{}", peer.log());
        assert_eq!(a.port("link")["offload"], Value::Null, "{}", peer.log());
        wait_until("the peer has the frame", SOON, || {
            wire.send(&want);
            peer.log().contains("got it")
        });
        assert!(peer.log().contains(&format!("open {chosen}")), "{}", peer.log());
        assert_eq!(peer.wait(SOON), 0, "{}", peer.log());
    }
}

#[test]
fn python_websockets_as_client() {
    PYTHON_WEBSOCKETS.as_client(&[], "None");
    PYTHON_WEBSOCKETS.as_client(&["binary", "etherws.eth1"], "etherws.eth1");
}

#[test]
fn python_websockets_as_server() {
    PYTHON_WEBSOCKETS.as_server(&[], "None");
    PYTHON_WEBSOCKETS.as_server(&["etherws.eth1"], "etherws.eth1");
}

#[test]
fn node_ws_as_client() {
    if has_node_ws("node_ws_as_client") {
        NODE_WS.as_client(&[], "None");
        NODE_WS.as_client(&["etherws.eth1"], "etherws.eth1");
    }
}

/// It chooses the first of what we offer, whatever that is: so that must be what it speaks.
#[test]
fn node_ws_as_server_echoes_our_first_offer_and_gets_a_classic_link() {
    if has_node_ws("node_ws_as_server") {
        NODE_WS.as_server(&[], "etherws.eth1");
    }
}

fn has_node_ws(test: &str) -> bool {
    let found = Host::new().run(&[NODE, &["-e", "require('ws')"]].concat());
    if !found.status.success() {
        use std::io::Write;
        // Past the harness, which swallows the output of tests that pass.
        let text = format!("SKIPPED {test}: no Node.js with ws (apt-get install nodejs node-ws)\n");
        std::io::stderr().write_all(text.as_bytes()).expect("stderr");
    }
    found.status.success()
}

/// A server that answers 400 to any offer, and takes who comes without one.
#[test]
fn a_server_that_refuses_offers_gets_a_classic_link_at_once() {
    let hosts = TwoHosts::new();
    let server = hosts.b.listen("0.0.0.0:8000");
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    a.ctl_ok(&["addport", "tap", "t0"]);
    let wire = Wire::open(&hosts.a, "t0");
    a.ctl_ok(&["addport", "client", &format!("ws://{}:8000/", hosts.link.b), "--name", "link"]);
    // tungstenite's callback wants this type by value.
    #[allow(clippy::result_large_err)]
    let averse = |request: &Request, answer: Response| match request.headers().get("sec-websocket-protocol") {
        Some(_) => Err(http::Response::builder().status(400).body(None).expect("an answer")),
        None => Ok(answer),
    };
    let (first, _) = server.accept().expect("accept");
    assert!(tungstenite::accept_hdr(first, averse).is_err(), "the offer comes first");
    let (second, _) = server.accept().expect("accept");
    let mut ws = tungstenite::accept_hdr(second, averse).expect("no offer");
    let (sent, back) = (filler(1), filler(2));
    ws.send(Message::binary(sent.clone())).expect("send");
    assert!(wire.receives(&sent, SOON));
    wire.send(&back);
    while ws.read().expect("message") != Message::binary(back.clone()) {}
    let link = a.port("link");
    assert_eq!((&link["connects"], &link["offload"]), (&Value::from(1), &Value::Null), "{link}");
}

/// A broadcast of 914 bytes from station `n`.
fn filler(n: u32) -> Vec<u8> {
    frame(BROADCAST, mac(n), &[], &payload(900))
}

/// vpn-ws: no Sec-WebSocket-Version, a key of ten bytes, PINGs never answered.
#[test]
fn a_vpn_ws_client_is_let_in_and_its_silence_forgiven() {
    let hosts = TwoHosts::new();
    let b = Switch::start(&hosts.b, &["--ping", "1"]);
    b.ctl_ok(&["addport", "tap", "t0"]);
    let wire = Wire::open(&hosts.b, "t0");
    let addr = format!("{}:80", hosts.link.b);
    let headers = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: MTIzNDU2Nzg5MA==\r\n\
                   X-vpn-ws-MAC: 02:5e:00:00:00:01\r\n";
    let (answer, mut peer) = ws::get(&hosts.a, &addr, "/", headers);
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert!(peer.wait(ws::PING, SOON).is_some(), "PINGs are sent after a second of silence");
    std::thread::sleep(Duration::from_secs(6));
    let sent = frame(BROADCAST, mac(1), &[], &payload(100));
    peer.send(ws::BINARY, &sent);
    assert!(wire.receives(&sent, SOON), "the link still lives: {:?}", b.entries("listPort"));
}

/// v86: no credentials, a burst of 128 frames at once behind the handshake, browsers offer deflate.
#[test]
fn a_browser_guest_may_burst_at_open() {
    let hosts = TwoHosts::new();
    let (_b, wire, addr) = listener(&hosts);
    let headers = format!(
        "{}Origin: http://{}\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
        ws::UPGRADE,
        hosts.link.b
    );
    let mut request = format!("GET / HTTP/1.1\r\nHost: {addr}\r\n{headers}\r\n").into_bytes();
    let frames: Vec<_> = (0..128).map(|n| frame(BROADCAST, mac(1), &[], &payload(60 + n))).collect();
    frames.iter().for_each(|bytes| request.extend(ws::frame(ws::FIN | ws::BINARY, bytes)));
    use std::io::{Read, Write};
    let mut stream = hosts.a.connect(&addr).expect("connect");
    stream.write_all(&request).expect("send");
    let mut head = [0; 300];
    let n = stream.read(&mut head).expect("answer");
    let head = String::from_utf8_lossy(&head[..n]).to_lowercase();
    assert!(head.contains(" 101 "), "{head}");
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
    let mut got = Vec::new();
    while got.len() < frames.len() {
        let before = got.len();
        got.extend(wire.collect(Duration::from_secs(1)));
        assert!(got.len() > before, "{} of {} frames came", got.len(), frames.len());
    }
    assert!(got == frames, "in order, unchanged, once each");
}

#[test]
fn a_plain_tap_of_another_program_is_joined_by_a_bridge() {
    let host = Host::new();
    let tap = inside(&host, || tun_tap::Iface::without_packet_info("p0", tun_tap::Mode::Tap).expect("TAP"));
    let switch = Switch::start(&host, &["--no-listen"]);
    for name in ["t0", "t1"] {
        switch.ctl_ok(&["addport", "tap", name]);
    }
    host.ok(&["ip", "link", "add", "br0", "type", "bridge"]);
    for name in ["p0", "t0"] {
        host.ok(&["ip", "link", "set", name, "master", "br0"]);
    }
    for name in ["br0", "p0"] {
        host.ok(&["ip", "link", "set", name, "up"]);
    }
    let wire = Wire::open(&host, "t1");
    let sent = frame(BROADCAST, mac(1), &[(0x8100, 12)], &payload(300));
    wait_until("the bridge forwards", SOON, || {
        tap.send(&sent).expect("send");
        wire.receives(&sent, Duration::from_millis(300))
    });
}

/// A capture of our own client shows distinct, non-zero masking keys, as RFC 6455 10.3 wants.
#[test]
fn our_client_masks_each_frame_with_a_key_of_its_own() {
    let hosts = TwoHosts::new();
    let server = hosts.b.listen("0.0.0.0:8000");
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    a.ctl_ok(&["addport", "tap", "t0"]);
    let wire = Wire::open(&hosts.a, "t0");
    a.ctl_ok(&["addport", "client", &format!("ws://{}:8000/", hosts.link.b), "--name", "link"]);
    use std::io::{Read, Write};
    let (mut stream, _) = server.accept().expect("accept");
    stream.set_read_timeout(Some(SOON)).expect("timeout");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("request");
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).expect("ASCII");
    let name = |line: &&str| line.to_lowercase().starts_with("sec-websocket-key:");
    let key = request.lines().find(name).and_then(|line| line.split(' ').nth(1)).expect("key").trim();
    let command =
        format!("printf %s {key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11 | openssl dgst -sha1 -binary | base64");
    let accept = sh(&["sh", "-c", &command]);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept.trim()
    );
    stream.write_all(answer.as_bytes()).expect("answer");
    a.wait_state("link", "up");
    let mut keys = std::collections::HashSet::new();
    for count in 1..=200 {
        wire.send(&frame(BROADCAST, mac(1), &[], &payload(100)));
        let mut head = [0; 2];
        stream.read_exact(&mut head).expect("head");
        assert_eq!(head[1] & 0x80, 0x80, "masked");
        let mut len = u64::from(head[1] & 0x7f);
        if len == 126 {
            let mut more = [0; 2];
            stream.read_exact(&mut more).expect("length");
            len = u64::from(u16::from_be_bytes(more));
        }
        let mut key = [0; 4];
        stream.read_exact(&mut key).expect("key");
        std::io::copy(&mut (&stream).take(len), &mut std::io::sink()).expect("payload");
        assert_ne!(key, [0; 4]);
        keys.insert(key);
        assert_eq!(keys.len(), count, "a key came twice");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
