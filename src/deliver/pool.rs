//! Pool of connections to the relay.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::RelaySettings;
use super::connection::{Connection, RecipientOutcome};
use super::open::RelayError;
use crate::journal::Item;
use crate::mail::{Address, Content};
use crate::net::Server;
use crate::tls::{ExpiryMonitor, UnencryptedMonitor};

/// Longest idle time of a connection; shorter than any relay's timeout.
const KEPT: Duration = Duration::from_secs(30);

/// Connections to one relay. The caller limits their number; the pool only keeps idle ones.
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

    /// Sends one item over an idle or a new connection. `Err`: the relay was not reached.
    pub(super) async fn send(
        &self,
        item: &Item,
        original: &Content,
        recipients: &[Address],
    ) -> Result<Vec<RecipientOutcome>, RelayError> {
        if let Some(kept) = self.take() {
            let sent = kept.send(item, original, recipients).await;
            self.keep(sent.connection);
            if !sent.should_retry {
                return Ok(sent.outcomes);
            }
            // Nothing was sent.
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
        Ok(sent.outcomes)
    }

    /// Returns the number of open connections, idle or not.
    pub(super) fn open_connections(&self) -> usize {
        Arc::strong_count(&self.counted) - 1
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection with an unsolicited reply is out of sync, or closing.
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

    /// Closes all idle connections.
    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        futures_util::future::join_all(idle.into_iter().map(|(connection, _)| connection.quit()))
            .await;
    }
}
