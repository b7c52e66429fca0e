//! How long a server takes for its answers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// From here on a server is slow: messages of people who are not known wait noticeably.
pub(super) const SLOW: Duration = Duration::from_millis(500);

/// What the last answer counts in the moving average: one part in so many.
const WEIGHT: u32 = 4;

/// The moving average of the time for an answer on one connection.
#[derive(Debug, Default)]
pub(super) struct Latency {
    average: Mutex<Option<Duration>>,
    slow: Notify,
}

impl Latency {
    /// Notes how long an answer took, or was waited for in vain.
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

    /// Waits until the server was slow since this was waited for last.
    pub(super) async fn wait_until_slow(&self) {
        self.slow.notified().await;
    }
}

/// Whether a server that takes `took` for an answer is worth leaving one for that takes `other`.
pub(super) fn is_faster(took: Duration, other: Duration) -> bool {
    took * 2 <= other
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_slow_answer_among_quick_ones_is_no_slow_server() {
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
