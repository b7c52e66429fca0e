//! Tests of the end of a message and of its content.

use super::BareLineBreaks::{Normalize, Reject};
use super::*;

/// The result of decoding chunks.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    out: Vec<u8>,
    /// The bytes after the end; `None` if there was no end.
    rest: Option<Vec<u8>>,
    error: Option<DataError>,
    has_nul: bool,
    longest_line: usize,
}

fn decode<'a>(bare: BareLineBreaks, pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = DataDecoder::new(bare);
    let (mut input, mut out, mut ended) = (BytesMut::new(), BytesMut::new(), false);
    for piece in pieces {
        input.extend_from_slice(piece);
        if !ended {
            ended = decoder.decode(&mut input, &mut out);
            assert!(ended || input.len() <= 2, "{input:?} stays");
        }
    }
    Decoded {
        out: out.to_vec(),
        rest: ended.then(|| input.to_vec()),
        error: decoder.error(),
        has_nul: decoder.has_nul(),
        longest_line: decoder.longest_line(),
    }
}

/// Decodes at once, in every three chunks, and byte by byte.
fn decode_all_ways(bare: BareLineBreaks, wire: &[u8]) -> Decoded {
    let at_once = decode(bare, [wire]);
    let shown = wire.escape_ascii();
    for first in 0..wire.len() {
        for second in first..wire.len() {
            let pieces = [&wire[..first], &wire[first..second], &wire[second..]];
            // An error in the undecided bytes is found with the next byte, whatever the chunks.
            assert_eq!(
                decode(bare, pieces),
                at_once,
                "{shown} cut at {first}, {second}"
            );
        }
    }
    assert_eq!(
        decode(bare, wire.chunks(1)),
        at_once,
        "{shown} byte by byte"
    );
    at_once
}

fn encode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut encoder, mut out) = (DataEncoder::new(), BytesMut::new());
    for piece in pieces {
        encoder.encode(piece, &mut out);
    }
    encoder.finish(&mut out);
    out.to_vec()
}

#[test]
fn dots_are_removed_only_at_the_start_of_a_line() {
    let cases: [(&[u8], &[u8], usize); 15] = [
        (b".\r\n", b"", 0),
        (b"\r\n.\r\n", b"\r\n", 0),
        (b"x\r\n.\r\n", b"x\r\n", 1),
        (b"..\r\n.\r\n", b".\r\n", 1),
        (b"...\r\n..\r\n.\r\n", b"..\r\n.\r\n", 2),
        (b".x\r\n.\r\n", b"x\r\n", 1),
        (b"x.\r\n.y.\r\n.\r\n", b"x.\r\ny.\r\n", 2),
        (b"x\r\n\r\n..y\r\n.\r\n", b"x\r\n\r\n.y\r\n", 2),
        (b". \r\n.\r\n", b" \r\n", 1),
        (b". .\r\n.\r\n", b" .\r\n", 2),
        (b"x .\r\n.\r\n", b"x .\r\n", 3),
        (b"\xff\xfe.\r\n.\r\n", b"\xff\xfe.\r\n", 3),
        (b"a\r\nlonger\r\nb\r\n.\r\n", b"a\r\nlonger\r\nb\r\n", 6),
        (b"..longer\r\nb\r\n.\r\n", b".longer\r\nb\r\n", 7),
        (b"\r\n\r\n\r\n.\r\n", b"\r\n\r\n\r\n", 0),
    ];
    for (wire, content, longest_line) in cases {
        for bare in [Reject, Normalize] {
            let mut wire = wire.to_vec();
            wire.extend_from_slice(b"QUIT\r\n");
            let expected = Decoded {
                out: content.to_vec(),
                rest: Some(b"QUIT\r\n".to_vec()),
                error: None,
                has_nul: false,
                longest_line,
            };
            let shown = wire.escape_ascii().to_string();
            assert_eq!(decode_all_ways(bare, &wire), expected, "{shown}");
        }
    }
}

#[test]
fn a_line_is_counted_before_it_ends() {
    for wire in [
        &b"abc\r\nabcdef"[..],
        b"abcdef\r\nabc",
        b"abcdef\r\n\r",
        b"abcdef\r\n.",
    ] {
        assert_eq!(
            decode_all_ways(Reject, wire).longest_line,
            6,
            "{}",
            wire.escape_ascii()
        );
    }
    assert_eq!(decode_all_ways(Reject, b"ab\ncd\r\n.\r\n").longest_line, 5);
    assert_eq!(
        decode_all_ways(Normalize, b"ab\ncde\r\n.\r\n").longest_line,
        3
    );
}

