//! What delivery needs to know; built by `config`.

use std::path::PathBuf;
use std::time::Duration;

use crate::secret::Secret;

/// Settings of the delivery side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who takes what we send.
    pub relay: RelaySettings,
    /// When a failed attempt is repeated.
    pub retry: Retry,
}

/// How the relay is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelaySettings {
    /// Its name or IP address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: Tls,
    /// Certificates (PEM) that the relay is checked against; the system's where `None`.
    pub ca_file: Option<PathBuf>,
    /// The account to log in with, where the relay wants one.
    pub login: Option<Login>,
    /// How many connections are open at most.
    pub connections: usize,
    /// The name we say in EHLO.
    pub helo_name: String,
    /// The longest wait for one reply.
    pub timeout: Duration,
}

/// Whether the connection to the relay is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tls {
    /// Never.
    None,
    /// By STARTTLS where the relay offers it.
    #[default]
    Opportunistic,
    /// By STARTTLS, or not at all.
    Required,
    /// From the first byte on (RFC 8314).
    Implicit,
}

/// An account on the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its name.
    pub username: String,
    /// Its password.
    pub password: Secret,
}

/// When a failed attempt is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl RelaySettings {
    /// `host:port`.
    pub fn name(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}
