//! The queue as operators see it.

use std::fmt;
use std::time::SystemTime;

use crate::journal::{ItemId, Kind};
use crate::mail::Address;
use crate::policy::Direction;

use super::types::TargetState;

/// Selection of items for [`Spool::list`](super::Spool::list).
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Whether only items with a dead target and items set aside are listed.
    pub dead_only: bool,
    /// Maximum number of items; the oldest are listed.
    pub limit: usize,
}

/// An item in a list.
#[derive(Debug, Clone)]
pub struct QueueEntry {
    /// The item's ID.
    pub id: ItemId,
    /// Its kind.
    pub kind: Kind,
    /// Direction of the message.
    pub direction: Direction,
    /// The MTA's queue ID of the message.
    pub queue_id: String,
    /// Time when the message was received.
    pub received: SystemTime,
    /// Size of the original in bytes.
    pub size: u64,
    /// Subject of the original.
    pub subject: String,
    /// Number of delivery attempts so far.
    pub attempts: u32,
    /// Time of the next attempt; `None` if none is scheduled.
    pub next_attempt: Option<SystemTime>,
    /// Why the item was set aside.
    pub set_aside: Option<String>,
    /// Whether the next hop has not yet answered for the message ([`super::Reservation`]).
    pub is_reserved: bool,
    /// Whether an operator holds the item.
    pub on_hold: bool,
    /// Its targets.
    pub targets: Vec<TargetEntry>,
}

/// One target of an item in a list.
#[derive(Debug, Clone)]
pub struct TargetEntry {
    /// The journal or NDR address.
    pub address: Address,
    /// Its state.
    pub state: TargetState,
    /// The reply at the last attempt.
    pub last_reply: Option<String>,
}

/// Everything about one item but its bytes.
#[derive(Debug, Clone)]
pub struct ItemDetails {
    /// The item as it is listed.
    pub listed: QueueEntry,
    /// The envelope sender; `None` is the null sender.
    pub sender: Option<Address>,
    /// The address that an NDR about the item would be sent to.
    pub ndr: Option<Address>,
    /// The Message-ID.
    pub message_id: String,
    /// The rules that made each target get the item.
    pub reasons: Vec<String>,
}

/// Size of the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Number of items.
    pub items: u64,
    /// Items without a scheduled attempt because a target is dead or because they were set aside.
    pub dead: u64,
    /// Items that an operator holds.
    pub on_hold: u64,
    /// Time when the oldest message with an item was received.
    pub oldest: Option<SystemTime>,
}

/// Selection and order of items for [`Spool::browse`](super::Spool::browse).
#[derive(Debug, Clone, Default)]
pub struct BrowseRequest {
    /// State of the items.
    pub state: StateFilter,
    /// Direction of their messages; `None` for all.
    pub direction: Option<Direction>,
    /// Search term; `None` for all.
    pub with: Option<SearchTerm>,
    /// The order.
    pub order: SortOrder,
    /// Position after which the page begins; `None` for the first page.
    pub after: Option<PageCursor>,
    /// Maximum number of items; 0 for the counts alone.
    pub limit: usize,
}

/// State of an item as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StateFilter {
    /// Any.
    #[default]
    Any,
    /// With a dead target, or set aside.
    Dead,
    /// With a scheduled attempt.
    Waiting,
    /// On hold or reserved: not tried until an operator or the next hop decides.
    Blocked,
}

/// Search term. ASCII letters match in either case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchTerm {
    /// Beginning of the item ID, or of the address of one of the targets.
    IdOrAddress(String),
    /// Beginning of the MTA's queue ID.
    QueueId(String),
    /// Part of the subject.
    Subject(String),
}

/// Order of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// Dead letters, then the others, oldest first.
    #[default]
    DeadFirst,
    /// Oldest first.
    Oldest,
    /// Newest first.
    Newest,
    /// Next attempt first; items without one last.
    NextAttempt,
    /// Most attempts first.
    MostAttempts,
}

/// Position in a sorted queue, as an engine numbers it. Its text goes into links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCursor {
    /// Part of the order.
    pub(super) part: usize,
    /// Sort key within the part.
    pub(super) key: i64,
    /// Number of the item.
    pub(super) seq: i64,
}

/// A page of the queue.
#[derive(Debug, Clone, Default)]
pub struct QueuePage {
    /// The items.
    pub items: Vec<QueueEntry>,
    /// Position of the next page; `None` on the last page.
    pub next: Option<PageCursor>,
    /// Number of items in each state, in the whole queue.
    pub counts: QueueCounts,
}

/// Number of items in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// All items.
    pub items: u64,
    /// With a dead target, or set aside.
    pub dead: u64,
    /// With a scheduled attempt.
    pub waiting: u64,
    /// On hold or reserved.
    pub blocked: u64,
    /// Held by an operator.
    pub on_hold: u64,
    /// Time when the oldest message with an item was received.
    pub oldest: Option<SystemTime>,
}

impl PageCursor {
    /// Parses the text that `Display` writes.
    pub fn parse(text: &str) -> Option<PageCursor> {
        let mut numbers = text.splitn(3, '.');
        Some(PageCursor {
            part: numbers.next()?.parse().ok()?,
            key: numbers.next()?.parse().ok()?,
            seq: numbers.next()?.parse().ok()?,
        })
    }
}

impl fmt::Display for PageCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.part, self.key, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_cursor_survives_its_text_and_others_are_invalid() {
        let cursor = PageCursor {
            part: 1,
            key: -7,
            seq: i64::MAX,
        };
        assert_eq!(PageCursor::parse(&cursor.to_string()), Some(cursor));
        for text in ["", "1.2", "1.2.3.4", "-1.2.3", "1.2.x", "1.2.3 OR 1"] {
            assert_eq!(PageCursor::parse(text), None, "{text}");
        }
    }
}
