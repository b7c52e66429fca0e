//! TLS on both sides.

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
use crate::hook::{DoorTls, NextHop};
use crate::net::Server;
use crate::tls::{self, UnencryptedMonitor};

/// Longest time for a handshake.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(30);

/// Why an SMTP listener has no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("cannot read {path} (hook.smtp): {cause}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: pem::Error,
    },
    /// Certificate and key do not go together, or are of no use.
    #[error("{cert_file} and {key_file} (hook.smtp) cannot be used: {cause}")]
    Unusable {
        /// The certificate.
        cert_file: PathBuf,
        /// The key.
        key_file: PathBuf,
        /// What is wrong.
        #[source]
        cause: rustls::Error,
    },
    /// What the next server is checked against.
    #[error("hook.smtp.next_hop_ca_file: {0}")]
    Trust(#[from] tls::TlsError),
}

/// TLS with clients.
pub(super) struct ServerTls {
    acceptor: TlsAcceptor,
    pub(super) implicit: bool,
}

impl ServerTls {
    pub(super) fn load(of: &DoorTls) -> Result<ServerTls, TlsError> {
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

/// The next server: where it is, and TLS with it.
pub(super) struct HopTls {
    pub(super) server: Server,
    pub(super) unencrypted: UnencryptedMonitor,
    connector: Option<TlsConnector>,
    name: Option<ServerName<'static>>,
}

impl HopTls {
    pub(super) fn load(hop: &NextHop) -> Result<HopTls, TlsError> {
        let config = match hop.tls {
            Tls::None => None,
            // Against listeners only: mail would go in the clear otherwise (RFC 7435).
            Tls::Opportunistic => Some(tls::unverified_client_config()?),
            Tls::Required | Tls::Implicit => Some(tls::client_config(hop.ca_file.as_deref())?),
        };
        Ok(HopTls {
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
            return Err(io::Error::other("its name cannot stand in a certificate"));
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
