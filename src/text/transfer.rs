//! Content-Transfer-Encodings (RFC 2045 section 6), as far as edits need them.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

/// The transfer encoding of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    /// None: 7bit, 8bit, binary, or no field.
    Identity,
    QuotedPrintable,
    Base64,
    /// A name that is not in RFC 2045.
    Unknown,
}

/// Line length of base64 and quoted-printable in bytes.
const LINE: usize = 76;

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

impl Transfer {
    /// Returns the encoding of a lowercase Content-Transfer-Encoding, which may be empty.
    pub(super) fn of(name: &str) -> Transfer {
        match name {
            "" | "7bit" | "8bit" | "binary" | "7-bit" | "8-bit" => Transfer::Identity,
            "quoted-printable" => Transfer::QuotedPrintable,
            "base64" => Transfer::Base64,
            _ => Transfer::Unknown,
        }
    }

    /// Decodes a body.
    pub(super) fn decode(self, body: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Transfer::Identity | Transfer::Unknown => body.into(),
            Transfer::QuotedPrintable => decode_quoted(body, usize::MAX).0.into(),
            Transfer::Base64 => decode_base64(body).into(),
        }
    }
}

/// Decodes quoted-printable up to `most` bytes. Also returns the offset in `body` at which decoding
/// stopped: an insertion there comes before the byte of that number.
pub(super) fn decode_quoted(body: &[u8], most: usize) -> (Vec<u8>, usize) {
    let mut content = Vec::with_capacity(body.len().min(most));
    let mut at = 0;
    while at < body.len() && content.len() < most {
        let end = memchr::memchr(b'\n', &body[at..]).map_or(body.len(), |lf| at + lf + 1);
        let line = &body[at..end];
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let broken = &line[text.len()..];
        // White space at the end of a line was added in transit (RFC 2045 section 6.7, rule 3).
        let text = if broken.is_empty() {
            text
        } else {
            trim_blank_end(text)
        };
        let (text, soft) = match text.strip_suffix(b"=") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let mut i = 0;
        while i < text.len() {
            if content.len() == most {
                return (content, at + i);
            }
            match (text[i], hex(text.get(i + 1)), hex(text.get(i + 2))) {
                (b'=', Some(high), Some(low)) => {
                    content.push(high << 4 | low);
                    i += 3;
                }
                (byte, ..) => {
                    content.push(byte);
                    i += 1;
                }
            }
        }
        if !soft {
            if content.len() == most {
                return (content, at + text.len());
            }
            content.extend_from_slice(broken);
        }
        at = end;
    }
    (content, at)
}

fn trim_blank_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn hex(byte: Option<&u8>) -> Option<u8> {
    char::from(*byte?).to_digit(16).map(|digit| digit as u8)
}

/// Encodes to quoted-printable. Line breaks equal to `eol` stay line breaks, all others are bytes.
pub(super) fn encode_quoted(content: &[u8], eol: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(content.len() + content.len() / 8);
    let mut rest = content;
    while !rest.is_empty() {
        let end = memchr::memmem::find(rest, eol.as_bytes());
        encode_line(&rest[..end.unwrap_or(rest.len())], eol, &mut body);
        rest = match end {
            Some(end) => {
                body.extend_from_slice(eol.as_bytes());
                &rest[end + eol.len()..]
            }
            None => &[],
        };
    }
    body
}

/// Appends one line in quoted-printable, without its line break.
fn encode_line(line: &[u8], eol: &str, body: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let is_plain = |byte: u8| byte != b'=' && matches!(byte, b' ' | b'\t' | b'!'..=b'~');
    let mut room = LINE - 1;
    let mut rest = line;
    while let [byte, behind @ ..] = rest {
        // A blank at the end of a line would be lost (RFC 2045 section 6.7, rule 3).
        let plain = is_plain(*byte) && !(behind.is_empty() && byte.is_ascii_whitespace());
        if room < if plain { 1 } else { 3 } {
            body.push(b'=');
            body.extend_from_slice(eol.as_bytes());
            room = LINE - 1;
        }
        if plain {
            let most = &rest[..room.min(rest.len())];
            let mut run = most
                .iter()
                .position(|&b| !is_plain(b))
                .unwrap_or(most.len());
            if run == rest.len() && rest[run - 1].is_ascii_whitespace() {
                run -= 1;
            }
            body.extend_from_slice(&rest[..run]);
            room -= run;
            rest = &rest[run..];
        } else {
            body.extend([
                b'=',
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]);
            room -= 3;
            rest = behind;
        }
    }
}

