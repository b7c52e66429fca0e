//! The edit of a message: byte ranges of the original, and their replacements.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::bodies::{BodyPart, Fallback, Obstacle, SignedPolicy, bodies};
use super::body::Body;
use super::fingerprint::Fingerprint;
use super::html;
use super::separate_part::PartWriter;
use super::structure::Tree;
use crate::mail::Fields;

/// Longest line written without an encoding, in bytes (RFC 5322 section 2.1.1).
pub(super) const LONGEST_LINE: usize = 998;

/// One text for both kinds of bodies. Lines end in LF, optional for the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Text {
    /// For text/plain.
    pub plain: String,
    /// For text/html: the content of a body element.
    pub html: String,
    /// The fingerprint, if the text should appear once in a conversation.
    pub once: Option<Fingerprint>,
    shielded: Shielded,
}

impl Text {
    /// Creates a text from both forms; see the fields.
    pub fn new(plain: String, html: String, once: Option<Fingerprint>) -> Text {
        let shielded = Shielded::default();
        Text {
            plain,
            html,
            once,
            shielded,
        }
    }

    /// Returns the HTML in a box that a document's styles cannot hide, built on first use.
    pub(super) fn shielded(&self) -> &str {
        self.shielded.0.get_or_init(|| html::shielded(&self.html))
    }
}

/// The cached box around the HTML of a text. It is derived from the HTML, so comparisons ignore it.
#[derive(Debug, Clone, Default)]
struct Shielded(OnceLock<String>);

impl PartialEq for Shielded {
    fn eq(&self, _: &Shielded) -> bool {
        true
    }
}

impl Eq for Shielded {}

impl Hash for Shielded {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// The texts before and after the body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Texts {
    /// The text before the body.
    pub prepend: Option<Arc<Text>>,
    /// The text after the body.
    pub append: Option<Arc<Text>>,
}

impl Texts {
    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.prepend.is_none() && self.append.is_none()
    }

    /// Returns the texts for one part of the body.
    fn at(&self, body: &BodyPart) -> Texts {
        Texts {
            prepend: self.prepend.clone().filter(|_| body.first),
            append: self.append.clone().filter(|_| body.last),
        }
    }
}

/// One change of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    /// The bytes to remove; empty for an insertion.
    pub range: Range<usize>,
    /// The replacement.
    pub with: Vec<u8>,
}

/// The changes of a message, and the edited parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageEdit {
    /// The changes, in order and not overlapping.
    pub splices: Vec<Splice>,
    /// The edited parts.
    pub parts: Vec<PartEdit>,
}

/// The edit of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartEdit {
    /// The part's IMAP number (RFC 3501 section 6.4.5): `1`, `2.1`; empty for the message itself.
    pub part: String,
    /// The part's Content-Type in lowercase; empty if it has none.
    pub kind: String,
    /// The method.
    pub method: EditMethod,
}

/// The method by which a text was added to a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditMethod {
    /// Inserted; no other byte changed.
    InPlace,
    /// Inserted, with character references for characters that its charset does not have.
    CharacterReferences,
    /// The body was re-encoded as quoted-printable.
    QuotedPrintable,
    /// The body was converted to UTF-8.
    Utf8,
    /// The text is a separate part, because it could not be inserted.
    SeparatePart(Obstacle),
}

/// Returns the changes that add the texts to the message; `Err` if it must stay unchanged.
pub fn edit(message: &[u8], texts: &Texts, signed: SignedPolicy) -> Result<MessageEdit, Obstacle> {
    edit_with_header(message, None, texts, signed)
}

