//! TLS to servers: which certificates they are believed by.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::mail::rfc3339;

/// Why no TLS connection could ever be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA file cannot be read.
    #[error("cannot read the certificates in {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// The CA file is no PEM.
    #[error("{path} is no PEM file with certificates: {cause}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: pem::Error,
    },
    /// A certificate in the CA file is broken.
    #[error("{path} holds a certificate that cannot be used: {cause}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: rustls::Error,
    },
    /// The CA file has no certificate.
    #[error("{path} holds no certificates")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The system has none.
    #[error("this system has no trusted certificates ({detail}); set directory.ca_file")]
    NoRoots {
        /// What was tried.
        detail: String,
    },
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// Trust in `ca_file` and nothing else, or in the system's certificates where there is none.
/// Blocks.
pub fn tls_client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca_file {
        Some(path) => own_roots(path)?,
        None => system_roots()?,
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Named, since a second one in the build would make the default ambiguous, and ambiguous panics.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Encryption against listeners only: any server is believed to be the one that is meant (RFC
/// 7435).
pub fn unchecked_tls_client_config() -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider())))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes any certificate; the handshake must be signed by its key all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a handshake failed because the two sides disagreed, and nothing was lost on the way.
pub fn is_tls_fault(error: &io::Error) -> bool {
    let cause = error.get_ref();
    cause.is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

/// What a TLS library says of a certificate, in words: for three faults it has only a name, and
/// times are seconds since 1970.
pub fn certificate_fault(said: &str) -> String {
    with_dates(said).replace(
        "Other(OtherError(CaUsedAsEndEntity))",
        "the certificate is an authority's, or signed by itself, and no server's (CaUsedAsEndEntity)",
    )
    .replace(
        "certificate: BadSignature",
        "certificate: its issuer has the name of an authority that is trusted here, but not its key (BadSignature)",
    )
    .replace(
        "certificate: UnknownIssuer",
        "certificate: no authority that is trusted here has issued it (UnknownIssuer); set ca_file to the one that has",
    )
}

/// Writes "verification time 1764547200 (UNIX)" and "valid after 1764547200" as dates.
fn with_dates(said: &str) -> String {
    if !said.contains("verification time ") {
        return said.to_owned();
    }
    let words = said.split(' ').filter(|word| !word.starts_with("(UNIX)"));
    let mut dated = Vec::new();
    for word in words {
        let is_time = dated
            .last()
            .is_some_and(|before| matches!(before, Cow::Borrowed("time" | "after" | "before")));
        let seconds = word.parse().ok().filter(|_| is_time);
        let at = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        dated.push(match at {
            Some(at) => Cow::Owned(rfc3339(at)),
            None => Cow::Borrowed(word),
        });
    }
    dated
        .join(" ")
        .replace(" but certificate", ", but the certificate")
}

fn own_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let file = || path.to_owned();
    let text = std::fs::read(path).map_err(|cause| TlsError::Read {
        path: file(),
        cause,
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|cause| TlsError::Pem {
            path: file(),
            cause,
        })?;
        roots
            .add(certificate)
            .map_err(|cause| TlsError::Certificate {
                path: file(),
                cause,
            })?;
    }
    if roots.is_empty() {
        return Err(TlsError::Empty { path: file() });
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let detail = match errors.is_empty() {
            true => "none found".to_owned(),
            false => errors.join("; "),
        };
        return Err(TlsError::NoRoots { detail });
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_that_cannot_be_used_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.pem");
        let missing = tls_client_config(Some(&path)).expect_err("no file");
        assert!(missing.to_string().contains("ca.pem"), "{missing}");
        std::fs::write(&path, "# nothing\n").expect("a file");
        let empty = tls_client_config(Some(&path));
        assert!(matches!(empty, Err(TlsError::Empty { .. })));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, broken).expect("a file");
        let bad = tls_client_config(Some(&path));
        assert!(matches!(bad, Err(TlsError::Certificate { .. })));
    }
}
