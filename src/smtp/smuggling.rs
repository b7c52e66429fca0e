//! Tests against SMTP smuggling: byte sequences that some servers read as the end of a message or
//! as a second command (CVE-2023-51764 and similar).
//!
//! A client's bytes are decoded as the proxy does, and its output is decoded again: strictly, and
//! like servers that accept any line break.

use bytes::BytesMut;

use super::{BareLineBreaks, Command, DataDecoder, DataEncoder, DataError, Lines};

/// The bytes after the apparent end, as a client would send them.
const SMUGGLED: &[u8] =
    b"MAIL FROM:<evil@x>\r\nRCPT TO:<victim@y>\r\nDATA\r\nSubject: smuggled\r\n\r\n";

use DataError::{BareCarriageReturn as Cr, BareLineFeed as Lf};

/// The bytes between the text of a message and the smuggled one; whether they end the message; the
/// first error; whether there is a NUL.
const ENDS: [(&[u8], bool, Option<DataError>, bool); 52] = [
    // The only valid end, with text before or after it.
    (b"\r\n.\r\n", true, None, false),
    (b"\r\n\r\n.\r\n", true, None, false),
    (b"\n\r\n.\r\n", true, Some(Lf), false),
    (b"\r\r\n.\r\n", true, Some(Cr), false),
    (b" \r\n.\r\n", true, None, false),
    (b"\0\r\n.\r\n", true, None, true),
    // With an LF or a CR instead of one CRLF or both.
    (b"\n.\n", false, Some(Lf), false),
    (b"\n.\r\n", false, Some(Lf), false),
    (b"\r\n.\n", false, Some(Lf), false),
    (b"\r.\r", false, Some(Cr), false),
    (b"\r.\r\n", false, Some(Cr), false),
    (b"\r\n.\r", false, Some(Cr), false),
    (b"\n.\r", false, Some(Lf), false),
    (b"\r.\n", false, Some(Cr), false),
    // Reversed and doubled.
    (b"\n\r.\n\r", false, Some(Lf), false),
    (b"\n\r.\r\n", false, Some(Lf), false),
    (b"\r\n.\n\r", false, Some(Lf), false),
    (b"\r\n.\n\r\n", false, Some(Lf), false),
    (b"\r\n.\r\r\n", false, Some(Cr), false),
    (b"\r\r.\r\r", false, Some(Cr), false),
    (b"\n\n.\n\n", false, Some(Lf), false),
    (b"\r\n\r.\r\n", false, Some(Cr), false),
    (b"\r\n\n.\r\n", false, Some(Lf), false),
    (b"\r\n\r.\r\n\n", false, Some(Cr), false),
    (b"\r\n\n.\n\r\n", false, Some(Lf), false),
    (b"\n.\n\r\n", false, Some(Lf), false),
    // More or less than a dot.
    (b"\r\n..\r\n", false, None, false),
    (b"\r\n...\r\n", false, None, false),
    (b"\r\n. \r\n", false, None, false),
    (b"\r\n .\r\n", false, None, false),
    (b"\r\n.\t\r\n", false, None, false),
    (b"\r\n\t.\r\n", false, None, false),
    (b"\r\n.", false, None, false),
    (b"\r\n..\n", false, Some(Lf), false),
    (b"\n..\r\n", false, Some(Lf), false),
    (b"\n..\n", false, Some(Lf), false),
    (b"\r..\r", false, Some(Cr), false),
    // With a NUL, which some servers drop.
    (b"\r\n\0.\r\n", false, None, true),
    (b"\r\n.\0\r\n", false, None, true),
    (b"\r\0\n.\r\n", false, Some(Cr), true),
    (b"\r\n.\r\0\n", false, Some(Cr), true),
    (b"\0\n.\n\0", false, Some(Lf), true),
    (b"\n\0.\n", false, Some(Lf), true),
    (b"\r\0.\0\r", false, Some(Cr), true),
    // Line breaks of Unicode or without the high bit; other controls; textual escapes.
    ("\u{2028}.\u{2028}".as_bytes(), false, None, false),
    ("\u{85}.\u{85}".as_bytes(), false, None, false),
    (b"\x8d\x8a.\x8d\x8a", false, None, false),
    (b"\x0b.\x0b", false, None, false),
    (b"\x0c.\x0c", false, None, false),
    (b"\x1a", false, None, false),
    (b"\r\n\x08.\r\n", false, None, false),
    (b"=0D=0A.=0D=0A", false, None, false),
];

/// Returns the bytes after DATA: text, the apparent end, the smuggled message and a valid end.
fn wire(seeming: &[u8]) -> Vec<u8> {
    [
        b"Subject: x\r\n\r\ntext",
        seeming,
        SMUGGLED,
        b"\r\n.\r\nQUIT\r\n",
    ]
    .concat()
}

fn decoded(bare: BareLineBreaks, wire: &[u8]) -> (DataDecoder, BytesMut, BytesMut) {
    let (mut decoder, mut out) = (DataDecoder::new(bare), BytesMut::new());
    let mut input = BytesMut::from(wire);
    assert!(decoder.decode(&mut input, &mut out), "no end");
    (decoder, out, input)
}

