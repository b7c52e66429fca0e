//! Whether the relay would take something: for `copyist check --online` and `copyist doctor
//! --online`.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::RelaySettings;
use super::connection::Connection;
use super::open::RelayError;
use crate::mail::{Address, Reply, format_size};
use crate::net::Server;
use crate::smtp::Capabilities;

/// What was seen of the relay.
#[derive(Debug, Clone)]
pub struct ProbeReport {
    /// What it offers.
    pub capabilities: Capabilities,
    /// Whether the connection was encrypted.
    pub encrypted: bool,
    /// Why not, where the relay offers to encrypt.
    pub tls_fault: Option<String>,
    /// Whether we logged in.
    pub logged_in: bool,
    /// When the certificate that it showed ends.
    pub expires: Option<SystemTime>,
}

/// Longest wait for a reply: a person waits for the result, and a delivery waits minutes.
const PATIENCE: Duration = Duration::from_secs(20);

async fn open(settings: &RelaySettings) -> Result<Connection, RelayError> {
    let mut settings = settings.clone();
    settings.timeout = settings.timeout.min(PATIENCE);
    let server = Server::new(&settings.host, settings.port);
    Connection::open(&server, &settings).await
}

/// Connects as a delivery would, and says goodbye.
pub async fn probe(settings: &RelaySettings) -> Result<ProbeReport, RelayError> {
    let connection = open(settings).await?;
    let report = ProbeReport {
        capabilities: connection.capabilities().clone(),
        encrypted: connection.is_encrypted(),
        tls_fault: connection.tls_fault.clone(),
        logged_in: settings.login.is_some(),
        expires: connection.expires(),
    };
    connection.quit().await;
    Ok(report)
}

/// Whom of these the relay refuses mail from this sender to, and in which words; the sender itself
/// where it is that which is refused. Nothing is sent.
pub async fn refusals(
    settings: &RelaySettings,
    sender: &Address,
    recipients: &[Address],
) -> Result<Vec<(Address, Reply)>, RelayError> {
    let mut connection = open(settings).await?;
    let refused = connection.refusals(sender, recipients).await;
    connection.quit().await;
    refused.map_err(|what| RelayError {
        relay: settings.name(),
        what,
    })
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.encrypted {
            "answers, encrypted"
        } else {
            "answers, not encrypted"
        })?;
        if let Some(why) = &self.tls_fault {
            write!(f, " ({why})")?;
        }
        if self.logged_in {
            f.write_str(", logged in")?;
        }
        match self.capabilities.size {
            Some(limit) if limit > 0 => write!(f, ", takes up to {}", format_size(limit))?,
            _ => {}
        }
        let lacks = [
            (
                "8BITMIME",
                self.capabilities.eight_bit_mime,
                "8-bit mail would wait",
            ),
            (
                "DSN",
                self.capabilities.dsn,
                "bounces are known by Message-ID only",
            ),
            ("PIPELINING", self.capabilities.pipelining, "slower"),
        ];
        for (name, there, consequence) in lacks {
            if !there {
                write!(f, "; lacks {name}: {consequence}")?;
            }
        }
        Ok(())
    }
}