/// Decodes base64 as mail clients do: bytes outside the alphabet are skipped, padding ends a piece,
/// not the part.
pub(super) fn decode_base64(body: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(body.len() / 4 * 3);
    let mut piece = Vec::new();
    for piece_of_body in body.split(|&b| b == b'=') {
        piece.clear();
        let letters = piece_of_body
            .iter()
            .filter(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'));
        piece.extend(letters);
        // One letter alone holds no byte.
        if piece.len() % 4 == 1 {
            piece.pop();
        }
        if let Ok(bytes) = LENIENT.decode(&piece) {
            content.extend_from_slice(&bytes);
        }
    }
    content
}

/// Other text in a base64 body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purity {
    /// None.
    Pure,
    /// Characters that mail clients skip, or text that they cannot tell from base64.
    Junk,
    /// Text after the padding, usually a mailing list's footer.
    TextBehind,
}

impl Purity {
    pub(super) fn of(body: &[u8]) -> Purity {
        let is_letter = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        if let Some(padding) = memchr::memchr(b'=', body) {
            let rest = body[padding..].iter().filter(|b| !b.is_ascii_whitespace());
            let rest: Vec<u8> = rest.copied().skip_while(|&b| b == b'=').collect();
            // Base64 after padding must be complete by itself.
            if !(rest.iter().all(is_letter) && rest.len().is_multiple_of(4)) {
                return Purity::TextBehind;
            }
        }
        let mut lines = body.split(|&b| b == b'\n').map(<[u8]>::trim_ascii);
        match lines.all(|line| line.iter().all(is_letter)) {
            true => Purity::Pure,
            false => Purity::Junk,
        }
    }
}

/// Encodes to base64 in lines; the last one has no line break.
pub(super) fn encode_base64(content: &[u8], eol: &str) -> Vec<u8> {
    let letters = STANDARD.encode(content);
    let mut body = Vec::with_capacity(letters.len() + letters.len() / 38 + 2);
    for (i, line) in letters.as_bytes().chunks(LINE).enumerate() {
        if i > 0 {
            body.extend_from_slice(eol.as_bytes());
        }
        body.extend_from_slice(line);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_printable_offsets_are_exact() {
        let body = b"a=C3=A9 b \t\r\nlong=\r\n er=3D=\r\n\r\n=zz";
        let (content, _) = decode_quoted(body, usize::MAX);
        assert_eq!(content, "aé b\r\nlong er=\r\n=zz".as_bytes());
        for offset in 0..=content.len() {
            let (before, at) = decode_quoted(body, offset);
            assert_eq!(before, &content[..before.len()]);
            let rest = decode_quoted(&body[at..], usize::MAX).0;
            assert_eq!([before, rest].concat(), content, "{offset}");
        }
    }

    #[test]
    fn quoted_printable_round_trips() {
        let long = "ü=".repeat(200);
        for content in ["", "a \r\nb\t", "\n\r", &long, ".\r\n.", "x\r\n\r\n"] {
            let body = encode_quoted(content.as_bytes(), "\r\n");
            assert_eq!(decode_quoted(&body, usize::MAX).0, content.as_bytes());
            assert!(
                body.split(|&b| b == b'\n')
                    .all(|line| line.len() <= LINE + 1)
            );
        }
    }

    #[test]
    fn clear_text_next_to_base64_is_detected() {
        for (body, expected) in [
            ("aGVs\r\nbG8=\r\n", Purity::Pure),
            ("aGVsbG8", Purity::Pure),
            ("aGU=\naGU=\n", Purity::Pure),
            ("  aGVs \n\n", Purity::Pure),
            ("", Purity::Pure),
            ("aGU=\n-- \nlist\n", Purity::TextBehind),
            ("aGU=\nRegards\n", Purity::TextBehind),
            ("aGVs\nhttp://list.example\n", Purity::Junk),
            ("aGVs\nmailing list\n", Purity::Junk),
            ("[footer]\naGVs\n", Purity::Junk),
        ] {
            assert_eq!(Purity::of(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn base64_is_decoded_as_mail_clients_do() {
        assert_eq!(decode_base64(b"aGVs\r\nbG8=\r\n"), b"hello");
        assert_eq!(decode_base64(b"aGVsbG8"), b"hello");
        assert_eq!(decode_base64(b"aGU=!bGxv==\n-- \n"), b"hello");
        assert_eq!(decode_base64(&encode_base64(&[7; 1000], "\r\n")), [7; 1000]);
    }
}
