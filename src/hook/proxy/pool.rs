//! Pool of idle connections to the next hop.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::next_hop::{NextHopConnection, NextHopError};
use super::tls::NextHopTls;
use crate::hook::NextHop;

/// Largest number of idle connections.
const MAX_IDLE: usize = 32;
/// Longest idle time; shorter than any server's own timeout.
const MAX_IDLE_TIME: Duration = Duration::from_secs(20);

/// Idle connections, most recently used last.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<(NextHopConnection, Instant)>>);

impl Pool {
    /// Returns a connection, and whether it was used before.
    pub(super) async fn get(
        &self,
        to: &NextHop,
        tls: &NextHopTls,
    ) -> Result<(NextHopConnection, bool), NextHopError> {
        while let Some(mut hop) = self.take(Instant::now()) {
            if hop.check_in_sync().await.is_ok() {
                return Ok((hop, true));
            }
        }
        Ok((NextHopConnection::open(to, tls).await?, false))
    }

    fn take(&self, now: Instant) -> Option<NextHopConnection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((hop, since)) = idle.pop() {
            if now.duration_since(since) < MAX_IDLE_TIME {
                return Some(hop);
            }
        }
        None
    }

    /// Returns a usable connection without an open transaction to the pool.
    pub(super) fn put(&self, hop: NextHopConnection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push((hop, Instant::now()));
        }
    }

    /// Closes connections that were idle for too long. Must be called within a runtime.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_young =
            |(_, since): &(NextHopConnection, Instant)| now.duration_since(*since) < MAX_IDLE_TIME;
        let old = idle.iter().take_while(|one| !is_young(one)).count();
        for (hop, _) in idle.drain(..old) {
            tokio::spawn(hop.quit());
        }
    }
}
