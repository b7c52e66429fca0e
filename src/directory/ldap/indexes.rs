//! Missing indexes, from the server's configuration if it is readable.
//!
//! OpenLDAP has them in cn=config (slapd-mdb(5), olcDbIndex), which few accounts may read; Active
//! Directory in its schema (bit 0 of searchFlags, MS-ADTS section 2.2.9), which all may read.

use std::sync::Arc;

use ldap3::{Scope, ldap_escape};
use tokio::time::Instant;

use super::connection::{Connection, SearchRequest};
use crate::directory::dn;
use crate::directory::entry::Entry;

/// `fATTINDEX`.
const INDEXED: i64 = 1;

/// Returns the attributes without an equality index; none if the configuration is not readable.
pub(super) async fn unindexed_attributes(
    connection: &Arc<Connection>,
    base: &str,
    attributes: &[String],
    deadline: Instant,
) -> Vec<String> {
    match connection.features().ranges {
        true => active_directory_unindexed(connection, attributes, deadline).await,
        false => openldap_unindexed(connection, base, attributes, deadline).await,
    }
}

async fn openldap_unindexed(
    connection: &Arc<Connection>,
    base: &str,
    attributes: &[String],
    deadline: Instant,
) -> Vec<String> {
    let databases = SearchRequest {
        base: "cn=config".into(),
        scope: Scope::OneLevel,
        filter: "(olcSuffix=*)".into(),
        attributes: vec!["olcSuffix".into(), "olcDbIndex".into()],
        limit: 100,
        allows_truncation: true,
        allows_missing_base: true,
    };
    let databases = connection.search(databases, deadline).await;
    let holds_base = |entry: &&Entry| {
        entry
            .values("olcSuffix")
            .any(|suffix| dn::is_within(base, suffix))
    };
    match databases.unwrap_or_default().iter().find(holds_base) {
        Some(database) => unindexed(&database.values("olcDbIndex").to_vec(), attributes),
        None => Vec::new(),
    }
}

async fn active_directory_unindexed(
    connection: &Arc<Connection>,
    attributes: &[String],
    deadline: Instant,
) -> Vec<String> {
    let root = SearchRequest {
        base: String::new(),
        scope: Scope::Base,
        filter: "(objectClass=*)".into(),
        attributes: vec!["schemaNamingContext".into()],
        limit: 1,
        allows_truncation: true,
        allows_missing_base: true,
    };
    let root = connection.search(root, deadline).await.unwrap_or_default();
    let schema = root
        .iter()
        .flat_map(|entry| entry.values("schemaNamingContext"))
        .next();
    let Some(schema) = schema else {
        return Vec::new();
    };
    let names: String = attributes
        .iter()
        .map(|name| format!("(lDAPDisplayName={})", ldap_escape(name.as_str())))
        .collect();
    let definitions = SearchRequest {
        base: schema.to_owned(),
        scope: Scope::OneLevel,
        filter: format!("(|{names})"),
        attributes: vec!["lDAPDisplayName".into(), "searchFlags".into()],
        limit: attributes.len(),
        allows_truncation: true,
        allows_missing_base: true,
    };
    let definitions = connection.search(definitions, deadline).await;
    let flags = |entry: &Entry| {
        let mut values = entry.values("searchFlags");
        values
            .find_map(|value| value.parse::<i64>().ok())
            .unwrap_or(0)
    };
    let plain = definitions.unwrap_or_default();
    let plain = plain.iter().filter(|entry| flags(entry) & INDEXED == 0);
    plain
        .flat_map(|entry| entry.values("lDAPDisplayName"))
        .map(str::to_owned)
        .collect()
}

/// Returns the attributes without `eq` in values of olcDbIndex such as `mail,cn eq,pres`. Without a
/// second word, that of `default` applies.
fn unindexed(indexes: &[String], attributes: &[String]) -> Vec<String> {
    let has_eq = |kinds: &str| kinds.split(',').any(|kind| kind == "eq");
    let words = |index: &str| {
        let mut words = index.split_ascii_whitespace().map(str::to_lowercase);
        (words.next().unwrap_or_default(), words.next())
    };
    let by_default = indexes.iter().map(|index| words(index));
    let by_default = by_default.filter(|(names, _)| names == "default");
    let by_default: String = by_default.filter_map(|(_, kinds)| kinds).collect();
    let mut known: Vec<String> = Vec::new();
    for (names, kinds) in indexes.iter().map(|index| words(index)) {
        if has_eq(kinds.as_ref().unwrap_or(&by_default)) {
            known.extend(names.split(',').map(str::to_owned));
        }
    }
    // This one is always indexed.
    known.push("objectclass".into());
    let missing = attributes
        .iter()
        .filter(|name| !known.contains(&name.to_lowercase()));
    missing.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn an_attribute_is_indexed_where_a_value_names_it_with_eq() {
        let indexes = texts(&[
            "objectClass eq",
            "Mail,cn pres,eq",
            "uid sub",
            "sn",
            "default eq",
        ]);
        let asked = texts(&["mail", "cn", "uid", "sn", "proxyAddresses"]);
        assert_eq!(
            unindexed(&indexes, &asked),
            texts(&["uid", "proxyAddresses"])
        );
        assert_eq!(unindexed(&texts(&["sn"]), &texts(&["sn"])), texts(&["sn"]));
    }
}
