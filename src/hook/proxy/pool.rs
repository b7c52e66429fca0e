//! Connections to the next server that wait for their next client.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::next_hop::{Hop, HopError};
use super::tls::HopTls;
use crate::hook::NextHop;

/// Connections that wait at most.
const MOST: usize = 32;
/// How long one waits. Shorter than any server's own patience.
const LONGEST: Duration = Duration::from_secs(20);

/// Idle connections, the one used last at the end.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<(Hop, Instant)>>);

impl Pool {
    /// A connection, and whether it was used before.
    pub(super) async fn get(&self, to: &NextHop, tls: &HopTls) -> Result<(Hop, bool), HopError> {
        while let Some(mut hop) = self.take(Instant::now()) {
            if hop.check_silence().await.is_ok() {
                return Ok((hop, true));
            }
        }
        Ok((Hop::open(to, tls).await?, false))
    }

    fn take(&self, now: Instant) -> Option<Hop> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((hop, since)) = waiting.pop() {
            if now.duration_since(since) < LONGEST {
                return Some(hop);
            }
        }
        None
    }

    /// Takes a connection that is in order and not in a transaction.
    pub(super) fn put(&self, hop: Hop) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MOST {
            waiting.push((hop, Instant::now()));
        }
    }

    /// Ends those that have waited for long. Must be called in a runtime.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_young = |(_, since): &(Hop, Instant)| now.duration_since(*since) < LONGEST;
        let old = waiting.iter().take_while(|one| !is_young(one)).count();
        for (hop, _) in waiting.drain(..old) {
            tokio::spawn(hop.quit());
        }
    }
}
