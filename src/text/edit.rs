//! The edit: a list of octet ranges of the untouched message, and what stands there instead.

use std::ops::Range;

use super::charset::{Charset, with_references};
use super::place::{Left, bodies};
use super::structure::{Part, Tree};
use super::transfer::{Transfer, decode_quoted, encode_base64, encode_quoted};
use super::{content_type, html};
use crate::mail::{Field, Fields};

/// Longest line that a text may have, in octets; RFC 5322 section 2.1.1 allows 998, and a line that it is put
/// into may already have some.
const LONGEST_LINE: usize = 998;

/// One text, for both kinds of bodies. Lines end in LF, the last one with or without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// For text/plain.
    pub plain: String,
    /// For text/html: what stands inside a body element.
    pub html: String,
}

/// What is put before and after the body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// Before it.
    pub prepend: Option<Text>,
    /// After it.
    pub append: Option<Text>,
}

/// One change of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    /// The octets that go; empty where something is only put in.
    pub range: Range<usize>,
    /// What stands there instead.
    pub with: Vec<u8>,
}

/// The changes that put the texts into the message, in order and apart from each other.
pub fn edit(message: &[u8], texts: &Texts) -> Result<Vec<Splice>, Left> {
    let mut splices = Vec::new();
    if texts == &Texts::default() {
        return Ok(splices);
    }
    let tree = Tree::of(message);
    let eol = match memchr::memchr(b'\n', message) {
        Some(lf) if lf == 0 || message[lf - 1] != b'\r' => "\n",
        _ => "\r\n",
    };
    for index in bodies(&tree)? {
        let part = &tree.parts[index];
        let body = Body {
            message,
            part,
            transfer: Transfer::of(&part.mime.encoding),
            charset: Charset::of(part.mime.charset.as_deref()),
            eol,
        };
        body.edit(texts, &mut splices)?;
    }
    Ok(splices)
}

/// The message with the changes made.
pub fn apply(message: &[u8], splices: &[Splice]) -> Vec<u8> {
    let more: usize = splices.iter().map(|splice| splice.with.len()).sum();
    let mut edited = Vec::with_capacity(message.len() + more);
    let mut at = 0;
    for splice in splices {
        edited.extend_from_slice(&message[at..splice.range.start]);
        edited.extend_from_slice(&splice.with);
        at = splice.range.end;
    }
    edited.extend_from_slice(&message[at..]);
    edited
}

/// Something to put into a body's decoded content.
struct Insertion {
    at: usize,
    text: String,
}

struct Body<'a> {
    message: &'a [u8],
    part: &'a Part,
    transfer: Transfer,
    charset: Charset,
    eol: &'static str,
}

