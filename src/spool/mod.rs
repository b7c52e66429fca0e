//! The durable queue of journal reports, copies and NDRs.
//!
//! Promises: [`Spool::commit`] returns `Ok` only when everything given to it survives a power cut.
//! An item is removed only when it was delivered, when an NDR replaces it, when its message was
//! rejected by the next hop, or when an operator dropped it. Nothing expires. Fails with
//! [`CommitError`] and [`SpoolError`], never by losing an item.
//!
//! # States
//!
//! An item has targets; each target is in one [`TargetState`]:
//!
//! ```text
//!            ┌──────────────► delivered     the relay replied 250 to the data
//!  waiting ──┼──────────────► refused       permanent error; its NDR was queued in the same transaction
//!            └──────────────► dead          permanent error without an NDR: for an NDR itself, or over
//!                                           the NDR limit, where a digest follows; an operator decides
//!  dead ────────retry───────► waiting
//! ```
//!
//! Three properties of an item stop its delivery, whatever the state of its targets:
//!
//! * *reserved*: the next hop has not yet accepted or rejected the message ([`Reservation`]);
//! * *on hold*: an operator stopped it ([`Spool::hold`]) and has to release it;
//! * *set aside*: it is damaged. It stays in the queue and is shown, but not tried.
//!
//! An item is removed in the transaction that leaves it without a waiting or dead target. The
//! original message is removed with its last item.
//!
//! # Contract and engine
//!
//! The types of this module, `Job` and `Engine` are the contract. An
//! engine stores the queue; every engine passes the suite in `conformance.rs`. The engine today is
//! `sqlite`: one database per service, and files for originals over [`Settings::inline_limit`].
//! [`Spool`] is the handle that other modules use; it also keeps recently committed items in
//! memory, up to 8 MiB, so that they are delivered without being read back. Losing that memory
//! costs a read and nothing else.

#[cfg(test)]
mod conformance;
mod digest;
mod engine;
mod error;
mod handle;
mod job;
mod operator;
mod recent;
mod reservation;
mod settings;
mod sqlite;
mod types;
mod view;

pub use error::{CommitError, OpenError, SpoolError};
pub use handle::Spool;
pub use operator::{Action, Operator, OperatorRecord, RetryCursor};
pub use reservation::Reservation;
pub use settings::Settings;
pub use sqlite::{IncomingBody, lock_holder};
pub use types::{
    BounceRecord, DeliveryOutcome, DeliveryResult, FreeSpace, NdrDigest, NdrStatus, QueuedItem,
    Submission, TargetState,
};
pub use view::{
    BrowseRequest, ItemDetails, ListFilter, PageCursor, QueueCounts, QueueDepth, QueueEntry,
    QueuePage, SearchTerm, SortOrder, StateFilter, TargetEntry,
};
