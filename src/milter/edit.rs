//! What a handler can decide about recipients and messages. Only the words; how they reach the MTA,
//! and which cannot, is in `encode.rs`.

use bytes::Bytes;

use crate::mail::Reply;

/// Longest packet of an edit other than a new body, in bytes.
pub(super) const LONGEST: usize = 65_535;

/// What is said about a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientAnswer {
    /// Accept it, if nobody else objects.
    Accept,
    /// Refuse it with the MTA's own 5yz reply.
    Reject,
    /// Refuse it for now with the MTA's own 4yz reply.
    Tempfail,
    /// Refuse it with this reply.
    Reply(Reply),
}

/// What is said about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageAnswer {
    /// Accept it, if nobody else objects; the edits are made.
    Accept,
    /// Refuse it with the MTA's own 5yz reply.
    Reject,
    /// Refuse it for now with the MTA's own 4yz reply.
    Tempfail,
    /// Accept it and throw it away.
    Discard,
    /// Refuse it with this reply.
    Reply(Reply),
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageDecision {
    /// Changes to the message, in order. They only matter if it is accepted.
    pub edits: Vec<Edit>,
    /// The verdict.
    pub answer: MessageAnswer,
}

impl From<MessageAnswer> for MessageDecision {
    fn from(answer: MessageAnswer) -> MessageDecision {
        let edits = Vec::new();
        MessageDecision { edits, answer }
    }
}

/// A change to a message. Values of header fields are given without the space after the colon; the
/// lines of a folded one may end in CRLF or LF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Appends a header field. Sendmail replaces a field of that name that it made itself.
    AddHeader {
        /// What stands before the colon.
        name: String,
        /// What stands behind it.
        value: String,
    },
    /// Inserts a header field.
    InsertHeader {
        /// How many fields stand before it, those that the MTA added included; 0 is the top.
        index: u32,
        /// What stands before the colon.
        name: String,
        /// What stands behind it.
        value: String,
    },
    /// Changes a header field, or deletes it.
    ChangeHeader {
        /// Which of the fields with this name, counted from 1.
        index: u32,
        /// What stands before the colon.
        name: String,
        /// What stands behind it from now on; empty deletes the field.
        value: String,
    },
    /// Replaces the body, with lines that end in CRLF. At most one in an outcome: Postfix cannot
    /// mix it with others.
    ReplaceBody(Bytes),
    /// Adds a recipient.
    AddRecipient {
        /// The forward path.
        address: String,
        /// ESMTP parameters: `NOTIFY=NEVER`.
        params: Vec<String>,
    },
    /// Deletes a recipient.
    DeleteRecipient(String),
    /// Changes the reverse path.
    ChangeSender {
        /// The new one.
        address: String,
        /// ESMTP parameters.
        params: Vec<String>,
    },
    /// Has the MTA hold the message, for this reason.
    Quarantine(String),
}

/// An outcome that cannot be said; the MTA was told to try again later instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The MTA did not agree to such edits.
    #[error("the MTA does not let us {action}")]
    NotAgreed {
        /// What the edit does.
        action: &'static str,
    },
    /// A name, value or address that would not come through as it is.
    #[error("cannot {action}: {text:?} {reason}")]
    Invalid {
        /// What the edit does.
        action: &'static str,
        /// The offending text, or its beginning.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More than fits into a packet.
    #[error("cannot {action}: {length} bytes are more than the {LONGEST} of a packet")]
    TooLong {
        /// What the edit does.
        action: &'static str,
        /// How long the packet would be.
        length: usize,
    },
    /// A second new body.
    #[error("cannot replace the body twice")]
    TwoBodies,
    /// A reply that is no refusal.
    #[error("{reply:?} is not a 4yz or 5yz reply with an enhanced status of the same class")]
    InvalidReply {
        /// The reply.
        reply: String,
    },
}
