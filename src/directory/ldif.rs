//! A parser for content records in LDIF (RFC 2849).
//!
//! Promises: anything it does not understand is an error that names the line, never an entry left
//! out. Change records and values by URL are rejected, since they do not show the content of the
//! directory.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::entry::Entry;

/// Maximum length of a line with its continuations.
const MAX_LINE: usize = 1 << 20;

/// Error of parsing LDIF.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct LdifError {
    /// The line where the problem begins, counted from 1.
    pub line: usize,
    /// The problem.
    pub problem: LdifProblem,
}

/// A problem with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LdifProblem {
    /// Neither a comment nor `name: value`.
    #[error("{0:?} is not of the form \"attribute: value\"")]
    NoAttribute(String),
    /// A value with invalid base64.
    #[error("the value of {0} is not valid base64")]
    Base64(String),
    /// `attribute:< url`.
    #[error("the value of {0} is a URL, which is not supported; write the value itself")]
    Url(String),
    /// A version other than 1.
    #[error("unknown LDIF version {0:?}; only version 1 is supported")]
    Version(String),
    /// `changetype:` or `control:`.
    #[error("change record; the file must contain entries")]
    Change,
    /// An attribute that belongs to no entry.
    #[error("{0} before any \"dn:\" line; a record begins with its dn")]
    NoDn(String),
    /// A second `dn:` within one record.
    #[error("a second \"dn:\" in one record; records are separated by an empty line")]
    SecondDn,
    /// A continuation without a line before it.
    #[error("continuation line (it begins with a space) without a line before it")]
    Fold,
    /// Longer than 1 MiB.
    #[error("the line is longer than 1 MiB")]
    TooLong,
}

/// Parses all entries, with the attributes that are `wanted`. A name with options (`mail;lang-de`)
/// is another attribute than the one without. Bytes that are not UTF-8 are replaced, not dropped.
pub(super) fn parse(text: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Vec<Entry>, LdifError> {
    let mut entries = Vec::new();
    let mut record: Option<LdifRecord> = None;
    let mut begun = false;
    for line in LogicalLines::new(text) {
        let (number, line) = line?;
        if line.is_empty() {
            entries.extend(record.take().map(LdifRecord::into_entry));
            continue;
        }
        let fail = |problem| LdifError {
            line: number,
            problem,
        };
        let (name, value) = parse_attribute(&line).map_err(fail)?;
        match name.to_ascii_lowercase().as_str() {
            "version" if !begun && value.trim() == "1" => {}
            "version" if !begun => return Err(fail(LdifProblem::Version(value))),
            "dn" if record.is_some() => return Err(fail(LdifProblem::SecondDn)),
            "dn" => record = Some(LdifRecord::new(value)),
            "changetype" | "control" => return Err(fail(LdifProblem::Change)),
            _ => match &mut record {
                None => return Err(fail(LdifProblem::NoDn(name))),
                Some(record) if wanted(&name) => record.attributes.push((name, vec![value])),
                Some(_) => {}
            },
        }
        begun = true;
    }
    entries.extend(record.map(LdifRecord::into_entry));
    Ok(entries)
}

struct LdifRecord {
    dn: String,
    attributes: Vec<(String, Vec<String>)>,
}

impl LdifRecord {
    fn new(dn: String) -> LdifRecord {
        LdifRecord {
            dn,
            attributes: Vec::new(),
        }
    }

    fn into_entry(self) -> Entry {
        Entry::new(self.dn, self.attributes)
    }
}

/// Splits `name: value`, `name:: base64`.
fn parse_attribute(line: &[u8]) -> Result<(String, String), LdifProblem> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let colon = memchr::memchr(b':', line).unwrap_or(0);
    let (name, value) = (text(&line[..colon]), &line[colon..]);
    let named = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-.;_".contains(c));
    if !named {
        let start: String = text(line).chars().take(40).collect();
        return Err(LdifProblem::NoAttribute(start));
    }
    let value = match value {
        [b':', b':', encoded @ ..] => match STANDARD.decode(encoded.trim_ascii()) {
            Ok(decoded) => text(&decoded),
            Err(_) => return Err(LdifProblem::Base64(name)),
        },
        [b':', b'<', ..] => return Err(LdifProblem::Url(name)),
        [_, plain @ ..] => {
            let blanks = plain.iter().take_while(|b| **b == b' ').count();
            text(&plain[blanks..])
        }
        [] => String::new(),
    };
    Ok((name, value))
}

/// Iterator over lines with their numbers, with continuations joined and without comments. An empty
/// line ends a record.
struct LogicalLines<'a> {
    rest: Option<&'a [u8]>,
    number: usize,
}

impl<'a> LogicalLines<'a> {
    fn new(text: &'a [u8]) -> LogicalLines<'a> {
        // Editors on Windows put a byte order mark in front.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        LogicalLines {
            rest: Some(text),
            number: 0,
        }
    }

