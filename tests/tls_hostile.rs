//! TLS as nobody means it: streams cut off, records of one byte, endless key updates, renegotiation. All of it is
//! bounded, and the next guest is served.

mod lab;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use lab::frames::{BROADCAST, Wire, frame, mac, payload};
use lab::servers::Ca;
use lab::switch::TwoHosts;
use lab::ws::{BINARY, CLOSE, FIN, UPGRADE};
use lab::{SOON, Switch, wait_until, ws};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

type Stream = StreamOwned<ClientConnection, TcpStream>;

struct Target<'h> {
    hosts: &'h TwoHosts,
    switch: Switch<'h>,
    wire: Wire,
    config: Arc<ClientConfig>,
}

impl<'h> Target<'h> {
    fn new(hosts: &'h TwoHosts) -> Self {
        let ca = Ca::new("lab");
        let cert = ca.server(&hosts.b, "server", &[&hosts.link.b.to_string()]);
        let switch = Switch::start(&hosts.b, &["--sslcert", &cert.cert, "--sslkey", &cert.key]);
        switch.ctl_ok(&["addport", "tap", "t0"]);
        let wire = Wire::open(&hosts.b, "t0");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("PEM")).expect("root");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { hosts, switch, wire, config: Arc::new(config) }
    }

    fn addr(&self) -> String {
        format!("{}:443", self.hosts.link.b)
    }

    /// A link, by hand.
    fn open(&self) -> Stream {
        let stream = self.hosts.a.connect(&self.addr()).expect("connect");
        let name = ServerName::try_from(self.hosts.link.b.to_string()).expect("name");
        let mut stream =
            StreamOwned::new(ClientConnection::new(self.config.clone(), name).expect("TLS"), stream);
        write!(stream, "GET / HTTP/1.1\r\nHost: {}\r\n{UPGRADE}\r\n", self.addr()).expect("request");
        stream.flush().expect("flush");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("answer");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        stream
    }

    fn links(&self) -> usize {
        self.switch.entries("listPort").iter().filter(|entry| entry["type"] == "server").count()
    }

    #[track_caller]
    fn wait_links(&self, wanted: usize) {
        wait_until(&format!("{wanted} links"), SOON, || self.links() == wanted);
    }

    /// The switch lives and serves the next guest.
    #[track_caller]
    fn lives(&mut self) {
        let sent = frame(BROADCAST, mac(0xfeed), &[], &payload(60));
        let mut stream = self.open();
        stream.write_all(&ws::frame(FIN | BINARY, &sent)).and_then(|()| stream.flush()).expect("send");
        assert!(self.wire.receives(&sent, SOON), "not served any more\n{}", self.switch.process.log());
        assert!(self.switch.process.is_running());
    }
}

#[test]
fn bad_66_a_stream_that_ends_without_close_notify_is_counted() {
    let hosts = TwoHosts::new();
    let target = Target::new(&hosts);
    let open = || {
        let stream = target.open();
        target.wait_links(1);
        stream
    };
    let end = |stream: Stream| {
        stream.sock.shutdown(Shutdown::Write).expect("FIN");
        target.wait_links(0);
        target.switch.drops("tls-truncated")
    };
    assert_eq!(end(open()), 1);
    assert!(target.switch.process.log().contains("without TLS close_notify"));

    let mut polite = open();
    polite.conn.send_close_notify();
    polite.flush().expect("close_notify");
    assert_eq!(end(polite), 1, "a stream that says that it ends is none of those");

    // WebSocket has said already that this is the end.
    let mut closed = open();
    closed.write_all(&ws::frame(FIN | CLOSE, &1000_u16.to_be_bytes())).expect("Close");
    closed.flush().expect("flush");
    closed.sock.shutdown(Shutdown::Write).expect("FIN");
    target.wait_links(0);
    assert_eq!(target.switch.drops("tls-truncated"), 1);

    // Half a record is no end either.
    let half = open();
    (&half.sock).write_all(&[23, 3, 3, 1, 0, 1, 2, 3]).expect("send");
    assert_eq!(end(half), 2);
}

#[test]
fn bad_65_records_of_one_byte_carry_a_frame() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts);
    let mut stream = target.open();
    let sent = frame(BROADCAST, mac(1), &[], &payload(1400));
    for byte in ws::frame(FIN | BINARY, &sent) {
        // Each write is a record, for it is flushed.
        stream.write_all(&[byte]).and_then(|()| stream.flush()).expect("send");
    }
    assert!(target.wire.receives(&sent, SOON));
    target.lives();
}

#[test]
fn bad_65_endless_key_updates_end_the_link() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts);
    // A few, with frames in between, are what the limits of a key ask for.
    let mut stream = target.open();
    for number in 0..50 {
        stream.conn.refresh_traffic_keys().expect("KeyUpdate");
        let sent = frame(BROADCAST, mac(number), &[], &payload(60));
        stream.write_all(&ws::frame(FIN | BINARY, &sent)).and_then(|()| stream.flush()).expect("send");
        assert!(target.wire.receives(&sent, SOON), "behind KeyUpdate {number}");
    }
    // Nothing but them is not.
    let mut sent = 0;
    wait_until("the link has ended", SOON, || {
        let told = stream.conn.refresh_traffic_keys().is_ok() && stream.flush().is_ok();
        sent += usize::from(told);
        !told || sent > 100 && target.links() == 0
    });
    target.wait_links(0);
    let log = target.switch.process.log();
    assert!(log.contains("link ended: the connection broke"), "{log}");
    assert_eq!(target.switch.drops("tls-violation"), 1);
    target.lives();
}

#[test]
fn bad_65_renegotiation_is_refused() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts);
    // s_client takes a line R for the wish to renegotiate, once the handshake is done.
    let script =
        format!("(echo R; sleep 5) | timeout 20 openssl s_client -tls1_2 -connect {} 2>&1", target.addr());
    let said = String::from_utf8_lossy(&hosts.a.run(&["sh", "-c", &script]).stdout).into_owned();
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation"), "{said}");
    assert_eq!(said.matches("Server certificate").count(), 1, "one handshake: {said}");
    target.lives();
}

/// A first record that says it is large, and never comes: no memory of a header's size, no patience beyond the header's.
#[test]
fn bad_10_half_a_client_hello_is_not_waited_for() {
    let hosts = TwoHosts::new();
    let config = {
        let ca = Ca::new("lab");
        let cert = ca.server(&hosts.b, "server", &[&hosts.link.b.to_string()]);
        let text = format!(
            "[listen]\nsslcert = \"{}\"\nsslkey = \"{}\"\n[limits]\nheader_time = 2\n",
            cert.cert, cert.key
        );
        hosts.b.file("etherws.toml", text)
    };
    let switch = Switch::start(&hosts.b, &["--config", &config]);
    let mut stream = hosts.a.connect(&format!("{}:443", hosts.link.b)).expect("connect");
    stream.write_all(&[22, 3, 1, 0x3f, 0xff, 1]).expect("send");
    stream.set_read_timeout(Some(Duration::from_secs(25))).expect("timeout");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("closed, not silent");
    wait_until("it is counted", SOON, || switch.drops("header-time") == 1);
}