/// Like [`edit`] for a message with a known header size in bytes, with the empty line.
pub(super) fn edit_with_header(
    message: &[u8],
    header: Option<usize>,
    texts: &Texts,
    signed: SignedPolicy,
) -> Result<MessageEdit, Obstacle> {
    if texts.is_empty() {
        return Ok(MessageEdit::default());
    }
    let tree = Tree::with_header(message, header);
    let eol = line_break(message, 8).unwrap_or("\r\n");
    let mut part_writer = PartWriter::new(message, &tree, eol);
    let bodies = bodies(&tree);
    if let Err(obstacle) = bodies
        && obstacle.fallback(signed) == Fallback::Unchanged
    {
        return Err(obstacle);
    }
    let words = |index: usize| Body::new(message, &tree.parts[index], eol).words();
    let places = bodies.as_deref().unwrap_or_default();
    let texts = &without_present(texts, || displayed(&tree, places).map(words))?;
    let edited = bodies.and_then(|places| {
        edit_bodies(
            message,
            &tree,
            &places,
            texts,
            eol,
            signed,
            &mut part_writer,
        )
    });
    let obstacle = match edited {
        Ok(edited) => return Ok(edited),
        Err(obstacle) => obstacle,
    };
    if obstacle.fallback(signed) == Fallback::Unchanged {
        return Err(obstacle);
    }
    Ok(MessageEdit {
        splices: part_writer.all(texts),
        parts: vec![part_edit(&tree, 0, EditMethod::SeparatePart(obstacle))],
    })
}

fn edit_bodies(
    message: &[u8],
    tree: &Tree,
    places: &[BodyPart],
    texts: &Texts,
    eol: &'static str,
    signed: SignedPolicy,
    part_writer: &mut PartWriter<'_>,
) -> Result<MessageEdit, Obstacle> {
    let body = |index: usize| {
        let part = &tree.parts[index];
        let eol = line_break(&message[part.body.clone()], 16).unwrap_or(eol);
        Body::new(message, part, eol)
    };
    let mut edited = MessageEdit::default();
    let mut changed = Vec::new();
    for place in places {
        let (index, body) = (place.part, body(place.part));
        let texts = texts.at(place);
        if texts.is_empty() {
            continue;
        }
        let method = match body.edit(&texts, &mut edited.splices) {
            Ok(method) => method,
            Err(obstacle) if obstacle.fallback(signed) == Fallback::WrapPart => {
                part_writer.part(index, &texts, body.is_html(), &mut edited.splices);
                EditMethod::SeparatePart(obstacle)
            }
            Err(obstacle) => return Err(obstacle),
        };
        if !matches!(method, EditMethod::SeparatePart(_)) {
            changed.push(index);
        }
        edited.parts.push(part_edit(tree, index, method));
    }
    let digests = stale_digests(message, tree, &changed);
    if !digests.is_empty() {
        edited.splices.extend(digests);
        edited.splices.sort_by_key(|splice| splice.range.start);
    }
    Ok(edited)
}

/// Removes the Content-MD5 of changed parts (RFC 1864).
fn stale_digests(message: &[u8], tree: &Tree, changed: &[usize]) -> Vec<Splice> {
    let parts = changed.iter().flat_map(|&index| tree.around(index));
    let mut headers: Vec<Range<usize>> = parts
        .filter(|part| part.mime.digest)
        .map(|part| part.header.clone())
        .collect();
    headers.sort_unstable_by_key(|header| header.start);
    headers.dedup();
    let mut splices = Vec::new();
    for header in headers {
        let bytes = &message[header.clone()];
        let fields = Fields::new(bytes).filter(|field| {
            field.name.eq_ignore_ascii_case("Content-MD5")
                && bytes[field.range.clone()].ends_with(b"\n")
        });
        splices.extend(fields.map(|field| Splice {
            range: header.start + field.range.start..header.start + field.range.end,
            with: Vec::new(),
        }));
    }
    splices
}

