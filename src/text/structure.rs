//! The parts of a message as byte ranges over it (RFC 2045, RFC 2046 section 5.1).
//!
//! Finds the boundaries of parts without decoding, so a large attachment costs one pass over its
//! bytes. Attached messages are leaves: their content must not change. Promises: time linear in the
//! length, at most [`DEEPEST`] levels and [`MOST_PARTS`] parts, no recursion. Never fails:
//! malformed structure is a leaf.

use std::collections::HashMap;
use std::ops::Range;

use mail_parser::{MessageParser, MimeHeaders};

use crate::mail::{Fields, line_end};

/// Nesting limit; deeper multiparts are leaves. No mail client displays a body from that deep.
pub(super) const DEEPEST: usize = 200;

/// Limit of parts: the body displayed first is not beyond it.
pub(super) const MOST_PARTS: usize = 10_000;

/// The parts, the whole message first; a parent comes before its children.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) parts: Vec<Part>,
    /// Whether nested multiparts have the same boundary: mail clients disagree about the structure.
    pub(super) ambiguous: bool,
}

/// One part.
#[derive(Debug)]
pub(super) struct Part {
    /// Its header fields, without the empty line.
    pub(super) header: Range<usize>,
    /// Its content as transferred, without the line break that belongs to the next delimiter.
    pub(super) body: Range<usize>,
    /// Whether a delimiter follows without its own line break: the body is empty, and the line
    /// before belongs to the header.
    pub(super) lacks_line_break: bool,
    /// Its MIME fields.
    pub(super) mime: Mime,
    /// The indices of its own parts.
    pub(super) children: Vec<usize>,
    /// The offset of its first delimiter line.
    pub(super) first: Option<usize>,
    /// The offset of its close delimiter line.
    pub(super) close: Option<usize>,
}

/// The MIME fields of a part; names in lowercase.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mime {
    /// `text`, `multipart`; empty if there is no readable Content-Type.
    pub(super) kind: String,
    /// `plain`, `mixed`.
    pub(super) subtype: String,
    pub(super) charset: Option<String>,
    pub(super) boundary: Option<String>,
    /// The root of a multipart/related (RFC 2387).
    pub(super) start: Option<String>,
    /// `format=flowed` (RFC 3676).
    pub(super) flowed: bool,
    /// Content-Transfer-Encoding.
    pub(super) encoding: String,
    /// Content-ID, with its angle brackets.
    pub(super) id: String,
    /// Whether Content-Disposition is "attachment".
    pub(super) attachment: bool,
    /// Whether Content-Disposition names a file.
    pub(super) filed: bool,
    /// The name parameter of Content-Type.
    pub(super) name: String,
    /// Whether there is an unreadable Content-Type.
    pub(super) unreadable: bool,
    /// The protocol of a multipart/signed or multipart/encrypted (RFC 1847).
    pub(super) protocol: String,
    /// The report-type of a multipart/report (RFC 6522).
    pub(super) report_type: String,
    /// Whether there is a Content-MD5 (RFC 1864), which becomes wrong when the content changes.
    pub(super) digest: bool,
    /// Whether Content-Disposition is "inline".
    pub(super) inline: bool,
    /// Whether there are several different Content-Type or Content-Transfer-Encoding fields.
    pub(super) contradictory: bool,
}