#[test]
fn decoding_undoes_encoding_exactly() {
    let contents: [&[u8]; 13] = [
        b"",
        b".",
        b"..",
        b"x",
        b"\r\n",
        b".\r\n",
        b"..\r\n.\r\n",
        b"x\r\n.\r\nMAIL FROM:<evil@x>\r\n",
        b"x\r\n.",
        b"\r\n\r\n.\r\n.x",
        b"a.b\r\n .\r\n",
        b"\0\r\n.\0\r\n",
        b"\xff.\r\n.\xff",
    ];
    for content in contents {
        let mut meant = content.to_vec();
        if !content.is_empty() && !content.ends_with(b"\r\n") {
            meant.extend_from_slice(b"\r\n");
        }
        let shown = content.escape_ascii();
        let wire = encode([content]);
        for first in 0..content.len() {
            for second in first..content.len() {
                let pieces = [
                    &content[..first],
                    &content[first..second],
                    &content[second..],
                ];
                assert_eq!(encode(pieces), wire, "{shown} cut at {first}, {second}");
            }
        }
        assert_eq!(encode(content.chunks(1)), wire, "{shown} byte by byte");
        for bare in [Reject, Normalize] {
            let decoded = decode_all_ways(bare, &wire);
            assert_eq!(
                (decoded.out, decoded.error),
                (meant.clone(), None),
                "{shown}"
            );
            assert_eq!(decoded.rest.as_deref(), Some(&b""[..]), "{shown}");
        }
    }
}

#[test]
fn a_message_ends_on_a_line_of_its_own() {
    let cases: [(&[u8], &[u8]); 8] = [
        (b"", b".\r\n"),
        (b"x", b"x\r\n.\r\n"),
        (b"x\r\n", b"x\r\n.\r\n"),
        (b"x\r", b"x\r\r\n.\r\n"),
        (b"x\n", b"x\n\r\n.\r\n"),
        (b"\n", b"\n\r\n.\r\n"),
        (b"\n.", b"\n.\r\n.\r\n"),
        (b"\r.\n.", b"\r.\n.\r\n.\r\n"),
    ];
    for (content, wire) in cases {
        assert_eq!(encode([content]), wire, "{}", content.escape_ascii());
        assert_eq!(
            encode(content.chunks(1)),
            wire,
            "{}",
            content.escape_ascii()
        );
    }
}

#[test]
fn bare_line_breaks_are_found_in_chunks_of_any_size() {
    use DataError::{BareCarriageReturn as Cr, BareLineFeed as Lf};
    let cases: [(&[u8], Option<DataError>); 14] = [
        (b"", None),
        (b"x", None),
        (b"\r\n", None),
        (b"a\r\nb\r\n\r\n", None),
        (b".\r\n.\r\n", None),
        (b"\n", Some(Lf)),
        (b"a\nb\rc", Some(Lf)),
        (b"a\r\n\n", Some(Lf)),
        (b"\n\r", Some(Lf)),
        (b"\r", Some(Cr)),
        (b"a\rb\n", Some(Cr)),
        (b"\r\r\n", Some(Cr)),
        (b"\r\n\r", Some(Cr)),
        (b"a\r\nb\r", Some(Cr)),
    ];
    let find = |pieces: &[&[u8]]| {
        let (mut after_cr, mut first) = (false, None);
        for piece in pieces {
            let found = find_bare_line_break(piece, &mut after_cr);
            first = first.or(found);
        }
        first.or(after_cr.then_some(Cr))
    };
    for (content, expected) in cases {
        let shown = content.escape_ascii();
        assert_eq!(find(&[content]), expected, "{shown}");
        for first in 0..content.len() {
            for second in first..content.len() {
                let pieces = [
                    &content[..first],
                    &content[first..second],
                    &content[second..],
                ];
                assert_eq!(find(&pieces), expected, "{shown} cut at {first}, {second}");
            }
        }
    }
}

#[test]
fn all_short_contents_are_decoded_as_the_rfc_says() {
    // All sequences of six of these, followed by an end.
    let bytes = b"\r\n.x\0";
    for mut number in 0..bytes.len().pow(6) {
        let mut wire = Vec::new();
        for _ in 0..6 {
            wire.push(bytes[number % bytes.len()]);
            number /= bytes.len();
        }
        wire.extend_from_slice(b"\r\n.\r\n");
        for bare in [Reject, Normalize] {
            let decoded = decode(bare, [&wire[..]]);
            assert_eq!(
                decode(bare, wire.chunks(1)),
                decoded,
                "{}",
                wire.escape_ascii()
            );
            assert_eq!(
                decoded,
                by_the_letter(bare, &wire),
                "{}",
                wire.escape_ascii()
            );
        }
    }
}

/// Decodes byte by byte as the RFC says, slowly. The wire has an end.
fn by_the_letter(bare: BareLineBreaks, wire: &[u8]) -> Decoded {
    let with_crlf = [b"\r\n", wire].concat();
    let end = memchr::memmem::find(&with_crlf, b"\r\n.\r\n").expect("an end");
    let content = &with_crlf[..end + 2];
    let (mut out, mut error) = (Vec::new(), None);
    for at in 2..content.len() {
        let before = &content[..at];
        let bare_here = match content[at] {
            b'\r' => content.get(at + 1) != Some(&b'\n'),
            b'\n' => !before.ends_with(b"\r"),
            b'.' if before.ends_with(b"\r\n") => continue,
            _ => false,
        };
        if bare_here {
            error.get_or_insert(DataError::of(content[at]));
        }
        match bare {
            Normalize if bare_here => out.extend_from_slice(b"\r\n"),
            _ => out.push(content[at]),
        }
    }
    let text = String::from_utf8(out.clone()).expect("ASCII");
    Decoded {
        longest_line: text.split("\r\n").map(str::len).max().unwrap_or_default(),
        has_nul: out.contains(&0),
        out,
        rest: Some(with_crlf[end + 5..].to_vec()),
        error,
    }
}
