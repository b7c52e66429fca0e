//! The parameters of an LDAP table of Postfix (ldap_table(5)).

use std::collections::BTreeMap;

use super::map::{parameters, words};
use crate::config::parse;

/// The parameters of an LDAP table, without the password.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LdapTable {
    /// The source of the parameters: the path of a file, or `main.cf`.
    pub described_in: String,
    parameters: BTreeMap<String, String>,
    pub(super) has_password: bool,
    /// Whether the `tls_ca_cert_file` is readable.
    pub(super) can_read_ca: bool,
}

/// The parameters of an LDAP table, without the password: those read with `postconf` if the table is
/// defined in `main.cf`.
pub const PARAMETERS: [&str; 24] = [
    "bind",
    "bind_dn",
    "chase_referrals",
    "dereference",
    "domain",
    "leaf_result_attribute",
    "query_filter",
    "result_attribute",
    "result_filter",
    "result_format",
    "sasl_mechs",
    "scope",
    "search_base",
    "server_host",
    "server_port",
    "special_result_attribute",
    "start_tls",
    "terminal_result_attribute",
    "timeout",
    "tls_ca_cert_dir",
    "tls_ca_cert_file",
    "tls_cert",
    "tls_require_cert",
    "version",
];

impl LdapTable {
    /// Reads the file that defines a table. The password is discarded at once.
    pub fn read(described_in: &str, text: &str) -> LdapTable {
        LdapTable::new(described_in, parameters(text))
    }

    /// Creates a table from these parameters.
    pub fn new(described_in: &str, given: impl IntoIterator<Item = (String, String)>) -> LdapTable {
        let mut parameters: BTreeMap<String, String> = given.into_iter().collect();
        let password = parameters.remove("bind_pw");
        LdapTable {
            described_in: described_in.to_owned(),
            parameters,
            has_password: password.is_some_and(|password| !password.is_empty()),
            can_read_ca: false,
        }
    }

    /// Sets whether the file of [`LdapTable::ca_file`] is readable, which only the caller can find out.
    #[must_use]
    pub fn with_readable_ca(mut self, can_read_ca: bool) -> LdapTable {
        self.can_read_ca = can_read_ca;
        self
    }

    /// Returns a parameter that is set and not empty.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let value = self.parameters.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    pub(super) fn is_yes(&self, name: &str) -> bool {
        self.parameter(name)
            .is_some_and(|value| value.eq_ignore_ascii_case("yes"))
    }

    /// Whether both tables search the same people with the same account.
    pub(super) fn is_same_directory(&self, other: &LdapTable) -> bool {
        let same = |name: &str| self.parameter(name) == other.parameter(name);
        ["server_host", "server_port", "search_base", "bind_dn"]
            .into_iter()
            .all(same)
    }

    /// Returns the file with the CA certificates.
    pub fn ca_file(&self) -> Option<&str> {
        self.parameter("tls_ca_cert_file")
    }

    /// Returns the attributes whose values are addresses or objects that get copies.
    pub(super) fn journal_attributes(&self) -> Vec<String> {
        let result = self
            .parameters
            .get("result_attribute")
            .map_or("maildrop", String::as_str);
        let special = self
            .parameter("special_result_attribute")
            .unwrap_or_default();
        let names = words(result).into_iter().chain(words(special));
        let sound = names.filter(|name| parse::attribute(name).is_ok());
        sound.map(str::to_owned).collect()
    }

    /// Returns the servers as URLs, and the invalid words.
    pub(super) fn urls(&self) -> (Vec<String>, Vec<&str>) {
        let port = self.parameter("server_port").filter(|port| *port != "389");
        let (mut urls, mut odd) = (Vec::new(), Vec::new());
        for server in words(self.parameter("server_host").unwrap_or("localhost")) {
            let url = match (server.contains("://"), parse::host_and_port(server), port) {
                (true, ..) => parse::ldap_url(server).ok(),
                (false, Ok((_, None)), Some(port)) => {
                    parse::ldap_url(&format!("ldap://{server}:{port}")).ok()
                }
                (false, Ok(_), _) => Some(format!("ldap://{server}")),
                (false, Err(_), _) => None,
            };
            match url {
                Some(url) => urls.push(url),
                None => odd.push(server),
            }
        }
        (urls, odd)
    }
}

/// Returns the attributes that a filter compares with the address, and its other parts.
pub(super) fn addresses_in(filter: &str) -> (Vec<String>, Vec<String>) {
    let (mut attributes, mut odd) = (Vec::new(), Vec::new());
    let parts = filter.split(['(', ')']).map(str::trim);
    for part in parts.filter(|part| part.contains('=')) {
        match part.split_once('=') {
            Some((name, value)) if parse::attribute(name).is_ok() && is_the_address(value) => {
                if !attributes
                    .iter()
                    .any(|known: &String| known.eq_ignore_ascii_case(name))
                {
                    attributes.push(name.to_owned());
                }
            }
            _ => odd.push(part.to_owned()),
        }
    }
    (attributes, odd)
}

fn is_the_address(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    matches!(
        lower.strip_prefix("smtp:").unwrap_or(&lower),
        "%s" | "%u@%d"
    )
}
