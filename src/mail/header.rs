//! Header fields as byte ranges over the unchanged message (RFC 5322 section 2.2).
//!
//! Deliberately lenient: recognizable fields are found in any bytes, and the rest is skipped. Lines
//! may end in CRLF, LF or a mixture.

use std::ops::Range;

/// One header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as spelled in the message.
    pub name: &'a str,
    /// The value after the colon, with its folding, without the final line break.
    pub value: &'a [u8],
    /// The range of the whole field, with its final line break.
    pub range: Range<usize>,
}

/// An iterator over the fields of a header block; ends at the empty line or at the end of the
/// bytes.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Iterates over the fields at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, at: 0 }
    }

    /// Returns the number of bytes read; after the last field, the offset of the empty line.
    pub fn position(&self) -> usize {
        self.at
    }
}

/// Returns the end of the line that starts at `from`, after its line break if it has one.
pub fn line_end(bytes: &[u8], from: usize) -> usize {
    memchr::memchr(b'\n', &bytes[from..]).map_or(bytes.len(), |lf| from + lf + 1)
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        loop {
            let start = self.at;
            let first = self.bytes.get(start..).filter(|rest| !rest.is_empty())?;
            if first.starts_with(b"\n") || first.starts_with(b"\r\n") {
                return None;
            }
            let mut end = line_end(self.bytes, start);
            while matches!(self.bytes.get(end), Some(b' ' | b'\t')) {
                end = line_end(self.bytes, end);
            }
            self.at = end;
            let field = &self.bytes[start..end];
            let Some(colon) = memchr::memchr(b':', field) else {
                continue;
            };
            let name = field[..colon].trim_ascii_end();
            if name.is_empty() || !name.iter().all(|b| (33..=126).contains(b)) {
                continue;
            }
            let Ok(name) = std::str::from_utf8(name) else {
                continue;
            };
            let value = &field[colon + 1..];
            let value = value.strip_suffix(b"\n").unwrap_or(value);
            let value = value.strip_suffix(b"\r").unwrap_or(value);
            return Some(Field {
                name,
                value,
                range: start..end,
            });
        }
    }
}

/// Returns the offset of the body: after the first empty line, or at the end if there is none.
pub(super) fn body_start(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match bytes.get(at..) {
            None | Some([]) => return bytes.len(),
            Some([b'\n', ..]) => return at + 1,
            Some([b'\r', b'\n', ..]) => return at + 2,
            Some(rest) => {
                at += memchr::memchr(b'\n', rest).map_or(rest.len(), |lf| lf + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_folding_and_range() {
        let bytes =
            b"From: a@b.test\r\nSubject: one\r\n two\r\nnonsense\r\nX-Empty:\r\n\r\nBody: no\r\n";
        let fields: Vec<_> = Fields::new(bytes).collect();
        assert_eq!(
            fields.iter().map(|f| f.name).collect::<Vec<_>>(),
            ["From", "Subject", "X-Empty"]
        );
        assert_eq!(fields[1].value, b" one\r\n two");
        assert_eq!(&bytes[fields[1].range.clone()], b"Subject: one\r\n two\r\n");
        assert_eq!(fields[2].value, b"");
        assert_eq!(&bytes[body_start(bytes)..], b"Body: no\r\n");
    }

    #[test]
    fn bare_line_feeds_and_a_missing_body_are_read() {
        assert_eq!(Fields::new(b"A: 1\nB: 2").count(), 2);
        assert_eq!(body_start(b"A: 1\nB: 2"), 9);
        assert_eq!(body_start(b"A: 1\n\nrest"), 6);
        assert_eq!(Fields::new(b"").count(), 0);
    }
}
