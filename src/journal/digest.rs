//! Digests of what a seal covers, in forms that transfer does not change.

use std::io;

use ring::digest::{Context, Digest, SHA256};

use super::parts::{Coding, Mime, Parts, Visitor};
use crate::mail::{Chunks, Field, Fields, unstructured};

/// Line breaks that are held back because they may stand at the end.
const HELD: usize = 64 * 1024;

/// The fields that a seal covers beside the body: what an archive files a report by, and how its
/// body is read.
const COVERED: [&str; 5] = ["Message-ID", "Date", "From", "Subject", "Content-Type"];

/// Over the fields that a seal covers, each of a name: decoded, unfolded, blanks collapsed.
pub(super) fn of_fields<'f>(fields: impl Iterator<Item = Field<'f>>) -> Digest {
    let mut values: [Vec<String>; COVERED.len()] = Default::default();
    for field in fields {
        let place = COVERED
            .iter()
            .position(|name| field.name.eq_ignore_ascii_case(name));
        if let Some(place) = place {
            values[place].push(collapsed(&unstructured(field.value)));
        }
    }
    let mut context = Context::new(&SHA256);
    for values in values {
        context.update(&(values.len() as u64).to_be_bytes());
        for value in values {
            context.update(&(value.len() as u64).to_be_bytes());
            context.update(value.as_bytes());
        }
    }
    context.finish()
}

fn collapsed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Over a body as its reader sees it: the fields and the decoded content of each part. An MTA may
/// encode parts anew (a relay without 8BITMIME), fold fields, and add or take line breaks at the
/// end.
pub(super) struct BodyDigest(Parts<Hash>);

