//! What an MTA tells about a message, put together.
//!
//! Values as the SMTP client and the MTA gave them; what they mean is for others to say. Text that
//! is not UTF-8 is read lossily, the message itself is bytes.

use std::net::IpAddr;

use bytes::Bytes;

use super::command::ClientAddress;
use super::macros::Macros;
use super::strings::Strings;

/// Who is connected to the MTA, as the MTA told it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// The host name, or the address in brackets where it has none; empty if the MTA did not tell.
    pub hostname: String,
    /// The address; `None` for a Unix socket and where the MTA does not know.
    pub ip: Option<IpAddr>,
    /// The port; 0 where unknown.
    pub port: u16,
}

/// A reverse or forward path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path {
    /// As the SMTP client gave it, with its angle brackets if it had any; `<>` is the null reverse
    /// path. Bytes that are not UTF-8 become U+FFFD.
    pub address: String,
    /// What the MTA makes of it, where it told (`{mail_addr}`, `{rcpt_addr}`): Postfix reads
    /// `example.com!ana` and `ana%example.com@example.com` as `ana@example.com`. Empty where it did
    /// not.
    pub resolved: String,
    /// ESMTP parameters, verbatim: `SIZE=1024`, `NOTIFY=NEVER`.
    pub params: Vec<String>,
}

/// What is known while the envelope is still being told.
#[derive(Debug, Clone, Copy)]
pub struct PartialTransaction<'a> {
    /// The SMTP client.
    pub connection: &'a Peer,
    /// Its HELO name; empty where none was told.
    pub helo: &'a str,
    /// The reverse path.
    pub sender: &'a Path,
    /// The recipients accepted before this one.
    pub recipients: &'a [Path],
    /// The macros sent so far.
    pub macros: &'a Macros,
}

/// One message with all that the MTA told about it.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// The SMTP client.
    pub connection: Peer,
    /// Its HELO name; empty where none was told.
    pub helo: String,
    /// The reverse path.
    pub sender: Path,
    /// The recipients that the MTA and we accepted, in order. One that another filter after us
    /// refused is among them: nobody tells us.
    pub recipients: Vec<Path>,
    /// The macros, innermost first.
    pub macros: Macros,
    /// Bytes of the message that were handed over before ([`super::Handler::piece`]).
    pub handed_over: usize,
    /// Bytes of the header, the empty line included.
    pub header: usize,
    /// Header, empty line, body: what was not handed over before, and so all of it where it is not
    /// large.
    pub message: Bytes,
}

impl Transaction {
    /// The MTA's name for the message (macro `i`); empty where it did not say.
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
    /// How much memory its texts take.
    pub(super) fn bytes(&self) -> usize {
        let params = self
            .params
            .iter()
            .map(|param| param.len() + size_of::<String>());
        self.address.len() + self.resolved.len() + params.sum::<usize>()
    }

    /// What the sender announced with SIZE (RFC 1870).
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
