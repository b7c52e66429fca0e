//! Commands: the packets from an MTA to a filter.
//!
//! One packet is one [`Command`], borrowed from the receive buffer. Strings are bytes that end in
//! NUL, not necessarily UTF-8. [`Command::encode`] is the MTA's side, for tests and for the
//! demonstration. Pure; a payload that does not match its letter is a [`PacketError`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};

use super::frame::{Frame, PacketError, Reader, put, put_string};
use super::negotiation::{Actions, Offer, Steps};
use super::strings::Strings;

/// One packet from an MTA; each variant's documentation begins with its letter on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// `O`: the MTA's offer.
    Negotiate(Offer),
    /// `D`: macros for the command that follows.
    Macros {
        /// The command that follows.
        stage: Stage,
        /// Alternating names and values.
        pairs: Strings<'a>,
    },
    /// `C`: an SMTP client connected.
    Connect {
        /// Its host name, or its address in brackets.
        hostname: &'a [u8],
        /// The client's address.
        client: ClientAddress<'a>,
    },
    /// `H`: HELO or EHLO with this name.
    Helo(&'a [u8]),
    /// `M`: MAIL; the reverse path, then ESMTP parameters.
    Mail(Strings<'a>),
    /// `R`: RCPT; the forward path, then ESMTP parameters.
    Rcpt(Strings<'a>),
    /// `T`: DATA.
    Data,
    /// `L`: one header field.
    Header {
        /// The field name.
        name: &'a [u8],
        /// The field value; lines are separated by a bare LF.
        value: &'a [u8],
    },
    /// `N`: the empty line after the header.
    EndOfHeader,
    /// `B`: a body chunk.
    Body(&'a [u8]),
    /// `E`: the end of the message; may carry a last body chunk.
    EndOfMessage(&'a [u8]),
    /// `A`: the message is aborted.
    Abort,
    /// `Q`: the end of the connection.
    Quit,
    /// `K`: the end of the SMTP session; another one follows on this connection.
    QuitNewConnection,
    /// `U`: an SMTP command that the MTA does not know.
    Unknown(&'a [u8]),
}

/// The command that macros were sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `C`
    Connect,
    /// `H`
    Helo,
    /// `M`
    Mail,
    /// `R`
    Rcpt,
    /// `T`
    Data,
    /// `L`: only Postfix sends these; the values are those of the end of the header.
    Header,
    /// `N`
    EndOfHeader,
    /// `B`: only Postfix sends these; the values are those of the end of the message.
    Body,
    /// `E`
    EndOfMessage,
    /// `U`
    Unknown,
}

const STAGES: [(u8, Stage); 10] = [
    (b'L', Stage::Header),
    (b'R', Stage::Rcpt),
    (b'B', Stage::Body),
    (b'E', Stage::EndOfMessage),
    (b'N', Stage::EndOfHeader),
    (b'M', Stage::Mail),
    (b'T', Stage::Data),
    (b'C', Stage::Connect),
    (b'H', Stage::Helo),
    (b'U', Stage::Unknown),
];

/// The address of an SMTP client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress<'a> {
    /// `U`: the MTA does not know.
    Unknown,
    /// `L`: a Unix socket with this path.
    Local(&'a [u8]),
    /// `4` and `6`: an IP address and a port; 0 if the port is unknown.
    Inet(IpAddr, u16),
}

impl<'a> Command<'a> {
    /// Decodes a packet from an MTA.
    pub fn decode(frame: Frame<'a>) -> Result<Command<'a>, PacketError> {
        let mut reader = Reader::new(frame);
        // Ordered by frequency; a busy connection is mostly fields and chunks.
        let command = match frame.kind {
            b'L' => Command::Header {
                name: reader.string("unterminated field name")?,
                value: reader.last_string("unterminated field value")?,
            },
            b'D' => macros(&mut reader)?,
            b'B' => Command::Body(reader.remainder()),
            b'R' => Command::Rcpt(path(&mut reader)?),
            b'M' => Command::Mail(path(&mut reader)?),
            b'E' => Command::EndOfMessage(reader.remainder()),
            b'N' => Command::EndOfHeader,
            b'T' => Command::Data,
            b'A' => Command::Abort,
            b'Q' => Command::Quit,
            b'K' => Command::QuitNewConnection,
            b'C' => connect(&mut reader)?,
            b'H' => Command::Helo(reader.last_string("unterminated name")?),
            b'U' => Command::Unknown(reader.last_string("unterminated command")?),
            b'O' => Command::Negotiate(offer(&mut reader)?),
            kind => return Err(PacketError::Unknown { kind }),
        };
        reader.finish(command)
    }

    /// Appends the packet as an MTA sends it. NULs inside strings are dropped.
    pub fn encode(&self, out: &mut BytesMut) {
        match *self {
            Command::Negotiate(offer) => put(out, b'O', |out| put_offer(out, offer)),
            Command::Macros { stage, pairs } => put(out, b'D', |out| {
                out.put_u8(stage.letter());
                out.extend_from_slice(pairs.bytes());
            }),
            Command::Connect { hostname, client } => put(out, b'C', |out| {
                put_string(out, hostname);
                put_client(out, client);
            }),
            Command::Helo(name) => put(out, b'H', |out| put_string(out, name)),
            Command::Mail(path) => put(out, b'M', |out| out.extend_from_slice(path.bytes())),
            Command::Rcpt(path) => put(out, b'R', |out| out.extend_from_slice(path.bytes())),
            Command::Data => put(out, b'T', |_| ()),
            Command::Header { name, value } => put(out, b'L', |out| {
                put_string(out, name);
                put_string(out, value);
            }),
            Command::EndOfHeader => put(out, b'N', |_| ()),
            Command::Body(chunk) => put(out, b'B', |out| out.extend_from_slice(chunk)),
            Command::EndOfMessage(chunk) => put(out, b'E', |out| out.extend_from_slice(chunk)),
            Command::Abort => put(out, b'A', |_| ()),
            Command::Quit => put(out, b'Q', |_| ()),
            Command::QuitNewConnection => put(out, b'K', |_| ()),
            Command::Unknown(command) => put(out, b'U', |out| put_string(out, command)),
        }
    }

    /// Returns the name of the command for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Negotiate(_) => "negotiation",
            Command::Macros { .. } => "macros",
            Command::Connect { .. } => "connect",
            Command::Helo(_) => "HELO",
            Command::Mail(_) => "MAIL",
            Command::Rcpt(_) => "RCPT",
            Command::Data => "DATA",
            Command::Header { .. } => "header field",
            Command::EndOfHeader => "end of header",
            Command::Body(_) => "body",
            Command::EndOfMessage(_) => "end of message",
            Command::Abort => "abort",
            Command::Quit => "quit",
            Command::QuitNewConnection => "quit with a new connection",
            Command::Unknown(_) => "unknown SMTP command",
        }
    }
}

impl Stage {
    fn of(letter: u8) -> Option<Stage> {
        let found = STAGES.iter().find(|(known, _)| *known == letter);
        found.map(|(_, stage)| *stage)
    }

    fn letter(self) -> u8 {
        let found = STAGES.iter().find(|(_, stage)| *stage == self);
        found
            .map(|(letter, _)| *letter)
            .expect("the table has every stage")
    }
}

fn macros<'a>(reader: &mut Reader<'a>) -> Result<Command<'a>, PacketError> {
    let letter = reader.u8("no stage")?;
    let stage = Stage::of(letter).ok_or_else(|| reader.malformed("unknown macro stage"))?;
    let pairs = Strings::new(reader.remainder())
        .ok_or_else(|| reader.malformed("unterminated macro value"))?;
    // After an odd count, names would be read as values.
    if !memchr::memchr_iter(0, pairs.bytes())
        .count()
        .is_multiple_of(2)
    {
        return Err(reader.malformed("macro without a value"));
    }
    Ok(Command::Macros { stage, pairs })
}

fn path<'a>(reader: &mut Reader<'a>) -> Result<Strings<'a>, PacketError> {
    let bytes = reader.remainder();
    if bytes.is_empty() {
        return Err(reader.malformed("no path"));
    }
    Strings::new(bytes).ok_or_else(|| reader.malformed("unterminated string"))
}