    fn next_physical(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (line, rest) = match memchr::memchr(b'\n', rest) {
            Some(end) => (&rest[..end], Some(&rest[end + 1..])),
            None => (rest, None),
        };
        self.rest = rest;
        self.number += 1;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// Returns the next physical line without its leading space, if it is a continuation.
    fn next_continuation(&mut self) -> Option<&'a [u8]> {
        if self.rest?.first() != Some(&b' ') {
            return None;
        }
        self.next_physical().map(|line| &line[1..])
    }

    fn next_logical(&mut self) -> Option<Result<Cow<'a, [u8]>, LdifProblem>> {
        let first = self.next_physical()?;
        if first.first() == Some(&b' ') {
            return Some(Err(LdifProblem::Fold));
        }
        let mut line = Cow::Borrowed(first);
        if !first.is_empty() {
            while let Some(more) = self.next_continuation() {
                if line.len() + more.len() > MAX_LINE {
                    return Some(Err(LdifProblem::TooLong));
                }
                line.to_mut().extend_from_slice(more);
            }
        }
        if line.len() > MAX_LINE {
            return Some(Err(LdifProblem::TooLong));
        }
        Some(Ok(line))
    }
}

impl<'a> Iterator for LogicalLines<'a> {
    type Item = Result<(usize, Cow<'a, [u8]>), LdifError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = self.number + 1;
            match self.next_logical()? {
                Ok(text) if text.first() == Some(&b'#') => {}
                Ok(text) => return Some(Ok((line, text))),
                Err(problem) => return Some(Err(LdifError { line, problem })),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Entry>, LdifError> {
        parse(text.as_bytes(), |_| true)
    }

    #[test]
    fn folds_comments_versions_and_both_line_ends_are_understood() {
        let text = "version: 1\r\n# people\r\n  of ours\r\n\r\ndn: cn=ana,dc=b\r\n ,dc=test\r\n\
                    mail: ana@b\r\n .test\r\n# between\r\nMail:eve@b.test\r\n\r\n\n\ndn: cn=x\ncn: x";
        let entries = all(text).expect("LDIF");
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].dn, "cn=ana,dc=b,dc=test");
        assert_eq!(
            entries[0].values("mail").to_vec(),
            ["ana@b.test", "eve@b.test"]
        );
        assert_eq!(entries[1].values("cn").to_vec(), ["x"]);
    }

    #[test]
    fn base64_values_are_decoded_and_bad_bytes_stay_visible() {
        let entries = all("dn:: Y249w6k=\nmail:: YW5hQGIudGVzdA==\nx:: /w==\n").expect("LDIF");
        assert_eq!(entries[0].dn, "cn=\u{e9}");
        assert_eq!(entries[0].values("mail").to_vec(), ["ana@b.test"]);
        assert_eq!(entries[0].values("x").to_vec(), ["\u{fffd}"]);
    }

    #[test]
    fn an_option_makes_another_attribute() {
        let entries = all("dn: cn=x\nmail;lang-de: a@b.test\n").expect("LDIF");
        assert!(entries[0].values("mail").is_empty());
        assert_eq!(entries[0].values("mail;lang-de").to_vec(), ["a@b.test"]);
    }

    #[test]
    fn only_wanted_attributes_are_kept() {
        let entries = parse(b"dn: cn=x\nmail: a@b.test\ncn: x\n", |name| name == "mail");
        assert_eq!(entries.expect("LDIF")[0].attributes().count(), 1);
    }

    #[test]
    fn trouble_is_named_with_its_line() {
        let long = format!("dn: x\nmail: {}\n", "a".repeat(MAX_LINE));
        for (text, line, problem) in [
            (
                "dn: x\nnonsense\n",
                2,
                LdifProblem::NoAttribute("nonsense".into()),
            ),
            ("dn: x\n\n\nmail: a\n", 4, LdifProblem::NoDn("mail".into())),
            ("dn: x\na: b\ndn: y\n", 3, LdifProblem::SecondDn),
            (
                "dn: x\nphoto:< file:///x\n",
                2,
                LdifProblem::Url("photo".into()),
            ),
            ("dn: x\nmail:: ***\n", 2, LdifProblem::Base64("mail".into())),
            ("version: 2\n", 1, LdifProblem::Version("2".into())),
            ("dn: x\nchangetype: modify\n", 2, LdifProblem::Change),
            ("\n folded\n", 2, LdifProblem::Fold),
            (&long, 2, LdifProblem::TooLong),
        ] {
            let start: String = text.chars().take(30).collect();
            assert_eq!(all(text), Err(LdifError { line, problem }), "{start:?}");
        }
    }

    #[test]
    fn an_empty_file_has_no_entries() {
        assert_eq!(all(""), Ok(Vec::new()));
        assert_eq!(all("\u{feff}version: 1\n"), Ok(Vec::new()));
    }
}
