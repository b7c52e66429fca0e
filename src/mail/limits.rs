//! Limits of one connection, and the reply when a message exceeds one.
//!
//! A size limit that is exceeded in the middle of a message rejects the message and keeps the
//! connection: the bytes held are dropped at once, the rest is read and discarded, and the end of
//! the message is answered with the rejection. Lines have no limit of their own here: the milter
//! protocol sends a body in chunks, and the SMTP listener limits lines itself.

use std::time::Duration;

use super::{Enhanced, Reply};

/// Timeouts and size limits of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest negotiation, from the connection on. An MTA negotiates at once.
    pub greeting: Duration,
    /// Longest silence of the MTA, and longest wait for it to read an answer. An MTA keeps its
    /// filters connected while the SMTP client is silent, so this is longer than SMTP's own limits.
    pub idle: Duration,
    /// Longest message transaction, from MAIL to its end; the connection is closed then.
    pub message_time: Duration,
    /// Longest life of a connection. After this it is closed as soon as no message is under way.
    pub connection_time: Duration,
    /// Interval of progress replies to the MTA while a message is being decided.
    pub progress_every: Duration,
    /// Largest message, in bytes.
    pub message_size: usize,
    /// Largest header, in bytes: all fields together.
    pub header_size: usize,
    /// Most recipients of a message.
    pub recipients: usize,
}

/// Envelope bytes for each allowed recipient: a path has at most 256 (RFC 5321 section
/// 4.5.3.1.3), and its parameters are of the same order (RFC 3461 section 4.2 allows 500 for
/// ORCPT).
const RECIPIENT_SIZE: usize = 1024;

impl Limits {
    /// The limits for an MTA that is trusted to take its time.
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

    /// Whether an envelope has too many recipients, or too many bytes in all of them.
    pub fn is_exceeded_by_recipients(&self, count: usize, bytes: usize) -> bool {
        count > self.recipients || bytes > self.recipients.saturating_mul(RECIPIENT_SIZE)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// The limit that a message exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitExceeded {
    /// [`Limits::recipients`].
    Recipients,
    /// [`Limits::header_size`].
    Header,
    /// [`Limits::message_size`].
    Message,
    /// The memory that all messages under way share; the hook keeps that account.
    Memory,
}

impl LimitExceeded {
    /// Returns the name of the limit, as metrics and log lines have it.
    pub fn name(self) -> &'static str {
        match self {
            LimitExceeded::Recipients => "recipients",
            LimitExceeded::Header => "header_size",
            LimitExceeded::Message => "message_size",
            LimitExceeded::Memory => "memory",
        }
    }

    /// Returns the reply to the client. A message that is too large will not be smaller the next
    /// time: a permanent failure (X.3.4, RFC 3463 section 3.4). After too many recipients the SMTP
    /// client sends the rest again (RFC 5321 section 4.5.3.1.10).
    pub fn reply(self) -> Reply {
        match self {
            LimitExceeded::Recipients => Reply::new(452, Enhanced(4, 5, 3), "Too many recipients"),
            LimitExceeded::Header => Reply::new(
                552,
                Enhanced(5, 3, 4),
                "Message header size exceeds fixed limit",
            ),
            // X.3.2 would mean that no messages are accepted at all; X.3.1 covers any storage.
            LimitExceeded::Memory => {
                Reply::new(452, Enhanced(4, 3, 1), "Insufficient memory, try again")
            }
            LimitExceeded::Message => {
                Reply::new(552, Enhanced(5, 3, 4), "Message size exceeds fixed limit")
            }
        }
    }
}
