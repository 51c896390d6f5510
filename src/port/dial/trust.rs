//! Whom a wss:// link trusts, and TLS itself.
//!
//! A certificate in `cacerts` that equals the server's own is a pin: people make such ones with
//! `openssl req -x509`, and webpki refuses them as `CaUsedAsEndEntity`, for they are their own authority.
//! Of a pinned certificate the dates, the name (its CN when it has no SAN) and the handshake's signature
//! are still checked. Any other must chain to a certificate in `cacerts`, or to the system's roots when
//! there is no `cacerts`. `insecure` checks nothing.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

use super::{DialError, Target, files};

/// A configuration for one dial, and where it leaves why it refused a certificate.
#[derive(Clone)]
pub(super) struct Trust {
    config: Arc<ClientConfig>,
    verifier: Arc<Verifier>,
}

/// Reads the certificates and the key that the options name, or the system's roots. Blocks on the disk.
/// The error names the file, never what is in it.
pub(super) fn client_config(target: &Target) -> Result<Trust, String> {
    let options = &target.options;
    let provider = Arc::new(provider());
    let (mut roots, mut pins) = (RootCertStore::empty(), Vec::new());
    match &options.cacerts {
        _ if options.insecure => {}
        Some(source) => {
            pins = certificates("CA certificates", source)?;
            // One that cannot be an authority may still be a pin.
            roots.add_parsable_certificates(pins.iter().cloned());
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let verifier = Arc::new(Verifier {
        roots,
        pins,
        insecure: options.insecure,
        own_authorities: options.cacerts.is_some(),
        provider: provider.clone(),
        refusal: Mutex::new(None),
    });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone());
    let mut config = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates("client certificate", cert)?;
            let (pem, name) = files::pem("client key", key)?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| format!("no private key in {name}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|_| {
                format!("{name} is of no supported kind or does not fit the client certificate")
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Trust { config: Arc::new(config), verifier })
}

/// The TLS handshake over a connected stream; the error says which rule failed.
pub(super) async fn handshake<T>(trust: &Trust, target: &Target, stream: T) -> Result<TlsStream<T>, DialError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let to = target.authority();
    let name = ServerName::try_from(target.host.clone())
        .map_err(|_| DialError::Tls { to: to.clone(), reason: "the host is no name for TLS".to_owned() })?;
    TlsConnector::from(trust.config.clone()).connect(name, stream).await.map_err(|error| {
        let refusal = trust.verifier.refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
        DialError::Tls { to, reason: refusal.unwrap_or_else(|| explained(&error)) }
    })
}

/// A TLS failure that reached us as an I/O error, in words.
pub(super) fn explained(error: &io::Error) -> String {
    use rustls::{AlertDescription as Alert, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidMessage(_)) => "the peer does not speak TLS (is it a ws:// service?)".to_owned(),
        Some(Error::AlertReceived(Alert::CertificateRequired)) => {
            "the server wants a client certificate (--cert, --key)".to_owned()
        }
        Some(Error::AlertReceived(alert)) => format!("the server refused with the alert {alert:?}"),
        Some(error) => error.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "the peer closed the connection".to_owned(),
        None => super::plain(error),
    }
}

/// aws-lc-rs with AES-128-GCM first: every machine that this runs on has AES in hardware, and 256-bit keys
/// cost a third more.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    provider
}

/// At least one certificate of a PEM file or text.
fn certificates(what: &str, source: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let (pem, name) = files::pem(what, source)?;
    // The parser's own error shows the line: not for a file that may be anything.
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|_| format!("{name}: damaged PEM"))?;
    if found.is_empty() {
        return Err(format!("no certificate in {name}"));
    }
    if found.iter().any(|der| X509Certificate::from_der(der).is_err()) {
        return Err(format!("{name}: damaged certificate"));
    }
    Ok(found)
}

struct Verifier {
    roots: RootCertStore,
    pins: Vec<CertificateDer<'static>>,
    insecure: bool,
    /// `roots` are from `cacerts`, not the system's.
    own_authorities: bool,
    provider: Arc<CryptoProvider>,
    /// Why the last certificate was refused.
    refusal: Mutex<Option<String>>,
}

