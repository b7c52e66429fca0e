//! A message's exact bytes, and what a report says about it.

use mail_parser::{HeaderValue, MessageParser};

use super::encoded::unstructured;
use super::header::{Fields, body_start};
use super::{Address, Content, Field, Pieces};

/// Headers beyond this many octets are journaled but not read: nobody's subject stands there.
const HEADER_READ: usize = 256 * 1024;

/// Most authors of one message.
const MAX_AUTHORS: usize = 10;

/// Most addresses read from one To or Cc field; more than any transaction has recipients.
const ADDRESSES_READ: usize = 20_000;

/// A message as the hook received it. Cloning shares the octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    content: Content,
    body: usize,
    /// Whoever handed the message over said where its header ends.
    is_header_known: bool,
}

/// The header values that the envelope part of a journal report repeats.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The decoded subject on one line, control characters removed.
    pub subject: String,
    /// The Message-ID with its angle brackets; empty where there is none.
    pub message_id: String,
    /// The addresses of From.
    pub from: Vec<Address>,
    /// The addresses of To.
    pub to: Vec<Address>,
    /// The addresses of Cc.
    pub cc: Vec<Address>,
}

impl Message {
    /// Takes the octets of a message: header, empty line, body.
    pub fn new(content: impl Into<Content>) -> Message {
        let content = content.into();
        let body = body_start(content.beginning());
        Message {
            content,
            body,
            is_header_known: false,
        }
    }

    /// Takes the octets of a message whose header has so many, the empty line included: an MTA that tells field by field has
    /// counted them, and a name with a blank or a value with an empty line in it ends no header.
    pub fn with_header(content: impl Into<Content>, header: usize) -> Message {
        let content = content.into();
        let body = header.min(content.beginning().len());
        Message {
            content,
            body,
            is_header_known: true,
        }
    }

    /// The size of the header in bytes, with the empty line; `None` if the listener did not say.
    pub fn known_header(&self) -> Option<usize> {
        self.is_header_known.then_some(self.body)
    }

    /// The whole message.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// How many octets it has.
    pub fn len(&self) -> usize {
        self.content.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// The header block, the empty line included.
    pub fn header(&self) -> &[u8] {
        &self.content.beginning()[..self.body]
    }

    /// What follows the empty line.
    pub fn body(&self) -> Pieces {
        self.content.pieces(self.body)
    }

    /// The header fields in order.
    pub fn fields(&self) -> Fields<'_> {
        Fields::new(self.header())
    }

    /// The fields with this name, case ignored, in order.
    pub fn fields_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Field<'a>> {
        self.fields()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
    }

    /// The addresses in From and Sender, each once and 10 at most: whoever hands the message over wrote them.
    pub fn authors(&self) -> Vec<Address> {
        let header = &self.header()[..self.body.min(HEADER_READ)];
        let Some(parsed) = MessageParser::default().parse_headers(header) else {
            return Vec::new();
        };
        let mut authors = addresses(parsed.from());
        authors.extend(addresses(parsed.sender()));
        authors.sort_unstable();
        authors.dedup();
        authors.truncate(MAX_AUTHORS);
        authors
    }

    /// Reads the values a report repeats. Whatever cannot be read is left empty: a strange header
    /// costs a line of the report, never the report.
    pub fn summary(&self) -> Summary {
        let mut header = &self.header()[..self.body.min(HEADER_READ)];
        if header.len() < self.body {
            // Cut at a line so that half a field is not read as a whole one.
            header = &header[..memchr::memrchr(b'\n', header).map_or(0, |lf| lf + 1)];
        }
        let mut summary = Summary::default();
        if let Some(field) = self.fields_named("Message-ID").next() {
            summary.message_id = one_line(&String::from_utf8_lossy(field.value));
        }
        // Readers show the first of several.
        if let Some(field) = self.fields_named("Subject").next() {
            summary.subject = one_line(&unstructured(field.value));
        }
        // Only the header block is given to the parser: the body's structure is nobody's business here,
        // and deep nesting in it must not reach the parser (it recurses while dropping).
        let Some(parsed) = MessageParser::default().parse_headers(header) else {
            return summary;
        };
        summary.from = addresses(parsed.from());
        // Several To fields are against RFC 5322 and common all the same.
        for header in parsed.headers() {
            if let HeaderValue::Address(list) = &header.value {
                match header.name.as_str() {
                    name if name.eq_ignore_ascii_case("To") => {
                        summary.to.extend(addresses(Some(list)));
                    }
                    name if name.eq_ignore_ascii_case("Cc") => {
                        summary.cc.extend(addresses(Some(list)));
                    }
                    _ => {}
                }
            }
        }
        summary
    }
}

fn addresses(list: Option<&mail_parser::Address<'_>>) -> Vec<Address> {
    list.into_iter()
        .flat_map(|list| list.iter())
        .filter_map(|addr| Address::parse(addr.address.as_deref()?).ok())
        .take(ADDRESSES_READ)
        .collect()
}

/// Text on one line: line breaks and control characters removed (a tab becomes a space), so that no
/// header can forge a line of a report.
fn one_line(text: &str) -> String {
    text.trim()
        .chars()
        .filter_map(|c| match c {
            '\t' => Some(' '),
            // U+2028 and U+2029 are line breaks for some readers.
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => None,
            c => Some(c),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::content::tests::shelved;
    use super::*;

    fn message(text: &str) -> Message {
        Message::new(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn bytes_come_back_exactly() {
        let text = "A: 1\r\nB: 2\n\r\nbody\0\r";
        for found in [message(text), Message::new(shelved(text.as_bytes()))] {
            assert_eq!(found.content().read().expect("readable"), text.as_bytes());
            let body: Vec<Bytes> = found.body().collect::<Result<_, _>>().expect("readable");
            assert_eq!([found.header(), &body.concat()].concat(), text.as_bytes());
        }
    }

    #[test]
    fn the_summary_holds_decoded_values_on_one_line() {
        let found = message(
            "From: Ana <ana@corp.example>\r\nTo: \"B, o\" <bo@x.test>, c@y.test\r\nTO: d@z.test\r\n\
             Cc: team: e@x.test, f@x.test;\r\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe=0D=0ABcc:_x?=\r\n folded\r\n\
             Message-ID: <1@pc.test>\r\n\r\n",
        )
        .summary();
        assert_eq!(found.subject, "GrüßeBcc: x folded");
        assert_eq!(found.message_id, "<1@pc.test>");
        let text = |list: &[Address]| {
            list.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(text(&found.from), "ana@corp.example");
        assert_eq!(text(&found.to), "bo@x.test c@y.test d@z.test");
        assert_eq!(text(&found.cc), "e@x.test f@x.test");
    }

    #[test]
    fn nonsense_has_an_empty_summary() {
        for nonsense in ["", "\r\n\r\n", "no header at all", "\u{0}\u{1}:\r\n"] {
            assert_eq!(
                message(nonsense).summary(),
                Summary::default(),
                "{nonsense:?}"
            );
        }
    }
}
