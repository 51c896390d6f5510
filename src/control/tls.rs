//! TLS as a server: certificate and key from PEM files, client certificates, versions and ciphers.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};
use zeroize::Zeroizing;

use super::settings::TlsFiles;
use crate::sys::credential::located;
use crate::sys::sandbox::{Want, hint};

/// Reads the files and checks that they belong together. Errors name the file and the rule.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(provider());
    let certificates = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|e| format!("no usable private key in {}: {}", files.key.display(), pem_reason(&e)))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS could not be set up: {e}"))?;
    let builder = match &files.client_ca {
        Some(path) => builder.with_client_cert_verifier(client_verifier(path, Arc::clone(&provider))?),
        None => builder.with_no_client_auth(),
    };
    let certified = certified(certificates, key, &provider).map_err(|e| {
        let (cert, key) = (files.cert.display(), files.key.display());
        match e {
            rustls::Error::InconsistentKeys(_) => {
                format!("the key in {key} does not belong to the certificate in {cert}")
            }
            other => format!("the certificate in {cert} and the key in {key} cannot be used: {other}"),
        }
    })?;
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // AES-128-GCM is first in our list because it is the cheapest per byte; take our order.
    config.ignore_client_order = true;
    Ok(Arc::new(config))
}

/// A chain and its key, once they are known to belong together.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, rustls::Error> {
    let certified = CertifiedKey::new(chain, provider.key_provider.load_private_key(key)?);
    let Err(refusal) = certified.keys_match() else { return Ok(certified) };
    // X.509 version 1, as `openssl x509 -req -signkey` makes them, is beyond webpki; a client that pins such a
    // certificate, or checks none, wants it all the same.
    let old = certified.cert.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    match (old, certified.key.public_key()) {
        (Some((_, leaf)), Some(public)) if leaf.version() == X509Version::V1 => {
            match leaf.public_key().raw == &*public {
                true => Ok(certified),
                false => Err(InconsistentKeys::KeyMismatch.into()),
            }
        }
        _ => Err(refusal),
    }
}

/// Everything that aws-lc-rs offers, AES-128-GCM first.
pub fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| !format!("{:?}", suite.suite()).contains("AES_128_GCM"));
    provider
}

/// The name that a client certificate stands for: its first DNS name, else its common name.
pub fn certificate_name(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let dns = alternative.and_then(|extension| {
        extension.value.general_names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
    });
    dns.or_else(|| {
        certificate.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok()).map(str::to_owned)
    })
}

/// From when to when the first certificate of a PEM file is valid, both in seconds since 1970.
pub fn validity(file: &Path) -> Result<(i64, i64), String> {
    validity_of(&read(file)?, &file.display().to_string())
}

/// The same of PEM text, which messages call `name`.
pub fn validity_of(text: &[u8], name: &str) -> Result<(i64, i64), String> {
    let first = CertificateDer::pem_slice_iter(text).next();
    let der = match first {
        Some(Ok(der)) => der,
        Some(Err(e)) => return Err(format!("malformed PEM in {name}: {}", pem_reason(&e))),
        None => return Err(format!("no certificate in {name} (PEM is expected)")),
    };
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|_| format!("no X.509 certificate in {name}"))?;
    let validity = certificate.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn client_verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|e| format!("a certificate in {} cannot be a client CA: {e}", path.display()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| format!("{} cannot serve as client CA: {e}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("malformed PEM in {}: {}", path.display(), pem_reason(&e)))?;
    if certificates.is_empty() {
        return Err(format!("no certificate in {} (PEM is expected)", path.display()));
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let located = located(path);
    std::fs::read(&located)
        .map(Zeroizing::new)
        .map_err(|e| format!("could not read {}: {e}{}", path.display(), hint(&located, &e, Want::Read)))
}

/// The error without any of the file's text: the path may have been a slip.
fn pem_reason(error: &rustls_pki_types::pem::Error) -> &'static str {
    use rustls_pki_types::pem::Error;
    match error {
        Error::MissingSectionEnd { .. } => "a section has no end",
        Error::IllegalSectionStart { .. } => "a section starts wrongly",
        Error::Base64Decode(_) => "a section is not base64",
        Error::NoItemsFound => "nothing of the kind is in it",
        _ => "it is not PEM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_128_comes_first() {
        let suites = provider().cipher_suites;
        assert_eq!(format!("{:?}", suites[0].suite()), "TLS13_AES_128_GCM_SHA256");
    }

    #[test]
    fn names_and_mismatches() -> Result<(), Box<dyn std::error::Error>> {
        let one = rcgen::generate_simple_self_signed(vec!["one.example".to_owned()])?;
        let two = rcgen::generate_simple_self_signed(vec!["two.example".to_owned()])?;
        assert_eq!(certificate_name(one.cert.der()).as_deref(), Some("one.example"));
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "anna");
        assert_eq!(certificate_name(params.self_signed(&key)?.der()).as_deref(), Some("anna"));
        assert_eq!(certificate_name(&CertificateDer::from(vec![0x30, 0x80, 1])), None);

        let (from, to) = validity_of(one.cert.pem().as_bytes(), "it")?;
        assert!(from < 1_700_000_000 && to > 4_000_000_000, "rcgen's own dates: {from} {to}");
        for bad in ["", "root:secret", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"] {
            let why = validity_of(bad.as_bytes(), "it").unwrap_err();
            assert!(why.contains("it") && !why.contains("secret"), "{why}");
        }

        let dir = std::env::temp_dir().join(format!("etherws-tls-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).map(|()| path)
        };
        let cert = file("cert", &one.cert.pem())?;
        let files = |key, client_ca| TlsFiles { cert: cert.clone(), key, client_ca };
        let good = file("good", &one.signing_key.serialize_pem())?;
        assert!(server_config(&files(good.clone(), Some(cert.clone()))).is_ok());
        let wrong = file("wrong", &two.signing_key.serialize_pem())?;
        let secret = file("secret", "root:secret:1:2\n")?;
        for (files, words) in [
            (files(wrong, None), "does not belong"),
            (files(secret.clone(), None), "no usable private key"),
            (files(good.clone(), Some(secret)), "no certificate in"),
            (files(dir.join("absent"), None), "could not read"),
        ] {
            let error = server_config(&files).err().unwrap_or_default();
            assert!(error.contains(words) && !error.contains("root:"), "{error}");
        }
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
