//! The vocabulary of mail: addresses, envelopes, message bytes, replies.
//!
//! Promises: no clock, and no I/O but by those who store large messages ([`Stored`]); bytes that
//! came in can be had again exactly. Fails only by [`AddressError`]: everything else accepts
//! whatever a stranger sent.

mod address;
mod content;
mod date;
mod encoded;
mod envelope;
mod header;
mod limits;
mod message;
mod nature;
mod reply;
mod size;
mod visible;

pub use address::{Address, AddressError};
pub(crate) use address::{fold, is_blank, is_invisible, without_scheme};
pub use content::{BEGINNING, Content, Pieces, Stored};
pub use date::{rfc3339, rfc5322};
pub use encoded::unstructured;
pub use envelope::{Certificate, Client, Envelope, Recipient, Side, original_recipient};
pub use header::{Field, Fields, line_end};
pub use limits::{LimitExceeded, Limits};
pub use message::{Message, Summary};
pub use nature::{BodyKind, Nature};
pub use reply::{Enhanced, Reply};
pub use size::size;
pub use visible::{is_unseen, visible};
