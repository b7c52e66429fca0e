//! Both sides of an SMTP dialogue, as a proxy between them reads it. The first byte says how long
//! the pieces are, the second how long a line may be. Must hold: the pieces make no difference; a
//! command is one line; a message ends at the first CRLF.CRLF and nowhere else; decoding undoes
//! dot-stuffing exactly; a reply is the server's own bytes.

#![no_main]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use copyist::smtp::{
    ServerReply, ReplyError, ReplyReader, BareLineBreaks, Capabilities, Command, DataError, LineError, Lines, DataEncoder, DataDecoder,
    find_bare_line_break, parse_auth_user, add_brackets,
};
use copyist_fuzz::{has_only_crlf, with_crlf};
use libfuzzer_sys::fuzz_target;

const MECHANISMS: [&str; 7] =
    ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER", "EXTERNAL"];

fn lines<'a>(pieces: impl Iterator<Item = &'a [u8]>, longest: usize) -> Vec<Result<Bytes, LineError>> {
    let (mut lines, mut found) = (Lines::new(longest), Vec::new());
    for piece in pieces {
        lines.feed(piece);
        found.extend(std::iter::from_fn(|| lines.next_line()));
    }
    assert!(lines.clear() < longest, "more than a line is kept");
    found
}

fn commands(bytes: &[u8], piece: usize, longest: usize) {
    let found = lines(bytes.chunks(piece), longest);
    assert_eq!(found, lines(std::iter::once(bytes), longest));
    let mut whole = Vec::new();
    let mut rest = bytes;
    while let Some(at) = memchr::memmem::find(rest, b"\r\n") {
        whole.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    // An endless line is told of before its end.
    assert_eq!(found.len(), whole.len() + usize::from(rest.len() >= longest));
    for (found, line) in found.iter().zip(whole) {
        let is_sound = line.len() + 2 <= longest && !line.iter().any(|byte| b"\r\n\0".contains(byte));
        assert_eq!(found.as_deref().ok(), is_sound.then_some(line));
        command(line);
    }
    command(bytes);
}

fn command(line: &[u8]) {
    let command = Command::parse(line);
    let _ = format!("{command:?}");
    if line.iter().any(u8::is_ascii_control) || std::str::from_utf8(line).is_err() {
        assert_eq!(command, Command::Malformed);
    }
    // A path and its parameters are the line's own, and together all of it.
    let (verb, path, params) = match command {
        Command::Mail { path, params } => ("MAIL FROM:", path, params),
        Command::Rcpt { path, params } => ("RCPT TO:", path, params),
        Command::Bdat { bytes, .. } => return assert!(line.len() >= 5 + bytes.to_string().len()),
        Command::Xclient(attributes) | Command::Xforward(attributes) => {
            let control = |text: &String| text.contains(char::is_control);
            return assert!(!attributes.iter().any(|(name, value)| control(name) || control(value)));
        }
        _ => return,
    };
    let written = std::iter::once(format!("<{path}>")).chain(params).collect::<Vec<_>>();
    assert!(line[..verb.len()].eq_ignore_ascii_case(verb.as_bytes()));
    let bare = |text: &str| text.replace(' ', "");
    let with_brackets = add_brackets(&Bytes::copy_from_slice(line));
    let argument = std::str::from_utf8(&with_brackets[verb.len()..]).expect("checked");
    assert_eq!(bare(&written.concat()), bare(argument));
    let again = format!("{verb}{}", written.join(" "));
    let again = match Command::parse(again.as_bytes()) {
        Command::Mail { path, params } | Command::Rcpt { path, params } => {
            std::iter::once(format!("<{path}>")).chain(params).collect::<Vec<_>>()
        }
        other => panic!("{other:?} is no path"),
    };
    assert_eq!(again, written);
}

/// The content, the bytes after its end, and the reported properties.
type Decoded = (Vec<u8>, Option<Vec<u8>>, Option<DataError>, bool, usize);

fn decoded<'a>(pieces: impl Iterator<Item = &'a [u8]>, bare: BareLineBreaks) -> Decoded {
    let mut decoder = DataDecoder::new(bare);
    let (mut input, mut out, mut ended) = (BytesMut::new(), BytesMut::new(), false);
    for piece in pieces {
        input.extend_from_slice(piece);
        ended = ended || decoder.decode(&mut input, &mut out);
        assert!(ended || input.len() <= 2, "more than two bytes stay");
    }
    let rest = ended.then(|| input.to_vec());
    (out.to_vec(), rest, decoder.error(), decoder.has_nul(), decoder.longest_line())
}

fn stuffed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut encoder, mut out) = (DataEncoder::new(), BytesMut::new());
    for piece in pieces {
        encoder.encode(piece, &mut out);
    }
    encoder.finish(&mut out);
    out.to_vec()
}

