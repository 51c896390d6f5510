//! A door on loopback with its links in the test's hands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etherws::control::http::{
    ControlSettings, ControlTcp, Door, DoorSettings, Limits, ListenSettings, TlsFiles,
};
use etherws::port::Incoming;
use jsonrpsee::RpcModule;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

pub type Test = Result<(), Box<dyn std::error::Error>>;

/// A directory of its own for each test, removed at the end.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("etherws-door-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary directory");
        Self(dir)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("temporary file");
        path
    }

    pub fn settings(&self) -> DoorSettings {
        DoorSettings {
            listen: Some(ListenSettings {
                host: Some("127.0.0.1".to_owned()),
                port: Some(0),
                ..ListenSettings::default()
            }),
            control: ControlSettings { sock: self.0.join("ctl.sock"), tcp: None },
            metrics: None,
            users: Vec::new(),
            limits: Limits::default(),
        }
    }

    pub fn with_control(&self, tcp: ControlTcp) -> DoorSettings {
        let tcp = Some(ControlTcp { port: 0, ..tcp });
        DoorSettings { control: ControlSettings { sock: self.0.join("ctl.sock"), tcp }, ..self.settings() }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A door with its links.
pub struct Running {
    pub door: Arc<Door>,
    pub links: UnboundedReceiver<Incoming>,
}

impl Running {
    pub async fn start(settings: DoorSettings) -> Result<Self, String> {
        Self::with_inherited(settings, Vec::new()).await
    }

    pub async fn with_inherited(
        settings: DoorSettings,
        inherited: Vec<std::net::TcpListener>,
    ) -> Result<Self, String> {
        let door = Door::open(settings, inherited).await?;
        let (sender, links) = unbounded_channel();
        let mut module = RpcModule::new(());
        module
            .register_method("echo", |params, (), _| params.parse::<serde_json::Value>())
            .map_err(|e| e.to_string())?;
        module
            .register_method("boom", |_, (), _| -> u8 { panic!("a method's fault") })
            .map_err(|e| e.to_string())?;
        let on_link = Arc::new(move |link| {
            let _ = sender.send(link);
        });
        door.serve_with(on_link, module.into());
        Ok(Self { door, links })
    }

    /// Done when the sockets are closed.
    pub async fn stop(self, dir: &Dir) -> Test {
        drop(self.door);
        let gone = async {
            while dir.0.join("ctl.sock").exists() {
                tokio::task::yield_now().await;
            }
        };
        Ok(timeout(Duration::from_secs(5), gone).await?)
    }

    pub fn address(&self, role: &str) -> std::net::SocketAddr {
        let found = self.door.local_addrs().into_iter().find(|(name, _)| *name == role);
        found.expect("a listener of that role").1
    }

    pub async fn data(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = TcpStream::connect(self.address("data")).await.expect("connect");
        exchange(&mut stream, request.as_ref()).await
    }

    pub async fn control(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = TcpStream::connect(self.address("control")).await.expect("connect");
        exchange(&mut stream, request.as_ref()).await
    }

    pub async fn unix(&self, dir: &Dir, request: impl AsRef<[u8]>) -> String {
        let mut stream = UnixStream::connect(dir.0.join("ctl.sock")).await.expect("connect");
        exchange(&mut stream, request.as_ref()).await
    }
}

/// Sends and reads to the end; an end by reset counts, a door left open does not.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &[u8]) -> String {
    let mut reply = Vec::new();
    let _ = stream.write_all(request).await;
    let ended = timeout(Duration::from_secs(30), stream.read_to_end(&mut reply)).await;
    assert!(ended.is_ok(), "left open after {:?}", String::from_utf8_lossy(&reply));
    String::from_utf8_lossy(&reply).into_owned()
}

pub fn status(reply: &str) -> u16 {
    reply.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// A handshake with further header lines, each ended.
pub fn handshake(more: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: sw.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

pub fn post(body: &str, more: &str) -> String {
    format!(
        "POST /ctl HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n{body}",
        body.len()
    )
}

pub const JSON: &str = "Content-Type: application/json\r\n";
pub const ECHO: &str = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":{"x":"pong"}}"#;

/// Basic credentials of `alice`, `sesame open`.
pub const ALICE: &str = "Authorization: Basic YWxpY2U6c2VzYW1lIG9wZW4=\r\n";
pub const HTPASSWD: &str = "alice:{SHA}udxrLVIvrjOzqwtjo2u0x3ZBNcU=\n";

/// Whether a handshake is answered by 101.
pub async fn opens(running: &Running, request: &str) -> Result<bool, Box<dyn std::error::Error>> {
    let mut stream = TcpStream::connect(running.address("data")).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    timeout(Duration::from_secs(5), stream.read_exact(&mut head)).await??;
    Ok(head.ends_with(b"101"))
}

pub type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

pub fn certificate(dir: &Dir, name: &str) -> Result<(TlsFiles, Identity), Box<dyn std::error::Error>> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()])?;
    let cert = dir.file(&format!("{name}.pem"), &made.cert.pem());
    let key = dir.file(&format!("{name}.key"), &made.signing_key.serialize_pem());
    let der = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    Ok((TlsFiles { cert, key, client_ca: None }, (made.cert.der().clone(), der)))
}

pub fn with_tls(mut settings: DoorSettings, files: TlsFiles) -> DoorSettings {
    if let Some(listen) = &mut settings.listen {
        listen.tls = Some(files);
    }
    settings
}
