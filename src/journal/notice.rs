//! Notices about what we sent: bounces, delays, receipts, vacation messages. Which item one is
//! about, and what it says.
//!
//! A notice is about ours only if it has a token that verifies, and in a place that says so: the
//! envelope ID in a delivery status (RFC 3464 section 2.2.1), our Message-ID or seal in the header
//! that it returns, our Message-ID in its own In-Reply-To, References or Original-Message-ID (RFC
//! 3834 section 3.1.5, RFC 8098 section 3.2.5). Elsewhere a token says only that somebody has read
//! a report: one that is attached to a returned message, or quoted.
//!
//! Lenient in everything else: notices come in every shape, and one that says nothing that we
//! understand is a bounce.

use super::key::Key;
use super::parts::{Mime, Parts, Visitor};
use super::{ItemId, seal, token};
use crate::mail::{Field, Fields, Message};

/// Bytes of a part that are read.
const READ: usize = 64 * 1024;
/// Longest value kept, in characters.
const LONGEST: usize = 300;

/// What a vacation message and its like are recorded as.
const AUTO_REPLY: &str = "auto-reply";
/// What a message disposition notification is recorded as.
const RECEIPT: &str = "receipt";
const FAILED: &str = "failed";

/// RFC 3464 section 2.3.3.
const ACTIONS: [&str; 5] = [FAILED, "delayed", "delivered", "relayed", "expanded"];

/// Fields of a message's own header that name the message it answers.
const ANSWERS: [&str; 3] = ["In-Reply-To", "References", "Original-Message-ID"];

/// What a notice said (RFC 3464 section 2.2 and 2.3). Empty where it did not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounce {
    /// Who made it: `Reporting-MTA`.
    pub reporter: String,
    /// "failed", "delayed", "delivered", "relayed" or "expanded", "receipt" or "auto-reply".
    pub action: String,
    /// `5.1.1`.
    pub status: String,
    /// `Diagnostic-Code`: what the last server said.
    pub said: String,
}

impl Bounce {
    /// Whether the recipient has not got what it is about, as far as anybody can tell.
    pub fn is_failure(&self) -> bool {
        matches!(self.action.as_str(), "" | FAILED)
    }

    /// Reads the first fields of these names, and of several recipients those of the first that
    /// failed.
    fn read(text: &[u8]) -> Bounce {
        let text = &text[..text.len().min(READ)];
        let mut bounce = Bounce::default();
        let mut at = 0;
        while at < text.len() {
            let mut block = Fields::new(&text[at..]);
            let mut found = Bounce::default();
            for field in &mut block {
                let place = match field.name.to_ascii_lowercase().as_str() {
                    "reporting-mta" => &mut found.reporter,
                    "action" => &mut found.action,
                    "status" => &mut found.status,
                    "diagnostic-code" => &mut found.said,
                    _ => continue,
                };
                if place.is_empty() {
                    *place = value(field.value);
                }
            }
            found.action.make_ascii_lowercase();
            if !ACTIONS.contains(&found.action.as_str()) {
                found.action.clear();
            }
            bounce.take(found);
            // The block ended at an empty line, or at the end.
            at += block.position() + 1;
        }
        bounce
    }

    /// Adds what a further group of fields says.
    fn take(&mut self, found: Bounce) {
        if found.action == FAILED && self.action != FAILED {
            let reporter = std::mem::take(&mut self.reporter);
            *self = found;
            if !reporter.is_empty() {
                self.reporter = reporter;
            }
            return;
        }
        let is_another = !self.action.is_empty() && !found.action.is_empty();
        let pairs = [
            (&mut self.reporter, found.reporter),
            (&mut self.action, found.action),
            (&mut self.status, found.status),
            (&mut self.said, found.said),
        ];
        for (place, found) in pairs {
            if place.is_empty() && !is_another {
                *place = found;
            }
        }
    }
}