impl Verifier {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if self.pins.iter().any(|pin| pin == leaf) {
            return check_pinned(leaf, name, now);
        }
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        verify_server_name(&parsed, name)
    }

    /// The rule that failed, with what helps to mend it.
    fn explain(&self, error: &rustls::Error, leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> String {
        use CertificateError as E;
        let certificate = X509Certificate::from_der(leaf).ok().map(|(_, certificate)| certificate);
        let rustls::Error::InvalidCertificate(error) = error else { return error.to_string() };
        match error {
            E::ExpiredContext { not_after, .. } => format!("certificate expired on {}", date(*not_after)),
            E::NotValidYetContext { not_before, .. } => {
                format!(
                    "certificate is not valid before {} (is this machine's clock right?)",
                    date(*not_before)
                )
            }
            E::NotValidForName | E::NotValidForNameContext { .. } => {
                let names = certificate.as_ref().map(names).unwrap_or_default();
                format!("certificate is not for {:?} but for {}", name.to_str(), names.join(", "))
            }
            E::UnknownIssuer | E::Other(_) | E::BadSignature | E::InvalidPurposeContext { .. } => {
                let own = certificate.as_ref().is_some_and(|c| c.subject().as_raw() == c.issuer().as_raw());
                let rule = match error {
                    _ if own => "certificate is signed by itself and not known".to_owned(),
                    E::UnknownIssuer => "certificate is of an unknown issuer".to_owned(),
                    E::Other(other) => format!("certificate refused: {other}"),
                    other => format!("certificate refused: {other:?}"),
                };
                let hint = match self.own_authorities {
                    true => "it is neither in --cacerts nor issued by one that is",
                    false => "--cacerts FILE names it or its authority",
                };
                format!("{rule} ({hint})")
            }
            other => format!("certificate refused: {other:?}"),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.insecure {
            return Ok(ServerCertVerified::assertion());
        }
        match self.check(leaf, intermediates, name, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(error) => {
                let text = self.explain(&error, leaf, name);
                *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.insecure {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        if ParsedCertificate::try_from(leaf).is_ok() {
            return verify_tls12_signature(message, leaf, signed, algorithms);
        }
        // A pin that webpki cannot parse: X.509 version 1, as `openssl x509 -req -signkey` makes them.
        let key = public_key(leaf)?;
        let key = webpki::RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
        let candidates = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
        let valid = candidates
            .flat_map(|(_, algorithms)| algorithms.iter())
            .any(|algorithm| key.verify_signature(*algorithm, message, signed.signature()).is_ok());
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.insecure {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        if ParsedCertificate::try_from(leaf).is_ok() {
            return verify_tls13_signature(message, leaf, signed, algorithms);
        }
        verify_tls13_signature_with_raw_key(message, &public_key(leaf)?, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("insecure", &self.insecure).finish_non_exhaustive()
    }
}

/// Dates and name of a certificate that is trusted as itself.
fn check_pinned(
    leaf: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if seconds < validity.not_before.timestamp() {
        let not_before = unix_time(validity.not_before);
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if seconds > validity.not_after.timestamp() {
        let not_after = unix_time(validity.not_after);
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    if !matches!(certificate.subject_alternative_name(), Ok(None)) {
        return verify_server_name(&ParsedCertificate::try_from(leaf)?, name);
    }
    let wanted = name.to_str();
    let matches = certificate
        .subject()
        .iter_common_name()
        .filter_map(|cn| cn.as_str().ok())
        .any(|cn| common_name_matches(cn, name, &wanted));
    if matches { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
}

/// A CN for a host: an address by value, a name ignoring case, `*.` for exactly one label (RFC 6125 6.4.3).
fn common_name_matches(cn: &str, name: &ServerName<'_>, wanted: &str) -> bool {
    if let ServerName::IpAddress(_) = name {
        return ServerName::try_from(cn).is_ok_and(|cn| cn == *name);
    }
    let wanted = wanted.trim_end_matches('.');
    if let Some(parent) = cn.strip_prefix("*.") {
        return parent.contains('.')
            && wanted.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent));
    }
    cn.eq_ignore_ascii_case(wanted)
}

fn public_key(leaf: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, rustls::Error> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    Ok(SubjectPublicKeyInfoDer::from(certificate.public_key().raw.to_vec()))
}

/// What a certificate says it is for: its SANs, otherwise its CN; a peer's text, so quoted and bounded.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut all = Vec::new();
    if let Ok(Some(san)) = certificate.subject_alternative_name() {
        for name in &san.value.general_names {
            match name {
                GeneralName::DNSName(name) => all.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    all.extend(
                        four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                            .map(|ip| ip.to_string()),
                    );
                }
                _ => {}
            }
        }
    } else {
        all.extend(
            certificate.subject().iter_common_name().filter_map(|cn| cn.as_str().ok()).map(str::to_owned),
        );
    }
    let more = all.len() > 8;
    let mut shown: Vec<String> =
        all.iter().take(8).map(|name| format!("{:?}", name.chars().take(64).collect::<String>())).collect();
    if shown.is_empty() {
        shown.push("no name".to_owned());
    }
    if more {
        shown.push("...".to_owned());
    }
    shown
}

fn unix_time(time: ASN1Time) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)))
}

/// A date as people read it: `Nov 21 22:11:58 2026 +00:00`.
fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    ASN1Time::from_timestamp(seconds).map_or_else(|_| "an unknown date".to_owned(), |date| date.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names() {
        let table = [
            ("host", "host", true),
            ("HOST.example", "host.EXAMPLE", true),
            ("host.example", "host", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.com", "example.com", false),
            ("*", "host", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("*.0.0.1", "10.0.0.1", false),
            ("2001:DB8::0:1", "2001:db8::1", true),
        ];
        for (cn, host, expected) in table {
            let name = ServerName::try_from(host).unwrap();
            assert_eq!(common_name_matches(cn, &name, &name.to_str()), expected, "{cn} for {host}");
        }
    }

    #[test]
    fn bad_57_a_file_without_certificates_is_named_and_not_shown() {
        let secret = std::env::temp_dir().join(format!("etherws-shadow-{}", std::process::id()));
        std::fs::write(&secret, "root:$6$hunter2:19000:0:99999:7:::\n-----BEGIN hunter2\n").unwrap();
        let error = certificates("CA certificates", secret.to_str().unwrap()).unwrap_err();
        std::fs::remove_file(&secret).unwrap();
        assert!(error.contains("etherws-shadow-") && !error.contains("hunter2"), "{error}");
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = certificates("CA certificates", damaged).unwrap_err();
        assert!(error.contains("damaged certificate"), "{error}");
    }

    #[test]
    fn aes_128_is_offered_first() {
        assert_eq!(provider().cipher_suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
}
