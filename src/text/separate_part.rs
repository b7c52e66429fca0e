//! Texts as MIME parts of their own, next to a body that cannot hold them.
//!
//! The message, or one part of it, becomes a part of a multipart/mixed, byte for byte.

use std::sync::Arc;

use super::body::{is_short, joined_lines, separator};
use super::edit::{Splice, Text, Texts};
use super::structure::{Part, Tree};
use super::transfer::encode_quoted;
use crate::mail::Fields;

/// The prefix of boundaries; eight hexadecimal digits follow, so that no boundary is a prefix of
/// another.
const BOUNDARY: &str = "=_copyist_text_";
const DIGITS: usize = 8;

/// RFC 2046 section 5.1.1. Longer ones are read, but not written.
const LONGEST_BOUNDARY: usize = 70;

/// A writer of separate parts for one message.
pub(super) struct PartWriter<'a> {
    message: &'a [u8],
    tree: &'a Tree,
    eol: &'static str,
    /// The numbers that follow [`BOUNDARY`] in the message; computed for the first boundary.
    taken: Option<Vec<bool>>,
    next: usize,
}

impl<'a> PartWriter<'a> {
    pub(super) fn new(message: &'a [u8], tree: &'a Tree, eol: &'static str) -> PartWriter<'a> {
        PartWriter {
            message,
            tree,
            eol,
            taken: None,
            next: 0,
        }
    }

    /// Adds the texts around the whole content of the message.
    pub(super) fn all(&mut self, texts: &Texts) -> Vec<Splice> {
        let root = &self.tree.parts[0];
        match (&root.mime.boundary, root.first) {
            (Some(boundary), Some(first))
                if !self.tree.ambiguous && is_mixed(root) && boundary.len() <= LONGEST_BOUNDARY =>
            {
                self.as_further_parts(boundary, first, root, texts)
            }
            _ => self.around_the_message(root, texts),
        }
    }

    /// Adds the texts around one part.
    pub(super) fn part(
        &mut self,
        index: usize,
        texts: &Texts,
        is_html: bool,
        splices: &mut Vec<Splice>,
    ) {
        if index == 0 {
            splices.extend(self.around_the_message(&self.tree.parts[0], texts));
            return;
        }
        let part = &self.tree.parts[index];
        let (boundary, eol) = (self.boundary(), self.eol);
        let kind = self.multipart(&boundary, part);
        let before = self.text(&texts.prepend, is_html, &boundary);
        let start = part.header.start;
        splices.push(put(start, format!("{kind}{eol}{before}--{boundary}{eol}")));
        splices.push(put(
            part.body.end,
            self.end(texts, is_html, &boundary, part),
        ));
    }

    /// Adds the texts as further parts of a multipart/mixed message.
    fn as_further_parts(
        &self,
        boundary: &str,
        first: usize,
        root: &Part,
        texts: &Texts,
    ) -> Vec<Splice> {
        let before = self.text(&texts.prepend, false, boundary);
        let after = self.text(&texts.append, false, boundary);
        let line = match root.close {
            Some(close) => put(close, after),
            // It is not closed, and its last part may end without a line break.
            None => put(
                root.body.end,
                format!("{0}{after}--{boundary}--{0}", self.eol),
            ),
        };
        let both = [put(first, before), line];
        let both = both.into_iter().filter(|splice| !splice.with.is_empty());
        both.collect()
    }

    /// Turns the message's content into a part, with the fields that describe it.
    fn around_the_message(&mut self, root: &Part, texts: &Texts) -> Vec<Splice> {
        let (boundary, eol) = (self.boundary(), self.eol);
        let header = &self.message[root.header.clone()];
        let mut kind = Some(self.multipart(&boundary, root));
        let mut inner = Vec::new();
        let mut splices = Vec::new();
        let mut has_version = false;
        for field in Fields::new(header) {
            has_version |= field.name.eq_ignore_ascii_case("MIME-Version");
            let is_of_the_content = field
                .name
                .get(..8)
                .is_some_and(|name| name.eq_ignore_ascii_case("content-"));
            if !is_of_the_content {
                continue;
            }
            inner.extend_from_slice(&header[field.range.clone()]);
            let is_kind = field.name.eq_ignore_ascii_case("Content-Type");
            let with = match kind.take_if(|_| is_kind) {
                Some(kind) => kind.into_bytes(),
                None => Vec::new(),
            };
            splices.push(Splice {
                range: field.range,
                with,
            });
        }
        if !inner.is_empty() && !inner.ends_with(b"\n") {
            inner.extend_from_slice(eol.as_bytes());
        }
        let mut added = String::new();
        if !has_version {
            added.push_str(&format!("MIME-Version: 1.0{eol}"));
        }
        added.push_str(&kind.unwrap_or_default());
        let ended = header.is_empty() || header.ends_with(b"\n");
        let moved_to_the_end = splices
            .last()
            .is_some_and(|splice| splice.range.end == root.header.end);
        if !ended && !moved_to_the_end {
            added.insert_str(0, eol);
        }
        let separator = match separator(self.message, root, eol) {
            none if none.is_empty() => "",
            _ => eol,
        };
        let before = self.text(&texts.prepend, false, &boundary);
        let mut with = format!("{separator}{before}--{boundary}{eol}").into_bytes();
        with.extend(inner);
        with.extend_from_slice(eol.as_bytes());
        splices.push(put(root.header.end, added));
        splices.push(Splice {
            range: root.body.start..root.body.start,
            with,
        });
        splices.push(put(
            root.body.end,
            format!("{}{eol}", self.end(texts, false, &boundary, root)),
        ));
        splices.retain(|splice| !splice.with.is_empty() || !splice.range.is_empty());
        splices
    }

    /// Returns the header fields of a multipart around a part.
    fn multipart(&self, boundary: &str, inner: &Part) -> String {
        let eol = self.eol;
        let mut fields =
            format!("Content-Type: multipart/mixed;{eol}\tboundary=\"{boundary}\"{eol}");
        // A multipart declares the highest encoding of its parts (RFC 2045 section 6.4).
        if matches!(inner.mime.encoding.as_str(), "8bit" | "binary") {
            fields.push_str(&format!(
                "Content-Transfer-Encoding: {}{eol}",
                inner.mime.encoding
            ));
        }
        fields
    }

    /// Returns the end of a multipart around a part.
    fn end(&self, texts: &Texts, is_html: bool, boundary: &str, inner: &Part) -> String {
        let eol = self.eol;
        let after = self.text(&texts.append, is_html, boundary);
        let separator = match inner.header.start > 0 && inner.body.is_empty() {
            true => separator(self.message, inner, eol),
            false => String::new(),
        };
        format!("{separator}{eol}{after}--{boundary}--")
    }

    /// Returns a delimiter and the part after it, with the line break before the next delimiter.
    fn text(&self, text: &Option<Arc<Text>>, is_html: bool, boundary: &str) -> String {
        let Some(text) = text else {
            return String::new();
        };
        let eol = self.eol;
        let (kind, words) = match is_html {
            true => ("html", &text.html),
            false => ("plain", &text.plain),
        };
        let words = joined_lines(words, eol);
        let charset = if words.is_ascii() {
            "us-ascii"
        } else {
            "utf-8"
        };
        let (encoding, words) = match words.is_ascii() && is_short(words.as_bytes()) {
            true => ("7bit", words),
            false => (
                "quoted-printable",
                String::from_utf8_lossy(&encode_quoted(words.as_bytes(), eol)).into_owned(),
            ),
        };
        format!(
            "--{boundary}{eol}Content-Type: text/{kind}; charset={charset}{eol}\
             Content-Transfer-Encoding: {encoding}{eol}Content-Disposition: inline{eol}{eol}{words}{eol}"
        )
    }

    /// Returns a boundary that occurs neither in the message nor in another boundary.
    fn boundary(&mut self) -> String {
        let taken = self.taken.get_or_insert_with(|| numbers(self.message));
        while taken.get(self.next) == Some(&true) {
            self.next += 1;
        }
        let boundary = format!("{BOUNDARY}{:0DIGITS$x}", self.next);
        self.next += 1;
        boundary
    }
}

/// Returns which numbers are taken. With n such boundaries in the message, one of the first n + 1
/// numbers is free, so no others are checked.
fn numbers(message: &[u8]) -> Vec<bool> {
    let mut taken = vec![false; memchr::memmem::find_iter(message, BOUNDARY).count()];
    for at in memchr::memmem::find_iter(message, BOUNDARY) {
        let digits = message.get(at + BOUNDARY.len()..at + BOUNDARY.len() + DIGITS);
        let number = digits.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            usize::from_str_radix(digits, 16).ok()
        });
        if let Some(taken) = number.and_then(|number| taken.get_mut(number)) {
            *taken = true;
        }
    }
    taken
}

fn is_mixed(part: &Part) -> bool {
    part.mime.is("multipart", "mixed") && !part.mime.contradictory
}

fn put(at: usize, with: String) -> Splice {
    Splice {
        range: at..at,
        with: with.into_bytes(),
    }
}
