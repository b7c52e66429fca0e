//! TLS with clients and with the next hop.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::client::ByteStream;
use crate::deliver::Tls;
use crate::hook::{ListenerTls, NextHop};
use crate::net::Server;
use crate::tls::{self, UnencryptedMonitor};

/// Handshake timeout.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(30);

/// TLS configuration error of an SMTP listener.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("cannot read {path} (hook.smtp)")]
    Pem {
        /// The file.
        path: PathBuf,
        /// The PEM error.
        #[source]
        cause: pem::Error,
    },
    /// Certificate and key do not match, or are unusable.
    #[error("cannot use {cert_file} and {key_file} (hook.smtp)")]
    Unusable {
        /// The certificate.
        cert_file: PathBuf,
        /// The key.
        key_file: PathBuf,
        /// The TLS library's error.
        #[source]
        cause: rustls::Error,
    },
    /// The CA file for the next hop.
    #[error("hook.smtp.next_hop_ca_file")]
    CaFile(#[from] tls::TlsError),
}

/// TLS with clients.
pub(super) struct ServerTls {
    acceptor: TlsAcceptor,
    pub(super) implicit: bool,
}

impl ServerTls {
    pub(super) fn load(of: &ListenerTls) -> Result<ServerTls, TlsError> {
        let unusable = |cause| TlsError::Unusable {
            cert_file: of.cert_file.clone(),
            key_file: of.key_file.clone(),
            cause,
        };
        let chain = CertificateDer::pem_file_iter(&of.cert_file)
            .and_then(Iterator::collect)
            .map_err(|cause| in_file(&of.cert_file, cause))?;
        let key = PrivateKeyDer::from_pem_file(&of.key_file)
            .map_err(|cause| in_file(&of.key_file, cause))?;
        let config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        Ok(ServerTls {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            implicit: of.implicit,
        })
    }

    pub(super) async fn accept(
        &self,
        stream: Box<dyn ByteStream>,
    ) -> io::Result<Box<dyn ByteStream>> {
        Ok(Box::new(self.acceptor.accept(stream).await?))
    }
}

/// The next hop's address and TLS configuration.
pub(super) struct NextHopTls {
    pub(super) server: Server,
    pub(super) unencrypted: UnencryptedMonitor,
    connector: Option<TlsConnector>,
    name: Option<ServerName<'static>>,
}

impl NextHopTls {
    pub(super) fn load(hop: &NextHop) -> Result<NextHopTls, TlsError> {
        let config = match hop.tls {
            Tls::None => None,
            // Protects against passive attackers only; the alternative would be plain text (RFC
            // 7435).
            Tls::Opportunistic => Some(tls::unverified_client_config()?),
            Tls::Required | Tls::Implicit => Some(tls::client_config(hop.ca_file.as_deref())?),
        };
        Ok(NextHopTls {
            server: Server::new(&hop.host, hop.port),
            unencrypted: UnencryptedMonitor::new("next_hop"),
            connector: config.map(TlsConnector::from),
            name: ServerName::try_from(hop.host.clone()).ok(),
        })
    }

    pub(super) async fn connect(
        &self,
        stream: Box<dyn ByteStream>,
    ) -> io::Result<Box<dyn ByteStream>> {
        let (Some(connector), Some(name)) = (&self.connector, &self.name) else {
            return Err(io::Error::other("its name is not valid in a certificate"));
        };
        Ok(Box::new(connector.connect(name.clone(), stream).await?))
    }
}

fn in_file(path: &Path, cause: pem::Error) -> TlsError {
    TlsError::Pem {
        path: path.to_owned(),
        cause,
    }
}