/// Returns the most frequent line break of the first `lines`; `None` if there is none.
fn line_break(text: &[u8], lines: usize) -> Option<&'static str> {
    let (mut all, mut crlf) = (0usize, 0usize);
    for lf in memchr::memchr_iter(b'\n', text).take(lines) {
        all += 1;
        crlf += usize::from(lf > 0 && text[lf - 1] == b'\r');
    }
    match (all, crlf) {
        (0, _) => None,
        (all, crlf) if crlf * 2 >= all => Some("\r\n"),
        _ => Some("\n"),
    }
}

/// Returns the parts searched for a text that should appear once: all parts that a mail client
/// displays, not only the body.
fn displayed<'t>(tree: &'t Tree, bodies: &'t [BodyPart]) -> impl Iterator<Item = usize> + 't {
    let parts = tree.parts.iter().enumerate();
    let parts = parts.filter(|(index, part)| {
        let mime = &part.mime;
        let is_text = mime.is("text", "plain") || mime.is("text", "html") || mime.kind.is_empty();
        let is_body = || bodies.iter().any(|place| place.part == *index);
        is_text && (!(mime.attachment || mime.filed) || is_body())
    });
    parts.map(|(index, _)| index)
}

/// Returns the texts without those that should appear once and are present.
fn without_present<I: Iterator<Item = String>>(
    texts: &Texts,
    bodies: impl Fn() -> I,
) -> Result<Texts, Obstacle> {
    let is_there = |text: &Text| {
        text.once
            .as_ref()
            .is_some_and(|mark| bodies().any(|words| mark.is_in(&words)))
    };
    let left = |text: &Option<Arc<Text>>| text.clone().filter(|text| !is_there(text));
    let left = Texts {
        prepend: left(&texts.prepend),
        append: left(&texts.append),
    };
    if left.is_empty() {
        return Err(Obstacle::Repeated);
    }
    Ok(left)
}

fn part_edit(tree: &Tree, index: usize, method: EditMethod) -> PartEdit {
    let mime = &tree.parts[index].mime;
    let slash = if mime.kind.is_empty() { "" } else { "/" };
    PartEdit {
        part: tree.number(index),
        kind: format!("{}{slash}{}", mime.kind, mime.subtype),
        method,
    }
}

/// Returns the size of a header in bytes, with the empty line, after the changes.
pub fn edited_header_size(header: usize, splices: &[Splice]) -> usize {
    let is_in_header = |splice: &&Splice| splice.range.end < header;
    let inside = splices.iter().filter(is_in_header);
    let (more, less) = inside.fold((0, 0), |(more, less), splice| {
        (more + splice.with.len(), less + splice.range.len())
    });
    header + more - less
}

