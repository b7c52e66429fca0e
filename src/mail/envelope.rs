//! Who a message is from and for, as the SMTP transaction said it (not as its headers claim).

use std::fmt;
use std::net::IpAddr;

use super::Address;

/// One mail transaction's envelope.
#[derive(Debug, Clone, Default)]
pub struct Envelope {
    /// The reverse path; `None` is the null one, `MAIL FROM:<>`.
    pub sender: Option<Address>,
    /// ESMTP parameters of MAIL, verbatim: `SIZE=1024`, `BODY=8BITMIME`.
    pub sender_params: Vec<String>,
    /// The accepted recipients, in the order they were given.
    pub recipients: Vec<Recipient>,
    /// The sender as the MTA reads it, where that differs.
    pub resolved_sender: Option<Address>,
    /// The authors that the header names, where somebody trusted says them and the reverse path
    /// names nobody of ours. They may add copies, and never take one away.
    pub header_authors: Vec<Address>,
    /// Who handed the message to the MTA.
    pub client: Client,
    /// The MTA's name for the message; empty where the hook does not know it.
    pub queue_id: String,
}

/// One recipient of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The forward path.
    pub address: Address,
    /// The same as the MTA reads it, where that differs.
    pub resolved: Option<Address>,
    /// Whom the message was for before a server expanded it (`ORCPT`), where that server is
    /// believed.
    pub original: Option<Address>,
    /// ESMTP parameters of RCPT, verbatim: `NOTIFY=FAILURE`.
    pub params: Vec<String>,
}

/// The SMTP client that the MTA received the message from.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// Its address; `None` for a Unix socket or an unknown family.
    pub ip: Option<IpAddr>,
    /// Its host name as the MTA resolved it; empty where unknown.
    pub name: String,
    /// The HELO or EHLO name; empty where none was given.
    pub helo: String,
    /// The user that authenticated (SMTP AUTH), as the MTA reports it.
    pub user: Option<String>,
    /// The TLS client certificate that the MTA verified.
    pub certificate: Option<Certificate>,
    /// The MTA's listener (`{daemon_name}`); empty where unknown.
    pub daemon: String,
    /// Which side it is on, where the listener that it came in by is for one side alone.
    pub side: Option<Side>,
}

/// The login, or else the address: `login imeier`, `192.0.2.1`.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, &self.ip) {
            (Some(user), _) => write!(f, "login {user}"),
            (None, Some(ip)) => ip.fmt(f),
            (None, None) => f.write_str("unknown address"),
        }
    }
}

/// Names in a TLS client certificate, as the MTA reports them (`{cert_subject}`, `{cert_issuer}`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its holder.
    pub subject: String,
    /// The common name of who signed it; empty for any in a setting.
    pub issuer: String,
}

impl Certificate {
    /// Whether a setting with these names means this certificate.
    pub fn covers(&self, other: &Certificate) -> bool {
        self.subject.eq_ignore_ascii_case(&other.subject)
            && (self.issuer.is_empty() || self.issuer.eq_ignore_ascii_case(&other.issuer))
    }
}

/// Which side of the organization's border a sender is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// One of the organization.
    Internal,
    /// Anybody else, whatever address they are at.
    External,
}

impl Recipient {
    /// A recipient without parameters, read as it is written.
    pub fn new(address: Address) -> Recipient {
        Recipient {
            address,
            resolved: None,
            original: None,
            params: Vec::new(),
        }
    }
}

/// The original recipient that parameters of RCPT name (`ORCPT`, RFC 3461 section 4.2).
pub fn original_recipient(params: &[String]) -> Option<Address> {
    let value = params.iter().find_map(|param| {
        let (name, value) = param.split_once('=')?;
        name.eq_ignore_ascii_case("ORCPT").then_some(value)
    })?;
    let (kind, text) = value.split_once(';')?;
    let is_mail = ["rfc822", "utf-8"]
        .iter()
        .any(|known| kind.eq_ignore_ascii_case(known));
    is_mail.then(|| Address::parse(&from_xtext(text)?).ok())?
}

/// Text in which `+` and two hexadecimal digits stand for a byte (RFC 3461 section 4).
fn from_xtext(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

impl Envelope {
    /// The addresses of the recipients, in order.
    pub fn recipient_addresses(&self) -> impl Iterator<Item = &Address> {
        self.recipients.iter().map(|recipient| &recipient.address)
    }

    /// Whether the transaction was opened with SMTPUTF8 (RFC 6531).
    pub fn is_smtputf8(&self) -> bool {
        self.sender_params
            .iter()
            .any(|param| param.eq_ignore_ascii_case("SMTPUTF8"))
    }
}
