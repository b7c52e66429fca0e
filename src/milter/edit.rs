//! The decisions a handler can make about recipients and messages. Their encoding, and the checks
//! that they can be encoded, are in `encode.rs`.

use bytes::Bytes;

use crate::mail::Reply;

/// Longest packet of an edit other than a new body, in bytes.
pub(super) const LONGEST: usize = 65_535;

/// The answer to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientAnswer {
    /// Accept it, unless another filter or the MTA rejects it.
    Accept,
    /// Reject it with the MTA's own 5yz reply.
    Reject,
    /// Reject it for now with the MTA's own 4yz reply.
    Tempfail,
    /// Reject it with this reply.
    Reply(Reply),
}

/// The answer to one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageAnswer {
    /// Accept it with the edits, unless another filter or the MTA rejects it.
    Accept,
    /// Reject it with the MTA's own 5yz reply.
    Reject,
    /// Reject it for now with the MTA's own 4yz reply.
    Tempfail,
    /// Accept and discard it.
    Discard,
    /// Reject it with this reply.
    Reply(Reply),
}

/// The decision about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageDecision {
    /// Changes to the message, in order. They apply only if it is accepted.
    pub edits: Vec<Edit>,
    /// The answer.
    pub answer: MessageAnswer,
}

impl From<MessageAnswer> for MessageDecision {
    fn from(answer: MessageAnswer) -> MessageDecision {
        let edits = Vec::new();
        MessageDecision { edits, answer }
    }
}

/// A change to a message. Values of header fields come without the space after the colon; lines of
/// a folded value may end in CRLF or LF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Appends a header field. Sendmail replaces a field of that name that it added itself.
    AddHeader {
        /// The field name.
        name: String,
        /// The field value.
        value: String,
    },
    /// Inserts a header field.
    InsertHeader {
        /// The number of fields before it, including those that the MTA added; 0 is the top.
        index: u32,
        /// The field name.
        name: String,
        /// The field value.
        value: String,
    },
    /// Changes a header field, or deletes it.
    ChangeHeader {
        /// The index among the fields of this name, counted from 1.
        index: u32,
        /// The field name.
        name: String,
        /// The new value; an empty one deletes the field.
        value: String,
    },
    /// Replaces the body, whose lines end in CRLF. At most one per decision: Postfix cannot combine
    /// several.
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
        /// The new reverse path.
        address: String,
        /// ESMTP parameters.
        params: Vec<String>,
    },
    /// Has the MTA hold the message, for this reason.
    Quarantine(String),
}

/// The reason why a decision cannot be encoded; the MTA gets a temporary failure instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The MTA did not negotiate this kind of edit.
    #[error("the MTA does not allow the filter to {action}")]
    NotAgreed {
        /// The edit, to continue a sentence with.
        action: &'static str,
    },
    /// A name, value or address that would not reach the MTA unchanged.
    #[error("cannot {action}: {text:?} {reason}")]
    Invalid {
        /// The edit, to continue a sentence with.
        action: &'static str,
        /// The offending text, or its beginning.
        text: String,
        /// The reason, to end the sentence with.
        reason: &'static str,
    },
    /// The edit does not fit into a packet.
    #[error("cannot {action}: packet of {length} bytes exceeds the limit of {LONGEST}")]
    TooLong {
        /// The edit, to continue a sentence with.
        action: &'static str,
        /// The length of the packet in bytes.
        length: usize,
    },
    /// A second replacement body.
    #[error("cannot replace the body twice")]
    TwoBodies,
    /// A reply that is not a rejection.
    #[error("invalid reply \"{reply}\": not 4yz or 5yz with an enhanced status of the same class")]
    InvalidReply {
        /// The reply.
        reply: String,
    },
}