/// Whether a program sent the message by itself, as its header says (RFC 3834 section 5; RFC 6522;
/// what was usual before them).
pub(super) fn is_automatic(message: &Message) -> bool {
    if Mime::of(message).kind == "multipart/report" {
        return true;
    }
    message.fields().any(|field| {
        let word = word(field.value);
        match field.name.to_ascii_lowercase().as_str() {
            "auto-submitted" => word != "no",
            "precedence" => ["bulk", "junk", "auto_reply"].contains(&word.as_str()),
            "x-autoreply" | "x-autorespond" | "x-failed-recipients" => true,
            _ => false,
        }
    })
}

/// The first word of a value, in lower case.
fn word(value: &[u8]) -> String {
    let value = String::from_utf8_lossy(value).to_ascii_lowercase();
    let mut words = value.split(|c: char| c.is_ascii_whitespace() || ";(,".contains(c));
    words
        .find(|word| !word.is_empty())
        .unwrap_or_default()
        .to_owned()
}

/// The item that a message is a notice about, and what it says of it. Of a large message its
/// beginning is read: what it says stands before what it returns.
pub(super) fn read(key: &Key, message: &Message) -> Option<(ItemId, Bounce)> {
    let mime = Mime::of(message);
    let mut parts = Parts::new(&mime, Reader::new(key));
    let beginning = message.content().beginning();
    parts.update(beginning.get(message.header().len()..).unwrap_or_default());
    let Reader {
        told,
        returned,
        has_receipt,
        ..
    } = parts.finish();
    let answers = message.fields().filter(|field| {
        ANSWERS
            .iter()
            .any(|name| field.name.eq_ignore_ascii_case(name))
    });
    let answered = || {
        answers
            .into_iter()
            .find_map(|field| token::find(key, field.value))
    };
    let (item, is_returned) = match returned {
        Some(item) => (item, true),
        None => (answered()?, false),
    };
    let mut bounce = Bounce::read(&told);
    let has_failed_recipients = message.fields_named("X-Failed-Recipients").next().is_some();
    if bounce.action.is_empty() {
        let kind = match (has_receipt, is_returned || has_failed_recipients) {
            (true, _) => RECEIPT,
            // It returns what it is about.
            (false, true) => "",
            (false, false) => AUTO_REPLY,
        };
        bounce.action = kind.to_owned();
    }
    Some((item, bounce))
}

/// Looks for what a notice says, and for what it returns.
struct Reader<'k> {
    key: &'k Key,
    /// What the part that is being read is to be read as.
    reading: Reading,
    content: Vec<u8>,
    /// The delivery status; of a bounce without one, its text.
    told: Vec<u8>,
    has_status: bool,
    has_receipt: bool,
    /// What it returns.
    returned: Option<ItemId>,
    /// A returned header was seen: those after it are of messages within that one.
    has_returned: bool,
    /// The same of a header in a text.
    has_text_header: bool,
}

/// What a part is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Nothing,
    /// Text in which a header may be returned.
    Text,
    /// A returned header.
    Header,
    /// A delivery status.
    Status,
    /// A message disposition.
    Receipt,
}

impl Reader<'_> {
    fn new(key: &Key) -> Reader<'_> {
        Reader {
            key,
            reading: Reading::Nothing,
            content: Vec::new(),
            told: Vec::new(),
            has_status: false,
            has_receipt: false,
            returned: None,
            has_returned: false,
            has_text_header: false,
        }
    }

    /// Takes a field that names what it is about.
    fn named(&mut self, field: &Field<'_>, names: &[&str]) {
        let is_one = names
            .iter()
            .any(|name| field.name.eq_ignore_ascii_case(name));
        if self.returned.is_none() && is_one {
            self.returned = token::find(self.key, field.value).or_else(|| {
                let is_seal = field.name.eq_ignore_ascii_case(seal::FIELD);
                is_seal.then(|| seal::item(self.key, field.value)).flatten()
            });
        }
    }

    /// Reads the header that stands in a text: it begins with the first Message-ID, and one in it
    /// is of another message.
    fn text(&mut self, text: &[u8]) {
        let mut at = 0;
        while at < text.len() {
            let mut block = Fields::new(&text[at..]);
            for field in &mut block {
                if field.name.eq_ignore_ascii_case("Message-ID") && !self.has_text_header {
                    self.has_text_header = true;
                    self.named(&field, &["Message-ID"]);
                }
                self.named(&field, &["Original-Envelope-Id"]);
            }
            at += block.position() + 1;
        }
    }
}

