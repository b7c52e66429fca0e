//! Items for a relay without 8BITMIME, where only what we wrote around a 7-bit original needs 8
//! bits: its decoded subject.
//!
//! Our text parts become quoted-printable, as an MTA on the way would make them (RFC 6152 section
//! 3). The seal stays true, since it covers the decoded parts. The original is never encoded anew,
//! and what has 8 bits in it waits.

use std::io;

use bytes::Bytes;

use super::Item;
use crate::mail::{BodyFormat, BodyKind, Content};

/// Returns the item as 7 bits; `None` if it cannot be: the original needs more, or an address in a
/// header.
pub fn seven_bit(item: &Item, original: &Content) -> io::Result<Option<Item>> {
    let prefix = encoded(&String::from_utf8_lossy(&item.prefix));
    let is_seven_bit = |bytes: &[u8]| BodyKind::of(bytes) == BodyKind::SevenBit;
    let around = is_seven_bit(prefix.as_bytes()) && is_seven_bit(&item.suffix);
    if !around || BodyFormat::of(original)?.kind != BodyKind::SevenBit {
        return Ok(None);
    }
    Ok(Some(Item {
        prefix: Bytes::from(prefix),
        body: BodyKind::SevenBit,
        ..item.clone()
    }))
}

const EIGHT_BIT: &str = "Content-Transfer-Encoding: 8bit\r\n";

/// A prefix, with its text parts in quoted-printable. It is ours: fields are spelled as we spell
/// them, each multipart names its boundary in quotes, and no text has a boundary in it.
fn encoded(prefix: &str) -> String {
    let mut out = String::with_capacity(prefix.len() + 512);
    let mut delimiters: Vec<String> = Vec::new();
    let mut rest = prefix;
    while let Some(end) = rest.find("\r\n\r\n") {
        let (header, behind) = rest.split_at(end + 4);
        if let Some((_, boundary)) = header.split_once("boundary=\"") {
            let boundary = boundary.split('"').next().unwrap_or_default();
            delimiters.push(format!("--{boundary}"));
        }
        let is_text = header.contains("Content-Type: text/plain") && header.contains(EIGHT_BIT);
        let coding = if is_text { "quoted-printable" } else { "7bit" };
        let coding = EIGHT_BIT.replace("8bit", coding);
        out.push_str(&header.replace(EIGHT_BIT, &coding));
        rest = behind;
        // An attached message begins with its header, and a multipart with a delimiter, which
        // stands as if it were a part of it.
        if header.contains("Content-Type: message/rfc822")
            || header.contains("Content-Type: message/global")
        {
            continue;
        }
        let is_delimiter = |line: &&str| {
            let line = line.trim_end();
            delimiters.iter().any(|delimiter| line == delimiter)
        };
        let lines = rest.split_inclusive("\r\n");
        let content: usize = lines
            .take_while(|line| !is_delimiter(line))
            .map(str::len)
            .sum();
        let (content, behind) = rest.split_at(content);
        match is_text {
            true => content
                .split_inclusive("\r\n")
                .for_each(|line| quote(line, &mut out)),
            false => out.push_str(content),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Longest encoded line, without the `=` of a soft line break (RFC 2045 section 6.7, rule 5).
const LONGEST: usize = 75;

/// Adds a line in quoted-printable. One of ASCII is not broken, however long: an archive that reads
/// the envelope part without decoding it still finds one address on each line.
fn quote(line: &str, out: &mut String) {
    let (text, end) = match line.strip_suffix("\r\n") {
        Some(text) => (text, "\r\n"),
        None => (line, ""),
    };
    let longest = if text.is_ascii() { usize::MAX } else { LONGEST };
    let mut length = 0;
    for (at, byte) in text.bytes().enumerate() {
        let is_last = at + 1 == text.len();
        let is_plain = match byte {
            b'=' => false,
            b' ' | b'\t' => !is_last,
            byte => byte.is_ascii_graphic(),
        };
        let width = if is_plain { 1 } else { 3 };
        if length + width > longest {
            out.push_str("=\r\n");
            length = 0;
        }
        length += width;
        match is_plain {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("={byte:02X}")),
        }
    }
    out.push_str(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &str) -> String {
        let mut out = String::new();
        quote(text, &mut out);
        out
    }

    #[test]
    fn a_line_is_quoted_and_broken_only_if_it_must_be() {
        let long = format!("To: {}@corp.test\r\n", "a".repeat(100));
        for plain in ["", "\r\n", "To: a@corp.test\r\n", &long] {
            assert_eq!(quoted(plain), plain);
        }
        assert_eq!(quoted("Subject: \r\n"), "Subject:=20\r\n");
        assert_eq!(quoted("To: a=b@c.test"), "To: a=3Db@c.test");
        assert_eq!(quoted("gr\u{fc}n\r\n"), "gr=C3=BCn\r\n");
        let broken = quoted(&"\u{fc}".repeat(100));
        assert!(
            broken.split("=\r\n").all(|line| line.len() <= LONGEST),
            "{broken}"
        );
    }
}
