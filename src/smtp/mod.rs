//! SMTP (RFC 5321) as state machines over bytes, and a small server built on the receiving one.
//!
//! Promises: lines end at CRLF and a message at CRLF.CRLF, nothing else (a server that accepts
//! other ends lets smuggled mail in); decoding undoes encoding exactly; input that two servers
//! could read in two ways is rejected; no line is unbounded.

mod auth;
mod capabilities;
mod command;
mod data;
mod lines;
mod reply;
mod server;
mod sink;
#[cfg(test)]
mod smuggling;

pub use auth::parse_auth_user;
pub use capabilities::{Capabilities, Mechanisms};
pub use command::{Command, add_brackets};
pub use data::{BareLineBreaks, DataDecoder, DataEncoder, DataError, find_bare_line_break};
pub use lines::{LineError, Lines};
pub use reply::{ReplyError, ReplyReader, ServerReply};
pub use server::{Event, ReceivedMessage, ServerSession};
pub use sink::Sink;
