//! The edit of one body: inserts text into its decoded content and changes as few bytes as the
//! transfer encoding and the charset allow.

use super::bodies::Obstacle;
use super::charset::{Charset, with_references};
use super::edit::{EditMethod, LONGEST_LINE, Splice, Text, Texts};
use super::structure::Part;
use super::transfer::{Purity, Transfer, decode_quoted, encode_base64, encode_quoted};
use super::{content_type, html};
use crate::mail::{Field, Fields};

/// An insertion into a body's decoded content.
struct Insertion {
    at: usize,
    text: String,
}

/// One body of a message.
pub(super) struct Body<'a> {
    message: &'a [u8],
    part: &'a Part,
    transfer: Transfer,
    charset: Charset,
    eol: &'static str,
}

impl<'a> Body<'a> {
    /// Creates the body of a part. Written lines end in `eol`.
    pub(super) fn new(message: &'a [u8], part: &'a Part, eol: &'static str) -> Body<'a> {
        Body {
            message,
            part,
            transfer: Transfer::of(&part.mime.encoding),
            charset: Charset::of(part.mime.charset.as_deref()),
            eol,
        }
    }

    /// Whether it is HTML.
    pub(super) fn is_html(&self) -> bool {
        self.part.mime.is("text", "html")
    }

    /// Returns the visible words, decoded as well as possible.
    pub(super) fn words(&self) -> String {
        let content = self.transfer.decode(&self.message[self.part.body.clone()]);
        let text = self.charset.decode_lossy(&content);
        match self.is_html() {
            true => html::words(&text),
            false => text,
        }
    }

    /// Adds the splices that insert the texts; adds none on an error.
    pub(super) fn edit(
        &self,
        texts: &Texts,
        splices: &mut Vec<Splice>,
    ) -> Result<EditMethod, Obstacle> {
        let transferred = &self.message[self.part.body.clone()];
        if self.transfer == Transfer::Unknown {
            return Err(Obstacle::Charset);
        }
        let content = self.transfer.decode(transferred);
        if self.transfer == Transfer::Base64 && self.has_clear_text(transferred, &content) {
            return Err(Obstacle::Charset);
        }
        let is_html = self.is_html();
        let Some((readable, back)) = self.charset.in_ascii(&content) else {
            return self.edit_decoded(&content, texts, splices);
        };
        let insertions = self.insertions(&readable, texts)?;
        let at_the_end = |i: usize| insertions[i].at == content.len();
        let in_state = |(i, bytes): (usize, Vec<u8>)| match at_the_end(i) {
            true => [back, &bytes].concat(),
            false => bytes,
        };
        // Bytes above 127 may be inserted if the body already has some, or if the encoding hides
        // them.
        let any_byte = match self.transfer {
            Transfer::Identity => self.part.mime.is_8bit() && !content.is_ascii(),
            _ => true,
        };
        let encoded: Option<Vec<Vec<u8>>> = insertions
            .iter()
            .map(|insertion| self.charset.encode(&insertion.text))
            .enumerate()
            .map(|(i, bytes)| bytes.map(|bytes| in_state((i, bytes))))
            .collect();
        let any_length = self.transfer != Transfer::Identity;
        // The sequence back to ASCII extends the line that is left in another state.
        let last_line = memchr::memrchr(b'\n', &content).map_or(0, |lf| lf + 1);
        let is_led_back = !back.is_empty() && (0..insertions.len()).any(at_the_end);
        let is_too_long = is_led_back && content.len() - last_line + back.len() > LONGEST_LINE;
        let fits = |encoded: &[Vec<u8>]| {
            any_length || !is_too_long && encoded.iter().all(|bytes| is_short(bytes))
        };
        let is_plain = |encoded: &[Vec<u8>]| encoded.iter().all(|bytes| bytes.is_ascii());
        match encoded {
            Some(encoded) if (any_byte || is_plain(&encoded)) && fits(&encoded) => {
                self.insert(&content, &insertions, &encoded, splices);
                Ok(EditMethod::InPlace)
            }
            _ if is_html => {
                let encoded: Vec<Vec<u8>> = insertions
                    .iter()
                    .map(|insertion| with_references(&insertion.text).into_bytes())
                    .enumerate()
                    .map(in_state)
                    .collect();
                if !fits(&encoded) {
                    let bytes = joined(&content, &insertions, encoded.iter().map(Vec::as_slice));
                    return self.rewrite(&bytes, None, splices);
                }
                self.insert(&content, &insertions, &encoded, splices);
                Ok(EditMethod::CharacterReferences)
            }
            Some(encoded) => {
                let bytes = joined(&content, &insertions, encoded.iter().map(Vec::as_slice));
                self.rewrite(&bytes, None, splices)
            }
            None => {
                let pieces = self
                    .decoded_pieces(&content, &insertions)
                    .ok_or(Obstacle::Charset)?;
                let texts = insertions.iter().map(|insertion| insertion.text.as_bytes());
                let is_same = pieces.as_bytes() == joined(&content, &insertions, texts);
                if is_same && self.transfer == Transfer::QuotedPrintable {
                    // The encoded lines stay unchanged: mail clients disagree about some of them.
                    self.declare(Some("utf-8"), None, splices)?;
                    let texts = insertions.iter().map(|insertion| insertion.text.clone());
                    let texts: Vec<Vec<u8>> = texts.map(String::into_bytes).collect();
                    self.insert(&content, &insertions, &texts, splices);
                    return Ok(EditMethod::Utf8);
                }
                self.rewrite(pieces.as_bytes(), Some("utf-8"), splices)
            }
        }
    }

    /// Converts the whole body to UTF-8, for charsets in which neither tags nor lines can be found.
    fn edit_decoded(
        &self,
        content: &[u8],
        texts: &Texts,
        splices: &mut Vec<Splice>,
    ) -> Result<EditMethod, Obstacle> {
        let content = self.charset.decode(content).ok_or(Obstacle::Charset)?;
        let insertions = self.insertions(content.as_bytes(), texts)?;
        let texts = insertions.iter().map(|insertion| insertion.text.as_bytes());
        let whole = joined(content.as_bytes(), &insertions, texts);
        self.rewrite(&whole, Some("utf-8"), splices)
    }

    /// Whether there is clear text next to base64, which would be decoded to garbage and written
    /// back.
    fn has_clear_text(&self, transferred: &[u8], content: &[u8]) -> bool {
        let is_control = |b: &u8| b.is_ascii_control() && !b.is_ascii_whitespace();
        match Purity::of(transferred) {
            Purity::Pure => false,
            Purity::TextBehind => true,
            Purity::Junk => {
                self.charset.decode(content).is_none() || content.iter().any(is_control)
            }
        }
    }

    fn insertions(&self, content: &[u8], texts: &Texts) -> Result<Vec<Insertion>, Obstacle> {
        if is_pgp(content, self.is_html()) {
            return Err(Obstacle::Signed);
        }
        match self.is_html() {
            true => self.html_insertions(content, texts),
            false => Ok(self.plain_insertions(content, texts)),
        }
    }

    fn html_insertions(&self, content: &[u8], texts: &Texts) -> Result<Vec<Insertion>, Obstacle> {
        let eol = self.eol;
        let mut insertions = Vec::new();
        if let Some(text) = &texts.prepend {
            let at = html::prepend_position(content).ok_or(Obstacle::Html)?;
            let lines = joined_lines(text.shielded(), eol);
            insertions.push(Insertion {
                at,
                text: format!("{eol}{lines}{eol}"),
            });
        }
        if let Some(text) = &texts.append {
            let mut place = html::append_position(content).ok_or(Obstacle::Html)?;
            // A body that ends before its beginning.
            if insertions
                .first()
                .is_some_and(|before| before.at > place.at)
            {
                place = html::end_position(content).ok_or(Obstacle::Html)?;
            }
            // On a line of its own: the one before may have the maximum length.
            let ending = match place.ending.as_str() {
                "" => String::new(),
                ending => format!("{eol}{ending}"),
            };
            insertions.push(Insertion {
                at: place.at,
                text: format!("{ending}{eol}{}{eol}", joined_lines(&text.html, eol)),
            });
        }
        Ok(insertions)
    }

    fn plain_insertions(&self, content: &[u8], texts: &Texts) -> Vec<Insertion> {
        let eol = self.eol;
        let lines = |text: &Text| {
            let mut lines: Vec<String> = text.plain.lines().map(str::to_owned).collect();
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
            // The last paragraph of flowed text would flow into the inserted one (RFC 3676 section
            // 4.2).
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

    /// Inserts text and leaves the rest of the encoded body unchanged.
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
            let with = [
                &self.separator(body.start),
                &self.in_base64(&bytes),
                self.missing_line_break(),
            ];
            let with = with.concat();
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
            let mut with = [first, with].concat();
            if i + 1 == insertions.len() {
                with.extend_from_slice(self.missing_line_break());
            }
            splices.push(Splice {
                range: at..at,
                with,
            });
        }
    }

    /// Returns the line break that the delimiter after an empty body lacks once the body is not
    /// empty.
    fn missing_line_break(&self) -> &'static [u8] {
        match self.part.lacks_line_break {
            true => self.eol.as_bytes(),
            false => b"",
        }
    }

