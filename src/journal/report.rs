//! The journal report: an envelope part that says who really got the message, and the original.
//!
//! The format is that of Exchange envelope journaling ([MS-XJRNL], "Journal reports" in Microsoft's
//! documentation), as archives read it: exactly two parts, values bare and one on each line, field
//! names as spelled here, the empty `X-MS-Journal-Report` after To.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use super::fields::{addresses, field, unstructured};
use crate::mail::{self, Address, BodyKind, Envelope, Message, Summary};

/// Longest subject in the envelope part, in bytes; its lines are never folded and a line has at
/// most 998.
const SUBJECT: usize = 900;

/// What the outer header of something we write says, whatever it is.
pub(super) struct Outer<'a> {
    pub(super) from: &'a Address,
    pub(super) to: &'a [Address],
    pub(super) subject: &'a str,
    pub(super) date: SystemTime,
    pub(super) message_id: String,
}

impl Outer<'_> {
    /// Starts a header. `journal` adds the field that archives know a journal report by; it must
    /// stand after To: one reader forgets the recipients that it collected before it.
    pub(super) fn write(&self, out: &mut String, journal: bool) {
        addresses(out, "From", std::slice::from_ref(self.from));
        addresses(out, "To", self.to);
        if journal {
            out.push_str("X-MS-Journal-Report:\r\n");
        }
        unstructured(out, "Subject", self.subject);
        field(out, "Date", &mail::rfc5322(self.date));
        field(out, "Message-ID", &self.message_id);
        field(out, "MIME-Version", "1.0");
        field(out, "Auto-Submitted", "auto-generated");
    }
}

/// The lines of the envelope part, CRLF each. `expanded` are members of groups and the groups that
/// they were reached by; no other members are named, for memberships may be hidden.
pub(super) fn envelope_part(
    envelope: &Envelope,
    (message, summary): (&Message, &Summary),
    from_us: bool,
    expanded: &[(&Address, &Address)],
) -> String {
    let mut out = String::new();
    // Readers refuse an empty sender, so a null reverse path shows the header's author; the outer
    // header tells the truth (X-Copyist-Sender).
    let author = summary.from.first();
    let sender = envelope.sender.as_ref().or(author);
    line(
        &mut out,
        "Sender",
        &sender.map(ToString::to_string).unwrap_or_default(),
    );
    if from_us
        && let (Some(sender), Some(author)) = (sender, author)
        && sender != author
    {
        line(&mut out, "On-Behalf-Of", &author.to_string());
    }
    line(&mut out, "Subject", shortened(&summary.subject));
    line(&mut out, "Message-Id", shortened(&summary.message_id));
    let recipients: HashSet<&Address> = envelope.recipient_addresses().collect();
    // What a stranger's header says about To and Cc is not evidence of anything.
    let [to, cc] = ["To", "Cc"].map(|name| match from_us {
        true => message.addressees(name, &recipients),
        false => HashSet::new(),
    });
    let place = |recipient| match () {
        () if !from_us => "Recipient",
        () if to.contains(recipient) => "To",
        () if cc.contains(recipient) => "Cc",
        () => "Bcc",
    };
    let mut members: HashMap<&Address, Vec<&Address>> = HashMap::new();
    for (member, group) in expanded {
        members.entry(group).or_default().push(member);
    }
    for kind in ["To", "Cc", "Bcc", "Recipient"] {
        // Somebody may be named twice.
        let mut listed = HashSet::new();
        for recipient in envelope.recipient_addresses() {
            if place(recipient) != kind || !listed.insert(recipient) {
                continue;
            }
            line(&mut out, kind, &recipient.to_string());
            for member in members.get(recipient).into_iter().flatten() {
                line(&mut out, kind, &format!("{member}, Expanded: {recipient}"));
            }
        }
    }
    // Those of groups that the recipients lead to: by an alias, by an extension.
    let kind = if from_us { "Bcc" } else { "Recipient" };
    for (member, group) in expanded {
        if !recipients.contains(group) {
            line(&mut out, kind, &format!("{member}, Expanded: {group}"));
        }
    }
    out
}

fn line(out: &mut String, name: &str, value: &str) {
    field(out, name, value);
}

/// The text, cut to what a line has room for.
pub(super) fn shortened(text: &str) -> &str {
    let mut end = text.len().min(SUBJECT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The body of a report around an original: what stands before it and after it.
pub(super) fn body(envelope_part: &str, original: BodyKind, boundary: &str) -> (String, String) {
    let (charset, encoding) = match BodyKind::of(envelope_part.as_bytes()) {
        BodyKind::SevenBit => ("us-ascii", "7bit"),
        _ => ("utf-8", "8bit"),
    };
    let before = format!(
        "--{boundary}\r\nContent-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n\
         {envelope_part}\r\n--{boundary}\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: {}\r\n\r\n",
        original.encoding()
    );
    // The CRLF in front of a delimiter belongs to the delimiter (RFC 2046 section 5.1.1), so the
    // original ends where it ended.
    (before, format!("\r\n--{boundary}--\r\n"))
}
