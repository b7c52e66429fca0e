//! The envelope of one message as the rules see it: how far its client is trusted, which direction
//! it takes for each recipient, and who may have sent it. Computed once, for queries, plan and
//! texts.

use std::borrow::Cow;

use crate::directory::Lookup;
use crate::identity::{IdentityAnswers, IdentityQuery};
use crate::mail::{Address, Envelope, Recipient, Side};

use super::{AttributeOf, Direction, Rules};

/// How far the client of a message is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientTrust {
    /// Whether it sends as the organization. MAIL FROM alone never decides that: a forged one would
    /// let mail escape journaling.
    pub from_us: bool,
    /// Whether its mail to external addresses counts as outbound: a client that may relay does not
    /// always send as the organization.
    pub may_relay: bool,
    /// Whether the authors it names may add copies: it is trusted by its network or listener.
    pub is_trusted: bool,
    /// Whether it authenticated, by user name or certificate.
    pub is_authenticated: bool,
}

impl ClientTrust {
    /// Decides by AUTH, certificate, listener and network, in this order. Mail from a gateway is
    /// external. So is mail with a foreign sender from a trusted client that did not authenticate,
    /// such as a re-injecting filter, a list server or a backup MX: what it brings to the
    /// organization's people is inbound.
    pub fn of(envelope: &Envelope, rules: &Rules) -> ClientTrust {
        let (client, organization) = (&envelope.client, &rules.organization);
        let is_gateway = client.ip.is_some_and(|ip| organization.is_gateway(ip));
        let is_trusted = client.side == Some(Side::Internal)
            || client.side.is_none() && client.ip.is_some_and(|ip| organization.trusts(ip));
        let certificate = client.certificate.as_ref();
        let is_authenticated =
            client.user.is_some() || certificate.is_some_and(|one| organization.accepts(one));
        let from_us = match client.side {
            Some(Side::External) => return ClientTrust::default(),
            _ if is_gateway => return ClientTrust::default(),
            Some(Side::Internal) => true,
            None if is_authenticated => true,
            None if is_trusted => !has_foreign_sender(envelope, rules),
            None => return ClientTrust::default(),
        };
        ClientTrust {
            from_us,
            may_relay: true,
            is_trusted,
            is_authenticated,
        }
    }

    /// Returns the direction of a message from this client to one address.
    pub(super) fn direction(self, recipient: &Address, rules: &Rules) -> Direction {
        match rules.organization.has(recipient) {
            true if self.from_us => Direction::Internal,
            false if self.may_relay => Direction::Outbound,
            // External to external is mail that the MTA relays for others. In doubt it is
            // journaled.
            _ => Direction::Inbound,
        }
    }
}

fn has_foreign_sender(envelope: &Envelope, rules: &Rules) -> bool {
    let mut senders = envelope
        .sender
        .iter()
        .chain(&envelope.resolved_sender)
        .peekable();
    senders.peek().is_some() && !senders.any(|sender| rules.organization.has(sender))
}

/// The envelope of one message with everything that follows from it and the rules alone.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    pub(super) envelope: Cow<'a, Envelope>,
    pub(super) rules: &'a Rules,
    /// How far the client is trusted.
    pub client: ClientTrust,
    /// The direction for each recipient address as written, in the order of the envelope.
    pub directions: Vec<Direction>,
    /// Queries for everybody the sender may be: the reverse path, the authenticated user, the
    /// holder of a certificate, and the authors that a trusted client's message names. A user name
    /// cannot be forged; the reverse path identifies a shared mailbox.
    pub senders: Vec<IdentityQuery>,
}

impl<'a> Context<'a> {
    /// Computes the context of a message.
    pub fn new(envelope: &'a Envelope, rules: &'a Rules) -> Context<'a> {
        let client = ClientTrust::of(envelope, rules);
        let directions = envelope.recipient_addresses();
        Context {
            rules,
            client,
            directions: directions
                .map(|address| client.direction(address, rules))
                .collect(),
            senders: sender_queries(envelope, rules),
            envelope: Cow::Borrowed(envelope),
        }
    }

    /// Adds the authors that the message header names.
    pub fn with_authors(mut self, authors: Vec<Address>) -> Context<'a> {
        self.envelope.to_mut().header_authors = authors;
        self.senders = sender_queries(&self.envelope, self.rules);
        self
    }

    /// Returns the envelope.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Returns the recipients, each with the direction of its address as written.
    pub fn recipients(&self) -> impl Iterator<Item = (&Recipient, Direction)> {
        let directions = self.directions.iter().copied();
        self.envelope.recipients.iter().zip(directions)
    }

    /// Returns the identity queries that the plan needs, each once; empty if the settings alone
    /// decide.
    pub fn queries(&self) -> Vec<IdentityQuery> {
        let (client, rules) = (self.client, self.rules);
        let mut needs_senders = client.is_trusted && !client.from_us && authors_matter(rules);
        let mut queries = Vec::new();
        for (recipient, direction) in self.recipients() {
            if needs_recipient(direction, rules) {
                queries.extend(recipient_queries(recipient));
            }
            needs_senders |= counts_sender(direction, client, rules);
        }
        if needs_senders {
            queries.extend(self.senders.iter().cloned());
        }
        queries.sort_unstable();
        queries.dedup();
        queries
    }

    /// Whether the authors in the message header must be looked up as well: a trusted client that
    /// did not authenticate sends the message, and the reverse path is no person of the
    /// organization.
    pub fn needs_authors(&self, answers: &IdentityAnswers) -> bool {
        self.client.is_trusted
            && !self.client.is_authenticated
            && authors_matter(self.rules)
            && !self.senders.iter().any(|one| is_person(answers, one))
    }
}

