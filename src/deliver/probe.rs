//! Whether the relay would take something: for `copyist check --online`.

use std::fmt;

use super::RelaySettings;
use super::connection::{Connection, RelayError};
use crate::smtp::Capabilities;

/// What was seen of the relay.
#[derive(Debug, Clone)]
pub struct ProbeReport {
    /// What it offers.
    pub capabilities: Capabilities,
    /// Whether the connection was encrypted.
    pub encrypted: bool,
    /// Whether we logged in.
    pub logged_in: bool,
}

/// Connects as a delivery would, and says goodbye.
pub async fn probe(settings: &RelaySettings) -> Result<ProbeReport, RelayError> {
    let connection = Connection::open(settings).await?;
    let report = ProbeReport {
        capabilities: connection.capabilities().clone(),
        encrypted: connection.is_encrypted(),
        logged_in: settings.login.is_some(),
    };
    connection.quit().await;
    Ok(report)
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.encrypted {
            "answers, encrypted"
        } else {
            "answers, not encrypted"
        })?;
        if self.logged_in {
            f.write_str(", logged in")?;
        }
        match self.capabilities.size {
            Some(limit) if limit > 0 => write!(f, ", takes up to {limit} octets")?,
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
