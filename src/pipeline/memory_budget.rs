//! A memory budget for all messages in progress.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Longest wait for a reservation: long enough for a burst to pass, and shorter than an MTA's
/// timeout for its filter (Postfix: `milter_content_timeout`, 300 s).
const WAIT: Duration = Duration::from_secs(30);

/// Bytes per semaphore permit, since the semaphore counts only to 2^32.
const UNIT: usize = 1024;

/// A budget of bytes. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    free: Arc<Semaphore>,
    most: u32,
}

/// Reserved bytes; released when dropped.
#[derive(Debug)]
pub struct MemoryReservation(OwnedSemaphorePermit);

impl MemoryBudget {
    /// The default budget, in bytes: some hundred messages at a time.
    pub const DEFAULT: usize = 256 * 1024 * 1024;

    /// Creates a budget, in bytes.
    pub fn new(bytes: usize) -> MemoryBudget {
        let most = u32::try_from(bytes.div_ceil(UNIT))
            .unwrap_or(u32::MAX)
            .max(1);
        MemoryBudget {
            free: Arc::new(Semaphore::new(most as usize)),
            most,
        }
    }

    /// Reserves bytes, waiting until they are free; `None` if that takes too long. A request beyond
    /// the whole budget reserves all of it, so that a single message is always processed.
    pub async fn reserve(&self, bytes: usize) -> Option<MemoryReservation> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let free = self.free.clone().acquire_many_owned(units.min(self.most));
        timeout(WAIT, free).await.ok()?.ok().map(MemoryReservation)
    }

    /// Returns the reserved bytes.
    pub fn in_flight(&self) -> usize {
        (self.most as usize).saturating_sub(self.free.available_permits()) * UNIT
    }
}

/// Creates the default budget.
impl Default for MemoryBudget {
    fn default() -> MemoryBudget {
        MemoryBudget::new(MemoryBudget::DEFAULT)
    }
}

impl MemoryReservation {
    /// Merges two reservations.
    pub fn merge(mut self, more: MemoryReservation) -> MemoryReservation {
        self.0.merge(more.0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reservations_wait_and_are_released() {
        let memory = MemoryBudget::new(10 * UNIT);
        let held = memory.reserve(6 * UNIT).await.expect("it is free");
        assert!(memory.reserve(6 * UNIT).await.is_none(), "not in time");
        let (second, ()) = tokio::join!(memory.reserve(6 * UNIT), async { drop(held) });
        let second = second
            .expect("it came free")
            .merge(memory.reserve(1).await.expect("free"));
        assert_eq!(memory.in_flight(), 7 * UNIT);
        drop(second);
        assert_eq!(memory.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_request_over_the_budget_gets_all_of_it() {
        let memory = MemoryBudget::new(UNIT);
        let all = memory.reserve(usize::MAX).await;
        assert!(all.is_some());
        assert_eq!(memory.in_flight(), UNIT);
    }
}
