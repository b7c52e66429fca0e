//! The interface between [`Spool`](super::Spool) and an engine.

use std::time::SystemTime;

use super::error::{CommitError, SpoolError};
use super::job::{Job, JobResult};
use super::operator::OperatorRecord;
use super::types::{BounceRecord, NdrDigest, QueuedItem};
use super::view::{BrowseRequest, ItemDetails, ListFilter, QueueDepth, QueueEntry, QueuePage};
use crate::journal::ItemId;
use crate::mail::Address;

/// Items that [`Engine::claim`] selects.
#[derive(Debug, Clone, Copy)]
pub(super) enum Due {
    /// Due at this time, oldest first.
    By(SystemTime),
    /// Due later than this, latest first.
    After(SystemTime),
}

/// Storage of the queue.
///
/// A claim belongs to the process that made it. It ends with [`Engine::unclaim`], with the item, or
/// with the process; a reservation that a process leaves behind is kept as unknown. If several
/// processes share a queue, neither is ended on behalf of a process that is still alive.
pub(super) trait Engine {
    /// Applies a job. `Ok` means that it is durable. After [`CommitError::is_definite`] errors
    /// nothing of it is stored; after the others it may be. A caller that goes away does not cancel
    /// it.
    fn apply(&self, job: Job) -> impl Future<Output = Result<JobResult, CommitError>> + Send;

    /// Claims up to `limit` items that no one else has claimed.
    fn claim(
        &self,
        due: Due,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<ItemId>, SpoolError>> + Send;

    /// Ends a claim of this process. May take effect later.
    fn unclaim(&self, id: &ItemId);

    /// Reads items with their originals. `None` if there is no such item, `Err` with the reason if
    /// it is damaged.
    fn load(
        &self,
        ids: Vec<ItemId>,
    ) -> impl Future<Output = Result<Vec<Loaded>, SpoolError>> + Send;

    /// Time when the next item is due.
    fn next_due(&self) -> impl Future<Output = Result<Option<SystemTime>, SpoolError>> + Send;

    /// Waiting targets of an item; empty if there is no such item.
    fn waiting(&self, id: &ItemId)
    -> impl Future<Output = Result<Vec<Address>, SpoolError>> + Send;

    /// See [`Spool::is_in_transit`](super::Spool::is_in_transit).
    fn is_in_transit(
        &self,
        id: &ItemId,
        sealed: Option<SystemTime>,
        now: SystemTime,
    ) -> impl Future<Output = Result<bool, SpoolError>> + Send;

    /// Digests of refusals that are due.
    fn digests(
        &self,
        now: SystemTime,
    ) -> impl Future<Output = Result<Vec<NdrDigest>, SpoolError>> + Send;

    /// Digests of items that wait with a last reply that begins with `reply`.
    fn outage_digests(
        &self,
        reply: &'static str,
        now: SystemTime,
    ) -> impl Future<Output = Result<Vec<NdrDigest>, SpoolError>> + Send;

    /// Whether the relay refuses everything, as last stored.
    fn is_relay_refusing(&self) -> impl Future<Output = Result<bool, SpoolError>> + Send;

    /// Bounces, newest first: of one item, or of all.
    fn bounces(
        &self,
        item: Option<&ItemId>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<BounceRecord>, SpoolError>> + Send;

    /// Operator records, newest first: of one item, or of all.
    fn operator_records(
        &self,
        item: Option<&ItemId>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<OperatorRecord>, SpoolError>> + Send;

    /// Whether an operator record was not logged.
    fn has_unlogged(&self) -> impl Future<Output = Result<bool, SpoolError>> + Send;

    /// Size of the queue.
    fn depth(&self) -> impl Future<Output = Result<QueueDepth, SpoolError>> + Send;

    /// Items, oldest first.
    fn list(
        &self,
        filter: ListFilter,
    ) -> impl Future<Output = Result<Vec<QueueEntry>, SpoolError>> + Send;

    /// A page of the queue.
    fn browse(
        &self,
        request: BrowseRequest,
    ) -> impl Future<Output = Result<QueuePage, SpoolError>> + Send;

    /// Everything about one item.
    fn show(
        &self,
        id: &ItemId,
    ) -> impl Future<Output = Result<Option<ItemDetails>, SpoolError>> + Send;
}

/// A loaded item: absent, damaged with the reason, or whole.
pub(super) type Loaded = Option<Result<QueuedItem, String>>;
