//! The data that an MTA sends about one message.
//!
//! Values are as the SMTP client and the MTA gave them, without interpretation. Text that is not
//! UTF-8 is decoded lossily; the message itself is bytes.

use std::net::IpAddr;

use bytes::Bytes;

use super::command::ClientAddress;
use super::macros::Macros;
use super::strings::Strings;

/// The SMTP client that is connected to the MTA.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// The host name, or the address in brackets if it has none; empty if the MTA did not send it.
    pub hostname: String,
    /// The address; `None` for a Unix socket or if the MTA does not know it.
    pub ip: Option<IpAddr>,
    /// The port; 0 if unknown.
    pub port: u16,
}

/// A reverse or forward path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path {
    /// As the SMTP client sent it, with its angle brackets if it had any; `<>` is the null reverse
    /// path. Bytes that are not UTF-8 become U+FFFD.
    pub address: String,
    /// As the MTA resolved it (`{mail_addr}`, `{rcpt_addr}`): Postfix reads `example.com!ana` and
    /// `ana%example.com@example.com` as `ana@example.com`. Empty if the MTA did not send it.
    pub resolved: String,
    /// ESMTP parameters, verbatim: `SIZE=1024`, `NOTIFY=NEVER`.
    pub params: Vec<String>,
}

/// The transaction while its envelope is still arriving.
#[derive(Debug, Clone, Copy)]
pub struct PartialTransaction<'a> {
    /// The SMTP client.
    pub connection: &'a Peer,
    /// Its HELO name; empty if none was sent.
    pub helo: &'a str,
    /// The reverse path.
    pub sender: &'a Path,
    /// The recipients accepted before this one.
    pub recipients: &'a [Path],
    /// The macros sent so far.
    pub macros: &'a Macros,
}

/// One message with all data that the MTA sent about it.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// The SMTP client.
    pub connection: Peer,
    /// Its HELO name; empty if none was sent.
    pub helo: String,
    /// The reverse path.
    pub sender: Path,
    /// The recipients accepted by the MTA and by this filter, in order. Recipients that a later
    /// filter rejected are among them: the MTA does not say.
    pub recipients: Vec<Path>,
    /// The macros, innermost first.
    pub macros: Macros,
    /// Bytes of the message already handed over ([`super::Handler::take_chunk`]).
    pub handed_over: usize,
    /// Size of the header in bytes, with the empty line.
    pub header: usize,
    /// Header, empty line and body without the bytes already handed over, so all of a message that
    /// is not large.
    pub message: Bytes,
}

impl Transaction {
    /// Returns the MTA's queue ID of the message (macro `i`); empty if it did not send one.
    pub fn queue_id(&self) -> &str {
        self.macros.get("i").unwrap_or_default()
    }
}

impl Peer {
    pub(super) fn new(hostname: &[u8], client: ClientAddress<'_>) -> Peer {
        let (ip, port) = match client {
            ClientAddress::Inet(ip, port) => (Some(ip), port),
            ClientAddress::Local(_) | ClientAddress::Unknown => (None, 0),
        };
        Peer {
            hostname: String::from_utf8_lossy(hostname).into_owned(),
            ip,
            port,
        }
    }
}

impl Path {
    /// Returns the memory that the path takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let params = self
            .params
            .iter()
            .map(|param| param.len() + size_of::<String>());
        self.address.len() + self.resolved.len() + params.sum::<usize>()
    }

    /// Returns the message size that the sender announced with SIZE (RFC 1870).
    pub(super) fn size(&self) -> Option<usize> {
        self.params.iter().find_map(|param| {
            let (key, value) = param.split_once('=')?;
            key.eq_ignore_ascii_case("SIZE")
                .then(|| value.parse().ok())?
        })
    }
}

impl From<Strings<'_>> for Path {
    fn from(strings: Strings<'_>) -> Path {
        let mut strings = strings
            .iter()
            .map(|string| String::from_utf8_lossy(string).into_owned());
        Path {
            address: strings.next().unwrap_or_default(),
            resolved: String::new(),
            params: strings.collect(),
        }
    }
}
