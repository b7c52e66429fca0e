//! The body of a message as a stream of its MIME parts, their transfer encodings removed (RFC 2045,
//! RFC 2046).
//!
//! Bytes come in pieces of any size; fields and decoded content go to a [`Visitor`]. Attached
//! messages are entered. Memory is bounded whatever comes: long lines are handed on in pieces, and
//! what is nested too deeply is content.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use mail_parser::{MessageParser, MimeHeaders};

use crate::mail::{Field, Fields, Message};

/// Longest line that is looked at as a whole, and longest header field.
const LONG: usize = 64 * 1024;
/// Multiparts and attached messages within each other beyond this are content.
const DEEPEST: usize = 32;
/// Longest boundary; RFC 2046 allows 70 bytes.
const BOUNDARY: usize = 200;

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Sees the parts of a message in order.
pub(super) trait Visitor {
    /// A header field with its name and folding, of a part or of a message attached to one.
    fn field(&mut self, raw: &[u8], nesting: usize);
    /// A header has ended; what follows is of this type.
    fn body(&mut self, mime: &Mime, nesting: usize);
    /// Decoded content of the part; what stands around the parts of a multipart, too. Line breaks
    /// of a text are CRLF.
    fn content(&mut self, bytes: &[u8]);
    /// The content has ended: with the message, or before a delimiter.
    fn end(&mut self, with_message: bool);
    /// A delimiter of a multipart, by how many multiparts are around that one.
    fn delimiter(&mut self, level: usize, closes: bool);
}

/// What the MIME fields of a header say.
#[derive(Debug, Clone, Default)]
pub(super) struct Mime {
    /// `multipart/report` in lower case; empty where it is not said.
    pub(super) kind: String,
    boundary: Option<Vec<u8>>,
    coding: Option<Coding>,
}

/// A Content-Transfer-Encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    QuotedPrintable,
    Base64,
}

impl Coding {
    /// By its name; `None` for one that RFC 2045 does not have.
    pub(super) fn named(value: &[u8]) -> Option<Coding> {
        match value.trim_ascii().to_ascii_lowercase().as_slice() {
            b"7bit" | b"8bit" | b"binary" => Some(Coding::Identity),
            b"quoted-printable" => Some(Coding::QuotedPrintable),
            b"base64" => Some(Coding::Base64),
            _ => None,
        }
    }
}

impl Mime {
    /// What the header of a message says.
    pub(super) fn of(message: &Message) -> Mime {
        let mut mime = Mime::default();
        for field in message.fields() {
            mime.read(&field);
        }
        mime
    }

    /// What a Content-Type says.
    pub(super) fn of_type(value: &str) -> Mime {
        let mut mime = Mime::default();
        mime.read_type(value.as_bytes());
        mime
    }

    /// Takes a field of the header; the first of a name counts.
    fn read(&mut self, field: &Field<'_>) {
        if self.kind.is_empty() && field.name.eq_ignore_ascii_case("Content-Type") {
            self.read_type(field.value);
        } else if self.coding.is_none()
            && field.name.eq_ignore_ascii_case("Content-Transfer-Encoding")
        {
            self.coding = Coding::named(field.value).or(Some(Coding::Identity));
        }
    }

    fn read_type(&mut self, value: &[u8]) {
        let line = [b"Content-Type: ", value, b"\r\n\r\n"].concat();
        let Some(read) = MessageParser::default().parse_headers(&line) else {
            return;
        };
        let Some(kind) = read.content_type() else {
            return;
        };
        let Some(subtype) = kind.subtype() else {
            return;
        };
        self.kind = format!("{}/{}", kind.ctype().trim(), subtype.trim()).to_ascii_lowercase();
        let value = |name| kind.attribute(name).map(str::trim_ascii_end);
        let boundary = value("boundary").map(|boundary| boundary.as_bytes().to_vec());
        self.boundary = boundary.filter(|found| {
            self.kind.starts_with("multipart/") && (1..=BOUNDARY).contains(&found.len())
        });
    }

