//! The values that enter and leave the spool.

use std::fmt;
use std::time::SystemTime;

use crate::journal::{Bounce, Collected, Item, ItemId, Undelivered};
use crate::mail::{Address, Content};

/// One message, and the items that carry it.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The message as it was received, or the version of it that some recipients get.
    pub original: Content,
    /// The reports, copies and versions to deliver.
    pub items: Vec<Item>,
}

/// A queued item with everything a delivery needs.
#[derive(Debug, Clone)]
pub struct QueuedItem {
    /// The item.
    pub item: Item,
    /// The message that it carries between prefix and suffix.
    pub original: Content,
    /// The targets that are not finished.
    pub waiting: Vec<Address>,
    /// Number of delivery attempts so far.
    pub attempts: u32,
    /// Time when the message was received.
    pub received: SystemTime,
}

/// State of one target of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// Not delivered yet; the next attempt is scheduled or the item is stopped.
    Waiting,
    /// Accepted by the relay.
    Delivered,
    /// Permanently refused; an NDR was queued.
    Refused,
    /// Permanently refused, without an NDR. Kept until an operator decides.
    Dead,
}

/// Outcome of a delivery attempt for one target. The text is the relay's reply, or the reason why
/// the relay could not be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The relay accepted it.
    Delivered,
    /// Temporary error: the target is tried again.
    Deferred(String),
    /// Permanent error, reported by an NDR.
    Refused(String),
    /// Permanent error that no NDR reports.
    Dead(String),
}

/// Result of an attempt to deliver an item.
#[derive(Debug, Clone)]
pub struct DeliveryResult {
    /// The outcome for each target that was tried.
    pub outcomes: Vec<(Address, DeliveryOutcome)>,
    /// Time of the next attempt for the deferred targets.
    pub next_attempt: SystemTime,
    /// The NDR about the refused targets.
    pub ndr: Option<Item>,
    /// Number of such NDRs that one address gets within an hour. Over the limit, refused targets
    /// stay as dead letters, which a digest reports.
    pub ndr_limit: Option<u32>,
    /// Whether the relay was reached. An attempt that did not reach it is not counted.
    pub relay_reached: bool,
}

/// Status of the NDR of a [`DeliveryResult`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NdrStatus {
    /// There is none.
    #[default]
    NotNeeded,
    /// The NDR is queued.
    Queued,
    /// Over the limit: the refused targets are dead letters, and a digest will report them.
    Pending,
}

/// Failures that one NDR address has not been informed of.
#[derive(Debug, Clone)]
pub struct NdrDigest {
    /// The kind of failure.
    pub kind: Undelivered,
    /// The NDR address.
    pub ndr: Address,
    /// The oldest failures, as many as a digest lists.
    pub listed: Vec<Collected>,
    /// The number of all failures.
    pub count: u64,
    /// The last failure that the digest covers, in the engine's own numbering.
    pub(super) last: i64,
}

/// A bounce that came back for a delivered item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BounceRecord {
    /// The item; usually no longer in the spool.
    pub item: ItemId,
    /// Time when the bounce was received.
    pub at: SystemTime,
    /// Its content.
    pub bounce: Bounce,
}

/// Free space of the file system that holds the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes available to this process.
    pub bytes: u64,
    /// Inodes available to it; `None` if the file system creates inodes as needed.
    pub inodes: Option<u64>,
    /// Whether this is less than the settings keep free.
    pub is_low: bool,
}

impl QueuedItem {
    /// The item's ID.
    pub fn id(&self) -> &ItemId {
        &self.item.id
    }

    /// Size of the delivered message in bytes.
    pub fn size(&self) -> usize {
        self.item.prefix.len() + self.original.len() + self.item.suffix.len()
    }
}

impl TargetState {
    /// Every state.
    pub const ALL: [TargetState; 4] = [
        TargetState::Waiting,
        TargetState::Delivered,
        TargetState::Refused,
        TargetState::Dead,
    ];

    /// The name in tables, pages and JSON.
    pub fn name(self) -> &'static str {
        match self {
            TargetState::Waiting => "waiting",
            TargetState::Delivered => "delivered",
            TargetState::Refused => "refused",
            TargetState::Dead => "dead",
        }
    }

    pub(super) fn parse(name: &str) -> Option<TargetState> {
        TargetState::ALL
            .into_iter()
            .find(|state| state.name() == name)
    }
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
