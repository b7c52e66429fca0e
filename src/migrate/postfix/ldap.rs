//! An LDAP table of Postfix (ldap_table(5)): what it is set to.

use std::collections::BTreeMap;

use super::map::{parameters, words};
use crate::config::parse;

/// What an LDAP table is set to. The password is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LdapTable {
    /// Where it is described: the path of a file, or `main.cf`.
    pub described_in: String,
    parameters: BTreeMap<String, String>,
    pub(super) has_password: bool,
    /// Whether the file that `tls_ca_cert_file` names can be read.
    pub(super) can_read_ca: bool,
}

/// What an LDAP table may be set to, without the password: what is asked of `postconf` where a
/// table is described in `main.cf`.
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
    /// Reads the text of the file that describes a table. The password in it is dropped at once.
    pub fn read(described_in: &str, text: &str) -> LdapTable {
        LdapTable::of(described_in, parameters(text))
    }

    /// A table that is described by these parameters.
    pub fn of(described_in: &str, given: impl IntoIterator<Item = (String, String)>) -> LdapTable {
        let mut parameters: BTreeMap<String, String> = given.into_iter().collect();
        let password = parameters.remove("bind_pw");
        LdapTable {
            described_in: described_in.to_owned(),
            parameters,
            has_password: password.is_some_and(|password| !password.is_empty()),
            can_read_ca: false,
        }
    }

    /// The same, with what can only be told where it is: whether the file of [`LdapTable::ca_file`]
    /// can be read.
    #[must_use]
    pub fn with_readable_ca(mut self, can_read_ca: bool) -> LdapTable {
        self.can_read_ca = can_read_ca;
        self
    }

    /// A parameter that is set, and not to nothing.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        let value = self.parameters.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    pub(super) fn is_yes(&self, name: &str) -> bool {
        self.given(name)
            .is_some_and(|value| value.eq_ignore_ascii_case("yes"))
    }

    /// Whether the same people are found, as the same account.
    pub(super) fn is_same_directory(&self, other: &LdapTable) -> bool {
        let same = |name: &str| self.given(name) == other.given(name);
        ["server_host", "server_port", "search_base", "bind_dn"]
            .into_iter()
            .all(same)
    }

    /// The file with the certificates that the server's is checked against.
    pub fn ca_file(&self) -> Option<&str> {
        self.given("tls_ca_cert_file")
    }

    /// The attributes whose values are addresses or objects that get copies.
    pub(super) fn journal_attributes(&self) -> Vec<String> {
        let result = self
            .parameters
            .get("result_attribute")
            .map_or("maildrop", String::as_str);
        let special = self.given("special_result_attribute").unwrap_or_default();
        let names = words(result).into_iter().chain(words(special));
        let sound = names.filter(|name| parse::attribute(name).is_ok());
        sound.map(str::to_owned).collect()
    }

    /// The servers as URLs, and those words that are none.
    pub(super) fn urls(&self) -> (Vec<String>, Vec<&str>) {
        let port = self.given("server_port").filter(|port| *port != "389");
        let (mut urls, mut odd) = (Vec::new(), Vec::new());
        for server in words(self.given("server_host").unwrap_or("localhost")) {
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

/// The attributes that a filter compares with the address, and the parts of it that do something
/// else.
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
