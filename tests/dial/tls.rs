//! wss://: authorities, pins, names, dates, client certificates, and what TLS read too far.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use etherws::port::LinkOptions;
use etherws::port::dial::{Target, dial_offering};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::*;

/// A certificate chain and its key, as PEM.
#[derive(Clone)]
struct Identity {
    chain: String,
    key: String,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issued(by: &Authority, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Identity { chain: params.signed_by(&key, by).unwrap().pem(), key: key.serialize_pem() }
}

/// What the real openssl makes; `steps` run in a directory of their own and leave `c.pem` and `k.pem`.
fn openssl(name: &str, steps: &[&str]) -> Identity {
    let dir: PathBuf = std::env::temp_dir().join(format!("etherws-openssl-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for step in steps {
        let done = Command::new("openssl").args(step.split(' ')).current_dir(&dir).output().expect("openssl");
        assert!(done.status.success(), "{step}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let read = |file| std::fs::read_to_string(dir.join(file)).unwrap();
    let identity = Identity { chain: read("c.pem"), key: read("k.pem") };
    std::fs::remove_dir_all(&dir).unwrap();
    identity
}

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&rustls::version::TLS12], &[&rustls::version::TLS13]];

struct Server {
    identity: Identity,
    /// PEM of the authority whose client certificates are wanted.
    clients: Option<String>,
    versions: &'static [&'static SupportedProtocolVersion],
    /// Sent with the 101 in one write.
    behind: Vec<u8>,
}

impl Server {
    fn of(identity: &Identity) -> Self {
        let versions = rustls::ALL_VERSIONS;
        Self { identity: identity.clone(), clients: None, versions, behind: Vec::new() }
    }

    /// The SNI, ALPN and request head of each link come out of the channel.
    async fn start(self) -> (SocketAddr, UnboundedReceiver<(Option<String>, Option<Vec<u8>>, String)>) {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(self.versions)
            .unwrap();
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.unwrap())
            }
        };
        let chain =
            CertificateDer::pem_slice_iter(self.identity.chain.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(self.identity.key.as_bytes()).unwrap();
        let mut config = builder.with_cert_resolver(unchecked(chain, key));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (links, seen) = unbounded_channel();
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let head = read_head(&mut stream).await;
                if head.is_empty() {
                    continue;
                }
                let answer = [switching(&head, "").as_bytes(), &self.behind].concat();
                let tls = stream.get_ref().1;
                let facts =
                    (tls.server_name().map(str::to_owned), tls.alpn_protocol().map(<[u8]>::to_vec), head);
                let _ = links.send(facts);
                let _ = stream.write_all(&answer).await;
                let _ = stream.flush().await;
                held.push(stream);
            }
        });
        (address, seen)
    }

    async fn refusal(self, options: &LinkOptions) -> String {
        let (address, _links) = self.start().await;
        refusal(&at(address), options).await
    }

    async fn accepts(self, options: &LinkOptions) {
        let (address, _links) = self.start().await;
        dial(&at(address), options).await.unwrap();
    }
}

fn at(address: SocketAddr) -> String {
    format!("wss://localhost:{}/", address.port())
}

fn trusting(pem: &str) -> LinkOptions {
    LinkOptions { cacerts: Some(pem.to_owned()), ..direct() }
}

#[tokio::test]
async fn a_private_authority_by_text_and_by_path() {
    let ca = authority("ours");
    let leaf = issued(&ca, &["localhost", "127.0.0.1"], |_| {});
    for versions in VERSIONS {
        let (address, mut links) = Server { versions, ..Server::of(&leaf) }.start().await;
        let dialed = dial(&at(address), &trusting(&ca.pem())).await.unwrap();
        assert_eq!(dialed.tls.unwrap().protocol_version(), Some(versions[0].version));
        let (sni, alpn, head) = links.recv().await.unwrap();
        assert_eq!((sni.as_deref(), alpn.as_deref()), (Some("localhost"), Some(&b"http/1.1"[..])));
        assert_eq!(field(&head, "host"), Some(format!("localhost:{}", address.port()).as_str()));
    }
    let path = std::env::temp_dir().join(format!("etherws-dial-ca-{}.pem", std::process::id()));
    std::fs::write(&path, ca.pem()).unwrap();
    let (address, _links) = Server::of(&leaf).start().await;
    let outcome = dial(&format!("wss://{address}"), &trusting(path.to_str().unwrap())).await;
    std::fs::remove_file(&path).unwrap();
    outcome.expect("an address in the certificate");
}

