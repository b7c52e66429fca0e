//! Connections kept for the next item.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::RelaySettings;
use super::connection::{Connection, Fate};
use super::open::RelayError;
use crate::journal::Item;
use crate::mail::{Address, Content};
use crate::net::Server;
use crate::tls::{ExpiryMonitor, UnencryptedMonitor};

/// How long a connection is kept without work: shorter than any relay's patience.
const KEPT: Duration = Duration::from_secs(30);

/// Connections to one relay. Whoever sends holds one of the places that the caller gives out; the
/// pool itself only remembers what is idle.
pub(super) struct Pool {
    pub(super) settings: RelaySettings,
    server: Server,
    idle: Mutex<Vec<(Connection, Instant)>>,
    /// Every connection has one of these.
    counted: Arc<()>,
    /// What is known of the relay's certificate.
    expiry: ExpiryMonitor,
    /// Messages that were to be encrypted.
    unencrypted: UnencryptedMonitor,
}

impl Pool {
    pub(super) fn new(settings: RelaySettings) -> Pool {
        Pool {
            server: Server::new(&settings.host, settings.port),
            settings,
            idle: Mutex::default(),
            counted: Arc::default(),
            expiry: ExpiryMonitor::new("relay"),
            unencrypted: UnencryptedMonitor::new("relay"),
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
            self.keep(sent.connection);
            if !sent.is_worth_another {
                return Ok(sent.fates);
            }
            // Nothing was handed over.
        }
        let mut new = Connection::open(&self.server, &self.settings).await?;
        new.counted = Some(self.counted.clone());
        if let Some(expires) = new.expires() {
            self.expiry.record(&self.settings.name(), expires);
        }
        if let Some(why) = &new.tls_fault {
            self.unencrypted.record(&self.settings.name(), why);
        }
        let sent = new.send(item, original, recipients).await;
        self.keep(sent.connection);
        Ok(sent.fates)
    }

    /// How many connections are open, idle or not.
    pub(super) fn open_connections(&self) -> usize {
        Arc::strong_count(&self.counted) - 1
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // One that spoke meanwhile is out of step, or says that it closes.
        idle.retain(|(connection, since)| since.elapsed() < KEPT && connection.is_quiet());
        idle.pop().map(|(connection, _)| connection)
    }

    fn keep(&self, connection: Option<Connection>) {
        if let Some(connection) = connection {
            if connection.is_spent() {
                tokio::spawn(connection.quit());
                return;
            }
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
