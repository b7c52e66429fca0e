//! How much memory the messages under way may take together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long room is waited for: long enough for a burst to pass, and shorter than an MTA waits for
/// a filter to take what it says (Postfix: `milter_content_timeout`, 300 s).
const WAIT: Duration = Duration::from_secs(30);

/// What one permit of the semaphore stands for: it counts no further than to 2^32.
const UNIT: usize = 1024;

/// A budget of bytes. Cloning gives another handle to the same one.
#[derive(Debug, Clone)]
pub struct Memory {
    free: Arc<Semaphore>,
    most: u32,
}

/// Bytes that are spoken for; given back when dropped.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

impl Memory {
    /// The budget where none is set, in bytes: some hundred messages of any size at a time.
    pub const DEFAULT: usize = 256 * 1024 * 1024;

    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Memory {
        let most = u32::try_from(bytes.div_ceil(UNIT))
            .unwrap_or(u32::MAX)
            .max(1);
        Memory {
            free: Arc::new(Semaphore::new(most as usize)),
            most,
        }
    }

    /// Room for so many bytes, waited for; `None` where it does not come free in time. More than
    /// there is at all counts as all there is: a message alone is always worked on.
    pub async fn room(&self, bytes: usize) -> Option<Room> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let free = self.free.clone().acquire_many_owned(units.min(self.most));
        timeout(WAIT, free).await.ok()?.ok().map(Room)
    }

    /// Bytes that are spoken for.
    pub fn in_flight(&self) -> usize {
        (self.most as usize).saturating_sub(self.free.available_permits()) * UNIT
    }
}

/// [`Memory::DEFAULT`].
impl Default for Memory {
    fn default() -> Memory {
        Memory::new(Memory::DEFAULT)
    }
}

impl Room {
    /// Both together.
    pub fn with(mut self, more: Room) -> Room {
        self.0.merge(more.0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn room_is_waited_for_and_given_back() {
        let memory = Memory::new(10 * UNIT);
        let held = memory.room(6 * UNIT).await.expect("it is free");
        assert!(memory.room(6 * UNIT).await.is_none(), "not in time");
        let (second, ()) = tokio::join!(memory.room(6 * UNIT), async { drop(held) });
        let second = second
            .expect("it came free")
            .with(memory.room(1).await.expect("free"));
        assert_eq!(memory.in_flight(), 7 * UNIT);
        drop(second);
        assert_eq!(memory.in_flight(), 0);
    }

    #[tokio::test]
    async fn what_is_larger_than_the_budget_gets_all_of_it() {
        let memory = Memory::new(UNIT);
        let all = memory.room(usize::MAX).await;
        assert!(all.is_some());
        assert_eq!(memory.in_flight(), UNIT);
    }
}
