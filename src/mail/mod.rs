//! The vocabulary of mail: addresses, envelopes, message bytes, replies.
//!
//! Promises: no clock, and no I/O apart from implementations of [`Stored`]; received bytes can be
//! read back exactly. Fails only with an [`AddressError`]: everything else accepts any input from
//! untrusted senders.

mod address;
mod body_format;
mod content;
mod date;
mod display;
mod encoded;
mod envelope;
mod header;
mod limits;
mod message;
mod reply;
mod size;

pub use address::{Address, AddressError};
pub(crate) use address::{fold, is_blank, is_invisible, without_scheme};
pub use body_format::{BodyFormat, BodyKind};
pub use content::{BEGINNING, BodyFile, Chunks, Content, Stored};
pub use date::{rfc3339, rfc5322};
pub use display::{escape_for_display, needs_escape};
pub use encoded::unstructured;
pub use envelope::{Certificate, Client, Envelope, Recipient, Side, original_recipient};
pub use header::{Field, Fields, line_end};
pub use limits::{LimitExceeded, Limits};
pub use message::{Message, Summary};
pub use reply::{Enhanced, Reply};
pub use size::format_size;