    /// Replaces the body and its header fields.
    fn rewrite(
        &self,
        content: &[u8],
        charset: Option<&str>,
        splices: &mut Vec<Splice>,
    ) -> Result<EditMethod, Obstacle> {
        let (encoding, with) = match self.transfer {
            Transfer::Base64 => (None, self.in_base64(content)),
            Transfer::QuotedPrintable => (None, encode_quoted(content, self.eol)),
            _ => (Some("quoted-printable"), encode_quoted(content, self.eol)),
        };
        self.declare(charset, encoding, splices)?;
        let body = self.part.body.clone();
        let with = [
            &self.separator(body.start),
            &with,
            self.missing_line_break(),
        ]
        .concat();
        splices.push(Splice { range: body, with });
        Ok(match charset {
            Some(_) => EditMethod::Utf8,
            None => EditMethod::QuotedPrintable,
        })
    }

    /// Changes the header fields that describe the body.
    fn declare(
        &self,
        charset: Option<&str>,
        encoding: Option<&str>,
        splices: &mut Vec<Splice>,
    ) -> Result<(), Obstacle> {
        let header = &self.message[self.part.header.clone()];
        // Rewritten as text, bytes that are not UTF-8 would be lost.
        let holds = |field: Field<'_>| match (std::str::from_utf8(field.value), charset) {
            (Ok(value), Some(charset)) => content_type::can_have_charset(value, charset),
            (value, _) => value.is_ok(),
        };
        if !Fields::new(header).filter(is_content_type).all(holds) {
            return Err(Obstacle::Charset);
        }
        let before = splices.len();
        self.set_fields(charset, encoding, splices);
        // A value follows its field name, on a line of any length.
        let made_long = |splice: &Splice| {
            let before = &self.message[..splice.range.start];
            let line = memchr::memrchr(b'\n', before).map_or(0, |lf| lf + 1);
            !is_short(&[&before[line..], &splice.with].concat())
        };
        if splices[before..].iter().any(made_long) {
            splices.truncate(before);
            return Err(Obstacle::Charset);
        }
        Ok(())
    }

    fn in_base64(&self, content: &[u8]) -> Vec<u8> {
        let mut with = encode_base64(content, self.eol);
        if self.message[self.part.body.clone()].ends_with(b"\n") {
            with.extend_from_slice(self.eol.as_bytes());
        }
        with
    }

    /// Encodes an insertion into a quoted-printable body. Soft line breaks separate it from the
    /// rest of its line, so that no line grows.
    fn in_quoted(&self, transferred: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
        let soft = format!("={}", self.eol);
        let mut with = Vec::new();
        let broken = bytes.starts_with(self.eol.as_bytes());
        match transferred[..at].last() {
            None | Some(b'\n') => {}
            // A soft line break whose line break belongs to the delimiter: Apple Mail ends its
            // parts so.
            Some(b'=') if at == transferred.len() && broken => {
                with.extend_from_slice(self.eol.as_bytes());
            }
            // A blank at the end of a line would be lost (RFC 2045 section 6.7, rule 3).
            Some(b' ' | b'\t') if broken => with.extend_from_slice(soft.as_bytes()),
            _ if broken => {}
            _ => with.extend_from_slice(soft.as_bytes()),
        }
        with.extend(encode_quoted(bytes, self.eol));
        if at < transferred.len() && !bytes.ends_with(self.eol.as_bytes()) {
            with.extend_from_slice(soft.as_bytes());
        }
        with
    }

    /// Returns the empty line that the header lacks before an insertion at this offset.
    fn separator(&self, at: usize) -> Vec<u8> {
        match at == self.part.body.start {
            true => separator(self.message, self.part, self.eol).into_bytes(),
            false => Vec::new(),
        }
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
            // Repeated fields are equal, and must stay equal.
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

    /// Returns content and insertions as one text; `None` if the content cannot be decoded for
    /// certain.
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

/// Returns the empty line that the header of a part lacks; empty if it has one.
pub(super) fn separator(message: &[u8], part: &Part, eol: &str) -> String {
    let header = &message[part.header.clone()];
    match (part.body.start > part.header.end, header) {
        (true, _) => String::new(),
        (false, [] | [.., b'\n']) => eol.to_owned(),
        (false, _) => format!("{eol}{eol}"),
    }
}

fn is_content_type(field: &Field<'_>) -> bool {
    field.name.eq_ignore_ascii_case("Content-Type")
}

/// Returns the offset of a field's value, after its colon.
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

/// Whether the message is signed or encrypted by PGP without MIME (RFC 9580 section 6.2). The end
/// marker is required: otherwise anyone could suppress the text with one line.
fn is_pgp(content: &[u8], is_html: bool) -> bool {
    let begin = [
        "-----BEGIN PGP MESSAGE-----",
        "-----BEGIN PGP SIGNED MESSAGE-----",
    ]
    .iter()
    .flat_map(|line| memchr::memmem::find_iter(content, line.as_bytes()))
    .find(|&at| match at.checked_sub(1).map(|at| content[at]) {
        None | Some(b'\n') => true,
        // Directly after a tag.
        Some(byte) => is_html && byte == b'>',
    });
    begin.is_some_and(|at| memchr::memmem::find(&content[at..], b"-----END PGP ").is_some())
}

/// Formats a line that does not flow for format=flowed (RFC 3676 section 4.4).
fn fixed_line(line: &str) -> String {
    let kept = if line == "-- " {
        line
    } else {
        line.trim_end_matches(' ')
    };
    let stuffed = kept.starts_with([' ', '>']) || kept.starts_with("From ");
    format!("{}{kept}", if stuffed { " " } else { "" })
}

/// Joins the lines of a text with another line break.
pub(super) fn joined_lines(text: &str, eol: &str) -> String {
    text.lines().collect::<Vec<_>>().join(eol)
}

/// Whether no line is longer than mail may carry without an encoding.
pub(super) fn is_short(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|&b| b == b'\n');
    lines.all(|line| line.strip_suffix(b"\r").unwrap_or(line).len() <= LONGEST_LINE)
}

trait Lines {
    fn trim_ascii_end_breaks(&self) -> &[u8];
}

impl Lines for [u8] {
    /// Returns the text without its last line break.
    fn trim_ascii_end_breaks(&self) -> &[u8] {
        let text = self.strip_suffix(b"\n").unwrap_or(self);
        text.strip_suffix(b"\r").unwrap_or(text)
    }
}
