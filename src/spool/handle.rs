//! The spool as other modules use it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use metrics::counter;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::engine::{Due, Engine};
use super::error::{CommitError, OpenError, SpoolError};
use super::job::{Enqueue, Job, JobResult};
use super::operator::{Action, Operator, OperatorRecord, RetryCursor};
use super::recent::RecentItems;
use super::reservation::Reservation;
use super::settings::Settings;
use super::sqlite::{IncomingBody, SqliteEngine};
use super::types::{
    BounceRecord, DeliveryResult, FreeSpace, NdrDigest, NdrStatus, QueuedItem, Submission,
};
use super::view::{BrowseRequest, ItemDetails, ListFilter, QueueDepth, QueueEntry, QueuePage};
use crate::journal::{Item, ItemId};
use crate::mail::{Address, rfc3339};

/// Handle of the spool. A clone is another handle of the same spool.
#[derive(Clone)]
pub struct Spool {
    engine: SqliteEngine,
    recent: Arc<RecentItems>,
    changed: Arc<Notify>,
    /// See [`Spool::with_report_limit`].
    report_limit: Option<u32>,
}

impl Spool {
    /// Opens the spool for the service: exclusively, created if it is absent, with the leftovers of
    /// a crash removed and abandoned reservations kept as unknown.
    pub fn open(settings: &Settings) -> Result<Spool, OpenError> {
        SqliteEngine::open(settings).map(|engine| Spool::new(engine, settings))
    }

    /// Opens an existing spool for a command, whether or not the service is running.
    pub fn inspect(settings: &Settings) -> Result<Spool, OpenError> {
        SqliteEngine::inspect(settings).map(|engine| Spool::new(engine, settings))
    }

    fn new(engine: SqliteEngine, settings: &Settings) -> Spool {
        Spool {
            engine,
            recent: Arc::new(RecentItems::new(settings.inline_limit)),
            changed: Arc::default(),
            report_limit: None,
        }
    }

    /// Returns a handle for messages that may be caused by a report, as in a mail loop. It delivers
    /// so many of their reports within an hour from one NDR address to one target. The others are
    /// durable, too, as dead letters that a digest reports.
    pub fn with_report_limit(&self, limit: u32) -> Spool {
        Spool {
            report_limit: Some(limit),
            ..self.clone()
        }
    }

    /// Makes all items of a message durable, or none. If the caller goes away before this returns,
    /// they may be durable all the same: a report too many, never one too few.
    pub async fn commit(
        &self,
        queue_id: &str,
        received: SystemTime,
        submissions: Vec<Submission>,
    ) -> Result<(), CommitError> {
        let ids = item_ids(&submissions);
        // Those over a report limit are dead letters, so such items are read before delivery.
        if self.report_limit.is_none() {
            self.recent.add_submissions(received, &submissions);
        }
        let result = self.enqueue(queue_id, received, submissions, false).await;
        match result {
            Ok(()) => self.changed.notify_one(),
            Err(_) => ids.iter().for_each(|id| drop(self.recent.take(id))),
        }
        result
    }

    /// Makes all items of a message durable, or none, and reserves them: nothing is delivered
    /// before the reservation is confirmed or kept.
    pub async fn reserve(
        &self,
        queue_id: &str,
        received: SystemTime,
        submissions: Vec<Submission>,
    ) -> Result<Reservation, CommitError> {
        let items = item_ids(&submissions);
        self.enqueue(queue_id, received, submissions, true).await?;
        Ok(Reservation::new(self.clone(), items))
    }

