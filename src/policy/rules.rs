//! The journaling rules; built by `config`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::directory::{AttributeQuery, Target};
use crate::identity::{AddressRules, DomainPattern, JournalMailboxRule};
use crate::mail::{Address, Certificate};
use crate::maps::{self, MapName};

/// The direction of one sender–recipient pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From outside to an address of the organization.
    Inbound,
    /// From the organization to an outside address.
    Outbound,
    /// Both inside.
    Internal,
}

impl Direction {
    /// All of them, in the order of precedence for what must be decided once for several.
    pub const ALL: [Direction; 3] = [Direction::Inbound, Direction::Outbound, Direction::Internal];

    /// The word used in configuration, reports and logs.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
            Direction::Internal => "internal",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Direction {
    type Err = String;

    fn from_str(text: &str) -> Result<Direction, String> {
        Direction::ALL
            .into_iter()
            .find(|direction| direction.name() == text)
            .ok_or_else(|| format!("\"{text}\" is not a direction (inbound, outbound, internal)"))
    }
}

/// Format of a journal copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Format {
    /// A Microsoft envelope journal report.
    #[default]
    Report,
    /// The message itself, with Copyist's header fields in front.
    Copy,
}

impl Format {
    /// The word used in configuration and explanations.
    pub fn name(self) -> &'static str {
        match self {
            Format::Report => "report",
            Format::Copy => "copy",
        }
    }
}

/// Content of a journal copy, if texts are added to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum JournalWhat {
    /// The message as the hook received it.
    #[default]
    Received,
    /// The message with the texts that its recipients get.
    Delivered,
}

impl JournalWhat {
    /// The word used in configuration and explanations.
    pub fn name(self) -> &'static str {
        match self {
            JournalWhat::Received => "received",
            JournalWhat::Delivered => "delivered",
        }
    }
}

/// The rules that plans are built by.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The organization's domains and clients.
    pub organization: Organization,
    /// Journaling of inbound mail.
    pub inbound: DirectionRules,
    /// Journaling of outbound mail.
    pub outbound: DirectionRules,
    /// Journaling of internal mail.
    pub internal: DirectionRules,
    /// The people whose attributes count for outbound mail.
    pub outbound_attribute_of: AttributeOf,
    /// Handling of messages while the directory is unavailable.
    pub on_directory_failure: OnFailure,
    /// Journal address for copies without a usable target.
    pub fallback_journal: Option<Address>,
    /// The senders that the journal guard applies to.
    pub journal_guard: Guard,
    /// The domains that journal addresses must be in; any if empty.
    pub journal_domains: Vec<DomainPattern>,
    /// Largest number of `Received` fields; unlimited if `None`.
    pub hop_limit: Option<usize>,
    /// The attribute that exempts a person, with the value `TRUE`, if any.
    pub exempt_attribute: Option<String>,
}

/// The organization's domains and clients.
#[derive(Debug, Clone, Default)]
pub struct Organization {
    /// The organization's domains and address rules.
    pub names: Arc<AddressRules>,
    /// Networks whose clients send as the organization.
    pub trusted_networks: Vec<IpNet>,
    /// Networks whose clients bring external mail, even if they are trusted otherwise.
    pub gateways: Vec<IpNet>,
    /// TLS client certificates whose holders send as the organization.
    pub trusted_certificates: Vec<Certificate>,
    /// The address maps of the MTA.
    pub address_maps: MapNames,
    /// Mailboxes that are guarded if attributes name them, even if they look like a person's.
    pub journal_mailboxes: Vec<JournalMailboxRule>,
    /// Whether mailboxes of people that attributes name are guarded, too.
    pub guards_persons: bool,
    /// The directory query for further domains.
    pub domains_from: Option<AttributeQuery>,
}

/// Address maps of the MTA, by their parameters in postconf(5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapNames {
    /// Aliases of local(8).
    pub alias_maps: Vec<MapName>,
    /// Aliases of whole addresses and domains.
    pub virtual_alias_maps: Vec<MapName>,
    /// Other spellings of senders and recipients.
    pub canonical_maps: Vec<MapName>,
    /// Other spellings of senders.
    pub sender_canonical_maps: Vec<MapName>,
    /// Other spellings of recipients.
    pub recipient_canonical_maps: Vec<MapName>,
}

