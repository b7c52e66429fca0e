//! The time that one message may wait for the directory.

use std::time::Duration;

use tokio::time::Instant;

use crate::directory::Directory;
use crate::mail::Address;

/// The recipients of a message that is on its way, and the time that it may still wait for the directory: all its questions
/// have one time together, whether they come with the recipients or with the message.
#[derive(Debug)]
pub struct Admitted {
    /// Recipients that [`Pipeline::admit`](super::Pipeline::admit) left to be decided by the message.
    pub provisional: Vec<Address>,
    left: Duration,
}

impl Admitted {
    /// Of a message that has no recipients yet.
    pub(super) fn none(directory: &Directory) -> Admitted {
        Admitted {
            provisional: Vec::new(),
            left: directory.patience(),
        }
    }

    /// When an answer that is waited for from now on comes too late.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.left
    }

    /// Waits for an answer; `None` if it comes too late. A client that takes its time between recipients uses none of ours.
    pub(super) async fn wait<T>(&mut self, answer: impl Future<Output = T>) -> Option<T> {
        let begun = Instant::now();
        let answered = tokio::time::timeout(self.left, answer).await;
        self.left = self.left.saturating_sub(begun.elapsed());
        answered.ok()
    }
}