    async fn enqueue(
        &self,
        queue_id: &str,
        received: SystemTime,
        submissions: Vec<Submission>,
        is_reserved: bool,
    ) -> Result<(), CommitError> {
        let job = Job::Enqueue(Enqueue {
            queue_id: queue_id.to_owned(),
            received,
            submissions,
            is_reserved,
            report_limit: self.report_limit,
        });
        let over_limit = self.engine.apply(job).await?.count;
        if over_limit > 0 {
            counter!("copyist_reports_collected_total").increment(over_limit);
            counter!("copyist_dead_letters_total").increment(over_limit);
            warn!(
                queue_id,
                targets = over_limit,
                "report limit exceeded: kept as dead letters, a digest will report them; too many reports within an hour about mail to journal and NDR mailboxes, as in a mail loop"
            );
        }
        Ok(())
    }

    /// Confirms, cancels or keeps a reservation.
    pub(super) async fn resolve(&self, job: Job) -> Result<(), CommitError> {
        self.engine.apply(job).await?;
        self.changed.notify_one();
        Ok(())
    }

    /// Creates a file to write a large message to while it is received. Nothing of it is durable
    /// before [`Spool::commit`].
    pub async fn new_body(&self) -> io::Result<IncomingBody> {
        self.engine.new_body().await
    }

    /// Claims items that are due, oldest first. Nobody else gets them until they are recorded or
    /// unclaimed.
    pub async fn claim(&self, now: SystemTime, limit: usize) -> Result<Vec<ItemId>, SpoolError> {
        self.engine.claim(Due::By(now), limit).await
    }

    /// Claims items that are due later than `latest`. If no schedule reaches that far, the clock
    /// was wrong when their attempts were scheduled, or has been set back since.
    pub async fn claim_misdated(
        &self,
        latest: SystemTime,
        limit: usize,
    ) -> Result<Vec<ItemId>, SpoolError> {
        self.engine.claim(Due::After(latest), limit).await
    }

    /// Gives a claimed item back, untried.
    pub fn unclaim(&self, id: &ItemId) {
        // It may change before it is claimed again.
        self.recent.take(id);
        self.engine.unclaim(id);
    }

    /// Loads an item for delivery. A damaged item, or one whose original is damaged, is set aside.
    pub async fn load(&self, id: &ItemId) -> Result<QueuedItem, SpoolError> {
        if let Some(item) = self.recent.take(id) {
            return Ok(item);
        }
        match self.engine.load(vec![id.clone()]).await?.pop().flatten() {
            Some(Ok(item)) => Ok(item),
            Some(Err(reason)) => Err(self.set_aside(id, reason).await),
            None => Err(SpoolError::Unknown(id.clone())),
        }
    }

    /// Reads claimed items that are about to be loaded, all at once.
    pub async fn prefetch(&self, ids: &[ItemId]) {
        let ids: Vec<ItemId> = (ids.iter())
            .filter(|id| !self.recent.contains(id))
            .cloned()
            .collect();
        if ids.is_empty() {
            return;
        }
        // Whatever cannot be read is read again when it is loaded, which reports the error.
        let items = self.engine.load(ids).await.unwrap_or_default();
        for item in items.into_iter().flatten().flatten() {
            self.recent.add(item);
        }
    }

    async fn set_aside(&self, id: &ItemId, reason: String) -> SpoolError {
        error!(item = %id, "set aside: {reason}");
        let job = Job::SetAside {
            id: id.clone(),
            reason: reason.clone(),
        };
        match self.engine.apply(job).await {
            Ok(_) => SpoolError::SetAside {
                id: id.clone(),
                reason: reason.into(),
            },
            Err(cause) => cause.into(),
        }
    }

    /// Records the result of a delivery, and ends the claim if that succeeds. The NDR in the
    /// result becomes durable together with the states that it reports.
    pub async fn record(
        &self,
        id: &ItemId,
        result: DeliveryResult,
        now: SystemTime,
    ) -> Result<NdrStatus, CommitError> {
        // Outdated now, if nobody took it.
        self.recent.take(id);
        let job = Job::Record {
            id: id.clone(),
            result,
            now,
        };
        let ndr = self.engine.apply(job).await?.ndr;
        self.unclaim(id);
        if ndr == NdrStatus::Queued {
            self.changed.notify_one();
        }
        Ok(ndr)
    }

