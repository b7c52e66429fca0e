//! SMTP (RFC 5321) as state machines over bytes, and a small server built on the receiving one.
//!
//! Promises: lines end at CRLF and a message at CRLF.CRLF, nothing else (a server that takes less for an end is
//! a door for smuggled mail); what was stuffed is unstuffed exactly.

mod capabilities;
mod data;
mod receive;
mod sink;

pub use capabilities::Capabilities;
pub use data::BareLineBreaks;
pub use receive::{Dialogue, Event, Received};
pub use sink::Sink;
