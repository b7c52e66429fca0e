//! A message's exact bytes, and the header values that a journal report repeats.

use std::collections::HashSet;

use mail_parser::MessageParser;

use super::encoded::unstructured;
use super::header::{Fields, body_start};
use super::{Address, Chunks, Content, Field};

/// Most authors of one message.
const MAX_AUTHORS: usize = 10;

/// A message as the hook received it. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    content: Content,
    body: usize,
    /// Whether the MTA said where the header ends.
    is_header_known: bool,
}

/// The header values that the envelope part of a journal report repeats.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The decoded subject on one line, control characters removed.
    pub subject: String,
    /// The Message-ID with its angle brackets; empty if there is none.
    pub message_id: String,
    /// The addresses of From.
    pub from: Vec<Address>,
}

impl Message {
    /// Creates a message from its bytes: header, empty line, body.
    pub fn new(content: impl Into<Content>) -> Message {
        let content = content.into();
        let body = body_start(content.beginning());
        Message {
            content,
            body,
            is_header_known: false,
        }
    }

    /// Creates a message from its bytes and the size of its header in bytes, with the empty line.
    /// An MTA that sends field by field has counted them; a name with a blank or a value with an
    /// empty line does not end the header then.
    pub fn with_header(content: impl Into<Content>, header: usize) -> Message {
        let content = content.into();
        let body = header.min(content.beginning().len());
        Message {
            content,
            body,
            is_header_known: true,
        }
    }

    /// Returns the size of the header in bytes, with the empty line; `None` if the MTA did not send
    /// it.
    pub fn known_header(&self) -> Option<usize> {
        self.is_header_known.then_some(self.body)
    }

    /// Returns the whole message.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Returns its size in bytes.
    pub fn len(&self) -> usize {
        self.content.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// Returns the header block, with the empty line.
    pub fn header(&self) -> &[u8] {
        &self.content.beginning()[..self.body]
    }

    /// Iterates over the chunks of the body, after the empty line.
    pub fn body(&self) -> Chunks {
        self.content.chunks(self.body)
    }

    /// Iterates over the header fields in order.
    pub fn fields(&self) -> Fields<'_> {
        Fields::new(self.header())
    }

    /// Iterates over the fields of this name in order, ignoring case.
    pub fn fields_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Field<'a>> {
        self.fields()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
    }

    /// Returns the distinct addresses in From and Sender, at most 10: the sender controls them.
    pub fn authors(&self) -> Vec<Address> {
        let mut authors = Vec::new();
        for name in ["From", "Sender"] {
            self.read_addresses(name, |address| authors.push(address));
        }
        authors.sort_unstable();
        authors.dedup();
        authors.truncate(MAX_AUTHORS);
        authors
    }

    /// Returns those of `recipients` that are listed in the fields of this name. Several To fields
    /// violate RFC 5322, but are common.
    pub fn addressees(&self, name: &str, recipients: &HashSet<&Address>) -> HashSet<Address> {
        let mut found = HashSet::new();
        self.read_addresses(name, |address| {
            if recipients.contains(&address) {
                found.insert(address);
            }
        });
        found
    }

    /// Reads the addresses in all fields of this name. The parser gets one field at a time:
    /// [`Fields`] decides where the header ends, and the structure of the body must not reach the
    /// parser (it recurses while dropping).
    fn read_addresses(&self, name: &str, mut found: impl FnMut(Address)) {
        for field in self.fields_named(name) {
            let field = [b"To:", field.value, b"\r\n\r\n"].concat();
            let Some(parsed) = MessageParser::default().parse_headers(&field) else {
                continue;
            };
            let listed = parsed.to().into_iter().flat_map(|list| list.iter());
            let addresses = listed.filter_map(|addr| Address::parse(addr.address.as_deref()?).ok());
            addresses.for_each(&mut found);
        }
    }

    /// Returns the values that a report repeats. Unreadable ones are empty: a malformed header
    /// costs a line of the report, never the report.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        if let Some(field) = self.fields_named("Message-ID").next() {
            summary.message_id = one_line(&String::from_utf8_lossy(field.value));
        }
        // Mail clients show the first of several.
        if let Some(field) = self.fields_named("Subject").next() {
            summary.subject = one_line(&unstructured(field.value));
        }
        self.read_addresses("From", |address| summary.from.push(address));
        summary
    }
}

