//! The vocabulary of mail: addresses, envelopes, message bytes, replies.
//!
//! Promises: no I/O and no clock; bytes that came in can be had again exactly.
//! Fails only by [`AddressError`]: everything else accepts whatever a stranger sent.

mod address;
mod date;
mod envelope;
mod header;
mod message;
mod reply;

pub use address::{Address, AddressError};
pub use date::{rfc3339, rfc5322};
pub use envelope::{Client, Envelope, Recipient, Rewritten};
pub use header::{Field, Fields, line_end};
pub use message::{BodyKind, Message, Summary};
pub use reply::{Enhanced, Reply};