impl Body<'_> {
    fn edit(&self, texts: &Texts, splices: &mut Vec<Splice>) -> Result<(), Left> {
        if self.transfer == Transfer::Unknown {
            return Err(Left::Charset);
        }
        let content = self.transfer.decode(&self.message[self.part.body.clone()]);
        let is_html = self.part.mime.is("text", "html");
        let by_lines = self.charset.is_ascii_at_lines() && !is_html;
        if !self.charset.is_ascii_superset() && !by_lines {
            return self.edit_decoded(&content, texts, splices);
        }
        let insertions = self.insertions(&content, texts)?;
        // Octets above 127 may be put where some are, or where the encoding hides them.
        let any_octet = self.transfer != Transfer::Identity || !content.is_ascii();
        let encoded: Option<Vec<Vec<u8>>> = insertions
            .iter()
            .map(|insertion| self.charset.encode(&insertion.text))
            .collect();
        match encoded {
            Some(encoded) if any_octet || encoded.iter().all(|bytes| bytes.is_ascii()) => {
                self.insert(&content, &insertions, &encoded, splices);
            }
            Some(encoded) => {
                let bytes = joined(&content, &insertions, encoded.iter().map(Vec::as_slice));
                self.rewrite(&bytes, None, splices)?;
            }
            None if is_html => {
                let encoded: Vec<Vec<u8>> = insertions
                    .iter()
                    .map(|insertion| with_references(&insertion.text).into_bytes())
                    .collect();
                self.insert(&content, &insertions, &encoded, splices);
            }
            None => {
                let pieces = self
                    .decoded_pieces(&content, &insertions)
                    .ok_or(Left::Charset)?;
                self.rewrite(pieces.as_bytes(), Some("utf-8"), splices)?;
            }
        }
        Ok(())
    }

    /// For charsets in which neither a tag nor a line can be found: the whole becomes UTF-8.
    fn edit_decoded(
        &self,
        content: &[u8],
        texts: &Texts,
        splices: &mut Vec<Splice>,
    ) -> Result<(), Left> {
        let content = self.charset.decode(content).ok_or(Left::Charset)?;
        let insertions = self.insertions(content.as_bytes(), texts)?;
        let texts = insertions.iter().map(|insertion| insertion.text.as_bytes());
        let whole = joined(content.as_bytes(), &insertions, texts);
        self.rewrite(&whole, Some("utf-8"), splices)
    }

    fn insertions(&self, content: &[u8], texts: &Texts) -> Result<Vec<Insertion>, Left> {
        if is_pgp(content) {
            return Err(Left::Signed);
        }
        match self.part.mime.is("text", "html") {
            true => self.html_insertions(content, texts),
            false => Ok(self.plain_insertions(content, texts)),
        }
    }

    fn html_insertions(&self, content: &[u8], texts: &Texts) -> Result<Vec<Insertion>, Left> {
        let places = html::places(content).ok_or(Left::Html)?;
        let eol = self.eol;
        let lines = |text: &Text| fold(&text.html).join(eol);
        let prepend = texts.prepend.as_ref().map(|text| Insertion {
            at: places.prepend,
            text: format!("{eol}{}{eol}", lines(text)),
        });
        let append = texts.append.as_ref().map(|text| Insertion {
            at: places.append,
            text: format!("{}{eol}{}{eol}", places.ending, lines(text)),
        });
        Ok(prepend.into_iter().chain(append).collect())
    }

    fn plain_insertions(&self, content: &[u8], texts: &Texts) -> Vec<Insertion> {
        let eol = self.eol;
        let lines = |text: &Text| {
            let mut lines = fold(&text.plain);
            if self.part.mime.flowed {
                lines.iter_mut().for_each(|line| *line = fixed_line(line));
            }
            lines.join(eol)
        };
        let start = if content.starts_with(b"\xef\xbb\xbf") {
            3
        } else {
            0
        };
        let prepend = texts.prepend.as_ref().map(|text| Insertion {
            at: start,
            text: format!("{}{eol}", lines(text)),
        });
        let append = texts.append.as_ref().map(|text| {
            let ended = content.is_empty() || content.ends_with(b"\n");
            // The last paragraph of flowed text would flow into ours (RFC 3676 section 4.2).
            let flows = self.part.mime.flowed && content.trim_ascii_end_breaks().ends_with(b" ");
            let before = if ended { "" } else { eol };
            let between = if flows { eol } else { "" };
            let after = if content.ends_with(b"\n") { eol } else { "" };
            Insertion {
                at: content.len(),
                text: format!("{before}{between}{}{after}", lines(text)),
            }
        });
        prepend.into_iter().chain(append).collect()
    }

    /// Puts something in and leaves the rest of the body as it is transferred.
    fn insert(
        &self,
        content: &[u8],
        insertions: &[Insertion],
        encoded: &[Vec<u8>],
        splices: &mut Vec<Splice>,
    ) {
        let body = self.part.body.clone();
        if self.transfer == Transfer::Base64 {
            let bytes = joined(content, insertions, encoded.iter().map(Vec::as_slice));
            let with = self.in_base64(&bytes);
            splices.push(Splice { range: body, with });
            return;
        }
        for (i, (insertion, bytes)) in insertions.iter().zip(encoded).enumerate() {
            let (at, with) = match self.transfer {
                Transfer::QuotedPrintable => {
                    let transferred = &self.message[body.clone()];
                    let (_, at) = decode_quoted(transferred, insertion.at);
                    (at, self.in_quoted(transferred, at, bytes))
                }
                _ => (insertion.at, bytes.clone()),
            };
            let at = body.start + at;
            let first = if i == 0 {
                self.separator(at)
            } else {
                Vec::new()
            };
            let with = [first, with].concat();
            splices.push(Splice {
                range: at..at,
                with,
            });
        }
    }

    /// Replaces the body, and what its header says about it.
    fn rewrite(
        &self,
        content: &[u8],
        charset: Option<&str>,
        splices: &mut Vec<Splice>,
    ) -> Result<(), Left> {
        let header = &self.message[self.part.header.clone()];
        // Written anew as text, octets that are none would not come back.
        if Fields::new(header).any(|field| is_content_type(&field) && !is_utf8(field.value)) {
            return Err(Left::Charset);
        }
        let (encoding, with) = match self.transfer {
            Transfer::Base64 => (None, self.in_base64(content)),
            Transfer::QuotedPrintable => (None, encode_quoted(content, self.eol)),
            _ => (Some("quoted-printable"), encode_quoted(content, self.eol)),
        };
        self.set_fields(charset, encoding, splices);
        let body = self.part.body.clone();
        let with = [self.separator(body.start), with].concat();
        splices.push(Splice { range: body, with });
        Ok(())
    }

    fn in_base64(&self, content: &[u8]) -> Vec<u8> {
        let mut with = encode_base64(content, self.eol);
        if self.message[self.part.body.clone()].ends_with(b"\n") {
            with.extend_from_slice(self.eol.as_bytes());
        }
        with
    }

    /// The text for a place in a quoted-printable body: what stands on the same line is held to it by soft line
    /// breaks, so that no line grows.
    fn in_quoted(&self, transferred: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
        let soft = format!("={}", self.eol);
        let mut with = Vec::new();
        if at > 0 && transferred[at - 1] != b'\n' && !bytes.starts_with(self.eol.as_bytes()) {
            with.extend_from_slice(soft.as_bytes());
        }
        with.extend(encode_quoted(bytes, self.eol));
        if at < transferred.len() && !bytes.ends_with(self.eol.as_bytes()) {
            with.extend_from_slice(soft.as_bytes());
        }
        with
    }

    /// The empty line, where a header has none before a text at this place.
    fn separator(&self, at: usize) -> Vec<u8> {
        let header = &self.message[self.part.header.clone()];
        if at != self.part.body.start || self.part.body.start > self.part.header.end {
            return Vec::new();
        }
        let ended = header.is_empty() || header.ends_with(b"\n");
        let line = if ended { "" } else { self.eol };
        format!("{line}{}", self.eol).into_bytes()
    }

    fn set_fields(&self, charset: Option<&str>, encoding: Option<&str>, splices: &mut Vec<Splice>) {
        let start = self.part.header.start;
        let header = &self.message[self.part.header.clone()];
        let named = |name: &'static str| {
            Fields::new(header).filter(move |field| field.name.eq_ignore_ascii_case(name))
        };
        let mut changed = Vec::new();
        let mut added = String::new();
        let mut set = |name: &'static str, value: &dyn Fn(&str) -> String| {
            // Repetitions say the same so far, and have to go on doing so.
            for field in named(name) {
                let before = String::from_utf8_lossy(field.value).into_owned();
                let from = start + field.range.start + after_name(&header[field.range]);
                changed.push(Splice {
                    range: from..from + field.value.len(),
                    with: value(&before).into_bytes(),
                });
            }
            if named(name).next().is_none() {
                added.push_str(&format!("{name}:{}{}", value(""), self.eol));
            }
        };
        if let Some(charset) = charset {
            set("Content-Type", &|value| {
                content_type::with_charset(value, charset)
            });
        }
        if let Some(encoding) = encoding {
            set("Content-Transfer-Encoding", &|_| format!(" {encoding}"));
        }
        if start == 0 && named("MIME-Version").next().is_none() {
            added.push_str(&format!("MIME-Version: 1.0{}", self.eol));
        }
        changed.sort_by_key(|splice| splice.range.start);
        splices.extend(changed);
        if !added.is_empty() {
            let end = self.part.header.end;
            let line = if header.is_empty() || header.ends_with(b"\n") {
                ""
            } else {
                self.eol
            };
            splices.push(Splice {
                range: end..end,
                with: format!("{line}{added}").into_bytes(),
            });
        }
    }

    /// Content and texts as one text; `None` where the content is not certain.
    fn decoded_pieces(&self, content: &[u8], insertions: &[Insertion]) -> Option<String> {
        let mut text = String::with_capacity(content.len());
        let mut at = 0;
        for insertion in insertions {
            text.push_str(&self.charset.decode(&content[at..insertion.at])?);
            text.push_str(&insertion.text);
            at = insertion.at;
        }
        text.push_str(&self.charset.decode(&content[at..])?);
        Some(text)
    }
}

