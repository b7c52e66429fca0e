//! What the administrator decided; built by `config`.

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
            .ok_or_else(|| format!("{text:?} is no direction (inbound, outbound, internal)"))
    }
}

/// What a journal copy looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Format {
    /// A Microsoft envelope journal report.
    #[default]
    Report,
    /// The message itself with our headers in front.
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

/// Which bytes a journal copy holds, where texts are put into messages.
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

/// Everything the plan is made by.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Who is inside.
    pub organization: Organization,
    /// What inbound mail is journaled to.
    pub inbound: DirectionRules,
    /// What outbound mail is journaled to.
    pub outbound: DirectionRules,
    /// What internal mail is journaled to.
    pub internal: DirectionRules,
    /// Whose object's attribute counts for outbound mail.
    pub outbound_attribute_of: AttributeOf,
    /// What happens to a message while the directory does not answer.
    pub on_directory_failure: OnFailure,
    /// Where copies go that no usable journal address can be found for.
    pub fallback_journal: Option<Address>,
    /// Who may not write to journal and NDR addresses.
    pub journal_guard: Guard,
    /// The domains that journal addresses must be of; any where there are none.
    pub journal_domains: Vec<DomainPattern>,
    /// The most `Received` fields of a message that goes on; any number where `None`.
    pub hop_limit: Option<usize>,
    /// The attribute that exempts a person, with the value `TRUE`; nobody is exempt where `None`.
    pub exempt_attribute: Option<String>,
}

/// Who is inside.
#[derive(Debug, Clone, Default)]
pub struct Organization {
    /// How the organization's mailboxes are named, its domains first of all.
    pub names: Arc<AddressRules>,
    /// Networks whose clients send as the organization.
    pub trusted_networks: Vec<IpNet>,
    /// Networks whose clients bring mail from outside, whatever else they are.
    pub gateways: Vec<IpNet>,
    /// TLS client certificates whose holders send as the organization.
    pub trusted_certificates: Vec<Certificate>,
    /// The address maps of the MTA.
    pub address_maps: MapNames,
    /// Mailboxes that are guarded if attributes name them, whatever else they look like.
    pub journal_mailboxes: Vec<JournalMailboxRule>,
    /// Whether mailboxes of people that attributes name are guarded, too.
    pub guards_persons: bool,
    /// Where the directory names further domains.
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
    /// How the address maps are read, given the longest that a directory's answer may take.
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

/// What one direction's mail is journaled to. Both ways add up.
#[derive(Debug, Clone, Default)]
pub struct DirectionRules {
    /// Targets of all mail of this direction.
    pub journal: Vec<Target>,
    /// Attributes of the people concerned that hold further journal addresses.
    pub journal_attributes: Vec<String>,
    /// Envelope sender of the copies, and where their NDRs go. `None` only where nothing is
    /// journaled.
    pub ndr: Option<Address>,
    /// What the copies look like.
    pub format: Format,
    /// What is in them.
    pub journal_what: JournalWhat,
}

/// Whose object's journal attribute counts for outbound mail.
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

/// What happens to a message whose people cannot be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// 451: the MTA keeps it and tries again.
    #[default]
    Defer,
    /// It is journaled to the fallback journal and goes on.
    Fallback,
    /// It goes on without those copies that the directory would have named.
    Accept,
}

/// From whom journal and NDR addresses are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// From senders that are not ours.
    #[default]
    Outside,
    /// From everyone but Copyist itself.
    Everyone,
    /// From nobody.
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

    /// The rules of one direction.
    pub fn of(&self, direction: Direction) -> &DirectionRules {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
            Direction::Internal => &self.internal,
        }
    }
}

impl Organization {
    /// Whether mail to this address stays inside.
    pub fn has(&self, address: &Address) -> bool {
        self.names.contains(address)
    }

    /// Whether a client at this address may send as the organization.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        includes(&self.trusted_networks, ip)
    }

    /// Whether a client at this address brings mail from outside.
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
