//! Connections kept for the next item.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::RelaySettings;
use super::connection::{Connection, Fate};
use super::open::RelayError;
use crate::journal::Item;
use crate::mail::{Address, Content};
use crate::net::Expiry;

/// How long a connection is kept without work: shorter than any relay's patience.
const KEPT: Duration = Duration::from_secs(30);

/// Connections to one relay. Whoever sends holds one of the places that the caller gives out; the pool itself only
/// remembers what is idle.
pub(super) struct Pool {
    pub(super) settings: RelaySettings,
    idle: Mutex<Vec<(Connection, Instant)>>,
    /// What is known of the relay's certificate.
    expiry: Expiry,
}

impl Pool {
    pub(super) fn new(settings: RelaySettings) -> Pool {
        Pool {
            settings,
            idle: Mutex::default(),
            expiry: Expiry::of("relay"),
        }
    }

    /// Sends one item over a kept or a new connection. `Err`: the relay was not reached.
    pub(super) async fn send(
        &self,
        item: &Item,
        original: &Content,
        recipients: &[Address],
    ) -> Result<Vec<Fate>, RelayError> {
        if let Some(kept) = self.take() {
            let sent = kept.send(item, original, recipients).await;
            if !sent.nothing_said {
                self.keep(sent.connection);
                return Ok(sent.fates);
            }
            // The relay closed it while it was idle. Nothing was handed over, so a fresh one is tried.
        }
        let new = Connection::open(&self.settings).await?;
        if let Some(expires) = new.expires() {
            self.expiry.tell(&self.settings.name(), expires);
        }
        let sent = new.send(item, original, recipients).await;
        self.keep(sent.connection);
        Ok(sent.fates)
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // One that spoke meanwhile is out of step, or says that it closes.
        idle.retain(|(connection, since)| since.elapsed() < KEPT && connection.is_quiet());
        idle.pop().map(|(connection, _)| connection)
    }

    fn keep(&self, connection: Option<Connection>) {
        if let Some(connection) = connection {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((connection, Instant::now()));
        }
    }

    /// Closes what is idle.
    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        futures_util::future::join_all(idle.into_iter().map(|(connection, _)| connection.quit()))
            .await;
    }
}
