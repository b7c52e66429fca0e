//! One message that Copyist owes to somebody.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;

use crate::mail::{Address, BodyKind, Reply};
use crate::policy::Direction;

/// Names an item for ever: 16 characters of lowercase base32, 80 random bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId(String);

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A journal report.
    Report,
    /// A plain copy.
    Copy,
    /// A non-delivery report about one of the others.
    Ndr,
    /// The message itself for those of its recipients who get other texts than the rest.
    Version,
}

/// An outgoing message: our `prefix`, the original as it was received, our `suffix`. The original
/// is kept by the spool, once for all items of one message.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its name.
    pub id: ItemId,
    /// What it is.
    pub kind: Kind,
    /// The direction it belongs to.
    pub direction: Direction,
    /// The envelope sender; `None` is the null reverse path, used for NDRs.
    pub sender: Option<Address>,
    /// The envelope recipients: journal addresses, or the NDR address.
    pub targets: Vec<Address>,
    /// Where an NDR about it goes; `None` for an NDR, which has no NDR of its own (RFC 3464 section
    /// 2).
    pub ndr: Option<Address>,
    /// Message-ID, with angle brackets; the same at every attempt.
    pub message_id: String,
    /// The ENVID parameter (RFC 3461), not yet xtext-encoded.
    pub envelope_id: String,
    /// For a version: the DSN parameters that the sender gave, verbatim (RFC 3461).
    pub dsn: Dsn,
    /// The subject of the original, for people who look at the queue.
    pub subject: String,
    /// Why each target gets it, one line per target and reason.
    pub reasons: Vec<String>,
    /// What stands before the original.
    pub prefix: Bytes,
    /// What stands after it.
    pub suffix: Bytes,
    /// What the whole asks of the relay.
    pub body: BodyKind,
    /// Whether headers or addresses need SMTPUTF8.
    pub smtputf8: bool,
}

/// DSN parameters as the SMTP client gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dsn {
    /// Of MAIL: `RET=HDRS`, `ENVID=QQ314159`.
    pub sender: Vec<String>,
    /// Of RCPT: `NOTIFY=FAILURE`, `ORCPT=rfc822;ana@example.com`.
    pub recipients: Vec<(Address, Vec<String>)>,
}

/// A relay's final no for one recipient of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Who was refused.
    pub address: Address,
    /// What the relay said.
    pub reply: Reply,
    /// The relay, as `host:port`.
    pub relay: String,
}

/// What a digest is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// Dead letters: refusals without an NDR of their own, and reports that were not sent.
    Dead,
    /// Items that wait, since the relay refuses everything.
    Waiting,
}

/// A target that its NDR address has not heard of yet, for a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// The item, which is kept.
    pub item: ItemId,
    /// Who was refused.
    pub target: Address,
    /// What the relay said.
    pub said: String,
    /// The subject of the original.
    pub subject: String,
    /// When it was refused; of what waits, when the message came.
    pub at: SystemTime,
}

impl ItemId {
    /// Takes the text of an id; `None` where it is none.
    pub fn parse(text: &str) -> Option<ItemId> {
        let sound =
            text.len() == 16 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        sound.then(|| ItemId(text.to_owned()))
    }

    /// The 16 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Dsn {
    /// Those of one recipient.
    pub fn of(&self, recipient: &Address) -> &[String] {
        let mut all = self.recipients.iter();
        all.find(|(known, _)| known == recipient)
            .map_or(&[], |(_, params)| params)
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Report, Kind::Copy, Kind::Ndr, Kind::Version];

    /// The word used in the queue and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Report => "report",
            Kind::Copy => "copy",
            Kind::Ndr => "ndr",
            Kind::Version => "version",
        }
    }
}
