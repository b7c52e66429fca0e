//! The time that one message may wait for the directory.

use std::time::Duration;

use tokio::time::Instant;

use crate::directory::Directory;
use crate::mail::Address;

/// The longest that one recipient waits: Postfix hears no progress meanwhile, and gives a milter 30
/// seconds for an answer by default (`milter_command_timeout`).
pub const RECIPIENT_WAIT: Duration = Duration::from_secs(20);

/// What is left for the message itself at least: answers that are there need a moment, too.
const LEAST: Duration = Duration::from_millis(250);

/// The recipients of a message that is on its way, and the time that it may still wait for the
/// directory: all its questions have one time together, whether they come with the recipients or
/// with the message.
#[derive(Debug)]
pub struct Admitted {
    /// Recipients that [`Pipeline::admit`](super::Pipeline::admit) left to be decided by the
    /// message.
    pub provisional: Vec<Address>,
    left: Duration,
}

impl Admitted {
    /// Of a message that has no recipients yet.
    pub(super) fn none(directory: &Directory) -> Admitted {
        Admitted {
            provisional: Vec::new(),
            left: directory.max_wait(),
        }
    }

    /// When an answer that is waited for from now on comes too late.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.left.max(LEAST)
    }

    /// Waits for an answer about a recipient; `None` if it comes too late. A client that takes its
    /// time between recipients uses none of ours.
    pub(super) async fn wait<T>(&mut self, answer: impl Future<Output = T>) -> Option<T> {
        let begun = Instant::now();
        let answered = tokio::time::timeout(self.left.min(RECIPIENT_WAIT), answer).await;
        self.left = self.left.saturating_sub(begun.elapsed());
        answered.ok()
    }
}
