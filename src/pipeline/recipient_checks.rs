//! Recipient checks of one message, and the time it may still wait for the directory.

use std::time::Duration;

use tokio::time::Instant;

use crate::directory::Directory;
use crate::mail::Address;

/// Longest wait of one recipient: Postfix gives a milter 30 seconds for an answer by default
/// (`milter_command_timeout`), and gets no progress reports meanwhile.
pub const RECIPIENT_WAIT: Duration = Duration::from_secs(20);

/// Time left for the message itself at least: even cached answers take a moment.
const MIN_WAIT: Duration = Duration::from_millis(250);

/// The recipients of a message that the message itself must decide about, and the time left for the
/// directory. All queries of a message share one time limit, at RCPT and at the end of the message.
#[derive(Debug)]
pub struct RecipientChecks {
    /// Guarded recipients that only a report or a bounce may be sent to; see
    /// [`Pipeline::check_recipient`](super::Pipeline::check_recipient).
    pub provisional: Vec<Address>,
    remaining: Duration,
}

impl RecipientChecks {
    /// Creates the checks of a new message.
    pub(super) fn new(directory: &Directory) -> RecipientChecks {
        RecipientChecks {
            provisional: Vec::new(),
            remaining: directory.max_wait(),
        }
    }

    /// Returns the deadline for the queries of the message itself.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.remaining.max(MIN_WAIT)
    }

    /// Waits for an answer about a recipient; `None` if it comes too late. The client's own pauses
    /// between recipients do not count.
    pub(super) async fn wait<T>(&mut self, answer: impl Future<Output = T>) -> Option<T> {
        let begun = Instant::now();
        let answered = tokio::time::timeout(self.remaining.min(RECIPIENT_WAIT), answer).await;
        self.remaining = self.remaining.saturating_sub(begun.elapsed());
        answered.ok()
    }
}
