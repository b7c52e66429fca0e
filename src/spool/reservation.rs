//! Items that wait for the next hop's answer: durable, and not delivered before it.
//!
//! The SMTP listener learns from the next hop whether a message was accepted. Its items are reserved
//! until then: confirmed if the next hop accepted the message, cancelled if it rejected it. If the
//! answer is unknown, they are delivered with a note, since a report too many is better than one
//! too few. A process that ends in between leaves them reserved; the next start keeps them as
//! unknown.

use tracing::error;

use super::error::CommitError;
use super::handle::Spool;
use super::job::Job;
use crate::journal::ItemId;

/// Header field in front of a report whose message may not have been delivered.
pub(super) const UNKNOWN_NOTE: &str =
    "X-Copyist-Fate: unknown; whether the next server took the message is not known\r\n";

/// Reserved items of one message. Dropped without a decision, they are kept as unknown.
#[must_use = "a reservation is confirmed, cancelled or kept"]
pub struct Reservation {
    spool: Spool,
    items: Vec<ItemId>,
}

impl Reservation {
    pub(super) fn new(spool: Spool, items: Vec<ItemId>) -> Reservation {
        Reservation { spool, items }
    }

    /// The next hop accepted the message: schedules the items for delivery. Those in `delivered`
    /// reached all their recipients by the same transaction, and are removed.
    pub async fn confirm(mut self, delivered: Vec<ItemId>) -> Result<(), CommitError> {
        let items = std::mem::take(&mut self.items);
        self.resolve(Job::Confirm { items, delivered }).await
    }

    /// The next hop rejected the message: removes the items.
    pub async fn cancel(mut self) -> Result<(), CommitError> {
        let items = std::mem::take(&mut self.items);
        self.resolve(Job::Cancel { items }).await
    }

    /// The next hop's answer is unknown: schedules the items for delivery, with a note.
    pub async fn keep_unknown(mut self) -> Result<(), CommitError> {
        let items = std::mem::take(&mut self.items);
        self.resolve(Job::KeepUnknown { items }).await
    }

    async fn resolve(&self, job: Job) -> Result<(), CommitError> {
        self.spool.resolve(job).await
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let items = std::mem::take(&mut self.items);
        if items.is_empty() {
            return;
        }
        // Without a runtime the process ends, and the next start does this.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let spool = self.spool.clone();
            runtime.spawn(async move {
                if let Err(cause) = spool.resolve(Job::KeepUnknown { items }).await {
                    error!("cannot release reserved items; the next start releases them: {cause}");
                }
            });
        }
    }
}
