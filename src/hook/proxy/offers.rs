//! EHLO keywords for the client: those of the next hop that work through the proxy.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use crate::smtp::ServerReply;

/// Extensions whose parameters, replies and commands pass unchanged.
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

/// SASL mechanisms that can be proxied: one that protects the connection afterwards, or is bound to
/// it, cannot.
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

/// XFORWARD attributes that Copyist understands itself, if the next hop does not offer XFORWARD.
const XFORWARD: &str = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE";

/// Conditions for the offers, besides the next hop's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfferConditions {
    /// Largest message accepted, in bytes.
    pub(super) max_message_size: usize,
    /// Whether STARTTLS is possible now.
    pub(super) may_encrypt: bool,
    /// Whether AUTH is allowed: the connection from the client is protected no less than the one to
    /// the next hop.
    pub(super) may_authenticate: bool,
    /// Whether the client may use XCLIENT and XFORWARD.
    pub(super) may_forward_identity: bool,
}

/// The extensions offered to the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OfferedExtensions {
    /// BDAT (RFC 3030).
    pub(super) chunking: bool,
    /// AUTH (RFC 4954).
    pub(super) auth: bool,
    /// The next hop offers XCLIENT.
    pub(super) xclient: bool,
    /// The next hop offers XFORWARD.
    pub(super) xforward: bool,
}

/// Builds the client's EHLO reply from the next hop's.
pub(super) fn offers(
    answer: &ServerReply,
    terms: OfferConditions,
) -> (OfferedExtensions, BytesMut) {
    let mut found = OfferedExtensions::default();
    let mut given = answer.text_lines().map(Cow::into_owned);
    // Copyist itself accepts pipelined commands, whatever the next hop does.
    let mut lines = vec![given.next().unwrap_or_default(), "PIPELINING".to_owned()];
    let mut has_size = false;
    for line in given {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        match keyword.as_str() {
            "SIZE" => {
                has_size = true;
                let theirs = words.next().and_then(|size| size.parse().ok());
                lines.push(size(theirs, terms.max_message_size));
            }
            "CHUNKING" => {
                found.chunking = true;
                lines.push(line);
            }
            "AUTH" if terms.may_authenticate => {
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
            "XCLIENT" if terms.may_forward_identity => {
                found.xclient = true;
                lines.push(line);
            }
            "XFORWARD" if terms.may_forward_identity => {
                found.xforward = true;
                lines.push(line);
            }
            passed if PASSED.contains(&passed) => lines.push(line),
            _ => {}
        }
    }
    if !has_size {
        lines.push(size(None, terms.max_message_size));
    }
    if terms.may_encrypt {
        lines.push("STARTTLS".to_owned());
    }
    if terms.may_forward_identity && !found.xforward {
        lines.push(XFORWARD.to_owned());
    }
    (found, wire(answer.code, &lines))
}

/// Returns the smaller of both limits; 0 means no limit (RFC 1870 section 4).
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

    const TERMS: OfferConditions = OfferConditions {
        max_message_size: 1000,
        may_encrypt: false,
        may_authenticate: true,
        may_forward_identity: false,
    };

    fn offered(wire: &str, terms: OfferConditions) -> (OfferedExtensions, Vec<String>) {
        let mut answers = ReplyReader::new();
        answers.feed(wire.as_bytes());
        let answer = answers.next_reply().expect("whole").expect("sound");
        let (offers, wire) = offers(&answer, terms);
        let text = String::from_utf8(wire.to_vec()).expect("ASCII");
        let lines = text.split_terminator("\r\n");
        (offers, lines.map(str::to_owned).collect())
    }

    #[test]
    fn only_transparent_extensions_are_offered() {
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
        let expected = OfferedExtensions {
            chunking: true,
            auth: true,
            ..OfferedExtensions::default()
        };
        assert_eq!(offers, expected);
    }

    #[test]
    fn xclient_is_offered_to_forwarders_and_auth_only_if_allowed() {
        let theirs = "250-mx\r\n250-AUTH PLAIN\r\n250-XFORWARD ADDR\r\n250 XCLIENT ADDR\r\n";
        let terms = OfferConditions {
            may_encrypt: true,
            may_authenticate: false,
            may_forward_identity: true,
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