fn connect<'a>(reader: &mut Reader<'a>) -> Result<Command<'a>, PacketError> {
    let hostname = reader.string("unterminated host name")?;
    let client = match reader.u8("no address family")? {
        b'U' => {
            // The rest has no meaning; libmilter ignores it, too.
            reader.remainder();
            ClientAddress::Unknown
        }
        family @ (b'L' | b'4' | b'6') => {
            let port = reader.u16("truncated port")?;
            let address = reader.last_string("unterminated address")?;
            if family == b'L' {
                ClientAddress::Local(address)
            } else {
                let ip = ip(family, address)
                    .ok_or_else(|| reader.malformed("address does not match its family"))?;
                ClientAddress::Inet(ip, port)
            }
        }
        _ => return Err(reader.malformed("unknown address family")),
    };
    Ok(Command::Connect { hostname, client })
}

/// Parses an address. IPv6 addresses come plain, with the `IPv6:` of an SMTP address literal
/// (Sendmail), or with the zone of a link-local address.
fn ip(family: u8, text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if family == b'4' {
        return text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let text = match text.get(..5) {
        Some(prefix) if prefix.eq_ignore_ascii_case("IPv6:") => &text[5..],
        _ => text,
    };
    let address = text
        .split_once('%')
        .map_or(text, |(address, _zone)| address);
    address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn put_client(out: &mut BytesMut, client: ClientAddress<'_>) {
    match client {
        ClientAddress::Unknown => out.put_u8(b'U'),
        ClientAddress::Local(path) => {
            out.put_u8(b'L');
            out.put_u16(0);
            put_string(out, path);
        }
        ClientAddress::Inet(ip, port) => {
            out.put_u8(if ip.is_ipv4() { b'4' } else { b'6' });
            out.put_u16(port);
            put_string(out, ip.to_string().as_bytes());
        }
    }
}

pub(super) fn offer(reader: &mut Reader<'_>) -> Result<Offer, PacketError> {
    let short = "truncated negotiation";
    let offer = Offer {
        version: reader.u32(short)?,
        actions: Actions::from_bits(reader.u32(short)?),
        steps: Steps::from_bits(reader.u32(short)?),
    };
    Ok(offer)
}

pub(super) fn put_offer(out: &mut BytesMut, offer: Offer) {
    out.put_u32(offer.version);
    out.put_u32(offer.actions.bits());
    out.put_u32(offer.steps.bits());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(kind: u8, payload: &[u8]) -> Result<Command<'_>, PacketError> {
        Command::decode(Frame { kind, payload })
    }

    #[test]
    fn every_command_reads_as_it_was_written() {
        let pairs = Strings::pack(["i", "4XyZ", "{auth_authen}", ""]);
        let path = Strings::pack(["<ana@corp.example>", "SIZE=12", "BODY=8BITMIME"]);
        let strings = |packed| Strings::new(packed).expect("packed strings end in NUL");
        let offer = Offer {
            version: 6,
            actions: Actions::from_bits(0x1ff),
            steps: Steps::from_bits(0x1f_ffff),
        };
        let v6 = IpAddr::V6("2001:db8::1".parse().expect("an address"));
        let mut commands = vec![
            Command::Negotiate(offer),
            Command::Connect {
                hostname: b"pc.example",
                client: ClientAddress::Inet([192, 0, 2, 1].into(), 4711),
            },
            Command::Connect {
                hostname: b"[2001:db8::1]",
                client: ClientAddress::Inet(v6, 0),
            },
            Command::Connect {
                hostname: b"localhost",
                client: ClientAddress::Local(b"/run/s"),
            },
            Command::Connect {
                hostname: b"x",
                client: ClientAddress::Unknown,
            },
            Command::Helo(b""),
            Command::Mail(strings(&path)),
            Command::Rcpt(strings(&path)),
            Command::Data,
            Command::Header {
                name: b"Subject",
                value: b" a\n b",
            },
            Command::EndOfHeader,
            Command::Body(b"\0\r\n"),
            Command::EndOfMessage(b""),
            Command::Abort,
            Command::Quit,
            Command::QuitNewConnection,
            Command::Unknown(b"XFOO bar"),
        ];
        for (_, stage) in STAGES {
            let pairs = strings(&pairs);
            commands.push(Command::Macros { stage, pairs });
        }
        for command in commands {
            let mut wire = BytesMut::new();
            command.encode(&mut wire);
            assert_eq!(decode(wire[4], &wire[5..]), Ok(command));
        }
    }

    #[test]
    fn addresses_are_read_in_every_spelling() {
        let at = |payload| match decode(b'C', payload) {
            Ok(Command::Connect {
                client: ClientAddress::Inet(ip, port),
                ..
            }) => Some((ip.to_string(), port)),
            _ => None,
        };
        let is = |ip: &str, port| Some((ip.to_owned(), port));
        assert_eq!(at(b"h\x004\x12\x67192.0.2.1\0"), is("192.0.2.1", 4711));
        assert_eq!(at(b"h\x006\0\x192001:db8::1\0"), is("2001:db8::1", 25));
        assert_eq!(at(b"h\x006\0\x19IPv6:2001:db8::1\0"), is("2001:db8::1", 25));
        assert_eq!(at(b"h\x006\0\x19fe80::1%eth0\0"), is("fe80::1", 25));
        for not in [
            &b"h\x004\0\x192001:db8::1\0"[..],
            b"h\x006\0\x19192.0.2.1\0",
            b"h\x004\0\x19192.0.2.1",
            b"h\x004\0\x19\0",
            b"h\x004\0",
            b"h\x009\0\x19192.0.2.1\0",
            b"h\0",
            b"h",
        ] {
            assert!(
                matches!(decode(b'C', not), Err(PacketError::Malformed { .. })),
                "{not:?}"
            );
        }
    }

    #[test]
    fn payloads_that_do_not_match_are_rejected() {
        for (kind, payload) in [
            (b'O', &b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff"[..]),
            (b'O', b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff\0"),
            (b'D', b""),
            (b'D', b"Ci\0"),
            (b'D', b"Ci\0x"),
            (b'D', b"Q"),
            (b'H', b""),
            (b'H', b"pc.example"),
            (b'M', b""),
            (b'M', b"<>"),
            (b'R', b"<a@b>\0NOTIFY=NEVER"),
            (b'L', b"Subject\0"),
            (b'L', b"Subject\0 x"),
            (b'T', b"x"),
            (b'N', b"\0"),
            (b'A', b"\0"),
            (b'Q', b"x"),
            (b'K', b"x"),
            (b'U', b"X"),
        ] {
            let found = decode(kind, payload);
            assert!(
                matches!(found, Err(PacketError::Malformed { kind: k, .. }) if k == kind),
                "{} {payload:?}: {found:?}",
                kind as char
            );
        }
        assert_eq!(decode(b'Z', b""), Err(PacketError::Unknown { kind: b'Z' }));
    }

    proptest! {
        #[test]
        fn no_payload_panics(kind: u8, payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(kind, &payload);
        }

        #[test]
        fn parsed_packets_are_written_back_the_same(
            kind in prop::sample::select(b"ODCHMRTLNBEAQKU".to_vec()),
            payload in prop::collection::vec(prop::sample::select(b"\0\0\0 iCLU4ab\n\xff".to_vec()), 0..16),
        ) {
            if let Ok(command) = decode(kind, &payload) {
                let mut wire = BytesMut::new();
                command.encode(&mut wire);
                let again = decode(wire[4], &wire[5..]).expect("what was written can be read");
                let mut twice = BytesMut::new();
                again.encode(&mut twice);
                prop_assert_eq!(wire, twice);
            }
        }
    }
}