    /// Returns the digests of refusals that are due.
    pub async fn digests(&self, now: SystemTime) -> Result<Vec<NdrDigest>, SpoolError> {
        self.engine.digests(now).await
    }

    /// Returns the digests of items that wait with a last reply that begins with `reply`. Reads
    /// the whole queue.
    pub async fn outage_digests(
        &self,
        reply: &'static str,
        now: SystemTime,
    ) -> Result<Vec<NdrDigest>, SpoolError> {
        self.engine.outage_digests(reply, now).await
    }

    /// Queues `item`, the NDR that reports a digest. What the digest covers is then reported.
    pub async fn enqueue_digest(
        &self,
        digest: &NdrDigest,
        item: Item,
        now: SystemTime,
    ) -> Result<(), CommitError> {
        let digest = digest.clone();
        let job = Job::EnqueueDigest { digest, item, now };
        self.engine.apply(job).await?;
        self.changed.notify_one();
        Ok(())
    }

    /// Stores that the relay refuses everything.
    pub async fn set_relay_refusing(&self, now: SystemTime) -> Result<(), CommitError> {
        let job = Job::SetRelayRefusing(Some(now));
        self.engine.apply(job).await.map(|_| ())
    }

    /// Stores that the relay accepts mail again.
    pub async fn clear_relay_refusing(&self) -> Result<(), CommitError> {
        let job = Job::SetRelayRefusing(None);
        self.engine.apply(job).await.map(|_| ())
    }

    /// Whether the relay refused everything when this was last stored.
    pub async fn is_relay_refusing(&self) -> Result<bool, SpoolError> {
        self.engine.is_relay_refusing().await
    }

    /// Stores a bounce. Returns false if the item has too many bounces already.
    pub async fn record_bounce(&self, bounce: BounceRecord) -> Result<bool, CommitError> {
        let result = self.engine.apply(Job::RecordBounce(bounce)).await?;
        Ok(result.count > 0)
    }

    /// Returns bounces, newest first: of one item, or of all.
    pub async fn bounces(
        &self,
        item: Option<&ItemId>,
        limit: usize,
    ) -> Result<Vec<BounceRecord>, SpoolError> {
        self.engine.bounces(item, limit).await
    }

    /// Whether an item is waiting to be delivered to all of these recipients.
    pub async fn is_queued_for(
        &self,
        id: &ItemId,
        recipients: &[Address],
    ) -> Result<bool, SpoolError> {
        let waiting = self.engine.waiting(id).await?;
        Ok(!recipients.is_empty() && recipients.iter().all(|to| waiting.contains(to)))
    }

