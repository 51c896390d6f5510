//! The same over TCP and TLS, and where etherctl looks when nobody tells it.

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use crate::{Asked, Dir, Ran, answer, etherctl, old_port, result, run};

/// Runs etherctl against TCP, TLS when there is a configuration; `None` when nothing was asked.
fn on_tcp(
    tls: Option<Arc<rustls::ServerConfig>>,
    command: impl FnOnce(SocketAddr) -> Ran,
) -> (Option<Asked>, Ran) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let reply = result(json!({"entries": [old_port()]}));
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (stream, _) = listener.accept().unwrap();
            match tls {
                None => Some(answer(stream, "200 OK", &reply)),
                Some(config) => {
                    let tls = rustls::ServerConnection::new(config).unwrap();
                    let mut stream = rustls::StreamOwned::new(tls, stream);
                    stream.conn.complete_io(&mut stream.sock).ok()?;
                    // A client that does not like the certificate says so after the handshake.
                    (!stream.fill_buf().ok()?.is_empty()).then(|| answer(stream, "200 OK", &reply))
                }
            }
        });
        let ran = command(addr);
        (server.join().unwrap(), ran)
    })
}

#[test]
fn on_tcp_host_path_and_credentials_are_sent() {
    let mut url = String::new();
    let (asked, ran) = on_tcp(None, |addr| {
        url = format!("http://{addr}/a/b?c=d");
        etherctl(&["--ctlurl", &url, "--ctluser", "u", "--ctlpasswd", "p:w", "listport"])
    });
    let asked = asked.unwrap();
    assert_eq!((ran.code, asked.line.as_str()), (0, "POST /a/b?c=d HTTP/1.1"), "{}", ran.err);
    assert_eq!(asked.header("authorization"), Some("Basic dTpwOnc="));
    assert!(url.contains(asked.header("host").unwrap()));
}

/// Each with a hint at what is the matter.
#[test]
fn a_wrong_scheme_and_a_wrong_password_are_told() {
    let refusing = |scheme: &str, answer: &'static [u8], args: &[&str]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}/ctl", listener.local_addr().unwrap());
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]);
                stream.write_all(answer).unwrap();
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            });
            let ran = etherctl(&[&["--ctlurl", &url], args, &["listport"]].concat());
            assert_eq!(ran.code, 1, "{}", ran.err);
            ran.err
        })
    };
    let alert = b"\x15\x03\x03\x00\x02\x02\x46";
    assert!(refusing("http", alert, &[]).contains("not HTTP (is it https:// there?)"));
    let plain = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    assert!(refusing("https", plain, &[]).contains("does not speak TLS (is it http:// there?)"));
    let login = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    assert!(
        refusing("http", login, &["--ctluser", "u", "--ctlpasswd", "p"])
            .contains("does not take this user and password")
    );
}

#[test]
fn the_local_token_and_the_default_socket_are_found() {
    let dir = Dir::new();
    std::fs::set_permissions(&dir.0, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir(dir.join("etherws")).unwrap();
    let token = "0123456789abcdef".repeat(4);
    dir.write("etherws/ctl.sock.token", &format!("{token}\n"));
    // Root's place is elsewhere, and not for a test to write to.
    let program = dir.join("etherctl");
    std::fs::copy(env!("CARGO_BIN_EXE_etherctl"), &program).unwrap();
    let user = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).env("XDG_RUNTIME_DIR", &dir.0).current_dir("/");
        if nix::unistd::geteuid().is_root() {
            command.uid(65534);
        }
        run(&mut command)
    };
    let (asked, ran) = on_tcp(None, |addr| user(&["listport", "--ctlurl", &format!("http://{addr}/ctl")]));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(asked.unwrap().header("authorization"), Some(format!("Bearer {token}").as_str()));

    let path = dir.join("etherws/ctl.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let reply = result(json!({"entries": []}));
    thread::scope(|scope| {
        let server = scope.spawn(|| answer(listener.accept().unwrap().0, "200 OK", &reply));
        let ran = user(&["listport"]);
        let _ = std::os::unix::net::UnixStream::connect(&path);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_eq!(server.join().unwrap().header("authorization"), None, "the socket's mode is its guard");
    });
}

/// A certificate of its own making, as `openssl req -x509` gives.
fn certificate(name: &str, dir: &Dir) -> (Arc<rustls::ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), dir.write(&format!("{name}.pem"), &made.cert.pem()))
}

#[test]
fn certificates_are_checked_as_a_links_are() {
    let dir = Dir::new();
    let (right, right_file) = certificate("localhost", &dir);
    let (other, other_file) = certificate("other.example", &dir);
    let ask = |config: &Arc<rustls::ServerConfig>, more: &[&str]| {
        on_tcp(Some(config.clone()), |addr| {
            let url = format!("https://localhost:{}/ctl", addr.port());
            etherctl(&[&["listport", "--ctlurl", &url], more].concat())
        })
    };
    let (asked, ran) = ask(&right, &["--ctlsslcert", &right_file]);
    assert_eq!((ran.code, asked.is_some()), (0, true), "a pin: {}", ran.err);
    let (asked, ran) = ask(&other, &["--ctlinsecure"]);
    assert_eq!((ran.code, asked.is_some()), (0, true), "{}", ran.err);
    assert!(ran.err.contains("warning") && ran.err.contains("not checked"), "{}", ran.err);
    for (config, more, words) in [
        (&right, &[][..], &["could not reach https://localhost:", "--ctlsslcert"][..]),
        (&right, &["--ctlsslcert", other_file.as_str()], &["signed by itself"]),
        (&other, &["--ctlsslcert", other_file.as_str()], &["localhost", "other.example"]),
    ] {
        let (asked, ran) = ask(config, more);
        assert!(asked.is_none(), "asked of a server not trusted: {more:?}");
        assert_eq!(ran.code, 1, "{more:?}");
        for word in words {
            assert!(ran.err.contains(word), "{word} is not in {}", ran.err);
        }
    }
}
