//! Client configurations: the authorities that server certificates are checked against.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Error of setting up TLS; no connection would succeed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA file cannot be read.
    #[error("cannot read the certificates in {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
    /// The CA file is not PEM.
    #[error("{path} is not a PEM file of certificates: {cause}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        #[source]
        cause: pem::Error,
    },
    /// A certificate in the CA file is broken.
    #[error("{path} contains an unusable certificate: {cause}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The TLS library's error.
        #[source]
        cause: rustls::Error,
    },
    /// The CA file has no certificate.
    #[error("{path} contains no certificates")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The system trusts no authority.
    #[error("this system has no trusted certificates ({detail}); set ca_file")]
    NoRoots {
        /// The errors of loading the system's certificates.
        detail: String,
    },
    /// The TLS library rejects its own defaults.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// Returns a configuration that trusts the authorities in `ca_file` alone; `None`: those of the
/// system. Blocks.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca_file {
        Some(path) => roots_from_file(path)?,
        None => system_roots()?,
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Returns the cryptography provider. Named explicitly: with a second one in the build, the default
/// would be ambiguous, and rustls panics then.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Returns a configuration that encrypts without checking the server's certificate: protection
/// against passive eavesdropping only (RFC 7435).
pub fn unverified_client_config() -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NoCertificateVerification(provider())))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Verifier that accepts any certificate. The handshake must still be signed with its key.
#[derive(Debug)]
struct NoCertificateVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoCertificateVerification {
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

fn roots_from_file(path: &Path) -> Result<RootCertStore, TlsError> {
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
    fn an_unusable_ca_file_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.pem");
        let missing = client_config(Some(&path)).expect_err("no file");
        assert!(missing.to_string().contains("ca.pem"), "{missing}");
        std::fs::write(&path, "# nothing\n").expect("a file");
        let empty = client_config(Some(&path));
        assert!(matches!(empty, Err(TlsError::Empty { .. })));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, broken).expect("a file");
        let bad = client_config(Some(&path));
        assert!(matches!(bad, Err(TlsError::Certificate { .. })));
    }
}