impl Organization {
    /// Returns the settings of the address maps, with this timeout for LDAP maps.
    pub fn map_settings(&self, timeout: Duration) -> maps::Settings {
        let (of, names) = (self.address_maps.clone(), Arc::clone(&self.names));
        let local = Arc::clone(&names);
        maps::Settings {
            alias_maps: of.alias_maps,
            virtual_alias_maps: of.virtual_alias_maps,
            canonical_maps: of.canonical_maps,
            sender_canonical_maps: of.sender_canonical_maps,
            recipient_canonical_maps: of.recipient_canonical_maps,
            recipient_delimiter: names.recipient_delimiter.clone(),
            origin: names.default_domain().unwrap_or("localhost").to_owned(),
            is_local: Arc::new(move |domain| local.is_local(domain)),
            timeout,
            ..maps::Settings::default()
        }
    }
}

/// Journaling of one direction; settings and attributes add up.
#[derive(Debug, Clone, Default)]
pub struct DirectionRules {
    /// Targets of all mail of this direction.
    pub journal: Vec<Target>,
    /// Attributes of senders and recipients that hold further journal addresses.
    pub journal_attributes: Vec<String>,
    /// Envelope sender of the copies, which gets NDRs about them. `None` only if nothing is
    /// journaled.
    pub ndr: Option<Address>,
    /// Format of the copies.
    pub format: Format,
    /// Content of the copies.
    pub journal_what: JournalWhat,
}

/// The people whose journal attributes count for outbound mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttributeOf {
    /// The sender's, and the external recipient's where the directory has a contact object for it.
    #[default]
    Both,
    /// The sender's only.
    Sender,
    /// The recipient's only.
    Recipient,
}

/// Handling of a message whose people cannot be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Deferred with 451: the MTA keeps it and tries again.
    #[default]
    Defer,
    /// Delivered, and journaled to the fallback journal.
    Fallback,
    /// Delivered, without the copies that depend on the directory.
    Accept,
}

/// The senders that journal and NDR addresses are protected from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// External senders.
    #[default]
    Outside,
    /// All senders but Copyist itself.
    Everyone,
    /// None: the guard is off.
    Off,
}

impl Rules {
    /// Whether no mail of any direction is journaled, whatever the directory says.
    pub fn journal_nothing(&self) -> bool {
        Direction::ALL.into_iter().all(|direction| {
            let rules = self.of(direction);
            rules.journal.is_empty() && rules.journal_attributes.is_empty()
        })
    }

    /// Whether copies may go to this address.
    pub fn may_journal_to(&self, address: &Address) -> bool {
        let mut domains = self.journal_domains.iter();
        self.journal_domains.is_empty() || domains.any(|domain| domain.matches(address.domain()))
    }

    /// Returns the rules of one direction.
    pub fn of(&self, direction: Direction) -> &DirectionRules {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
            Direction::Internal => &self.internal,
        }
    }
}

impl Organization {
    /// Whether this address is internal.
    pub fn has(&self, address: &Address) -> bool {
        self.names.contains(address)
    }

    /// Whether a client at this address may send as the organization.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        includes(&self.trusted_networks, ip)
    }

    /// Whether a client at this address brings external mail.
    pub fn is_gateway(&self, ip: IpAddr) -> bool {
        includes(&self.gateways, ip)
    }

    /// Whether the holder of a client certificate sends as the organization.
    pub fn accepts(&self, certificate: &Certificate) -> bool {
        let mut all = self.trusted_certificates.iter();
        all.any(|accepted| accepted.covers(certificate))
    }
}

fn includes(networks: &[IpNet], ip: IpAddr) -> bool {
    // An IPv4 client of a dual-stack listener shows up as ::ffff:a.b.c.d.
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_ipv4_clients_are_trusted_like_plain_ones() {
        let organization = Organization {
            trusted_networks: vec!["10.0.0.0/8".parse().expect("a network")],
            ..Organization::default()
        };
        assert!(organization.trusts("::ffff:10.1.2.3".parse().expect("an address")));
        assert!(!organization.trusts("11.0.0.1".parse().expect("an address")));
    }
}
