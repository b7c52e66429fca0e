//! What is owed: journal reports, copies and NDRs, durable until somebody took them.
//!
//! Promises: [`Spool::commit`] returns `Ok` only when everything given to it survives a power cut;
//! nothing is removed but what was delivered, what an NDR stands for, or what an operator dropped;
//! nothing expires. Fails by [`CommitError`] and [`SpoolError`], never by losing.
//!
//! # States
//!
//! An item has targets; each target is in one state:
//!
//! ```text
//!            ┌──────────────► delivered     the relay said 250 after the data
//!  waiting ──┼──────────────► refused       a final no; in the same transaction its NDR became an item
//!            └──────────────► dead          a final no to an NDR, or one too many for its NDR address, which
//!                                           a digest tells of: kept until an operator decides
//!  dead ────────retry───────► waiting
//! ```
//!
//! An item may be *held* as a whole: nobody tries it before the fate of its message is known
//! ([`Reservation`]). An operator may put it on hold as well ([`Action::Hold`]); nobody tries it before he
//! releases it.
//!
//! An item is removed in the transaction that leaves it without a waiting or dead target; the
//! original of a message goes with its last item. An item whose original cannot be read any more is
//! *set aside*: it stays, is shown, and is not tried again by itself.
//!
//! # Where
//!
//! `state_dir/spool/spool.db` is an SQLite database in WAL mode with `synchronous=FULL`: a commit
//! is one write to the log and one sync. One thread writes, and commits everything that waits as
//! one group, so that many sessions share a sync. Originals above [`Settings::inline_limit`] are
//! files in `state_dir/spool/bodies`, durable before the row that names them; a large message is
//! written to its file while it arrives ([`Spool::incoming`]).
//!
//! What was committed a moment ago is also remembered, within 8 MiB, and so delivered without being
//! read again. Nothing is owed because of that: what is not remembered is read.

mod bodies;
mod browse;
mod damage;
mod database;
mod error;
mod fresh;
mod held;
mod late;
mod news;
mod operator;
mod paused;
mod queue;
mod refused;
mod reserve;
mod room;
mod settings;
mod store;
#[cfg(test)]
mod tests;
mod watched;
mod writer;

use std::time::SystemTime;

use crate::journal::{Item, ItemId};
use crate::mail::{Address, Content};

pub use bodies::IncomingBody;
pub use browse::{
    BrowseRequest, PageCursor, QueueCounts, QueuePage, SearchTerm, SortOrder, StateFilter,
};
pub use error::{CommitError, OpenError, SpoolError};
pub use held::Reservation;
pub use news::{BounceRecord, NdrDigest};
pub use operator::{Action, Operator, OperatorRecord};
pub use queue::{ItemDetails, ListFilter, QueueDepth, QueueEntry, TargetEntry};
pub use room::FreeSpace;
pub use settings::Settings;
pub use store::{Spool, holder};

/// A message, and what is owed with it.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The message: as it was received, or a version of it that some recipients get.
    pub original: Content,
    /// What carries it.
    pub items: Vec<Item>,
}

/// An item with everything a delivery needs.
#[derive(Debug, Clone)]
pub struct QueuedItem {
    /// The item.
    pub item: Item,
    /// The message it carries between prefix and suffix.
    pub original: Content,
    /// Those of its targets that still wait.
    pub waiting: Vec<Address>,
    /// How often it was tried.
    pub attempts: u32,
    /// When the message came.
    pub received: SystemTime,
}

/// What an attempt to deliver an item came to.
#[derive(Debug, Clone)]
pub struct DeliveryResult {
    /// What became of each target that was tried.
    pub outcomes: Vec<(Address, DeliveryOutcome)>,
    /// When those that still wait are tried again.
    pub next_attempt: SystemTime,
    /// The NDR about the refused ones.
    pub ndr: Option<Item>,
    /// How many such NDRs one address gets within an hour. What is refused beyond that stays as a
    /// dead letter, which a digest tells of.
    pub ndr_limit: Option<u32>,
    /// Whether the relay was reached; an attempt that was not is no item's.
    pub relay_reached: bool,
}

/// What was made of a [`DeliveryResult`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The NDR is owed now.
    pub has_ndr: bool,
    /// There is no NDR; what was refused waits for a digest, as dead letters.
    pub collected: bool,
}

/// What became of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The relay has it.
    Delivered,
    /// Not now; the text is what the relay said, or why it was not reached.
    Deferred(String),
    /// A final no, and an NDR tells of it.
    Refused(String),
    /// A final no, and nobody is left to tell.
    Dead(String),
}

impl QueuedItem {
    /// The item's name.
    pub fn id(&self) -> &ItemId {
        &self.item.id
    }

    /// Bytes that a delivery sends.
    pub fn size(&self) -> usize {
        self.item.prefix.len() + self.original.len() + self.item.suffix.len()
    }
}