    fn is_message(&self) -> bool {
        let is_plain = matches!(self.coding, None | Some(Coding::Identity));
        is_plain && matches!(self.kind.as_str(), "message/rfc822" | "message/global")
    }
}

/// A multipart whose end has not come yet.
struct Open {
    boundary: Vec<u8>,
    nesting: usize,
    is_digest: bool,
}

/// A header that is being read.
#[derive(Default)]
struct Header {
    /// The field that may go on in the next line.
    field: Vec<u8>,
    mime: Mime,
}

/// Reads a body and tells a visitor.
pub(super) struct Parts<V> {
    visitor: V,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// A piece of this line was handed on.
    is_continued: bool,
    after_cr: bool,
    open: Vec<Open>,
    /// How many attached messages are around.
    nesting: usize,
    header: Option<Header>,
    coding: Coding,
    /// A line break that belongs to the content if more of it follows.
    owes_break: bool,
    base64: Base64,
}

impl<V: Visitor> Parts<V> {
    /// Reads what follows a header that says this.
    pub(super) fn new(mime: &Mime, visitor: V) -> Parts<V> {
        let mut parts = Parts {
            visitor,
            line: Vec::new(),
            is_continued: false,
            after_cr: false,
            open: Vec::new(),
            nesting: 0,
            header: None,
            coding: Coding::Identity,
            owes_break: false,
            base64: Base64::default(),
        };
        parts.begin(mime);
        parts
    }

