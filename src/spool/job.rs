//! The changes an engine makes: data, so that an engine may run one again, alone or in a group.

use std::time::SystemTime;

use super::operator::{Action, Operator, OperatorRecord, RetryCursor};
use super::types::{BounceRecord, DeliveryResult, NdrDigest, NdrStatus, Submission};
use crate::journal::{Item, ItemId};

/// A change of the queue. Each is one transaction: all of it becomes durable, or nothing.
#[derive(Debug, Clone)]
pub(super) enum Job {
    /// Adds the items of a message.
    Enqueue(Enqueue),
    /// The next hop accepted the message: schedules the items, but removes those in `delivered`,
    /// which reached all recipients by the same transaction.
    Confirm {
        items: Vec<ItemId>,
        delivered: Vec<ItemId>,
    },
    /// The next hop rejected the message: removes the items.
    Cancel { items: Vec<ItemId> },
    /// The next hop's answer is unknown: marks the items so and schedules them.
    KeepUnknown { items: Vec<ItemId> },
    /// Stores a delivery result and removes an item that is finished. The NDR in the result becomes
    /// durable in the same transaction as the states it reports.
    Record {
        id: ItemId,
        result: DeliveryResult,
        now: SystemTime,
    },
    /// Excludes a damaged item from delivery.
    SetAside { id: ItemId, reason: String },
    /// Queues the NDR that reports a digest, and forgets the failures that it covers.
    EnqueueDigest {
        digest: NdrDigest,
        item: Item,
        now: SystemTime,
    },
    /// Stores a bounce. [`JobResult::count`] is 0 if the item has too many already.
    RecordBounce(BounceRecord),
    /// Stores whether the relay refuses everything, with the time since when.
    SetRelayRefusing(Option<SystemTime>),
    /// Performs an operator's action and records it. [`JobResult::count`] is 0 if there is no such
    /// item or, for [`Action::Release`], if it is not on hold.
    Operate {
        operator: Operator,
        action: Action,
        id: ItemId,
        now: SystemTime,
    },
    /// Schedules up to `limit` items after the cursor, but for those on hold or reserved.
    RetryAfter {
        operator: Operator,
        cursor: RetryCursor,
        limit: usize,
        now: SystemTime,
    },
    /// Returns the oldest operator records that were not logged, and marks them as logged.
    TakeUnlogged,
}

/// The items of one message, to be queued.
#[derive(Debug, Clone)]
pub(super) struct Enqueue {
    /// The MTA's queue ID; empty for a digest.
    pub(super) queue_id: String,
    /// Time when the message was received.
    pub(super) received: SystemTime,
    /// The message, and versions of it.
    pub(super) submissions: Vec<Submission>,
    /// Whether the items wait for the next hop's answer.
    pub(super) is_reserved: bool,
    /// See [`Spool::with_report_limit`](super::Spool::with_report_limit).
    pub(super) report_limit: Option<u32>,
}

/// Result of a [`Job`]. Fields that a job does not mention keep their defaults.
#[derive(Debug, Default)]
pub(super) struct JobResult {
    /// Number of items or records changed; for [`Job::Enqueue`], of targets over the report limit.
    pub(super) count: u64,
    /// Set by [`Job::Record`].
    pub(super) ndr: NdrStatus,
    /// Set by [`Job::RetryAfter`]: the position after the last item.
    pub(super) cursor: RetryCursor,
    /// Set by [`Job::TakeUnlogged`].
    pub(super) operator_records: Vec<OperatorRecord>,
}