impl Mime {
    /// Whether it has this type, `kind/subtype` in lowercase.
    pub(super) fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind == kind && self.subtype == subtype
    }

    /// Whether the content may have bytes above 127.
    pub(super) fn is_8bit(&self) -> bool {
        matches!(self.encoding.as_str(), "8bit" | "8-bit" | "binary")
    }

    /// Reads the MIME fields of a header block.
    pub(super) fn read(header: &[u8]) -> Mime {
        let mut mime = Mime::default();
        let mut picked: Vec<u8> = Vec::new();
        let mut seen: [Option<Vec<u8>>; 2] = [None, None];
        let mut given = [false; 5];
        for field in Fields::new(header) {
            let Some(which) = mime_field(field.name) else {
                continue;
            };
            let value = field.value.trim_ascii();
            if let Some(seen) = seen.get_mut(which) {
                match seen {
                    Some(first) if !first.eq_ignore_ascii_case(value) => mime.contradictory = true,
                    Some(_) => {}
                    None => *seen = Some(value.to_vec()),
                }
            }
            if std::mem::replace(&mut given[which], true) {
                continue;
            }
            match which {
                1 => {
                    let token = value.split(|b| b";( \t\r\n".contains(b)).next();
                    mime.encoding = lower(token.unwrap_or_default());
                }
                4 => mime.digest = true,
                3 => mime.id = String::from_utf8_lossy(value).into_owned(),
                _ => {
                    mime.unreadable |= which == 0 && !value.is_empty();
                    picked.reserve(256);
                    picked.extend_from_slice(field.name.as_bytes());
                    picked.extend_from_slice(b": ");
                    match has_blank_equals(field.value) {
                        true => picked.extend(unfolded(field.value)),
                        false => picked.extend_from_slice(field.value),
                    }
                    picked.extend_from_slice(b"\r\n");
                }
            }
        }
        if !picked.is_empty() {
            picked.extend_from_slice(b"\r\n");
            mime.read_parameters(&picked);
        }
        mime
    }

    /// Reads Content-Type and Content-Disposition, which have parameters.
    fn read_parameters(&mut self, fields: &[u8]) {
        let Some(read) = MessageParser::default().parse_headers(fields) else {
            return;
        };
        if let Some(found) = read.content_type()
            && let Some(name) = found.attribute("name")
        {
            self.name = name.trim().to_ascii_lowercase();
        }
        if let Some(found) = read.content_type()
            && let Some(subtype) = found.subtype()
        {
            self.unreadable = false;
            self.kind = found.ctype().trim().to_ascii_lowercase();
            self.subtype = subtype.trim().to_ascii_lowercase();
            let value = |name| found.attribute(name).map(|v| v.trim().to_owned());
            self.charset = value("charset").map(|v| v.to_ascii_lowercase());
            self.boundary = found.attribute("boundary").map(|v| v.trim_end().to_owned());
            self.start = value("start");
            let lower = |name| value(name).unwrap_or_default().to_ascii_lowercase();
            if self.kind == "multipart" {
                self.protocol = lower("protocol");
                self.report_type = lower("report-type");
            }
            self.flowed = value("format").is_some_and(|v| v.eq_ignore_ascii_case("flowed"));
        }
        if let Some(found) = read.content_disposition() {
            self.attachment = found.ctype().eq_ignore_ascii_case("attachment");
            self.inline = found.ctype().eq_ignore_ascii_case("inline");
            self.filed = found.has_attribute("filename");
        }
    }
}

/// Returns the number of a field that [`Mime::read`] reads: Content-Type, -Transfer-Encoding,
/// -Disposition, -ID, -MD5.
fn mime_field(name: &str) -> Option<usize> {
    const NAMES: [&str; 5] = ["type", "transfer-encoding", "disposition", "id", "md5"];
    let (prefix, rest) = name.split_at_checked("content-".len())?;
    if !prefix.eq_ignore_ascii_case("content-") {
        return None;
    }
    NAMES
        .iter()
        .position(|known| rest.eq_ignore_ascii_case(known))
}

/// Whether there is white space around an `=`.
fn has_blank_equals(value: &[u8]) -> bool {
    let is_blank = |at: Option<usize>| {
        at.and_then(|at| value.get(at))
            .is_some_and(u8::is_ascii_whitespace)
    };
    memchr::memchr_iter(b'=', value).any(|at| is_blank(at.checked_sub(1)) || is_blank(Some(at + 1)))
}

/// Unfolds a value with parameters, and removes the white space around `=` that RFC 2045's grammar
/// allows: some programs fold there.
fn unfolded(value: &[u8]) -> Vec<u8> {
    let mut found: Vec<u8> = Vec::with_capacity(value.len());
    let (mut quoted, mut depth, mut escaped, mut after_equals) = (false, 0usize, false, false);
    for &byte in value {
        let is_blank = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match byte {
            b'\r' | b'\n' => continue,
            _ if escaped => escaped = false,
            b'\\' if quoted || depth > 0 => escaped = true,
            b'"' if depth == 0 => quoted = !quoted,
            b'(' if !quoted => depth += 1,
            b')' if !quoted => depth = depth.saturating_sub(1),
            _ if quoted || depth > 0 => {}
            _ if is_blank && after_equals => continue,
            b'=' => found.truncate(found.trim_ascii_end().len()),
            _ => {}
        }
        after_equals = byte == b'=' && !quoted && depth == 0;
        found.push(byte);
    }
    found
}

