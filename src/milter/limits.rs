//! What one connection may ask of us: how long it may take, and how much it may say.
//!
//! A limit on size that is met in the middle of a message ends that message and not the connection:
//! what was held of it is forgotten at once, what still comes of it is passed over, and its end is
//! answered with a refusal. The protocol has no limit on the length of a line, and none is made
//! here: a body comes in pieces, whatever its lines are.

use std::time::Duration;

use crate::mail::{Enhanced, Reply};

/// How long to wait, and how much to take in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long the negotiation may take, from the connection on. An MTA negotiates at once.
    pub greeting: Duration,
    /// Longest silence of the MTA, and longest wait for it to take an answer. An MTA keeps its
    /// filters connected while the SMTP client is silent, so this is longer than SMTP's own limits.
    pub idle: Duration,
    /// How long a message may take from MAIL to its end; the connection is closed then.
    pub message_time: Duration,
    /// How long a connection may live. It is closed when this is over and no message is under way.
    pub connection_time: Duration,
    /// How often the MTA is told that a message is still being decided.
    pub progress_every: Duration,
    /// Longest message, in bytes.
    pub message_size: usize,
    /// Longest header, in bytes: all fields together.
    pub header_size: usize,
    /// Most recipients of a message.
    pub recipients: usize,
}

/// Bytes of an envelope for each recipient that is allowed: a path has at most 256 (RFC 5321
/// section 4.5.3.1.3), and what may stand behind it is of that order (RFC 3461 section 4.2 allows
/// 500 for ORCPT).
const RECIPIENT: usize = 1024;

impl Limits {
    /// Those of an MTA that is trusted not to be in a hurry.
    pub const DEFAULT: Limits = Limits {
        greeting: Duration::from_secs(30),
        // libmilter's default.
        idle: Duration::from_secs(7210),
        message_time: Duration::from_secs(4 * 3600),
        connection_time: Duration::from_secs(24 * 3600),
        progress_every: Duration::from_secs(10),
        message_size: 1024 * 1024 * 1024,
        header_size: 1024 * 1024,
        recipients: 10_000,
    };

    /// Whether an envelope of so many recipients, of so many bytes in all, is too much.
    pub(super) fn exceeded_by_recipients(&self, count: usize, bytes: usize) -> bool {
        count > self.recipients || bytes > self.recipients.saturating_mul(RECIPIENT)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// Which limit a message went beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// [`Limits::recipients`].
    Recipients,
    /// [`Limits::header_size`].
    Header,
    /// [`Limits::message_size`].
    Message,
    /// What all messages under way may hold together; that is for the [`super::Handler`] to know.
    Memory,
}

impl Excess {
    /// The name of the limit.
    pub fn name(self) -> &'static str {
        match self {
            Excess::Recipients => "recipients",
            Excess::Header => "header_size",
            Excess::Message => "message_size",
            Excess::Memory => "memory",
        }
    }

    /// What the MTA is told. A message that is too large will not be smaller when it comes again: a
    /// final no (X.3.4, RFC 3463 section 3.4). Of too many recipients the SMTP client sends the
    /// rest again (RFC 5321 section 4.5.3.1.10).
    pub fn reply(self) -> Reply {
        match self {
            Excess::Recipients => Reply::new(452, Enhanced(4, 5, 3), "Too many recipients"),
            Excess::Header => Reply::new(
                552,
                Enhanced(5, 3, 4),
                "Message header size exceeds fixed limit",
            ),
            // X.3.2 would say that we take no messages; X.3.1 is the one for storage of any kind.
            Excess::Memory => Reply::new(452, Enhanced(4, 3, 1), "Insufficient memory, try again"),
            Excess::Message => {
                Reply::new(552, Enhanced(5, 3, 4), "Message size exceeds fixed limit")
            }
        }
    }
}