impl Visitor for Reader<'_> {
    fn field(&mut self, raw: &[u8], nesting: usize) {
        if nesting == 1
            && !self.has_returned
            && let Some(field) = Fields::new(raw).next()
        {
            self.named(&field, &["Message-ID", seal::FIELD]);
        }
    }

    fn body(&mut self, mime: &Mime, nesting: usize) {
        self.has_returned |= nesting > 0;
        self.reading = match mime.kind.as_str() {
            _ if nesting > 0 => Reading::Nothing,
            "" | "text/plain" => Reading::Text,
            // Messages that are encoded, which no RFC allows, are not entered.
            "message/rfc822"
            | "message/global"
            | "text/rfc822-headers"
            | "message/global-headers" => Reading::Header,
            "message/delivery-status" | "message/global-delivery-status" => Reading::Status,
            "message/disposition-notification" | "message/global-disposition-notification" => {
                Reading::Receipt
            }
            _ => Reading::Nothing,
        };
    }

    fn content(&mut self, bytes: &[u8]) {
        if self.reading != Reading::Nothing {
            let room = READ - self.content.len();
            self.content
                .extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    fn end(&mut self, _: bool) {
        let content = std::mem::take(&mut self.content);
        match std::mem::replace(&mut self.reading, Reading::Nothing) {
            Reading::Nothing => {}
            Reading::Text => {
                if self.told.is_empty() {
                    self.told.clone_from(&content);
                }
                self.text(&content);
            }
            Reading::Header => {
                if !content.is_empty() && !std::mem::replace(&mut self.has_returned, true) {
                    Fields::new(&content)
                        .for_each(|field| self.named(&field, &["Message-ID", seal::FIELD]));
                }
            }
            Reading::Status => {
                if !std::mem::replace(&mut self.has_status, true) {
                    Fields::new(&content)
                        .for_each(|field| self.named(&field, &["Original-Envelope-Id"]));
                    self.told = content;
                }
            }
            Reading::Receipt => {
                self.has_receipt = true;
                Fields::new(&content)
                    .for_each(|field| self.named(&field, &["Original-Message-ID"]));
            }
        }
    }

    fn delimiter(&mut self, _: usize, _: bool) {}
}

/// A value on one line, without its type (`dns;`, `smtp;`) and without what a terminal would obey.
fn value(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    let typed = text.split_once(';').filter(|(kind, _)| {
        kind.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-/".contains(c))
    });
    let text = typed.map_or(text.as_str(), |(_, rest)| rest.trim());
    let sound = text.chars().filter(|c| !c.is_control());
    sound.take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_bounce_are_read_wherever_they_stand() {
        let body = b"--b\r\n\r\nSorry: it did not work.\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n\
            Reporting-MTA: dns; mx.archive.test\r\n\r\nFinal-Recipient: rfc822; j@archive.test\r\nAction: failed\r\n\
            Status: 5.1.1\r\nDiagnostic-Code: smtp; 550\r\n 5.1.1 \x1b[2J no such user\r\n\r\n--b\r\n\r\nStatus: 2.0.0\r\n";
        let bounce = Bounce::read(body);
        let expected = Bounce {
            reporter: "mx.archive.test".into(),
            action: "failed".into(),
            status: "5.1.1".into(),
            said: "550 5.1.1 [2J no such user".into(),
        };
        assert_eq!(bounce, expected);
        assert_eq!(Bounce::read(b"it came back"), Bounce::default());
        assert_eq!(Bounce::read(&vec![b'\n'; 1 << 20]), Bounce::default());
    }
}