/// Returns text on one line: line breaks and control characters removed (a tab becomes a space), so
/// that no header can forge a line of a report.
fn one_line(text: &str) -> String {
    text.trim()
        .chars()
        .filter_map(|c| match c {
            '\t' => Some(' '),
            // U+2028 and U+2029 are line breaks for some mail clients.
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => None,
            c => Some(c),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::content::tests::stored;
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
    }

    fn message(text: &str) -> Message {
        Message::new(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn bytes_come_back_exactly() {
        let text = "A: 1\r\nB: 2\n\r\nbody\0\r";
        for found in [message(text), Message::new(stored(text.as_bytes()))] {
            assert_eq!(found.content().read().expect("readable"), text.as_bytes());
            let body: Vec<Bytes> = found.body().collect::<Result<_, _>>().expect("readable");
            assert_eq!([found.header(), &body.concat()].concat(), text.as_bytes());
        }
    }

    #[test]
    fn the_summary_has_decoded_values_on_one_line() {
        let found = message(
            "From: Ana <ana@corp.example>\r\nTo: \"B, o\" <bo@x.test>, c@y.test\r\nTO: d@z.test\r\n\
             Cc: team: e@x.test, f@x.test;\r\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe=0D=0ABcc:_x?=\r\n folded\r\n\
             Message-ID: <1@pc.test>\r\n\r\n",
        )
        .summary();
        assert_eq!(found.subject, "GrüßeBcc: x folded");
        assert_eq!(found.message_id, "<1@pc.test>");
        assert_eq!(found.from, [address("ana@corp.example")]);
    }

    #[test]
    fn recipients_are_found_in_all_fields_of_a_name() {
        let found = message(
            "To: \"B, o\" <bo@x.test>, c@y.test\r\nnonsense\r\nTO: D@z.test\r\nCc: team: e@x.test, f@x.test;\r\n\r\n\
             To: g@x.test\r\n",
        );
        let all = ["bo@x.test", "c@y.test", "d@z.test", "e@x.test", "g@x.test"].map(address);
        let all: HashSet<&Address> = all.iter().collect();
        let listed = |name| {
            let mut found: Vec<Address> = found.addressees(name, &all).into_iter().collect();
            found.sort_unstable();
            found
        };
        let to = ["bo@x.test", "c@y.test", "d@z.test"];
        assert_eq!(listed("To"), to.map(address));
        assert_eq!(listed("Cc"), [address("e@x.test")]);
    }

    #[test]
    fn a_header_is_read_to_its_end() {
        let before = "X: y\r\n".repeat(100_000);
        let many: String = (0..30_000).map(|n| format!("p{n}@x.test,\r\n ")).collect();
        let found = message(&format!(
            "{before}From: ana@x.test\r\nTo: {many}bo@x.test\r\nSubject: s\r\nMessage-ID: <1@x>\r\n\r\n"
        ));
        assert!(found.header().len() > 1024 * 1024);
        let bo = address("bo@x.test");
        assert_eq!(found.addressees("To", &HashSet::from([&bo])).len(), 1);
        assert_eq!(found.authors(), [address("ana@x.test")]);
        let summary = found.summary();
        assert_eq!((&*summary.subject, &*summary.message_id), ("s", "<1@x>"));
    }

    #[test]
    fn a_malformed_header_has_an_empty_summary() {
        for nonsense in ["", "\r\n\r\n", "no header at all", "\u{0}\u{1}:\r\n"] {
            assert_eq!(
                message(nonsense).summary(),
                Summary::default(),
                "{nonsense:?}"
            );
        }
    }
}