fn lower(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_ascii_lowercase()
}

impl Tree {
    /// Returns the part's IMAP number (RFC 3501 section 6.4.5); empty for the message itself.
    pub(super) fn number(&self, index: usize) -> String {
        let mut numbers = Vec::new();
        let mut at = index;
        // A parent comes before its children.
        for parent in (0..index).rev() {
            if let Some(place) = self.parts[parent].children.iter().position(|&c| c == at) {
                numbers.push((place + 1).to_string());
                at = parent;
            }
        }
        numbers.reverse();
        numbers.join(".")
    }

    /// Iterates over the part and its ancestors, the innermost first.
    pub(super) fn around(&self, index: usize) -> impl Iterator<Item = &Part> {
        let mut at = index;
        let parents = (0..index).rev().filter(move |&parent| {
            let is_parent = self.parts[parent].children.contains(&at);
            if is_parent {
                at = parent;
            }
            is_parent
        });
        std::iter::once(index)
            .chain(parents)
            .map(|index| &self.parts[index])
    }

    /// Finds the parts of a message.
    #[cfg(test)]
    pub(super) fn of(bytes: &[u8]) -> Tree {
        Tree::with_header(bytes, None)
    }

    /// Finds the parts of a message; `header` is the size of its header in bytes with the empty
    /// line, if known.
    pub(super) fn with_header(bytes: &[u8], header: Option<usize>) -> Tree {
        let mut scan = Scan {
            bytes,
            tree: Tree {
                parts: Vec::new(),
                ambiguous: false,
            },
            open: Vec::new(),
            levels: HashMap::new(),
            unfinished: Vec::new(),
            header: header.and_then(|body| {
                let before = bytes.get(..body)?;
                let line = before.strip_suffix(b"\n")?;
                Some((line.strip_suffix(b"\r").unwrap_or(line).len(), body))
            }),
        };
        let mut at = scan.begin(0);
        while let Some(line) = scan.next_dashes(at) {
            at = line_end(bytes, line);
            let Some((level, close)) = scan.delimiter(&bytes[line..at]) else {
                continue;
            };
            scan.end_inside(level, line);
            let delimited = &mut scan.tree.parts[scan.open[level]];
            delimited.first.get_or_insert(line);
            if close {
                delimited.close = Some(line);
                scan.close_to(level);
            } else if scan.delimiter(scan.line(at)).is_some() {
                // Two delimiters with nothing between them, not even an empty line: mail clients
                // disagree whether that is a part, and nothing could be displayed there.
            } else if scan.tree.parts.len() < MOST_PARTS && bytes[line..at].ends_with(b"\n") {
                let parent = scan.open[level];
                let child = scan.tree.parts.len();
                scan.tree.parts[parent].children.push(child);
                at = scan.begin(at);
            } else {
                break;
            }
        }
        scan.tree
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    tree: Tree,
    /// The multiparts without a close delimiter so far, the outermost first.
    open: Vec<usize>,
    /// Their indices in `open`, by their boundaries.
    levels: HashMap<Vec<u8>, usize>,
    /// The end of the message's header and the start of its body, if known.
    header: Option<(usize, usize)>,
    /// Parts without an end so far, and the number of multiparts open around each.
    unfinished: Vec<(usize, usize)>,
}

impl Scan<'_> {
    /// Begins a part. Returns the offset of its content.
    fn begin(&mut self, start: usize) -> usize {
        let mut at = start;
        let known = self.header.filter(|_| start == 0);
        let (header_end, body) = loop {
            if let Some(known) = known {
                break known;
            }
            let end = line_end(self.bytes, at);
            let line = &self.bytes[at..end];
            // Files from Windows begin with a byte order mark, which mail clients skip.
            let line = match line.strip_prefix("\u{feff}".as_bytes()) {
                Some(rest) if at == 0 => rest,
                _ => line,
            };
            match line {
                [] => break (at, at),
                b"\n" | b"\r\n" => break (at, end),
                // A continuation line at the start of a message: mail clients skip it.
                [b' ' | b'\t', ..] if at == 0 && is_header_line(self.line(end), false) => at = end,
                _ if !is_header_line(line, at == start) || self.delimiter(line).is_some() => {
                    break (at, at);
                }
                _ => at = end,
            }
        };
        let mut mime = Mime::read(&self.bytes[start..header_end]);
        // RFC 2046 section 5.1.5.
        let in_digest = self.open.last().map(|&part| &self.tree.parts[part].mime);
        if mime.kind.is_empty() && in_digest.is_some_and(|m| m.is("multipart", "digest")) {
            (mime.kind, mime.subtype) = ("message".into(), "rfc822".into());
        }
        let part = self.tree.parts.len();
        self.unfinished.push((part, self.open.len()));
        if mime.kind == "multipart"
            && self.open.len() < DEEPEST
            && let Some(boundary) = mime.boundary.as_ref().filter(|b| !b.is_empty())
        {
            let boundary = boundary.as_bytes();
            self.tree.ambiguous |= self.is_confused(boundary);
            self.levels.insert(boundary.to_vec(), self.open.len());
            self.open.push(part);
        }
        self.tree.parts.push(Part {
            header: start..header_end,
            body: body..self.bytes.len(),
            lacks_line_break: false,
            mime,
            children: Vec::new(),
            first: None,
            close: None,
        });
        body
    }

