//! Who a message is from and for, as the SMTP transaction said it (not as its headers claim).

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
    /// Further addresses to look up: what the MTA makes of the sender's and the recipients', where it reads them
    /// otherwise than we do.
    pub rewritten: Rewritten,
    /// Who handed the message to the MTA.
    pub client: Client,
    /// The MTA's name for the message; empty where the hook does not know it.
    pub queue_id: String,
}

/// Addresses as the MTA reads them, where that differs from how the transaction wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The sender's.
    pub sender: Option<Address>,
    /// Those of recipients, in no order.
    pub recipients: Vec<Address>,
}

/// One recipient of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The forward path.
    pub address: Address,
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
    /// The MTA's listener (`{daemon_name}`); empty where unknown.
    pub daemon: String,
    /// Which side it is on, where the listener that it came in by is for one side alone.
    pub side: Option<Side>,
}

/// Which side of the organization's border a sender is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// One of the organization.
    Ours,
    /// Anybody else, whatever address they are at.
    Outside,
}

impl Envelope {
    /// The addresses of the recipients, in order.
    pub fn recipient_addresses(&self) -> impl Iterator<Item = &Address> {
        self.recipients.iter().map(|recipient| &recipient.address)
    }

    /// The addresses of the recipients, and what the MTA makes of them.
    pub fn recipients_in_all_readings(&self) -> impl Iterator<Item = &Address> {
        self.recipient_addresses().chain(&self.rewritten.recipients)
    }

    /// Whether the transaction was opened with SMTPUTF8 (RFC 6531).
    pub fn is_smtputf8(&self) -> bool {
        self.sender_params
            .iter()
            .any(|param| param.eq_ignore_ascii_case("SMTPUTF8"))
    }
}