#[tokio::test]
async fn bad_64_each_broken_rule_is_named() {
    let (ca, other) = (authority("ours"), authority("other"));
    let good = issued(&ca, &["localhost"], |_| {});
    let expired = issued(&ca, &["localhost"], |params| params.not_after = date_time_ymd(2024, 3, 1));
    let future = issued(&ca, &["localhost"], |params| params.not_before = date_time_ymd(2200, 3, 1));
    let elsewhere = issued(&ca, &["a.example", "10.9.8.7"], |_| {});
    let table = [
        (&good, trusting(&other.pem()), &["unknown issuer", "--cacerts"][..]),
        (&good, direct(), &["unknown issuer", "--cacerts FILE"]),
        (&expired, trusting(&ca.pem()), &["certificate expired on Mar", "2024"]),
        (&future, trusting(&ca.pem()), &["not valid before Mar", "2200", "clock"]),
        (&elsewhere, trusting(&ca.pem()), &["not for \"localhost\" but for \"a.example\", \"10.9.8.7\""]),
    ];
    for (identity, options, expected) in table {
        let error = Server::of(identity).refusal(&options).await;
        assert!(error.starts_with("TLS with localhost:"), "{error}");
        for part in expected {
            assert!(error.contains(part), "{error:?} should tell {part:?}");
        }
        Server::of(identity).accepts(&LinkOptions { insecure: true, ..direct() }).await;
    }
}

/// The certificates of 1.3's users: their own authority, and webpki's `CaUsedAsEndEntity`.
#[tokio::test]
async fn what_openssl_makes_is_a_pin() {
    let req = "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout k.pem -out c.pem -subj";
    let by_cn = openssl("cn", &[&format!("{req} /CN=localhost")]);
    let by_san = openssl("san", &[&format!("{req} /CN=x -addext subjectAltName=DNS:localhost")]);
    let cn_beside_san =
        openssl("beside", &[&format!("{req} /CN=localhost -addext subjectAltName=DNS:other")]);
    let wrong_cn = openssl("wrong", &[&format!("{req} /CN=other")]);
    let version_1 = openssl(
        "v1",
        &[
            "req -new -newkey rsa:2048 -nodes -keyout k.pem -out r.pem -subj /CN=localhost",
            "x509 -req -in r.pem -signkey k.pem -days 2 -out c.pem",
        ],
    );
    for identity in [&by_cn, &by_san, &version_1] {
        for versions in VERSIONS {
            Server { versions, ..Server::of(identity) }.accepts(&trusting(&identity.chain)).await;
        }
        let error = Server::of(identity).refusal(&direct()).await;
        assert!(error.contains("certificate"), "{error}");
    }
    // The pin among others, in any order.
    let bundle = format!("{}{}{}", authority("x").pem(), by_san.chain, by_cn.chain);
    Server::of(&by_cn).accepts(&trusting(&bundle)).await;
    let error = Server::of(&by_cn).refusal(&trusting(&by_san.chain)).await;
    assert!(error.contains("signed by itself") && error.contains("--cacerts"), "{error}");
    for identity in [&cn_beside_san, &wrong_cn] {
        let error = Server::of(identity).refusal(&trusting(&identity.chain)).await;
        assert!(error.contains("not for \"localhost\" but for \"other\""), "{error}");
    }
}

#[tokio::test]
async fn an_expired_pin_is_refused() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 2);
    let pin = Identity { chain: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() };
    let error = Server::of(&pin).refusal(&trusting(&pin.chain)).await;
    assert!(error.contains("certificate expired on Jan") && error.contains("2020"), "{error}");
}