    /// Takes the next piece.
    pub(super) fn update(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            if std::mem::take(&mut self.after_cr) && piece[0] == b'\n' {
                piece = &piece[1..];
                continue;
            }
            let room = &piece[..piece.len().min(LONG - self.line.len())];
            let end = memchr::memchr2(b'\r', b'\n', room);
            let text = &room[..end.unwrap_or(room.len())];
            piece = &piece[text.len()..];
            match end {
                Some(end) => {
                    self.after_cr = room[end] == b'\r';
                    piece = &piece[1..];
                    self.end_line(text);
                }
                None => {
                    self.line.extend_from_slice(text);
                    if self.line.len() == LONG {
                        let line = std::mem::take(&mut self.line);
                        self.unfinished(&line);
                    }
                }
            }
        }
    }

    /// The message has ended.
    pub(super) fn finish(mut self) -> V {
        if !self.line.is_empty() || self.is_continued {
            self.end_line(b"");
        }
        self.end_header();
        self.end_part(true);
        self.visitor
    }

    /// A line has ended; `rest` is what was not kept of it.
    fn end_line(&mut self, rest: &[u8]) {
        if self.line.is_empty() {
            return self.whole_line(rest);
        }
        self.line.extend_from_slice(rest);
        let mut line = std::mem::take(&mut self.line);
        self.whole_line(&line);
        line.clear();
        self.line = line;
    }

    fn whole_line(&mut self, line: &[u8]) {
        if std::mem::take(&mut self.is_continued) {
            return self.content(line, true, true);
        }
        if let Some((level, closes)) = self.delimited(line) {
            return self.delimit(level, closes);
        }
        match self.header {
            Some(_) => self.header_line(line),
            None => self.content(line, false, true),
        }
    }

    /// A piece of a line that is longer than anything in a header.
    fn unfinished(&mut self, piece: &[u8]) {
        self.end_header();
        self.content(piece, self.is_continued, false);
        self.is_continued = true;
    }

    fn header_line(&mut self, line: &[u8]) {
        let Some(header) = &mut self.header else {
            return;
        };
        let goes_on = matches!(line, [b' ' | b'\t', ..]) && !header.field.is_empty();
        if goes_on && header.field.len() + line.len() < LONG {
            header.field.extend_from_slice(b"\r\n");
            header.field.extend_from_slice(line);
        } else if Fields::new(line).next().is_some() {
            self.end_field();
            self.header.get_or_insert_default().field = line.to_vec();
        } else {
            self.end_header();
            if line.is_empty() {
                return;
            }
            // The empty line is missing.
            match self.header {
                Some(_) => self.header_line(line),
                None => self.content(line, false, true),
            }
        }
    }

    fn end_field(&mut self) {
        let Some(header) = &mut self.header else {
            return;
        };
        let raw = std::mem::take(&mut header.field);
        if let Some(field) = Fields::new(&raw).next() {
            header.mime.read(&field);
            self.visitor.field(&raw, self.nesting);
        }
    }

    fn end_header(&mut self) {
        self.end_field();
        let Some(Header { mut mime, .. }) = self.header.take() else {
            return;
        };
        let in_digest = self
            .open
            .last()
            .is_some_and(|open| open.is_digest && open.nesting == self.nesting);
        if mime.kind.is_empty() && in_digest {
            // RFC 2046 section 5.1.5.
            mime.kind = "message/rfc822".into();
        }
        self.begin(&mime);
    }

    /// A body of this type begins.
    fn begin(&mut self, mime: &Mime) {
        self.visitor.body(mime, self.nesting);
        (self.owes_break, self.coding) = (false, Coding::Identity);
        if let Some(boundary) = &mime.boundary {
            if self.open.len() < DEEPEST {
                self.open.push(Open {
                    boundary: boundary.clone(),
                    nesting: self.nesting,
                    is_digest: mime.kind == "multipart/digest",
                });
            }
        } else if mime.is_message() && self.nesting < DEEPEST {
            self.nesting += 1;
            self.header = Some(Header::default());
        } else if !mime.kind.starts_with("multipart/") {
            self.coding = mime.coding.unwrap_or(Coding::Identity);
        }
    }

    /// Which multipart a line delimits, the innermost first, and whether it closes it.
    fn delimited(&self, line: &[u8]) -> Option<(usize, bool)> {
        let rest = line.strip_prefix(b"--")?.trim_ascii_end();
        let mut open = self.open.iter().enumerate().rev();
        open.find_map(
            |(level, open)| match rest.strip_prefix(&open.boundary[..])? {
                b"" => Some((level, false)),
                b"--" => Some((level, true)),
                _ => None,
            },
        )
    }

    fn delimit(&mut self, level: usize, closes: bool) {
        self.end_header();
        self.end_part(false);
        self.visitor.delimiter(level, closes);
        self.nesting = self.open[level].nesting;
        self.open.truncate(if closes { level } else { level + 1 });
        self.header = (!closes).then(Header::default);
        (self.owes_break, self.coding) = (false, Coding::Identity);
    }

    fn end_part(&mut self, with_message: bool) {
        let visitor = &mut self.visitor;
        self.base64.end(|bytes| visitor.content(bytes));
        self.visitor.end(with_message);
    }

    /// A line of content, or a piece of one: whether the line went before it, and whether it ends
    /// with it.
    fn content(&mut self, line: &[u8], goes_on: bool, ends: bool) {
        let visitor = &mut self.visitor;
        if self.coding == Coding::Base64 {
            return self.base64.line(line, |bytes| visitor.content(bytes));
        }
        if !goes_on && std::mem::take(&mut self.owes_break) {
            visitor.content(b"\r\n");
        }
        let is_soft = match self.coding {
            Coding::QuotedPrintable => quoted(line, ends, |bytes| visitor.content(bytes)),
            _ => {
                visitor.content(line);
                false
            }
        };
        self.owes_break = ends && !is_soft;
    }
}