fn is_content_type(field: &Field<'_>) -> bool {
    field.name.eq_ignore_ascii_case("Content-Type")
}

fn is_utf8(octets: &[u8]) -> bool {
    std::str::from_utf8(octets).is_ok()
}

/// Where the value of a field begins, after its colon.
fn after_name(field: &[u8]) -> usize {
    memchr::memchr(b':', field).map_or(0, |colon| colon + 1)
}

fn joined<'a>(
    content: &[u8],
    insertions: &[Insertion],
    texts: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len());
    let mut at = 0;
    for (insertion, text) in insertions.iter().zip(texts) {
        bytes.extend_from_slice(&content[at..insertion.at]);
        bytes.extend_from_slice(text);
        at = insertion.at;
    }
    bytes.extend_from_slice(&content[at..]);
    bytes
}

/// A message that PGP signed or encrypted without MIME (RFC 9580 section 6.2).
fn is_pgp(content: &[u8]) -> bool {
    [
        "-----BEGIN PGP MESSAGE-----",
        "-----BEGIN PGP SIGNED MESSAGE-----",
    ]
    .iter()
    .flat_map(|line| memchr::memmem::find_iter(content, line.as_bytes()))
    .any(|at| at == 0 || matches!(content[at - 1], b'\n' | b'>'))
}