/// Applies the changes to the message.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::transfer::decode_base64;

    fn text(plain: String, html: String) -> Option<Arc<Text>> {
        let once = None;
        Some(Arc::new(Text::new(plain, html, once)))
    }

    fn texts(words: &str) -> Texts {
        Texts {
            prepend: text(format!("[P {words}]"), format!("<i>[P {words}]</i>")),
            append: text(format!("[A {words}]"), format!("<i>[A {words}]</i>")),
        }
    }

    fn edited_as(message: &str, words: &str, signed: SignedPolicy) -> Result<String, Obstacle> {
        let edited = edit(message.as_bytes(), &texts(words), signed)?;
        let bytes = apply(message.as_bytes(), &edited.splices);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn edited(message: &str, words: &str) -> Result<String, Obstacle> {
        edited_as(message, words, SignedPolicy::Skip)
    }

    /// A placeholder for a text in its box.
    const SHIELD: &str = "<shield>";

    /// Returns the box around a text in its transfer encoding.
    fn shield(html: &str, is_quoted: bool) -> String {
        let lines = html::shielded(html).replace('\n', "\r\n");
        match is_quoted {
            true => String::from_utf8_lossy(&crate::text::transfer::encode_quoted(
                lines.as_bytes(),
                "\r\n",
            ))
            .into_owned(),
            false => lines,
        }
    }

    #[test]
    fn ascii_is_inserted_and_nothing_else_changes() {
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
                "Content-Transfer-Encoding: quoted-printable\r\n\r\nx=",
                "Content-Transfer-Encoding: quoted-printable\r\n\r\n[P t]\r\nx=\r\n\r\n[A t]",
            ),
            (
                "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nA: b\r\n\r\n--b--\r\n",
                "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nA: b\r\n\r\n[P t]\r\n[A t]\r\n--b--\r\n",
            ),
            (
                "Content-Type: text/plain; format=flowed\r\n\r\nx \r\n",
                "Content-Type: text/plain; format=flowed\r\n\r\n[P t]\r\nx \r\n\r\n[A t]\r\n",
            ),
        ] {
            let expected = expected.replace("<i>[P t]</i>", SHIELD);
            let found = edited(message, "t").expect("edited");
            let found = found.replace(&shield("<i>[P t]</i>", false), SHIELD);
            let found = found.replace(&shield("<i>[P t]</i>", true), SHIELD);
            assert_eq!(found, expected, "{message}");
        }
    }

    #[test]
    fn characters_outside_the_charset_make_the_part_utf8() {
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
    }

    #[test]
    fn a_charset_that_clients_would_not_find_is_not_written() {
        for kind in [
            "text/plain\r\n charset=\"iso-8859-1\"",
            "text/plain charset=iso-8859-1",
        ] {
            let message = format!("Content-Type: {kind}\r\n\r\nx\r\n");
            let found = edited(&message, "ж").expect("edited");
            let part = format!("\r\n{message}\r\n--=_copyist_text_");
            assert!(found.contains(&part), "{found}");
        }
    }

    #[test]
    fn quoted_lines_stay_if_utf8_is_identical() {
        let message = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\na \r\n=====\r\n\r\nlong=\r\n er\r\n";
        let found = edited(message, "ж").expect("edited");
        let expected = message.replace("iso-8859-1", "utf-8");
        let expected =
            expected.replace("\r\n\r\na \r", "\r\n\r\n[P =D0=B6]\r\na \r") + "[A =D0=B6]\r\n";
        assert_eq!(found, expected);
    }

    #[test]
    fn tags_are_found_between_japanese_ones() {
        let html = "Content-Type: text/html; charset=iso-2022-jp\r\n\r\n<body>\u{1b}$B</<>\u{1b}(B</body>\r\n";
        let expected = "<body>\r\n<shield>\r\n\u{1b}$B</<>\u{1b}(B\r\n<i>[A &#233;]</i>\r\n</body>";
        let found = edited(html, "é").expect("edited");
        let found = found.replace(&shield("<i>[P &#233;]</i>", false), SHIELD);
        assert!(found.contains(expected), "{found:?}");
        let unfinished = "Content-Type: text/plain; charset=iso-2022-jp\r\n\r\n\u{1b}$BF|";
        let found = edited(unfinished, "t").expect("edited");
        assert!(found.ends_with("\u{1b}$BF|\u{1b}(B\r\n[A t]"), "{found:?}");
    }

    #[test]
    fn no_text_is_no_change_and_inline_pgp_is_skipped() {
        assert_eq!(
            edit(b"A: b\r\n\r\nx", &Texts::default(), SignedPolicy::Skip),
            Ok(MessageEdit::default())
        );
        let pgp = "A: b\r\n\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\nx\r\n-----END PGP SIGNATURE-----\r\n";
        assert_eq!(edited(pgp, "t"), Err(Obstacle::Signed));
        assert!(edited(&pgp.replace("-----BEGIN", "> -----BEGIN"), "t").is_ok());
        assert!(edited(&pgp.replace("-----END", "-----"), "t").is_ok());
    }

    #[test]
    fn uneditable_bodies_get_a_separate_part() {
        let part = |kind: &str, words: &str| {
            format!(
                "--=_copyist_text_00000000\r\nContent-Type: text/{kind}; charset=us-ascii\r\n\
                 Content-Transfer-Encoding: 7bit\r\nContent-Disposition: inline\r\n\r\n{words}\r\n"
            )
        };
        let image = "Subject: s\r\nContent-Type: image/png\r\nMIME-Version: 1.0\r\ncontent-transfer-encoding: base64\r\n\r\nQUJD\r\n";
        let expected = format!(
            "Subject: s\r\nContent-Type: multipart/mixed;\r\n\tboundary=\"=_copyist_text_00000000\"\r\nMIME-Version: 1.0\r\n\r\n\
             {}--=_copyist_text_00000000\r\nContent-Type: image/png\r\ncontent-transfer-encoding: base64\r\n\r\nQUJD\r\n\r\n\
             {}--=_copyist_text_00000000--\r\n",
            part("plain", "[P t]"),
            part("plain", "[A t]")
        );
        assert_eq!(edited(image, "t"), Ok(expected));

        let html = |inner: &str| {
            format!(
                "Content-Type: multipart/alternative; boundary=a\r\n\r\n--a\r\n\r\nx\r\n--a\r\n{inner}\r\n--a--\r\n"
            )
        };
        let unknown = "Content-Type: text/html\r\nContent-Transfer-Encoding: x-unknown\r\n\r\n!";
        let beside = format!(
            "Content-Type: multipart/mixed;\r\n\tboundary=\"=_copyist_text_00000000\"\r\n\r\n{}\
             --=_copyist_text_00000000\r\n{unknown}\r\n{}--=_copyist_text_00000000--",
            part("html", "<i>[P t]</i>"),
            part("html", "<i>[A t]</i>")
        );
        let expected = html(&beside).replacen("\r\nx\r\n", "\r\n[P t]\r\nx\r\n[A t]\r\n", 1);
        assert_eq!(
            edited(&html(unknown), "t"),
            Ok(expected.replace("[A t]\r\n\r\n--a", "[A t]\r\n--a"))
        );
    }

    #[test]
    fn a_mixed_message_without_text_has_further_parts() {
        let pdf = "--m\r\nContent-Type: application/pdf\r\n\r\nx\r\n";
        let head = "Content-Type: multipart/mixed; boundary=m\r\n\r\npre\r\n";
        for end in ["--m--\r\nepi\r\n", ""] {
            let found = edited(&format!("{head}{pdf}{end}"), "t").expect("edited");
            let place = |what: &str| found.find(what).expect(what);
            assert!(place("pre") < place("[P t]") && place("[P t]") < place("application/pdf"));
            assert!(place("application/pdf") < place("[A t]") && place("[A t]") < place("--m--"));
            assert_eq!(Tree::of(found.as_bytes()).parts.len(), 4, "{found}");
        }
    }

    #[test]
    fn a_boundary_that_is_too_long_is_not_written() {
        let long = "b".repeat(996);
        let half = "b".repeat(498);
        let message = format!(
            "Content-Type: multipart/mixed; boundary*0={half};\r\n boundary*1={half}\r\n\r\n--{long}\r\n\
             Content-Type: image/png\r\n\r\nx\r\n"
        );
        let found = edited(&message, "t").expect("edited");
        assert!(
            found.contains("=_copyist_text_") && !found.contains(&format!("{long}--")),
            "{found}"
        );
    }

    #[test]
    fn a_boundary_in_the_message_is_not_reused() {
        let message =
            "Content-Type: image/png\r\n\r\n=_copyist_text_00000000 =_copyist_text_00000001\r\n";
        let found = edited(message, "t").expect("edited");
        assert!(
            found.contains("boundary=\"=_copyist_text_00000002\""),
            "{found}"
        );
    }

    #[test]
    fn signed_messages_are_skipped_or_wrapped_unchanged() {
        let inner = "Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\nx\r\n--s\r\nContent-Type: \
                     application/pkcs7-signature\r\n\r\ny\r\n--s--\r\n";
        let message = format!("From: a@b\r\n{inner}");
        assert_eq!(edited(&message, "t"), Err(Obstacle::Signed));
        let wrapped = edited_as(&message, "t", SignedPolicy::Wrap).expect("wrapped");
        assert!(
            wrapped.contains(&format!("--=_copyist_text_00000000\r\n{inner}\r\n--")),
            "{wrapped}"
        );
        let report = "Content-Type: multipart/report; boundary=s\r\n\r\n--s\r\n\r\nx\r\n--s\r\n\
                      Content-Type: message/delivery-status\r\n\r\ny\r\n--s--\r\n";
        assert_eq!(
            edited_as(report, "t", SignedPolicy::Wrap),
            Err(Obstacle::Report)
        );
    }

    #[test]
    fn a_text_can_appear_once_in_a_conversation() {
        let mut texts = texts("This mail is confidential");
        for text in [&mut texts.prepend, &mut texts.append] {
            let text = Arc::make_mut(text.as_mut().expect("set"));
            text.once = Fingerprint::of(&text.plain);
        }
        let once = |message: &[u8]| {
            edit(message, &texts, SignedPolicy::Skip).map(|e| apply(message, &e.splices))
        };
        let first = once(b"A: b\r\n\r\nhello\r\n").expect("edited");
        assert_eq!(once(&first), Err(Obstacle::Repeated));
        let reply = String::from_utf8_lossy(&first).replace("[P This mail is ", "nothing\r\n");
        let second = String::from_utf8(once(reply.as_bytes()).expect("edited")).expect("ASCII");
        assert_eq!(second.matches("[P This").count(), 1);
        assert_eq!(second.matches("[A This").count(), 1);
    }

    #[test]
    fn a_long_line_of_a_text_is_not_cut() {
        let long = "&nbsp;".repeat(400);
        let texts = Texts {
            append: text(String::from("x"), format!("<b title='{long}'>x</b>")),
            prepend: None,
        };
        for transfer in ["7bit", "quoted-printable", "base64"] {
            let body = if transfer == "base64" { "PHA+" } else { "<p>" };
            let message = format!(
                "Content-Type: text/html\r\nContent-Transfer-Encoding: {transfer}\r\n\r\n{body}\r\n"
            );
            let edited = edit(message.as_bytes(), &texts, SignedPolicy::Skip).expect("edited");
            let found = apply(message.as_bytes(), &edited.splices);
            let tree = Tree::of(&found);
            let part = &tree.parts[0];
            let content = super::super::transfer::Transfer::of(&part.mime.encoding)
                .decode(&found[part.body.clone()])
                .into_owned();
            assert!(
                String::from_utf8_lossy(&content).contains(&long),
                "{transfer}"
            );
            assert!(
                found
                    .split(|&b| b == b'\n')
                    .all(|line| line.len() <= LONGEST_LINE + 1)
            );
        }
    }

    #[test]
    fn a_header_ends_where_the_mta_says() {
        let texts = texts("t");
        for (field, body) in [
            ("Bad Name: x\r\n", "eA==\r\n"),
            ("no colon\r\n", "eA==\r\n"),
            ("X:\r\n\r\n\tfolded\r\n", "eA==\r\n"),
        ] {
            let header = format!(
                "Content-Transfer-Encoding: base64\r\nContent-MD5: x\r\n{field}Subject: s\r\n\r\n"
            );
            let message = format!("{header}{body}");
            let edited = edit_with_header(
                message.as_bytes(),
                Some(header.len()),
                &texts,
                SignedPolicy::Skip,
            );
            let splices = edited.expect("edited").splices;
            let found = apply(message.as_bytes(), &splices);
            let (before, after) = found.split_at(edited_header_size(header.len(), &splices));
            assert_eq!(
                String::from_utf8_lossy(before),
                header.replace("Content-MD5: x\r\n", "")
            );
            assert_eq!(decode_base64(after), b"[P t]\r\nx\r\n[A t]");
        }
    }

    #[test]
    fn base64_without_its_empty_line_gets_one() {
        let message = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\
                       Content-Transfer-Encoding: base64\r\n--b--\r\n";
        let found = edited(message, "t").expect("edited");
        assert!(
            found.contains("base64\r\n\r\nW1AgdF0NCltBIHRd\r\n--b--"),
            "{found}"
        );
    }

    #[test]
    fn a_field_that_would_become_too_long_is_not_written() {
        let message = format!(
            "Content-Type: text/plain;{}a=b\r\n\r\nx\r\n",
            "\t".repeat(960)
        );
        let found = edited(&message, "ж").expect("edited");
        assert!(found.contains("=_copyist_text_"), "{found}");
        let name = format!("Content-Type{}:text/plain\r\n\r\nx\r\n", " ".repeat(970));
        let found = edited(&name, "ж").expect("edited");
        assert!(found.contains("=_copyist_text_"), "{found}");
    }

    #[test]
    fn a_field_that_is_not_utf8_is_not_rewritten() {
        let message = b"Content-Type: text/plain; name=\xe9; charset=us-ascii\r\n\r\nx\r\n";
        let texts = |plain: &str| Texts {
            append: text(plain.into(), String::new()),
            prepend: None,
        };
        let edited = edit(message, &texts("\u{436}"), SignedPolicy::Skip).expect("beside");
        assert_eq!(
            edited.parts[0].method,
            EditMethod::SeparatePart(Obstacle::Charset)
        );
        let edited =
            edit(message, &texts("t"), SignedPolicy::Skip).expect("ASCII needs no new field");
        assert_eq!(
            apply(message, &edited.splices),
            [&message[..], b"t\r\n"].concat()
        );
    }

    #[test]
    fn a_shifted_line_returns_to_ascii_if_there_is_room() {
        let long = |length: usize| {
            let line = format!("\u{1b}$B{}", "F|".repeat(600));
            let charset = "Content-Type: text/plain; charset=iso-2022-jp";
            format!("{charset}\r\n\r\n{}", &line[..length])
        };
        let room = edited(&long(995), "t").expect("edited");
        assert!(room.ends_with("\u{1b}(B\r\n[A t]"), "{room}");
        let none = edited(&long(997), "t").expect("edited");
        assert!(none.contains("Content-Transfer-Encoding: "), "{none}");
        assert!(none.lines().all(|line| line.len() <= LONGEST_LINE));
    }

    /// Lines with a meaning somewhere in a message.
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
        fn splices_are_in_order_and_the_rest_is_unchanged(
            lines in proptest::collection::vec(proptest::sample::select(&LINES[..]), 0..24),
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
            place in 0..24usize,
        ) {
            let mut message: Vec<u8> = Vec::new();
            for (i, line) in lines.iter().enumerate() {
                if i == place {
                    message.extend_from_slice(&bytes);
                }
                message.extend_from_slice(line.as_bytes());
            }
            for words in ["ascii", "ж and -- more"] {
                let text = text(words.into(), html::from_plain(words));
                let texts = Texts { prepend: text.clone(), append: text };
                let Ok(MessageEdit { splices, .. }) = edit(&message, &texts, SignedPolicy::Wrap) else { continue };
                let mut kept = Vec::new();
                let mut at = 0;
                for splice in &splices {
                    proptest::prop_assert!(at <= splice.range.start && splice.range.end <= message.len());
                    kept.extend_from_slice(&message[at..splice.range.start]);
                    at = splice.range.end;
                }
                let edited = apply(&message, &splices);
                proptest::prop_assert!(edited.len() > kept.len());
                // The result is a valid message.
                proptest::prop_assert!(edit(&edited, &texts, SignedPolicy::Wrap).is_ok());
            }
        }
    }
}