fn stuffed(content: &[u8]) -> BytesMut {
    let (mut encoder, mut out) = (DataEncoder::new(), BytesMut::new());
    encoder.encode(content, &mut out);
    encoder.finish(&mut out);
    out
}

fn has(bytes: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(bytes, what).is_some()
}

#[test]
fn only_crlf_dot_crlf_ends_a_message() {
    for (seeming, ends, error, has_nul) in ENDS {
        let shown = seeming.escape_ascii();
        let wire = wire(seeming);
        for bare in [BareLineBreaks::Reject, BareLineBreaks::Normalize] {
            let (decoder, content, rest) = decoded(bare, &wire);
            assert_eq!(
                (decoder.error(), decoder.has_nul()),
                (error, has_nul),
                "{shown}"
            );
            assert_eq!(has(&content, b"evil@x"), !ends, "{shown}");
            let expected = match ends {
                true => &wire[wire.len() - SMUGGLED.len() - 11..],
                false => b"QUIT\r\n",
            };
            assert_eq!(rest, expected, "{shown}");
        }
    }
}

#[test]
fn smuggled_mail_is_forwarded_as_text() {
    for (seeming, ends, ..) in ENDS {
        let shown = seeming.escape_ascii();
        let (_, content, _) = decoded(BareLineBreaks::Normalize, &wire(seeming));
        let sent = stuffed(&content);
        for at in memchr::memchr2_iter(b'\r', b'\n', &sent) {
            let whole = match sent[at] {
                b'\r' => sent.get(at + 1) == Some(&b'\n'),
                _ => at > 0 && sent[at - 1] == b'\r',
            };
            assert!(whole, "{shown}: a bare CR or LF is sent");
        }
        // Only the last line is a lone dot, even for servers that accept LF, CR or CRLF as a line
        // break.
        let mut at = 0;
        let mut dots = Vec::new();
        for line in sent[..].split(|byte| matches!(byte, b'\r' | b'\n')) {
            if line == b"." {
                dots.push(at);
            }
            at += line.len() + 1;
        }
        assert_eq!(dots, [sent.len() - 3], "{shown}");
        assert_eq!(has(&sent, b"evil@x"), !ends, "{shown}");
        // A strict decoder gets the same content back.
        let (again, received, rest) = decoded(BareLineBreaks::Reject, &sent);
        assert_eq!((again.error(), rest.len()), (None, 0), "{shown}");
        assert_eq!(received, content, "{shown}");
    }
}

#[test]
fn a_line_that_some_servers_read_as_two_is_malformed() {
    let first: [&[u8]; 8] = [
        b"NOOP",
        b"EHLO x",
        b"MAIL FROM:<a@b>",
        b"RCPT TO:<c@d>",
        b"RCPT TO:<\"c",
        b"VRFY x",
        b"AUTH PLAIN AA==",
        b"XCLIENT NAME=x",
    ];
    let breaks: [&[u8]; 12] = [
        b"\n", b"\r", b"\n\r", b"\r\r", b"\n\n", b"\0", b"\r\0", b"\0\n", b"\n\0", b"\r\0\n",
        b"\0\r", b"\r\t",
    ];
    for command in first {
        for line_break in breaks {
            let line = [command, line_break, b"RCPT TO:<victim@y>"].concat();
            let shown = line.escape_ascii();
            assert_eq!(Command::parse(&line), Command::Malformed, "{shown}");
            let mut lines = Lines::new(512);
            lines.feed(&[&line[..], b"\r\nQUIT\r\n"].concat());
            assert!(
                lines.next_line().is_some_and(|line| line.is_err()),
                "{shown}"
            );
            let next = lines
                .next_line()
                .and_then(Result::ok)
                .expect("the next line is read");
            assert_eq!(Command::parse(&next), Command::Quit, "{shown}");
            assert!(lines.is_empty());
        }
    }
}

#[test]
fn an_ambiguous_path_is_malformed() {
    let lines = [
        "RCPT TO:<c@d>,<victim@y>",
        "RCPT TO:<c@d> <victim@y>",
        "RCPT TO:<c@d><victim@y>",
        "RCPT TO:<<c@d>victim@y>",
        "RCPT TO:<c\\>victim@y>",
        "RCPT TO:<c\"> <victim\"@y>",
        "RCPT TO:<\"c\"> <victim\"@y>",
        "RCPT TO:<\"c\\\"> <victim@y>",
        "RCPT TO:<\"c\\\"> <victim\"@y>",
        "RCPT TO:(<c@d>)<victim@y>",
        "RCPT TO:c@d <victim@y>",
    ];
    for line in lines {
        match Command::parse(line.as_bytes()) {
            // All of it is one quoted local part for every server.
            Command::Rcpt { path, .. } if path.starts_with('"') => {
                assert_eq!(format!("RCPT TO:<{path}>"), line);
            }
            found => assert_eq!(found, Command::Malformed, "{line:?}"),
        }
    }
}
