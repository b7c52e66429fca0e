//! The sections `[inbound]`, `[outbound]` and `[internal]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StringList;
use super::text::Wording;
use crate::policy;

/// How the mail of one direction is journaled.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Direction {
    /// Addresses that get a copy of every message of this direction.
    #[schemars(example = ["globalarchive@example.com"])]
    pub(in crate::config) journal: StringList,
    /// Attributes of the senders and recipients that contain further journal addresses.
    #[schemars(example = ["extensionAttribute10"])]
    pub(in crate::config) journal_attribute: StringList,
    /// Envelope sender of the copies, which gets their non-delivery reports. Required if mail is
    /// journaled.
    #[schemars(example = "journalndr@example.com")]
    pub(in crate::config) journal_ndr: Option<String>,
    /// A Microsoft journal report with the message attached, or the message itself.
    pub(in crate::config) format: Format,
    /// Whether a report or copy contains the message as received, or as delivered with the texts
    /// below.
    pub(in crate::config) journal_what: JournalWhat,
    /// Text before the body. Default: none.
    pub(in crate::config) prepend: Wording,
    /// Text after the body. Default: none.
    pub(in crate::config) append: Wording,
}

/// As [`Direction`], with the keys that only outbound mail has.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(description = "How the mail of one direction is journaled.")]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Outbound {
    /// Addresses that get a copy of every message of this direction.
    #[schemars(example = ["globalarchive@example.com"])]
    pub(in crate::config) journal: StringList,
    /// Attributes of the senders and recipients that contain further journal addresses.
    #[schemars(example = ["extensionAttribute10"])]
    pub(in crate::config) journal_attribute: StringList,
    /// Whose journal_attribute applies: the sender's, the external recipient's (if the directory has
    /// a contact for it), or both.
    pub(in crate::config) journal_attribute_of: AttributeOf,
    /// Envelope sender of the copies, which gets their non-delivery reports. Required if mail is
    /// journaled.
    #[schemars(example = "journalndr@example.com")]
    pub(in crate::config) journal_ndr: Option<String>,
    /// A Microsoft journal report with the message attached, or the message itself.
    pub(in crate::config) format: Format,
    /// Whether a report or copy contains the message as received, or as delivered with the texts
    /// below.
    pub(in crate::config) journal_what: JournalWhat,
    /// Text before the body. Default: none.
    pub(in crate::config) prepend: Wording,
    /// Text after the body. Default: none.
    pub(in crate::config) append: Wording,
}

words! {
    /// See [`policy::Format`].
    Format => policy::Format, "lowercase" {
        #[default]
        Report,
        Copy,
    }
}

words! {
    /// See [`policy::JournalWhat`].
    JournalWhat => policy::JournalWhat, "lowercase" {
        #[default]
        Received,
        Delivered,
    }
}

words! {
    /// See [`policy::AttributeOf`].
    AttributeOf => policy::AttributeOf, "lowercase" {
        #[default]
        Both,
        Sender,
        Recipient,
    }
}

impl Outbound {
    /// Returns the keys that all directions have.
    pub(in crate::config) fn common(&self) -> Direction {
        Direction {
            journal: self.journal.clone(),
            journal_attribute: self.journal_attribute.clone(),
            journal_ndr: self.journal_ndr.clone(),
            format: self.format,
            journal_what: self.journal_what,
            prepend: self.prepend.clone(),
            append: self.append.clone(),
        }
    }
}
