//! Postfix's `always_bcc`, `sender_bcc_maps` and `recipient_bcc_maps` → a configuration.
//!
//! | file | owns |
//! |---|---|
//! | `map` | the names of tables, and text tables |
//! | `ldap` | LDAP tables |
//! | `directory` | `[directory]` from an LDAP table |
//! | `people` | text tables → people and their journal addresses |
//! | `plan` | the sections of the directions |
//! | `propose` | the configuration |

mod directory;
mod ldap;
mod map;
mod people;
mod plan;
mod propose;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::Site;
use super::site::is_name;
use crate::identity::DomainPattern;

pub use ldap::{LdapTable, PARAMETERS as LDAP_PARAMETERS};
pub use map::{Map, Origin, entries, maps, parameters, words};
pub use people::{People, Person};
pub use propose::{PostfixProposal, propose};

/// The parameters of `main.cf` that are read.
pub const PARAMETERS: [&str; 12] = [
    "always_bcc",
    "sender_bcc_maps",
    "recipient_bcc_maps",
    "mydestination",
    "virtual_alias_domains",
    "virtual_mailbox_domains",
    "relay_domains",
    "myorigin",
    "mynetworks",
    "recipient_delimiter",
    "smtpd_milters",
    "non_smtpd_milters",
];

/// Postfix's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Postfix {
    /// The values of [`PARAMETERS`], expanded (`postconf -x`).
    pub parameters: BTreeMap<String, String>,
    /// The tables of `sender_bcc_maps`.
    pub sender_bcc: Vec<Table>,
    /// The tables of `recipient_bcc_maps`.
    pub recipient_bcc: Vec<Table>,
    /// Overrides of BCC parameters in `master.cf` (`postconf -P`).
    pub overrides: Vec<String>,
}

/// A lookup table with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub map: Map,
    /// Its content.
    pub content: Content,
}

/// The content of a lookup table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Keys and values.
    Entries(Vec<(String, String)>),
    /// An LDAP table.
    Ldap(LdapTable),
    /// The same value for every key.
    Always(String),
    /// Unknown; the reason continues a sentence that begins with the table's name.
    Unknown(String),
}

impl Postfix {
    /// Returns a parameter that is set and not empty.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let value = self.parameters.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// Returns the first LDAP table.
    pub fn ldap(&self) -> Option<&LdapTable> {
        let mut tables = self.recipient_bcc.iter().chain(&self.sender_bcc);
        tables.find_map(|table| match &table.content {
            Content::Ldap(ldap) => Some(ldap),
            _ => None,
        })
    }

    /// Returns the domains listed in a parameter itself, and the tables with further ones.
    fn domains_of(&self, name: &str) -> (Vec<String>, Vec<String>) {
        let (mut domains, mut tables) = (Vec::new(), Vec::new());
        for word in words(self.parameter(name).unwrap_or_default()) {
            let is_local = word == "localhost" || word.starts_with("localhost.");
            if word.contains([':', '/']) {
                tables.push(format!("{word} in {name}"));
            } else if !is_local
                && word.contains('.')
                && is_name(word)
                && word.parse::<DomainPattern>().is_ok()
            {
                domains.push(word.to_owned());
            }
        }
        (domains, tables)
    }

    /// Returns the domains of local users, which apply to keys without a domain.
    fn local_domains(&self, site: &Site) -> Vec<String> {
        let (local, _) = self.domains_of("mydestination");
        match local.is_empty() {
            true => {
                let origin = self.parameter("myorigin");
                vec![origin.unwrap_or_else(|| site.main_domain()).to_owned()]
            }
            false => local,
        }
    }

    /// Returns the site, by default with the domains of `main.cf`, the source of the domains, and the
    /// tables with further ones.
    fn site(&self, given: &Site) -> (Site, Option<&'static str>, Vec<String>) {
        let mut site = given.clone();
        if !site.domains.is_empty() {
            return (site, Some("As given with --domain."), Vec::new());
        }
        let (mut domains, mut tables): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
        for name in [
            "mydestination",
            "virtual_mailbox_domains",
            "virtual_alias_domains",
            "relay_domains",
        ] {
            let (found, others) = self.domains_of(name);
            let new = found.into_iter().filter(|domain| !domains.contains(domain));
            let new: Vec<String> = new.collect();
            domains.extend(new);
            tables.extend(others);
        }
        let known = (!domains.is_empty()).then_some(
            "From mydestination, virtual_mailbox_domains, virtual_alias_domains and relay_domains.",
        );
        site.domains = domains;
        (site, known, tables)
    }
}
