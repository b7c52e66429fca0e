//! Clients that may send as the organization, but whose senders are not in the directory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::mail::Client;

/// Largest number of clients; further ones are counted and not logged.
const MAX_CLIENTS: usize = 1000;

/// User names and client addresses, each with its number of messages. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct UnidentifiedClients(Arc<Mutex<BTreeMap<String, u64>>>);

impl UnidentifiedClients {
    /// Counts a message; calls `warn` for the first message of each client.
    pub(super) fn warn_once(&self, client: &Client, warn: impl FnOnce()) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = client.to_string();
        if let Some(count) = seen.get_mut(&name) {
            *count += 1;
        } else if seen.len() < MAX_CLIENTS {
            seen.insert(name, 1);
            drop(seen);
            warn();
        }
    }

    /// Returns the clients and their numbers of messages.
    pub fn clients(&self) -> Vec<(String, u64)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .map(|(name, count)| (name.clone(), *count))
            .collect()
    }
}