/// Someone who has copied the pinned certificate but not its key.
#[tokio::test]
async fn a_pin_without_its_key_is_refused() {
    let req = "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout k.pem -out c.pem -subj /CN=localhost";
    let pin = openssl("stolen", &[req]);
    let thief = openssl("thief", &[req]);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from_pem_slice(thief.key.as_bytes()).unwrap();
    let chain = CertificateDer::pem_slice_iter(pin.chain.as_bytes()).map(Result::unwrap).collect();
    let resolver = unchecked(chain, key);
    for versions in VERSIONS {
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move { acceptor.accept(listener.accept().await.unwrap().0).await.map(drop) });
        let error = refusal(&at(address), &trusting(&pin.chain)).await;
        assert!(error.starts_with("TLS with localhost:") && error.contains("BadSignature"), "{error}");
    }
}

/// rustls starts no server whose key does not fit or whose certificate is of version 1; others do.
fn unchecked(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Arc<Unchecked> {
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    Arc::new(Unchecked(Arc::new(rustls::sign::CertifiedKey::new(chain, signer))))
}

#[derive(Debug)]
struct Unchecked(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for Unchecked {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[tokio::test]
async fn client_certificates() {
    let (ca, clients) = (authority("ours"), authority("clients"));
    let leaf = issued(&ca, &["localhost"], |_| {});
    let client = issued(&clients, &["me"], |_| {});
    let stranger = issued(&authority("strangers"), &["me"], |_| {});
    let with = |identity: &Identity| LinkOptions {
        cert: Some(identity.chain.clone()),
        key: Some(identity.key.clone().into()),
        ..trusting(&ca.pem())
    };
    let wants = |versions| Server { clients: Some(clients.pem()), versions, ..Server::of(&leaf) };
    for versions in VERSIONS {
        wants(versions).accepts(&with(&client)).await;
        let error = wants(versions).refusal(&with(&stranger)).await;
        assert!(error.contains("the server refused with the alert"), "{error}");
        let error = wants(versions).refusal(&trusting(&ca.pem())).await;
        assert!(error.contains("client certificate") || error.contains("alert"), "{error}");
    }
    let mixed = LinkOptions { key: Some(stranger.key.clone().into()), ..with(&client) };
    let error = refusal("wss://localhost:1", &mixed).await;
    assert!(error.contains("does not fit the client certificate"), "{error}");
}

#[tokio::test]
async fn bytes_behind_the_101_are_kept_in_tls_too() {
    let ca = authority("ours");
    let behind: Vec<u8> = (0..100_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    for size in [1, 200, 20_000, 100_000] {
        let server =
            Server { behind: behind[..size].to_vec(), ..Server::of(&issued(&ca, &["localhost"], |_| {})) };
        let (address, _links) = server.start().await;
        let dialed = dial(&at(address), &trusting(&ca.pem())).await.unwrap();
        let early = dialed.early.to_vec();
        assert!(early.len() <= size);
        let stream = dialed.stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(AMPLE)).unwrap();
        let mut link = rustls::StreamOwned::new(dialed.tls.unwrap(), stream);
        let all = tokio::task::spawn_blocking(move || {
            let mut all = early;
            let start = all.len();
            all.resize(size, 0);
            link.read_exact(&mut all[start..]).unwrap();
            link.write_all(b"back").unwrap();
            all
        });
        assert!(all.await.unwrap() == behind[..size], "{size} bytes");
    }
}

#[tokio::test]
async fn a_peer_without_tls_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream.shutdown().await
    });
    let error = refusal(&format!("wss://{plain}"), &direct()).await;
    assert!(error.contains("does not speak TLS"), "{error}");
}

#[tokio::test]
async fn bad_57_a_file_that_holds_no_certificate() {
    let secret = std::env::temp_dir().join(format!("etherws-dial-shadow-{}", std::process::id()));
    std::fs::write(&secret, "root:$6$hunter2$hash:19000:0:99999:7:::\n").unwrap();
    let options = trusting(secret.to_str().unwrap());
    let error = refusal("wss://localhost:1", &options).await;
    assert_eq!(error, format!("no certificate in CA certificates {}", secret.display()));
    let target = Target::parse("wss://localhost:1", &options).unwrap();
    assert_eq!(target.check_files().unwrap_err(), error);
    std::fs::remove_file(&secret).unwrap();
    let error = dial_offering(&target, &[], AMPLE).await.unwrap_err().to_string();
    assert!(error.contains("etherws-dial-shadow-") && error.contains("no such file"), "{error}");
}