    /// Ends everything within the open multipart `level` before this delimiter line.
    fn end_inside(&mut self, level: usize, line: usize) {
        while let Some(&(part, depth)) = self.unfinished.last()
            && depth > level
        {
            self.unfinished.pop();
            let part = &mut self.tree.parts[part];
            let body = &mut part.body;
            let before = &self.bytes[body.start.min(line)..line];
            let shorter = before.strip_suffix(b"\n").unwrap_or(before);
            let shorter = shorter.strip_suffix(b"\r").unwrap_or(shorter);
            body.end = body.start.min(line) + shorter.len();
            part.lacks_line_break = body.end == line;
        }
        self.close_to(level + 1);
    }

    /// Closes all but this many multiparts.
    fn close_to(&mut self, open: usize) {
        if self.open.len() > open {
            self.open.truncate(open);
            self.levels.retain(|_, level| *level < open);
        }
    }

    /// Whether a delimiter with this boundary could belong to another open multipart: equal
    /// boundaries, or one that is the other's close delimiter.
    fn is_confused(&self, boundary: &[u8]) -> bool {
        let known = |boundary: &[u8]| self.levels.contains_key(boundary);
        known(boundary)
            || boundary.strip_suffix(b"--").is_some_and(known)
            || known(&[boundary, b"--"].concat())
    }

    fn line(&self, from: usize) -> &[u8] {
        &self.bytes[from..line_end(self.bytes, from)]
    }

    /// Returns the next line from `at`, the start of a line, that begins with two dashes.
    fn next_dashes(&self, at: usize) -> Option<usize> {
        if self.open.is_empty() {
            return None;
        }
        if self.bytes[at..].starts_with(b"--") {
            return Some(at);
        }
        memchr::memmem::find(&self.bytes[at..], b"\n--").map(|found| at + found + 1)
    }

    /// Returns the open multipart that the line delimits, and whether it is its close delimiter.
    fn delimiter(&self, line: &[u8]) -> Option<(usize, bool)> {
        let rest = line.strip_prefix(b"--")?.trim_ascii_end();
        let level = |boundary: &[u8]| self.levels.get(boundary).copied();
        let closing = || level(rest.strip_suffix(b"--")?);
        level(rest)
            .map(|level| (level, false))
            .or_else(|| closing().map(|level| (level, true)))
    }
}