    /// Whether a report may still be on its way: it is queued, or was delivered within the last
    /// five days. `sealed` is the time in its seal; seals of older versions have none.
    pub async fn is_in_transit(
        &self,
        id: &ItemId,
        sealed: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<bool, SpoolError> {
        self.engine.is_in_transit(id, sealed, now).await
    }

    /// Returns the time when the next item is due.
    pub async fn next_due(&self) -> Result<Option<SystemTime>, SpoolError> {
        self.engine.next_due().await
    }

    /// Resolves if this process queued or scheduled something since the last call. Changes by other
    /// processes do not wake it; poll for those.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether this process can commit nothing more.
    pub fn is_failed(&self) -> bool {
        self.engine.is_failed()
    }

    /// Resolves when the spool fails.
    pub async fn wait_failed(&self) {
        self.engine.wait_failed().await;
    }

    /// Watches a file that belongs to the spool: once it is replaced or written, for instance
    /// restored from a backup with the rest of the state directory, nothing more is committed.
    pub fn watch_file(&self, path: PathBuf) -> io::Result<()> {
        self.engine.watch_file(path)
    }

    /// Returns the free space of the spool's disk; `None` if it is not known.
    pub fn free_space(&self) -> Option<FreeSpace> {
        self.engine.free_space()
    }

    /// Returns the size of the queue.
    pub async fn depth(&self) -> Result<QueueDepth, SpoolError> {
        self.engine.depth().await
    }

    /// Lists items, oldest first.
    pub async fn list(&self, filter: ListFilter) -> Result<Vec<QueueEntry>, SpoolError> {
        self.engine.list(filter).await
    }

    /// Returns a page of the queue. No delivery waits for it.
    pub async fn browse(&self, request: BrowseRequest) -> Result<QueuePage, SpoolError> {
        self.engine.browse(request).await
    }

    /// Returns everything about one item.
    pub async fn show(&self, id: &ItemId) -> Result<Option<ItemDetails>, SpoolError> {
        self.engine.show(id).await
    }

    /// Puts an item on hold for an operator. Returns whether there is such an item.
    pub async fn hold(
        &self,
        operator: &Operator,
        id: &ItemId,
        now: SystemTime,
    ) -> Result<bool, CommitError> {
        self.operate(operator, Action::Hold, id, now).await
    }

    /// Releases an item from hold for an operator. Returns whether it was on hold.
    pub async fn release(
        &self,
        operator: &Operator,
        id: &ItemId,
        now: SystemTime,
    ) -> Result<bool, CommitError> {
        self.operate(operator, Action::Release, id, now).await
    }

    /// Performs an operator's action on an item and records it, in one transaction. Returns
    /// whether there is such an item; for [`Action::Release`], whether it was on hold.
    pub async fn operate(
        &self,
        operator: &Operator,
        action: Action,
        id: &ItemId,
        now: SystemTime,
    ) -> Result<bool, CommitError> {
        if action == Action::Drop {
            self.recent.take(id);
        }
        let job = Job::Operate {
            operator: operator.clone(),
            action,
            id: id.clone(),
            now,
        };
        let JobResult { count, .. } = self.engine.apply(job).await?;
        match action {
            Action::Hold => drop(self.recent.take(id)),
            Action::Release => self.changed.notify_one(),
            Action::Retry | Action::Drop | Action::Export => {}
        }
        Ok(count > 0)
    }

    /// Schedules up to `limit` items after the cursor for now, and records that. Returns the number
    /// of items, which is 0 at the end, and the cursor for the next call.
    pub async fn retry_after(
        &self,
        operator: &Operator,
        cursor: RetryCursor,
        limit: usize,
        now: SystemTime,
    ) -> Result<(u64, RetryCursor), CommitError> {
        let operator = operator.clone();
        let job = Job::RetryAfter {
            operator,
            cursor,
            limit,
            now,
        };
        let result = self.engine.apply(job).await?;
        Ok((result.count, result.cursor))
    }

    /// Returns operator records, newest first: of one item, or of all.
    pub async fn operator_records(
        &self,
        item: Option<&ItemId>,
        limit: usize,
    ) -> Result<Vec<OperatorRecord>, SpoolError> {
        self.engine.operator_records(item, limit).await
    }

    /// Logs the operator records added since the last call, including those of commands that ran
    /// while the service did not.
    pub async fn log_operator_records(&self) -> Result<(), CommitError> {
        for record in self.take_unlogged().await? {
            let at = rfc3339(record.at);
            info!(%at, "operator: {} by {}", record.describe_action(), record.describe_operator());
        }
        Ok(())
    }

    pub(super) async fn take_unlogged(&self) -> Result<Vec<OperatorRecord>, CommitError> {
        match self.engine.has_unlogged().await {
            Ok(true) => Ok(self.engine.apply(Job::TakeUnlogged).await?.operator_records),
            // If it cannot be read, the next reader reports it.
            Ok(false) | Err(_) => Ok(Vec::new()),
        }
    }
}

fn item_ids(submissions: &[Submission]) -> Vec<ItemId> {
    let items = submissions.iter().flat_map(|submission| &submission.items);
    items.map(|item| item.id.clone()).collect()
}
