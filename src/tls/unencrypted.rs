//! Warnings of connections that should be encrypted if possible, and are not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::counter;
use tokio::time::Instant;
use tracing::warn;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// UnencryptedMonitor connections to one server: counts them, and warns once a day.
#[derive(Debug)]
pub struct UnencryptedMonitor {
    peer: &'static str,
    /// Time of the last warning.
    warned: Mutex<Option<Instant>>,
}

impl UnencryptedMonitor {
    /// Creates a monitor for this kind of server: "relay" or "next_hop".
    pub fn new(peer: &'static str) -> UnencryptedMonitor {
        UnencryptedMonitor {
            peer,
            warned: Mutex::default(),
        }
    }

    /// Records a connection without encryption, and the reason.
    pub fn record(&self, server: &str, reason: &str) {
        counter!("copyist_unencrypted_connections_total", "peer" => self.peer).increment(1);
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= DAY) {
            *warned = Some(Instant::now());
            warn!(
                peer = self.peer,
                server, "mail to this server is not encrypted although it offers TLS: {reason}"
            );
        }
    }
}
