//! Clients that may send as the organization, and whose senders nobody in the directory is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::mail::Client;

/// The most clients that are remembered; beyond it new ones are counted and not logged.
const MAX_CLIENTS: usize = 1000;

/// Logins and client addresses seen, with the number of their messages. Shared by all generations
/// of settings.
#[derive(Debug, Clone, Default)]
pub struct Unidentified(Arc<Mutex<BTreeMap<String, u64>>>);

impl Unidentified {
    /// Counts a message; calls `warn` for the first one of each client.
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

    /// The clients, and how many messages of each there were.
    pub fn clients(&self) -> Vec<(String, u64)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .map(|(name, count)| (name.clone(), *count))
            .collect()
    }
}
