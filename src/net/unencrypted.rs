//! Connections that were to be encrypted if possible, and are not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::counter;
use tokio::time::Instant;
use tracing::warn;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is told of unencrypted connections to one server.
#[derive(Debug)]
pub struct Unencrypted {
    peer: &'static str,
    /// When it was warned of last.
    warned: Mutex<Option<Instant>>,
}

impl Unencrypted {
    /// To this kind of server: "relay" or "next_hop".
    pub fn of(peer: &'static str) -> Unencrypted {
        Unencrypted {
            peer,
            warned: Mutex::default(),
        }
    }

    /// A connection is not encrypted because of this: it is counted, and warned of once a day.
    pub fn tell(&self, server: &str, why: &str) {
        counter!("copyist_unencrypted_connections_total", "peer" => self.peer).increment(1);
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= DAY) {
            *warned = Some(Instant::now());
            warn!(
                peer = self.peer,
                server, "mail goes to this server unencrypted, though it offers TLS: {why}"
            );
        }
    }
}
