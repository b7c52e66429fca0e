//! The latency of a server.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Latency from which a server is slow: messages of people who are not cached are noticeably
/// delayed.
pub(super) const SLOW: Duration = Duration::from_millis(500);

/// Weight of the last answer in the moving average: one part in this many.
const WEIGHT: u32 = 4;

/// The moving average of the latency of one connection.
#[derive(Debug, Default)]
pub(super) struct Latency {
    average: Mutex<Option<Duration>>,
    slow: Notify,
}

impl Latency {
    /// Records the time of an answer, or of a timeout.
    pub(super) fn record(&self, took: Duration) {
        let mut average = self.average.lock().unwrap_or_else(PoisonError::into_inner);
        let new = match *average {
            None => took,
            Some(before) => (before * (WEIGHT - 1) + took) / WEIGHT,
        };
        *average = Some(new);
        if new >= SLOW {
            self.slow.notify_one();
        }
    }

    /// Waits until the server becomes slow.
    pub(super) async fn wait_until_slow(&self) {
        self.slow.notified().await;
    }
}

/// Whether a server with latency `took` is enough faster than one with `other` to switch to it.
pub(super) fn is_faster(took: Duration, other: Duration) -> bool {
    took * 2 <= other
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_slow_answer_does_not_make_a_slow_server() {
        let latency = Latency::default();
        for took in [3, 3, 3, 1500, 3, 3, 3, 1500] {
            latency.record(Duration::from_millis(took));
        }
        assert_eq!(latency.wait_until_slow().now_or_never(), None);
        latency.record(Duration::from_millis(1500));
        assert_eq!(latency.wait_until_slow().now_or_never(), Some(()));
        assert_eq!(
            latency.wait_until_slow().now_or_never(),
            None,
            "it is told once"
        );
    }
}
