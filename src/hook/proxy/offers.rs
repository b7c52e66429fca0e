//! What the client is offered: of what the next server offers, that which travels through here.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use crate::smtp::ServerReply;

/// Extensions whose parameters, replies or commands pass as they are.
const PASSED: [&str; 10] = [
    "8BITMIME",
    "SMTPUTF8",
    "DSN",
    "ENHANCEDSTATUSCODES",
    "DELIVERBY",
    "MT-PRIORITY",
    "LIMITS",
    "VRFY",
    "EXPN",
    "HELP",
];

/// Mechanisms that end with the exchange: one that goes on to protect the connection, or is bound
/// to it, cannot pass through somebody who reads along.
const MECHANISMS: [&str; 9] = [
    "PLAIN",
    "LOGIN",
    "CRAM-MD5",
    "SCRAM-SHA-1",
    "SCRAM-SHA-256",
    "SCRAM-SHA-512",
    "XOAUTH2",
    "OAUTHBEARER",
    "NTLM",
];

/// Attributes of XFORWARD that are understood here, for next servers that do not take it.
const XFORWARD: &str = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE";

/// On what the offers depend, besides the next server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// The largest message that is taken, in bytes.
    pub(super) most: usize,
    /// Whether TLS can be begun now.
    pub(super) may_encrypt: bool,
    /// Whether a password may be said: the way to us is no less protected than the way from us.
    pub(super) may_log_in: bool,
    /// Whether the client may speak for others.
    pub(super) may_speak_for: bool,
}

/// What was offered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Offers {
    /// RFC 3030.
    pub(super) chunking: bool,
    /// RFC 4954.
    pub(super) auth: bool,
    /// The next server takes XCLIENT.
    pub(super) xclient: bool,
    /// The next server takes XFORWARD.
    pub(super) xforward: bool,
}

/// The answer to EHLO for the client, made of the next server's.
pub(super) fn offers(answer: &ServerReply, terms: Terms) -> (Offers, BytesMut) {
    let mut found = Offers::default();
    let mut given = answer.text_lines().map(Cow::into_owned);
    // Commands are taken one by one here, whatever the next server does.
    let mut lines = vec![given.next().unwrap_or_default(), "PIPELINING".to_owned()];
    let mut has_size = false;
    for line in given {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        match keyword.as_str() {
            "SIZE" => {
                has_size = true;
                let theirs = words.next().and_then(|size| size.parse().ok());
                lines.push(size(theirs, terms.most));
            }
            "CHUNKING" => {
                found.chunking = true;
                lines.push(line);
            }
            "AUTH" if terms.may_log_in => {
                let known = |word: &&str| {
                    MECHANISMS
                        .iter()
                        .any(|known| known.eq_ignore_ascii_case(word))
                };
                let mechanisms: Vec<&str> = words.filter(known).collect();
                if !mechanisms.is_empty() {
                    found.auth = true;
                    lines.push(format!("AUTH {}", mechanisms.join(" ")));
                }
            }
            "XCLIENT" if terms.may_speak_for => {
                found.xclient = true;
                lines.push(line);
            }
            "XFORWARD" if terms.may_speak_for => {
                found.xforward = true;
                lines.push(line);
            }
            passed if PASSED.contains(&passed) => lines.push(line),
            _ => {}
        }
    }
    if !has_size {
        lines.push(size(None, terms.most));
    }
    if terms.may_encrypt {
        lines.push("STARTTLS".to_owned());
    }
    if terms.may_speak_for && !found.xforward {
        lines.push(XFORWARD.to_owned());
    }
    (found, wire(answer.code, &lines))
}

/// The smaller of both limits; 0 says that there is none (RFC 1870 section 4).
fn size(theirs: Option<u64>, ours: usize) -> String {
    let ours = ours as u64;
    let size = theirs
        .filter(|size| *size > 0)
        .map_or(ours, |theirs| theirs.min(ours));
    format!("SIZE {size}")
}

fn wire(code: u16, lines: &[String]) -> BytesMut {
    let mut wire = BytesMut::new();
    for (number, line) in lines.iter().enumerate() {
        let last = number + 1 == lines.len();
        wire.extend_from_slice(code.to_string().as_bytes());
        wire.put_u8(if last { b' ' } else { b'-' });
        wire.extend_from_slice(line.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::ReplyReader;

    const TERMS: Terms = Terms {
        most: 1000,
        may_encrypt: false,
        may_log_in: true,
        may_speak_for: false,
    };

    fn offered(wire: &str, terms: Terms) -> (Offers, Vec<String>) {
        let mut answers = ReplyReader::new();
        answers.feed(wire.as_bytes());
        let answer = answers.next_reply().expect("whole").expect("sound");
        let (offers, wire) = offers(&answer, terms);
        let text = String::from_utf8(wire.to_vec()).expect("ASCII");
        let lines = text.split_terminator("\r\n");
        (offers, lines.map(str::to_owned).collect())
    }

    #[test]
    fn only_what_travels_through_is_offered() {
        let theirs = "250-mx.example.com at your service\r\n250-STARTTLS\r\n250-8BITMIME\r\n250-BINARYMIME\r\n\
                      250-AUTH GSSAPI PLAIN SCRAM-SHA-256-PLUS login\r\n250-X-EXPS GSSAPI\r\n250-XCLIENT ADDR\r\n\
                      250-CHUNKING\r\n250-SIZE 500\r\n250 ETRN\r\n";
        let (offers, lines) = offered(theirs, TERMS);
        assert_eq!(
            lines,
            [
                "250-mx.example.com at your service",
                "250-PIPELINING",
                "250-8BITMIME",
                "250-AUTH PLAIN login",
                "250-CHUNKING",
                "250 SIZE 500",
            ]
        );
        let expected = Offers {
            chunking: true,
            auth: true,
            ..Offers::default()
        };
        assert_eq!(offers, expected);
    }

    #[test]
    fn a_speaker_is_offered_to_speak_and_a_password_only_where_it_is_safe() {
        let theirs = "250-mx\r\n250-AUTH PLAIN\r\n250-XFORWARD ADDR\r\n250 XCLIENT ADDR\r\n";
        let terms = Terms {
            may_encrypt: true,
            may_log_in: false,
            may_speak_for: true,
            ..TERMS
        };
        let (offers, lines) = offered(theirs, terms);
        assert_eq!(
            lines,
            [
                "250-mx",
                "250-PIPELINING",
                "250-XFORWARD ADDR",
                "250-XCLIENT ADDR",
                "250-SIZE 1000",
                "250 STARTTLS"
            ]
        );
        assert!(offers.xclient && offers.xforward && !offers.auth);
    }

    #[test]
    fn the_smaller_limit_on_size_counts() {
        for (theirs, ours) in [
            ("SIZE", 1000),
            ("SIZE 0", 1000),
            ("SIZE 999", 999),
            ("SIZE 1001", 1000),
        ] {
            let (_, lines) = offered(&format!("250-mx\r\n250 {theirs}\r\n"), TERMS);
            assert_eq!(lines[2], format!("250 SIZE {ours}"), "{theirs}");
        }
    }
}