impl BodyDigest {
    /// Of a body behind a header that says this.
    pub(super) fn of(mime: &Mime) -> BodyDigest {
        let hash = Hash {
            whole: Context::new(&SHA256),
            content: None,
            held: Vec::new(),
            has_coding: false,
        };
        BodyDigest(Parts::new(mime, hash))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Takes what these pieces hold.
    pub(super) fn read(&mut self, pieces: Chunks) -> io::Result<()> {
        for piece in pieces {
            self.update(&piece?);
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Digest {
        self.0.finish().whole.finish()
    }
}

/// Takes the parts of a body as records: a kind, a length, and that many bytes.
struct Hash {
    whole: Context,
    /// Over the content of the part that is being read, if it has any.
    content: Option<Context>,
    /// Line breaks that count only if something follows.
    held: Vec<u8>,
    /// The header has a transfer encoding already.
    has_coding: bool,
}

impl Hash {
    fn record(&mut self, kind: u8, bytes: &[u8]) {
        self.whole.update(&[kind]);
        self.whole.update(&(bytes.len() as u64).to_be_bytes());
        self.whole.update(bytes);
    }

    fn flush(&mut self) {
        if !self.held.is_empty() {
            let content = self.content.get_or_insert_with(|| Context::new(&SHA256));
            content.update(&self.held);
            self.held.clear();
        }
    }
}

impl Visitor for Hash {
    fn field(&mut self, raw: &[u8], _: usize) {
        let Some(Field { name, value, .. }) = Fields::new(raw).next() else {
            return;
        };
        let name = name.to_ascii_lowercase();
        let is_coding = name == "content-transfer-encoding" && Coding::named(value).is_some();
        if is_coding && !std::mem::replace(&mut self.has_coding, true) {
            return;
        }
        let value = collapsed(&String::from_utf8_lossy(value));
        self.record(b'F', format!("{name}:{value}").as_bytes());
    }

    fn body(&mut self, _: &Mime, _: usize) {
        self.has_coding = false;
        self.record(b'B', b"");
    }

    fn content(&mut self, bytes: &[u8]) {
        let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let end = bytes
            .iter()
            .rposition(|byte| !is_break(byte))
            .map_or(0, |at| at + 1);
        if end > 0 {
            self.flush();
            let content = self.content.get_or_insert_with(|| Context::new(&SHA256));
            content.update(&bytes[..end]);
        }
        self.held.extend_from_slice(&bytes[end..]);
        if self.held.len() > HELD {
            self.flush();
        }
    }

    fn end(&mut self, with_message: bool) {
        if !with_message {
            self.flush();
        }
        self.held.clear();
        if let Some(content) = self.content.take() {
            self.record(b'C', content.finish().as_ref());
        }
    }

    fn delimiter(&mut self, level: usize, closes: bool) {
        self.record(b'D', &[level as u8, u8::from(closes)]);
    }
}

/// The digest of seals of format 2: over the bytes of a body, every line break as CRLF, those at
/// the end left out.
pub(super) fn of_format_2(pieces: Chunks) -> io::Result<Digest> {
    let (mut context, mut breaks, mut after_cr) = (Context::new(&SHA256), 0, false);
    for piece in pieces {
        let piece = piece?;
        let mut rest = &piece[..];
        while !rest.is_empty() {
            if std::mem::take(&mut after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            if end > 0 {
                (0..std::mem::take(&mut breaks)).for_each(|_| context.update(b"\r\n"));
                context.update(&rest[..end]);
            }
            if let Some(found) = rest.get(end) {
                breaks += 1;
                after_cr = *found == b'\r';
            }
            rest = rest.get(end + 1..).unwrap_or_default();
        }
    }
    Ok(context.finish())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ring::digest::digest;

    use super::*;
    use crate::mail::{Content, Message};

    fn of(kind: &str, body: &str) -> Vec<u8> {
        let told = |size: usize| {
            let mut digest = BodyDigest::of(&Mime::of_type(kind));
            body.as_bytes()
                .chunks(size)
                .for_each(|piece| digest.update(piece));
            digest.finish().as_ref().to_vec()
        };
        let whole = told(body.len().max(1));
        assert_eq!(told(1), whole, "in pieces");
        assert_eq!(told(7), whole, "in pieces");
        whole
    }

    #[test]
    fn the_digest_ignores_changes_in_transfer() {
        let plain = of("text/plain", "one\r\n\r\ntwo\r\n");
        for same in ["one\n\ntwo", "one\r\n\r\ntwo\r\n\r\n", "one\r\rtwo\n\n\r"] {
            assert_eq!(of("text/plain", same), plain, "{same:?}");
        }
        for other in ["one\r\ntwo", "one\r\n\r\ntwo ", "\r\none\r\n\r\ntwo"] {
            assert_ne!(of("text/plain", other), plain, "{other:?}");
        }
    }

    /// Two parts, the second an attached message; the fields of the first and of that message, and
    /// their content.
    fn parts(first: (&str, &str), second: (&str, &str)) -> Vec<u8> {
        let body = format!(
            "--o\r\nContent-Type: text/plain; charset=utf-8\r\n{}\r\n{}\r\n--o\r\nContent-Type: message/rfc822\r\n\r\n\
             Subject: x\r\nContent-Type: text/plain\r\n{}\r\n{}\r\n--o--\r\n",
            first.0, first.1, second.0, second.1
        );
        of("multipart/mixed; boundary=o", &body)
    }

    #[test]
    fn reencoding_keeps_the_digest_and_changed_content_does_not() {
        let (eight, quoted) = (
            "Content-Transfer-Encoding: 8bit\r\n",
            "Content-Transfer-Encoding: quoted-printable\r\n",
        );
        let coded = "Content-Transfer-Encoding: base64\r\n";
        let plain = parts((eight, "grün\r\n"), ("", "blau\r\n"));
        assert_eq!(
            parts((quoted, "gr=C3=BC=\r\nn\r\n"), (eight, "blau\r\n")),
            plain
        );
        assert_eq!(
            parts((coded, "Z3LDvG4NCg==\r\n"), (coded, "Ymxh\r\ndQ0K\r\n")),
            plain
        );
        for (first, second) in [
            ((eight, "grun\r\n"), ("", "blau\r\n")),
            ((eight, "grün\r\n"), ("", "blau\r\n\r\n")),
            ((eight, "grün\r\n"), ("X: y\r\n", "blau\r\n")),
            ((quoted, "gr=C3=BCn=20\r\n"), ("", "blau\r\n")),
            ((coded, "Z3LDvG4NCg==\r\n--\r\n"), ("", "blau\r\n")),
            (
                ("Content-Transfer-Encoding: x-other\r\n", "grün\r\n"),
                ("", "blau\r\n"),
            ),
            (
                (
                    "Content-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: base64\r\n",
                    "grün\r\n",
                ),
                ("", "blau\r\n"),
            ),
        ] {
            assert_ne!(parts(first, second), plain, "{first:?} {second:?}");
        }
    }

    #[test]
    fn a_field_that_moves_to_the_attached_message_is_another_body() {
        let body = |fields: [&str; 2]| {
            let [part, message] = fields;
            let body = format!(
                "--o\r\nContent-Type: message/rfc822\r\n{part}\r\n{message}\r\ntext\r\n--o--"
            );
            of("multipart/mixed; boundary=o", &body)
        };
        assert_ne!(body(["X: y\r\n", ""]), body(["", "X: y\r\n"]));
    }

    #[test]
    fn fields_are_compared_as_people_read_them() {
        let of = |header: &str| of_fields(Fields::new(header.as_bytes())).as_ref().to_vec();
        let plain = of("Subject: Gr\u{fc}n und  blau\r\nFrom: a@b.test\r\n");
        assert_eq!(
            of("X: y\r\nfrom:\ta@b.test\r\nSubject: =?utf-8?Q?Gr=C3=BCn?=\r\n und blau\r\n"),
            plain
        );
        for other in [
            "Subject: Gr\u{fc}n\r\nFrom: a@b.test\r\n",
            "Subject: Gr\u{fc}n und blau\r\nFrom: a@b.test\r\nFrom: a@b.test\r\n",
            "Subject: Gr\u{fc}n und blau\r\nFrom: a@b.test\r\nDate: x\r\n",
        ] {
            assert_ne!(of(other), plain, "{other}");
        }
    }

    #[test]
    fn the_old_digest_is_unchanged() {
        let of = |text: &str| {
            let message = Message::new(Content::Memory(Bytes::copy_from_slice(text.as_bytes())));
            of_format_2(message.content().chunks(0)).expect("in memory")
        };
        let plain = digest(&SHA256, b"one\r\n\r\ntwo");
        for same in ["one\r\n\r\ntwo\r\n", "one\n\ntwo", "one\r\rtwo\n\n\r"] {
            assert_eq!(of(same).as_ref(), plain.as_ref(), "{same:?}");
        }
    }
}
