//! The section `[organization]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{StringGroups, StringList};
use crate::policy;

/// The organization: its domains, address maps and trusted clients.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Organization {
    /// The organization's mail domains; *.example.com matches every subdomain of example.com.
    /// Required.
    #[schemars(example = ["example.com", "*.example.com"])]
    pub(in crate::config) domains: StringList,
    /// Where the directory lists further domains. Default: nowhere.
    pub(in crate::config) domains_from: DomainsFrom,
    /// Names of the MTA itself whose local parts are mailboxes of the organization: host names and
    /// address literals, as in Postfix's mydestination. This machine's own names and addresses are
    /// always included.
    #[schemars(example = ["mx1.example.com", "[192.0.2.1]"])]
    pub(in crate::config) local_domains: StringList,
    /// Groups of equivalent domains: dan@ in one domain is the same person as dan@ in every other
    /// domain of the group. Default: none.
    #[schemars(example = [["example.com", "example.net"]])]
    pub(in crate::config) same_domains: StringGroups,
    /// The domain appended to addresses without one: the MTA's myorigin. Default: the first of
    /// domains.
    #[schemars(example = "example.com")]
    pub(in crate::config) default_domain: Option<String>,
    /// The MTA's address maps, as postconf prints them. Mail to an alias is journaled for its
    /// targets.
    pub(in crate::config) address_maps: AddressMaps,
    /// Networks whose clients send as the organization without authenticating, if the sender is one
    /// of its addresses.
    #[schemars(example = ["192.0.2.0/24"])]
    pub(in crate::config) trusted_networks: StringList,
    /// Networks or single addresses of clients that relay external mail: gateways, backup MXs, list
    /// servers. Their mail is inbound, and the journal guard applies. Default: none.
    #[schemars(example = ["192.0.2.25"])]
    pub(in crate::config) gateways: StringList,
    /// TLS client certificates whose holders send as the organization, by the subject's common name;
    /// append ;ISSUER to require the issuer's common name, too. Default: none.
    #[schemars(example = ["notebook.example.com"])]
    pub(in crate::config) trusted_certificates: StringList,
    /// This machine's name in Message-IDs and non-delivery reports. Default: the system's host
    /// name.
    #[schemars(example = "copyist.example.com")]
    pub(in crate::config) hostname: Option<String>,
    /// Whose mail to journal and NDR addresses is rejected: external senders', everyone's but
    /// Copyist's, or nobody's (off).
    pub(in crate::config) journal_guard: JournalGuard,
    /// Journal mailboxes that only attributes name and that look like a person's mailbox: addresses,
    /// domains, or DNs (with everything below them). Default: none.
    #[schemars(example = ["journal@example.com", "OU=Journals,DC=example,DC=com"])]
    pub(in crate::config) journal_mailboxes: StringList,
    /// Whether a person's mailbox is guarded, too, when a journal attribute names it.
    pub(in crate::config) journal_guard_persons: bool,
}

/// The MTA's address maps, as postconf prints them. Mail to an alias is journaled for its targets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct AddressMaps {
    /// Aliases of local(8). Default: none.
    #[schemars(example = ["hash:/etc/aliases"])]
    pub(in crate::config) alias_maps: StringList,
    /// Aliases of whole addresses and domains. Default: none.
    #[schemars(example = ["hash:/etc/postfix/virtual"])]
    pub(in crate::config) virtual_alias_maps: StringList,
    /// Rewriting of senders and recipients. Default: none.
    #[schemars(example = ["hash:/etc/postfix/canonical"])]
    pub(in crate::config) canonical_maps: StringList,
    /// Rewriting of senders. Default: none.
    #[schemars(example = ["hash:/etc/postfix/sender_canonical"])]
    pub(in crate::config) sender_canonical_maps: StringList,
    /// Rewriting of recipients. Default: none.
    #[schemars(example = ["hash:/etc/postfix/recipient_canonical"])]
    pub(in crate::config) recipient_canonical_maps: StringList,
}

/// Directory objects that list domains.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct DomainsFrom {
    /// The base of the search.
    #[schemars(example = "CN=Configuration,DC=example,DC=com")]
    pub(in crate::config) base: Option<String>,
    /// The filter that finds the objects.
    #[schemars(example = "(objectClass=msExchAcceptedDomain)")]
    pub(in crate::config) filter: Option<String>,
    /// The attribute that contains the domain.
    #[schemars(example = &"msExchAcceptedDomainName")]
    pub(in crate::config) attribute: Option<String>,
}

words! {
    /// See [`policy::Guard`].
    JournalGuard => policy::Guard, "lowercase" {
        #[default]
        Outside,
        Everyone,
        Off,
    }
}

impl Default for Organization {
    fn default() -> Organization {
        Organization {
            domains: StringList::default(),
            domains_from: DomainsFrom::default(),
            local_domains: StringList::default(),
            same_domains: StringGroups::default(),
            default_domain: None,
            address_maps: AddressMaps::default(),
            trusted_networks: StringList::from(["127.0.0.0/8", "::1/128"]),
            gateways: StringList::default(),
            trusted_certificates: StringList::default(),
            hostname: None,
            journal_guard: JournalGuard::default(),
            journal_mailboxes: StringList::default(),
            journal_guard_persons: false,
        }
    }
}