fn sender_queries(envelope: &Envelope, rules: &Rules) -> Vec<IdentityQuery> {
    let client = &envelope.client;
    let sender = envelope.sender.iter().map(|address| IdentityQuery::Sender {
        address: address.clone(),
        mta: envelope.resolved_sender.clone(),
    });
    let user = client.user.iter().cloned().map(IdentityQuery::AuthUser);
    let certificate = client.certificate.iter();
    let certificate = certificate
        .filter(|one| rules.organization.accepts(one))
        .map(|one| IdentityQuery::AuthUser(one.subject.clone()));
    let authors = envelope.header_authors.iter();
    let authors = authors.map(|address| IdentityQuery::Sender {
        address: address.clone(),
        mta: None,
    });
    let queries = sender.chain(user).chain(certificate).chain(authors);
    let mut queries: Vec<IdentityQuery> = queries.collect();
    queries.dedup();
    queries
}

/// Returns the identity query for a recipient.
pub fn recipient_query(recipient: &Recipient) -> IdentityQuery {
    IdentityQuery::Recipient {
        address: recipient.address.clone(),
        mta: recipient.resolved.clone(),
    }
}

/// Returns the queries for a recipient and for the original recipient it was expanded from.
pub(super) fn recipient_queries(recipient: &Recipient) -> impl Iterator<Item = IdentityQuery> {
    let original = recipient
        .original
        .iter()
        .filter(|original| **original != recipient.address);
    let original = original.map(|original| IdentityQuery::Recipient {
        address: original.clone(),
        mta: None,
    });
    std::iter::once(recipient_query(recipient)).chain(original)
}

/// Whether a query found a person.
pub(super) fn is_person(answers: &IdentityAnswers, query: &IdentityQuery) -> bool {
    matches!(answers.get(query), Lookup::Found(owners) if !owners.people.is_empty())
}

/// Whether objects of people count in a direction: for journal attributes, or because any of them
/// may be exempt.
fn counts_people(direction: Direction, rules: &Rules) -> bool {
    !rules.of(direction).journal_attributes.is_empty() || rules.exempt_attribute.is_some()
}

/// Whether the people behind a recipient count.
pub(super) fn counts_recipient(direction: Direction, rules: &Rules) -> bool {
    counts_people(direction, rules)
        && match direction {
            Direction::Inbound | Direction::Internal => true,
            Direction::Outbound => rules.outbound_attribute_of != AttributeOf::Sender,
        }
}

/// Whether a recipient must be looked up; also if a group with external contacts could make
/// internal mail outbound.
pub(super) fn needs_recipient(direction: Direction, rules: &Rules) -> bool {
    let internal = &rules.internal.journal;
    let may_become_outbound = || {
        let mut outbound = rules.outbound.journal.iter();
        counts_people(Direction::Outbound, rules)
            || outbound.any(|target| !internal.contains(target))
    };
    counts_recipient(direction, rules) || direction == Direction::Internal && may_become_outbound()
}

/// Whether the people behind a sender count.
pub(super) fn counts_sender(direction: Direction, client: ClientTrust, rules: &Rules) -> bool {
    counts_people(direction, rules)
        && match direction {
            Direction::Inbound => false,
            Direction::Internal => client.from_us,
            Direction::Outbound => rules.outbound_attribute_of != AttributeOf::Recipient,
        }
}

/// Whether the author of a message could matter if a trusted client sends it with a foreign reverse
/// path.
fn authors_matter(rules: &Rules) -> bool {
    let mut ours = [Direction::Internal, Direction::Outbound].into_iter();
    ours.any(|direction| !rules.of(direction).journal_attributes.is_empty())
}
