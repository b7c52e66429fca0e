//! The sender and recipients of a message from the SMTP transaction, not from its header.

use std::fmt;
use std::net::IpAddr;

use super::Address;

/// The envelope of one mail transaction.
#[derive(Debug, Clone, Default)]
pub struct Envelope {
    /// The reverse path; `None` is the null one, `MAIL FROM:<>`.
    pub sender: Option<Address>,
    /// ESMTP parameters of MAIL, verbatim: `SIZE=1024`, `BODY=8BITMIME`.
    pub sender_params: Vec<String>,
    /// The accepted recipients, in order.
    pub recipients: Vec<Recipient>,
    /// The sender as the MTA resolved it, if different.
    pub resolved_sender: Option<Address>,
    /// The authors in the header, if a trusted client sent them and the reverse path names nobody
    /// of the organization. They may add copies, but never remove one.
    pub header_authors: Vec<Address>,
    /// The SMTP client that the MTA received the message from.
    pub client: Client,
    /// The MTA's queue ID of the message; empty if the hook does not know it.
    pub queue_id: String,
}

/// One recipient of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The forward path.
    pub address: Address,
    /// The address as the MTA resolved it, if different.
    pub resolved: Option<Address>,
    /// The original recipient before a server expanded it (`ORCPT`), if that server is trusted.
    pub original: Option<Address>,
    /// ESMTP parameters of RCPT, verbatim: `NOTIFY=FAILURE`.
    pub params: Vec<String>,
}

/// The SMTP client that the MTA received the message from.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// Its address; `None` for a Unix socket or an unknown address family.
    pub ip: Option<IpAddr>,
    /// Its host name as the MTA resolved it; empty if unknown.
    pub name: String,
    /// The HELO or EHLO name; empty if none was sent.
    pub helo: String,
    /// The authenticated user (SMTP AUTH), as the MTA reports it.
    pub user: Option<String>,
    /// The TLS client certificate that the MTA verified.
    pub certificate: Option<Certificate>,
    /// The MTA's listener (`{daemon_name}`); empty if unknown.
    pub daemon: String,
    /// Its side, if its listener serves one side only.
    pub side: Option<Side>,
}

/// The authenticated user, or else the address: `login imeier`, `192.0.2.1`.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, &self.ip) {
            (Some(user), _) => write!(f, "login {user}"),
            (None, Some(ip)) => ip.fmt(f),
            (None, None) => f.write_str("unknown address"),
        }
    }
}

/// The names in a TLS client certificate, as the MTA reports them (`{cert_subject}`,
/// `{cert_issuer}`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of the subject.
    pub subject: String,
    /// The common name of the issuer; in a setting, empty for any.
    pub issuer: String,
}

impl Certificate {
    /// Whether a setting with these names matches this certificate.
    pub fn covers(&self, other: &Certificate) -> bool {
        self.subject.eq_ignore_ascii_case(&other.subject)
            && (self.issuer.is_empty() || self.issuer.eq_ignore_ascii_case(&other.issuer))
    }
}

/// The side of the organization's border that a sender is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Inside: the sender belongs to the organization.
    Internal,
    /// Outside, whatever the sender's address is.
    External,
}

impl Recipient {
    /// Creates a recipient without parameters.
    pub fn new(address: Address) -> Recipient {
        Recipient {
            address,
            resolved: None,
            original: None,
            params: Vec::new(),
        }
    }
}

/// Returns the original recipient from parameters of RCPT (`ORCPT`, RFC 3461 section 4.2).
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

/// Decodes xtext, in which `+` and two hexadecimal digits are a byte (RFC 3461 section 4).
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
    /// Iterates over the addresses of the recipients, in order.
    pub fn recipient_addresses(&self) -> impl Iterator<Item = &Address> {
        self.recipients.iter().map(|recipient| &recipient.address)
    }

    /// Whether MAIL had the SMTPUTF8 parameter (RFC 6531).
    pub fn is_smtputf8(&self) -> bool {
        self.sender_params
            .iter()
            .any(|param| param.eq_ignore_ascii_case("SMTPUTF8"))
    }
}