/// Whether a line can belong to a header. Any other is the first line of a body whose empty line is
/// missing.
fn is_header_line(line: &[u8], first: bool) -> bool {
    if matches!(line, [b' ' | b'\t', ..]) {
        return !first;
    }
    let name = memchr::memchr(b':', line).map(|colon| line[..colon].trim_ascii_end());
    name.is_some_and(|name| name.iter().all(u8::is_ascii_graphic))
        || (first && line.starts_with(b"From "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<(String, String)> {
        let tree = Tree::of(text.as_bytes());
        let part = |p: &Part| {
            let kind = format!("{}/{}", p.mime.kind, p.mime.subtype);
            (kind, text[p.body.clone()].to_owned())
        };
        tree.parts.iter().map(part).collect()
    }

    #[test]
    fn parts_end_before_the_line_break_of_their_delimiter() {
        let text = "Content-Type: multipart/mixed; boundary=\"o\"\r\n\r\npre\r\n--o\r\n\
                    Content-Type: multipart/alternative; boundary=i\r\n\r\n--i\r\n\r\none\r\n\r\n--i  \r\n\
                    Content-Type: text/html\r\n\r\n<p>two\r\n--i--\r\nepi\r\n--o\r\nContent-Type: message/rfc822\r\n\r\n\
                    Content-Type: multipart/mixed; boundary=z\r\n\r\n--z\r\n\r\nno\r\n--z--\r\n--o--\r\nrest\r\n";
        let found = shown(text);
        let kinds: Vec<&str> = found.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(
            kinds,
            [
                "multipart/mixed",
                "multipart/alternative",
                "/",
                "text/html",
                "message/rfc822"
            ]
        );
        assert_eq!(found[2].1, "one\r\n");
        assert_eq!(found[3].1, "<p>two");
        assert!(found[1].1.ends_with("--i--\r\nepi"));
        assert!(found[4].1.ends_with("--z--"));
    }

    #[test]
    fn a_long_header_is_read_to_its_end() {
        let before = "X: y\r\n".repeat(100_000);
        let found = shown(&format!("{before}Content-Type: text/html\r\n\r\n<p>x\r\n"));
        assert_eq!(found, [("text/html".to_owned(), "<p>x\r\n".to_owned())]);
    }

    #[test]
    fn unclosed_parts_end_with_their_parent_or_the_message() {
        let text = "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/mixed; boundary=i\n\n\
                    --i\n\na\n--o\n\nb\n";
        let found = shown(text);
        assert_eq!(found[2].1, "a");
        assert_eq!(found[3].1, "b\n");
    }

    #[test]
    fn junk_before_the_first_field_is_skipped() {
        for start in ["\u{feff}", " junk\n", "From - now\n", ": nothing\n"] {
            let text = format!("{start}A: b\nContent-Type: text/html\n\nx\n");
            assert_eq!(
                shown(&text),
                [("text/html".into(), "x\n".into())],
                "{start:?}"
            );
        }
    }

    #[test]
    fn two_adjacent_delimiters_enclose_no_part() {
        let text = "Content-Type: multipart/mixed; boundary=o\n\n--o\n--o\n\na\n--o\n--o--\n";
        let found = shown(text);
        assert_eq!((found.len(), found[1].1.as_str()), (2, "a"));
    }

    #[test]
    fn a_header_without_an_empty_line_ends_after_its_fields() {
        let text = "Content-Type: multipart/mixed; boundary=o\n\n--o\nHello there\n--o\nContent-Type: text/html\n--o--\n";
        let found = shown(text);
        assert_eq!(found[1].1, "Hello there");
        assert_eq!(found[2], ("text/html".into(), String::new()));
    }

    #[test]
    fn equal_boundaries_are_ambiguous_and_deep_ones_are_leaves() {
        let nested = |n: usize, name: &dyn Fn(usize) -> String| -> String {
            (0..n)
                .map(|i| {
                    let b = name(i);
                    format!("Content-Type: multipart/mixed; boundary={b}\n\n--{b}\n")
                })
                .collect()
        };
        assert!(Tree::of(nested(2, &|_| "same".into()).as_bytes()).ambiguous);
        let closing = |i: usize| ["b", "b--"][i].to_owned();
        assert!(Tree::of(nested(2, &closing).as_bytes()).ambiguous);
        let deep = nested(40_000, &|i| format!("b{i}"));
        let tree = Tree::of(deep.as_bytes());
        assert_eq!(tree.parts.len(), DEEPEST + 1);
        assert!(!tree.ambiguous);
    }
}