/// A line as format=flowed writes one that does not flow (RFC 3676 section 4.4).
fn fixed_line(line: &str) -> String {
    let kept = if line == "-- " {
        line
    } else {
        line.trim_end_matches(' ')
    };
    let stuffed = kept.starts_with([' ', '>']) || kept.starts_with("From ");
    format!("{}{kept}", if stuffed { " " } else { "" })
}

/// The lines of a text, none longer than can be sent in any charset.
fn fold(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for mut line in text.lines() {
        // A character may take ten octets, as a reference.
        while line.len() > LONGEST_LINE / 10
            && line
                .chars()
                .map(|c| if c.is_ascii() { 1 } else { 10 })
                .sum::<usize>()
                > LONGEST_LINE - 2
        {
            let most = line.floor_char_boundary(LONGEST_LINE / 10);
            let cut = line[..most].rfind(' ').filter(|&at| at > 0);
            let (head, tail) = line.split_at(cut.unwrap_or(most));
            lines.push(head.to_owned());
            line = tail.strip_prefix(' ').unwrap_or(tail);
        }
        lines.push(line.to_owned());
    }
    lines
}

trait Lines {
    fn trim_ascii_end_breaks(&self) -> &[u8];
}

impl Lines for [u8] {
    /// Without the last line break.
    fn trim_ascii_end_breaks(&self) -> &[u8] {
        let text = self.strip_suffix(b"\n").unwrap_or(self);
        text.strip_suffix(b"\r").unwrap_or(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(message: &str, text: &str) -> Result<String, Left> {
        let texts = Texts {
            prepend: Some(Text {
                plain: format!("[P {text}]"),
                html: format!("<i>[P {text}]</i>"),
            }),
            append: Some(Text {
                plain: format!("[A {text}]"),
                html: format!("<i>[A {text}]</i>"),
            }),
        };
        let splices = edit(message.as_bytes(), &texts)?;
        Ok(String::from_utf8_lossy(&apply(message.as_bytes(), &splices)).into_owned())
    }

    #[test]
    fn ascii_is_put_in_and_nothing_else_changes() {
        for (message, expected) in [
            ("A: b\r\n\r\nx\r\n", "A: b\r\n\r\n[P t]\r\nx\r\n[A t]\r\n"),
            ("A: b\n\nx", "A: b\n\n[P t]\nx\n[A t]"),
            ("A: b\r\n\r\n", "A: b\r\n\r\n[P t]\r\n[A t]"),
            ("A: b\r\n", "A: b\r\n\r\n[P t]\r\n[A t]"),
            (
                "Content-Type: text/html\r\n\r\n<body>x</body>\r\n",
                "Content-Type: text/html\r\n\r\n<body>\r\n<i>[P t]</i>\r\nx\r\n<i>[A t]</i>\r\n</body>\r\n",
            ),
            (
                "Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<body>=\r\nx=3D</body>\r\n",
                "Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<body>=\r\n\r\n<i>[P t]</i>\r\nx=3D\r\n\
                 <i>[A t]</i>\r\n</body>\r\n",
            ),
            (
                "Content-Type: text/plain; charset=iso-2022-jp\r\n\r\n\u{1b}$BF|\u{1b}(B\r\n",
                "Content-Type: text/plain; charset=iso-2022-jp\r\n\r\n[P t]\r\n\u{1b}$BF|\u{1b}(B\r\n[A t]\r\n",
            ),
            (
                "Content-Type: text/plain; format=flowed\r\n\r\nx \r\n",
                "Content-Type: text/plain; format=flowed\r\n\r\n[P t]\r\nx \r\n\r\n[A t]\r\n",
            ),
        ] {
            assert_eq!(edited(message, "t").expect("edited"), expected, "{message}");
        }
    }

    #[test]
    fn what_the_charset_cannot_hold_makes_the_part_utf8() {
        assert_eq!(
            edited(
                "A: b\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nx=\r\n",
                "ж"
            )
            .expect("edited"),
            "A: b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\
             MIME-Version: 1.0\r\n\r\n[P =D0=B6]\r\nx=3D\r\n[A =D0=B6]\r\n"
        );
        let html = edited("Content-Type: text/html\r\n\r\nx", "ж").expect("edited");
        assert!(
            html.contains("[P &#1078;]") && html.contains("[A &#1078;]"),
            "{html}"
        );
        let base64 = edited(
            "Content-Type: text/plain; charset=utf-16be\r\nContent-Transfer-Encoding: base64\r\n\r\nAHg=\r\n",
            "t",
        );
        let expected = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\
                        MIME-Version: 1.0\r\n\r\nW1AgdF0NCngNCltBIHRd\r\n";
        assert_eq!(base64.expect("edited"), expected);
        let guess = "Content-Type: text/plain; charset=x-unknown\r\n\r\né\r\n";
        assert_eq!(edited(guess, "ж"), Err(Left::Charset));
    }

    #[test]
    fn no_text_is_no_change_and_inline_pgp_is_left() {
        assert_eq!(edit(b"A: b\r\n\r\nx", &Texts::default()), Ok(Vec::new()));
        let pgp = "A: b\r\n\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\n";
        assert_eq!(edited(pgp, "t"), Err(Left::Signed));
    }

    #[test]
    fn a_field_that_cannot_be_written_again_is_not() {
        let message = b"Content-Type: text/plain; name=\xe9; charset=us-ascii\r\n\r\nx\r\n";
        let texts = |plain: &str| Texts {
            append: Some(Text {
                plain: plain.into(),
                html: String::new(),
            }),
            prepend: None,
        };
        assert_eq!(edit(message, &texts("\u{436}")), Err(Left::Charset));
        let edited = apply(
            message,
            &edit(message, &texts("t")).expect("ASCII needs no new field"),
        );
        assert_eq!(edited, [&message[..], b"t\r\n"].concat());
    }

    /// Lines that mean something somewhere in a message, in any order.
    const LINES: [&str; 24] = [
        "\r\n",
        "\n",
        "--b\r\n",
        "--b--\r\n",
        "--c\n",
        "--c--\r\n",
        "--b",
        "Content-Type: multipart/mixed; boundary=b\r\n",
        "Content-Type: multipart/alternative;\r\n boundary=\"c\"\r\n",
        "Content-Type: text/plain; charset=us-ascii\r\n",
        "Content-Type: text/html; charset=utf-16; format=flowed\r\n",
        "content-type: text/html\n",
        "Content-Type: text/plain; charset*0=iso-; charset*1=2022-jp\r\n",
        "Content-Type:",
        "Content-Transfer-Encoding: base64\r\n",
        "Content-Transfer-Encoding: quoted-printable\r\n",
        "<html><body>",
        "</body></html>\r\n",
        "<!--",
        "=\r\n",
        "=C3=A9 \r\n",
        "aGVsbG8=\r\n",
        "é",
        "\u{1b}$B",
    ];

    proptest::proptest! {
        #[test]
        fn whatever_comes_the_splices_are_in_order_and_the_rest_stays(
            lines in proptest::collection::vec(proptest::sample::select(&LINES[..]), 0..24),
            octets in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
            place in 0..24usize,
        ) {
            let mut message: Vec<u8> = Vec::new();
            for (i, line) in lines.iter().enumerate() {
                if i == place {
                    message.extend_from_slice(&octets);
                }
                message.extend_from_slice(line.as_bytes());
            }
            for words in ["ascii", "ж and -- more"] {
                let text = Some(Text { plain: words.into(), html: html::from_plain(words) });
                let texts = Texts { prepend: text.clone(), append: text };
                let Ok(splices) = edit(&message, &texts) else { continue };
                let mut kept = Vec::new();
                let mut at = 0;
                for splice in &splices {
                    proptest::prop_assert!(at <= splice.range.start && splice.range.end <= message.len());
                    kept.extend_from_slice(&message[at..splice.range.start]);
                    at = splice.range.end;
                }
                let edited = apply(&message, &splices);
                proptest::prop_assert!(edited.len() > kept.len());
                // What was written is a message that can be read again.
                proptest::prop_assert!(edit(&edited, &texts).is_ok());
            }
        }
    }
}