/// Decodes a line of quoted-printable; whether its end is no line break of the content.
fn quoted(line: &[u8], ends: bool, mut found: impl FnMut(&[u8])) -> bool {
    // White space at the end was added on the way (RFC 2045 section 6.7, rule 3).
    let line = match ends {
        true => line.trim_ascii_end(),
        false => line,
    };
    let (mut rest, is_soft) = match line.strip_suffix(b"=") {
        Some(text) => (text, true),
        None => (line, false),
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    while let Some(at) = memchr::memchr(b'=', rest) {
        let code = rest
            .get(at + 1)
            .and_then(digit)
            .zip(rest.get(at + 2).and_then(digit));
        let Some((high, low)) = code else {
            found(&rest[..=at]);
            rest = &rest[at + 1..];
            continue;
        };
        found(&rest[..at]);
        found(&[(high << 4 | low) as u8]);
        rest = &rest[at + 3..];
    }
    found(rest);
    is_soft
}

/// A base64 part. What is no base64 in it is content as it stands, so that nothing can be added
/// unseen.
#[derive(Default)]
struct Base64 {
    /// Letters that make no whole group yet.
    kept: Vec<u8>,
    /// The padding has come.
    is_over: bool,
}

/// Letters that are decoded at once.
const LETTERS: usize = 4096;

impl Base64 {
    fn line(&mut self, line: &[u8], mut found: impl FnMut(&[u8])) {
        let line = line.trim_ascii();
        let letters = line.trim_ascii_end_matches(b'=');
        let is_letter = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
        if line.is_empty() {
            return;
        }
        if self.is_over || line.len() - letters.len() > 2 || !letters.iter().all(is_letter) {
            self.decode(self.kept.len() / 4 * 4, &mut found);
            found(b"\r\n");
            return found(line);
        }
        self.kept.extend_from_slice(letters);
        self.is_over = letters.len() < line.len();
        if self.is_over {
            self.decode(self.kept.len(), &mut found);
        } else if self.kept.len() >= LETTERS {
            self.decode(self.kept.len() / 4 * 4, &mut found);
        }
    }

    fn decode(&mut self, letters: usize, found: &mut impl FnMut(&[u8])) {
        if letters == 0 {
            return;
        }
        match LENIENT.decode(&self.kept[..letters]) {
            Ok(bytes) => found(&bytes),
            // One letter too many.
            Err(_) => found(&self.kept[..letters]),
        }
        self.kept.drain(..letters);
    }

    fn end(&mut self, mut found: impl FnMut(&[u8])) {
        self.decode(self.kept.len(), &mut found);
        self.is_over = false;
    }
}

/// The end of a text without some byte.
trait TrimEnd {
    fn trim_ascii_end_matches(&self, byte: u8) -> &[u8];
}

impl TrimEnd for [u8] {
    fn trim_ascii_end_matches(&self, byte: u8) -> &[u8] {
        let end = self.iter().rposition(|b| *b != byte);
        &self[..end.map_or(0, |at| at + 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a visitor is told, a line for each event.
    #[derive(Default)]
    struct Told {
        lines: Vec<String>,
        content: Vec<u8>,
    }

    impl Visitor for Told {
        fn field(&mut self, raw: &[u8], nesting: usize) {
            let raw = String::from_utf8_lossy(raw).replace("\r\n", "|");
            self.lines.push(format!("{nesting} {raw}"));
        }

        fn body(&mut self, mime: &Mime, nesting: usize) {
            self.lines.push(format!("{nesting} is {}", mime.kind));
        }

        fn content(&mut self, bytes: &[u8]) {
            self.content.extend_from_slice(bytes);
        }

        fn end(&mut self, _: bool) {
            if !self.content.is_empty() {
                let content = String::from_utf8_lossy(&self.content).replace("\r\n", "|");
                self.lines.push(format!("> {content}"));
                self.content.clear();
            }
        }

        fn delimiter(&mut self, level: usize, closes: bool) {
            let what = if closes { "closed" } else { "part" };
            self.lines.push(format!("{level} {what}"));
        }
    }

    /// Told in pieces of every size as if it were told at once.
    fn told(kind: &str, body: &str) -> Vec<String> {
        let of = |size: usize| {
            let mut parts = Parts::new(&Mime::of_type(kind), Told::default());
            body.as_bytes()
                .chunks(size)
                .for_each(|piece| parts.update(piece));
            parts.finish().lines
        };
        let whole = of(body.len().max(1));
        for size in 1..body.len().min(40) {
            assert_eq!(of(size), whole, "pieces of {size}");
        }
        whole
    }

    #[test]
    fn parts_and_attached_messages_are_visited_decoded() {
        let body = "pre\r\n--o\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
            gr=C3=BCn =\r\nund blau \t\r\n=zz\r\n\r\n--o\r\nContent-Type:\r\n message/rfc822\r\n\r\nSubject: a\r\n b\r\n\
            Content-Type: multipart/mixed; boundary=i\r\n\r\n--i\r\nContent-Transfer-Encoding: base64\r\n\r\naGVs\r\nbG8=\r\n\r\n\
            --i--\r\n--o--\r\nepi\r\n\r\n";
        assert_eq!(
            told("multipart/mixed; boundary=\"o\"", body),
            [
                "0 is multipart/mixed",
                "> pre",
                "0 part",
                "0 Content-Type: text/plain",
                "0 Content-Transfer-Encoding: quoted-printable",
                "0 is text/plain",
                "> grün und blau|=zz|",
                "0 part",
                "0 Content-Type:| message/rfc822",
                "0 is message/rfc822",
                "1 Subject: a| b",
                "1 Content-Type: multipart/mixed; boundary=i",
                "1 is multipart/mixed",
                "1 part",
                "1 Content-Transfer-Encoding: base64",
                "1 is ",
                "> hello",
                "1 closed",
                "0 closed",
                "> epi|",
            ]
        );
    }

    #[test]
    fn an_invalid_structure_is_content() {
        assert_eq!(
            told("text/plain", "--x\n\rA: b\r\n"),
            ["0 is text/plain", "> --x||A: b"]
        );
        let long = "x".repeat(3 * LONG);
        assert_eq!(told("text/plain", &long)[1].len(), 2 + long.len());
        let cut = "--o\r\nno field\r\n--o\r\nA: b\r\n--o--";
        assert_eq!(
            told("multipart/mixed; boundary=o", cut),
            [
                "0 is multipart/mixed",
                "0 part",
                "0 is ",
                "> no field",
                "0 part",
                "0 A: b",
                "0 is ",
                "0 closed"
            ]
        );
    }

    #[test]
    fn invalid_base64_is_visited_unchanged() {
        let coded = |body: &str| {
            let part = format!("--o\r\nContent-Transfer-Encoding: base64\r\n\r\n{body}\r\n--o--");
            told("multipart/mixed; boundary=o", &part)[4].clone()
        };
        assert_eq!(coded("aGVs\r\nbG8=\r\n"), "> hello");
        assert_eq!(coded("aGVs\r\nbG8=\r\nmore"), "> hello|more");
        assert_eq!(coded("aGVs\r\n-- list\r\nbG8="), "> hel|-- listlo");
        let long = format!("{}bG8=", "aGVsbG8h\r\n".repeat(LETTERS));
        assert_eq!(coded(&long), format!("> {}lo", "hello!".repeat(LETTERS)));
    }

    #[test]
    fn excessive_nesting_is_content() {
        let deep: String = (0..1000)
            .map(|n| {
                format!(
                    "--b{n}\r\nContent-Type: multipart/mixed; boundary=b{}\r\n\r\n",
                    n + 1
                )
            })
            .collect();
        let lines = told("multipart/mixed; boundary=b0", &deep);
        assert!(lines.len() < 4 * DEEPEST + 10, "{}", lines.len());
        let messages = "Content-Type: message/rfc822\r\n\r\n".repeat(1000);
        assert!(told("message/rfc822", &messages).len() < 3 * DEEPEST);
    }
}