fn content(bytes: &[u8], piece: usize) {
    let wire = [b"\r\n", bytes].concat();
    let end = memchr::memmem::find(&wire, b"\r\n.\r\n");
    for bare in [BareLineBreaks::Reject, BareLineBreaks::Normalize] {
        let at_once = decoded(std::iter::once(bytes), bare);
        assert_eq!(decoded(bytes.chunks(piece), bare), at_once);
        let (out, rest, flaw, ..) = at_once;
        assert_eq!(rest.as_deref(), end.map(|end| &wire[end + 5..]));
        if let Some(end) = end {
            let before = &wire[..end + 2];
            assert_eq!(flaw.is_none(), has_only_crlf(before));
            assert_eq!(out.iter().any(|byte| *byte == 0), before.contains(&0));
            assert!(out.is_empty() || out.ends_with(b"\r\n"));
            if bare == BareLineBreaks::Normalize {
                goes_on(&out);
            }
        }
    }
    let sent = stuffed(bytes.chunks(piece));
    assert_eq!(sent, stuffed(std::iter::once(bytes)));
    let mut meant = bytes.to_vec();
    if !meant.is_empty() && !meant.ends_with(b"\r\n") {
        meant.extend_from_slice(b"\r\n");
    }
    let (out, rest, ..) = decoded(sent.chunks(piece), BareLineBreaks::Reject);
    assert_eq!((out, rest), (meant, Some(Vec::new())));
    goes_on(&with_crlf(bytes));
    chunks(bytes, piece);
}

/// Checks that normalized content has no other end when it is sent, even for servers that accept
/// any line break.
fn goes_on(content: &[u8]) {
    assert!(has_only_crlf(content));
    let sent = stuffed(std::iter::once(content));
    let mut lines = sent.split(|byte| matches!(byte, b'\r' | b'\n'));
    let dots = lines.by_ref().filter(|line| *line == b".").count();
    assert!(dots == 1 && (sent == b".\r\n" || sent.ends_with(b"\r\n.\r\n")));
}

fn chunks(bytes: &[u8], piece: usize) {
    let find = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut after_cr, mut first) = (false, None);
        for piece in pieces {
            let found = find_bare_line_break(piece, &mut after_cr);
            first = first.or(found);
        }
        first.or(after_cr.then_some(DataError::BareCarriageReturn))
    };
    let found = find(&mut bytes.chunks(piece));
    assert_eq!(found, find(&mut std::iter::once(bytes)));
    assert_eq!(found.is_none(), has_only_crlf(bytes));
}

fn answers<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<ServerReply>, Option<ReplyError>) {
    let (mut answers, mut found) = (ReplyReader::new(), Vec::new());
    for piece in pieces {
        answers.feed(piece);
        while let Some(answer) = answers.next_reply() {
            match answer {
                Ok(answer) => found.push(answer),
                Err(flaw) => return (found, Some(flaw)),
            }
        }
    }
    (found, None)
}

fn server(bytes: &[u8], piece: usize) {
    let (found, flaw) = answers(bytes.chunks(piece));
    assert_eq!((found.clone(), flaw), answers(std::iter::once(bytes)));
    let wire = found.iter().map(|answer| &answer.wire[..]).collect::<Vec<_>>().concat();
    assert!(bytes.starts_with(&wire), "an answer is not the server's own bytes");
    for answer in found {
        assert!(has_only_crlf(&answer.wire) && answer.wire.ends_with(b"\r\n"));
        let code = answer.code.to_string();
        let mut lines = answer.wire.split_inclusive(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            assert!(line.starts_with(code.as_bytes()), "another code");
            assert_eq!(line[3] == b'-', lines.peek().is_some());
        }
        let kinds = [answer.is_positive(), answer.is_intermediate(), answer.is_transient(), answer.is_permanent()];
        assert_eq!(kinds.iter().filter(|kind| **kind).count(), 1);
        let _ = (answer.enhanced(), Capabilities::from_lines(answer.text_lines()));
    }
}

fn logins(bytes: &[u8], mechanism: u8) {
    let mechanism = MECHANISMS[usize::from(mechanism) % MECHANISMS.len()];
    let encoded = Bytes::from(STANDARD.encode(bytes));
    for response in [encoded, Bytes::copy_from_slice(bytes)] {
        let Some(user) = parse_auth_user(mechanism, &[response]) else {
            continue;
        };
        assert!(!user.is_empty() && !user.contains(char::is_control));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let [first, second, bytes @ ..] = bytes else {
        return;
    };
    let (piece, longest) = (usize::from(*first) + 1, usize::from(*second) + 2);
    commands(bytes, piece, longest);
    content(bytes, piece);
    server(bytes, piece);
    logins(bytes, *second);
});
