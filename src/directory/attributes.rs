//! The configured attributes: search filters for addresses, and the addresses that an entry belongs
//! to. Pure.
//!
//! Promises: no text in an address changes the meaning of a filter; an entry that the directory
//! returned is never dropped because the server compares differently than we do.
//!
//! A filter contains the usual spellings of an address. Values spelled otherwise are known from a
//! scan of the directory (see [`super::scan`]), and are added as they are.

use std::collections::HashMap;
use std::sync::Arc;

use ldap3::ldap_escape;

use super::entry::Entry;
use super::inheritance;
use super::resolve;
use super::source::{ObjectName, Objects};
use super::target::{Target, x500_key};
use super::{dn, scan};
use crate::mail::Address;

/// Attributes with an object's forwarding address, or for `altRecipient` an object.
pub(super) const FORWARDING_ATTRIBUTES: [&str; 4] = [
    "targetAddress",
    "mailForwardingAddress",
    "msExchGenericForwardingAddress",
    "altRecipient",
];

/// Attributes that distinguish an account from a mailbox without logins, see
/// [`Entry::account_evidence`].
const ACCOUNT_ATTRIBUTES: [&str; 3] = ["userAccountControl", "loginShell", "pwdAccountLockedTime"];
/// Exchange's attribute with an object's X.500 address.
const LEGACY_DN: &str = "legacyExchangeDN";

/// The configured attributes by purpose.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    addresses: Vec<String>,
    journal: Vec<String>,
    further: Vec<String>,
    logins: Vec<String>,
}

/// The form of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ValueForm {
    /// As filters for its key contain it.
    Usual,
    /// Any other form of a value with this key.
    Unusual(String),
    /// No address or name.
    Invalid,
}

/// Error in the configured attributes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// There are no address attributes to search.
    #[error("no address attributes configured; set for example mail and proxyAddresses")]
    NoAddresses,
    /// Not an attribute description (RFC 4512 section 2.5).
    #[error("invalid attribute name {0:?}; use a name like mail or extensionAttribute10")]
    Malformed(String),
}

impl Attributes {
    /// Creates the attributes from the configured names.
    pub(super) fn new(
        addresses: &[String],
        journal: &[String],
    ) -> Result<Attributes, AttributeError> {
        if addresses.is_empty() {
            return Err(AttributeError::NoAddresses);
        }
        match addresses
            .iter()
            .chain(journal)
            .find(|name| !is_attribute_name(name))
        {
            Some(bad) => Err(AttributeError::Malformed(bad.clone())),
            None => Ok(Attributes {
                addresses: distinct(addresses),
                journal: distinct(journal),
                further: Vec::new(),
                logins: Vec::new(),
            }),
        }
    }

    /// Adds further attributes to read.
    pub(super) fn with_further(self, further: &[String]) -> Result<Attributes, AttributeError> {
        match further.iter().find(|name| !is_attribute_name(name)) {
            Some(bad) => Err(AttributeError::Malformed(bad.clone())),
            None => Ok(Attributes {
                further: distinct(further),
                ..self
            }),
        }
    }

    /// Adds the attributes with login names.
    pub(super) fn with_logins(self, logins: &[String]) -> Result<Attributes, AttributeError> {
        match logins.iter().find(|name| !is_attribute_name(name)) {
            Some(bad) => Err(AttributeError::Malformed(bad.clone())),
            None => Ok(Attributes {
                logins: distinct(logins),
                ..self
            }),
        }
    }

    /// Returns the filter for objects with one of these login names; `None` without login
    /// attributes.
    pub(super) fn login_filter<'l>(&self, logins: impl Iterator<Item = &'l str>) -> Option<String> {
        let terms: Vec<String> = logins
            .flat_map(|login| {
                self.logins
                    .iter()
                    .map(move |name| equality_term(name, "", login))
            })
            .collect();
        (!terms.is_empty()).then(|| any_of(terms))
    }

    /// Returns the keys of an entry's login names.
    pub(super) fn login_keys_of(&self, entry: &Entry) -> Vec<String> {
        let logins = self.logins.iter().flat_map(|name| entry.values(name));
        logins.map(|login| login.trim().to_lowercase()).collect()
    }

    /// Returns the filter for objects that matter for mail: with an address, forwarding or a
    /// journal attribute.
    pub(super) fn mail_relevant_filter(&self) -> String {
        let journaled = self.journal.iter().map(String::as_str);
        let all = self.addresses.iter().map(String::as_str);
        let all = all.chain(journaled).chain(FORWARDING_ATTRIBUTES);
        let all: Vec<String> = distinct(&all.map(str::to_owned).collect::<Vec<_>>());
        any_of(all.iter().map(|name| format!("({name}=*)")).collect())
    }

    /// Returns the attributes with own addresses.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Returns the attributes with journal addresses.
    pub(super) fn journal(&self) -> &[String] {
        &self.journal
    }

    /// Returns the filter for objects with a journal attribute; `None` without journal attributes.
    pub(super) fn journaled_filter(&self) -> Option<String> {
        let terms: Vec<String> = self.journal.iter().map(|j| format!("({j}=*)")).collect();
        (!terms.is_empty()).then(|| any_of(terms))
    }

    /// Returns the filter for the objects that a scan reads.
    pub(super) fn scan_filter(&self) -> String {
        let all = self.scan_attributes().into_iter();
        any_of(all.map(|name| format!("({name}=*)")).collect())
    }

    /// Returns the filter for the most common unusual forms of addresses, for servers that do not
    /// allow reading the whole directory. Not every server supports all of it, and some forms
    /// cannot be searched: OpenLDAP ignores a blank at the end of a substring.
    pub(super) fn unusual_filter(&self) -> String {
        const FORMS: [&str; 8] = ["*<*", "*\"*", "*'", "@*", "*.", "mailto*", "*%40*", "*)"];
        const INVISIBLE: [&str; 3] = ["\u{200b}", "\u{feff}", "\u{ad}"];
        let mut terms = Vec::new();
        for name in &self.addresses {
            terms.extend(FORMS.map(|form| format!("({name}={})", escape_pattern(form))));
            terms.extend(INVISIBLE.map(|c| format!("({name}=*{}*)", ldap_escape(c))));
            match value_prefixes(name) {
                [""] => terms.push(format!("({name}=smtp*)")),
                value_prefixes => terms.extend(
                    value_prefixes
                        .iter()
                        .map(|kind| format!("({name}={kind}@*)")),
                ),
            }
        }
        any_of(terms)
    }

    /// Returns the attributes that a scan reads: addresses, journal attributes and X.500 addresses.
    pub(super) fn scan_attributes(&self) -> Vec<String> {
        let all = self.addresses.iter().chain(&self.journal).cloned();
        distinct(&all.chain([LEGACY_DN.to_owned()]).collect::<Vec<_>>())
    }

    /// Whether an attribute contains own addresses.
    pub(super) fn is_address_attribute(&self, attribute: &str) -> bool {
        contains_name(&self.addresses, attribute)
    }

    /// Classifies a value of a scanned attribute. `exact` if the server compares the attribute with
    /// case.
    pub(super) fn classify_value(&self, attribute: &str, value: &str, exact: bool) -> ValueForm {
        let is = |names: &[String]| contains_name(names, attribute);
        let Ok(target) = Target::parse(value) else {
            return ValueForm::Invalid;
        };
        let same = |one: &str, other: &str| match exact {
            true => one == other,
            false => one.eq_ignore_ascii_case(other),
        };
        let is_asked = |value_prefixes: &[&str], bare: &str| {
            value_prefixes.iter().any(|kind| {
                let head = value.get(..kind.len());
                head.is_some_and(|head| same(head, kind)) && same(&value[kind.len()..], bare)
            })
        };
        // The filter for the address contains this value; the filter for the object's X.500 name
        // does not.
        if let (Target::Smtp(_), true, Some(x500)) = (&target, is(&self.journal), target.x500()) {
            return ValueForm::Unusual(x500_key(&x500));
        }
        let is_usual = match &target {
            Target::Smtp(address) => {
                let as_address = !is(&self.addresses) || {
                    let value_prefixes = value_prefixes(attribute);
                    is_asked(value_prefixes, address.key())
                        || spellings(address)
                            .iter()
                            .any(|one| is_asked(value_prefixes, one))
                };
                as_address
                    && (!is(&self.journal)
                        || is_asked(JOURNAL_PREFIXES, address.key())
                        || spellings(address)
                            .iter()
                            .any(|one| is_asked(JOURNAL_PREFIXES, one)))
            }
            Target::Dn(_) => !is(&self.journal) || is_asked(&[""], &target.key()),
            Target::X500(_) => is_asked(&["x500:", ""], target.key().trim_start_matches("x500:")),
        };
        match is_usual {
            true => ValueForm::Usual,
            false => ValueForm::Unusual(target.key().into_owned()),
        }
    }

    /// Returns the filter for objects with an address.
    pub(super) fn all_people_filter(&self) -> String {
        any_of(self.addresses.iter().map(|a| format!("({a}=*)")).collect())
    }

    /// Whether an entry has a journal attribute.
    pub(super) fn is_journaled(&self, entry: &Entry) -> bool {
        self.journal
            .iter()
            .any(|name| !entry.values(name).is_empty())
    }

    /// Whether an entry has an address.
    pub(super) fn has_addresses(&self, entry: &Entry) -> bool {
        self.addresses
            .iter()
            .any(|name| !entry.values(name).is_empty())
    }

    /// Whether filters contain the attribute.
    pub(super) fn is_searched(&self, attribute: &str) -> bool {
        let mut all = self.addresses.iter().chain(&self.journal);
        all.any(|name| name.eq_ignore_ascii_case(attribute))
    }

    /// Returns the attributes that a lookup reads.
    pub(super) fn lookup_attributes(&self) -> Vec<String> {
        let both: Vec<String> = self
            .addresses
            .iter()
            .chain(&self.journal)
            .chain(&self.further)
            .chain(&self.logins)
            .cloned()
            // For journal targets, groups and memberships.
            .chain(["objectClass", LEGACY_DN, "uid"].map(str::to_owned))
            .chain(FORWARDING_ATTRIBUTES.map(str::to_owned))
            .collect();
        distinct(&both)
    }

    /// Returns the attributes read of targets and members of groups.
    pub(super) fn named_object_attributes(&self) -> Vec<String> {
        let both = self.lookup_attributes().into_iter();
        let both = both.chain(resolve::TARGET_ATTRIBUTES.map(str::to_owned));
        let both: Vec<String> = both.chain(ACCOUNT_ATTRIBUTES.map(str::to_owned)).collect();
        distinct(&both)
    }

    /// Returns the attributes named in the settings.
    pub(super) fn configured(&self) -> Vec<String> {
        let all: Vec<String> = (self.addresses.iter())
            .chain(&self.journal)
            .chain(&self.further)
            .cloned()
            .collect();
        distinct(&all)
    }

    /// Returns the attributes that lookups and target resolution need of a file.
    pub(super) fn file_attributes(&self) -> Vec<String> {
        let mut all = self.named_object_attributes();
        all.push("primaryGroupID".to_owned());
        all
    }

    /// Returns a journal attribute of which the server sent only a part,
    /// `extensionAttribute10;range=0-1499` ([MS-ADTS] section 3.1.1.3.1.3.3): the rest would be
    /// missed journal addresses.
    pub(super) fn truncated_attribute<'a>(&self, entry: &'a Entry) -> Option<&'a str> {
        entry.attributes().map(|(name, _)| name).find(|name| {
            parse_range(name)
                .is_some_and(|(base, _)| self.journal.iter().any(|j| j.eq_ignore_ascii_case(base)))
        })
    }

    /// Returns the filter for objects with one of these addresses, or one of these values from a
    /// scan.
    pub(super) fn lookup_filter(
        &self,
        asked: &[Address],
        unusual: &[scan::UnusualValue],
    ) -> String {
        let terms = asked.iter().flat_map(spellings).flat_map(|value| {
            self.addresses.iter().flat_map(move |name| {
                let value = value.clone();
                value_prefixes(name)
                    .iter()
                    .map(move |kind| equality_term(name, kind, &value))
            })
        });
        let unusual = unusual
            .iter()
            .filter(|one| contains_name(&self.addresses, &one.attribute));
        any_of(terms.chain(unusual.map(scan::UnusualValue::term)).collect())
    }

    /// Returns the keys of all journal values that concern this address: the address itself, its
    /// owners' names, and their other addresses.
    pub(super) fn journal_keys(&self, address: &Address, owners: &[Arc<Entry>]) -> Vec<String> {
        let objects = owners
            .iter()
            .flat_map(|object| resolve::object_keys(object));
        let aliases = owners.iter().flat_map(|object| self.keys_of(object));
        let all = [address.key().to_owned()].into_iter();
        let mut all: Vec<String> = all.chain(objects).chain(aliases).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Returns the filter for objects with this X.500 address, or one of these values from a scan.
    pub(super) fn x500_filter(text: &str, unusual: &[scan::UnusualValue]) -> String {
        let mut terms = Vec::new();
        let key = x500_key(text);
        let bare = key.trim_start_matches("x500:");
        for text in distinct(&[text.to_owned(), bare.to_owned()]) {
            terms.push(equality_term(LEGACY_DN, "", &text));
            terms.push(equality_term("proxyAddresses", "X500:", &text));
        }
        let unusual = unusual.iter().filter(|one| {
            contains_name(
                &[LEGACY_DN.to_owned(), "proxyAddresses".to_owned()],
                &one.attribute,
            )
        });
        any_of(
            terms
                .into_iter()
                .chain(unusual.map(scan::UnusualValue::term))
                .collect(),
        )
    }

    /// Returns the filter for objects whose journal attributes name this address or one of its
    /// owners; `None` without journal attributes.
    pub(super) fn journal_filter(
        &self,
        address: &Address,
        owners: &[Arc<Entry>],
        unusual: &[scan::UnusualValue],
    ) -> Option<String> {
        let addresses = spellings(address);
        let addresses = addresses.iter().flat_map(|value| {
            JOURNAL_PREFIXES
                .iter()
                .map(move |kind| (*kind, value.clone()))
        });
        let objects = owners.iter().flat_map(|object| {
            let x500 = resolve::x500_addresses(object).flat_map(|text| {
                let key = x500_key(text);
                let text = text.trim().to_lowercase();
                [
                    key.trim_start_matches("x500:").to_owned(),
                    key,
                    format!("x500:{text}"),
                    text,
                ]
            });
            let dn = [dn::key(&object.dn), object.dn.trim().to_lowercase()];
            distinct(&x500.chain(dn).collect::<Vec<_>>())
        });
        let aliases = owners.iter().flat_map(|object| self.keys_of(object));
        let aliases = aliases.filter(|key| key.contains('@') && *key != address.key());
        let aliases = aliases.flat_map(|key| {
            JOURNAL_PREFIXES
                .iter()
                .map(move |kind| (*kind, key.clone()))
        });
        let named = addresses
            .chain(objects.map(|name| ("", name)))
            .chain(aliases);
        let unusual = unusual
            .iter()
            .filter(|one| contains_name(&self.journal, &one.attribute));
        let terms: Vec<String> = named
            .flat_map(|(kind, value)| {
                self.journal
                    .iter()
                    .map(move |name| equality_term(name, kind, &value))
            })
            .chain(unusual.map(scan::UnusualValue::term))
            .collect();
        (!terms.is_empty()).then(|| any_of(terms))
    }

    /// Returns an entry's own addresses.
    pub(super) fn addresses_of(&self, entry: &Entry) -> Vec<Address> {
        let values = self.addresses.iter().flat_map(|name| entry.values(name));
        let mut all: Vec<Address> = values
            .filter_map(|text| Address::parse_value(text).ok())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Returns the keys that an entry can be looked up by, see [`value_key`].
    pub(super) fn keys_of(&self, entry: &Entry) -> Vec<String> {
        keys(entry, &self.addresses)
    }

    /// Returns all names by which answers may depend on an object, see
    /// [`super::change_log::ChangeLog`].
    pub(super) fn names_of(&self, entry: &Entry) -> Vec<String> {
        let mut names = resolve::object_keys(entry);
        names.extend(self.keys_of(entry));
        names.extend(self.journal_keys_of(entry));
        names.extend(
            entry
                .values("uid")
                .map(|uid| ObjectName::Uid(uid.to_owned()).key()),
        );
        names.extend(
            self.login_keys_of(entry)
                .into_iter()
                .map(|login| format!("login={login}")),
        );
        if inheritance::is_inheritable(entry, self.has_addresses(entry)) {
            names.push(inheritance::ALL_GROUPS_AND_CONTAINERS.to_owned());
        }
        names
    }

    /// Returns the keys of an entry's journal values.
    pub(super) fn journal_keys_of(&self, entry: &Entry) -> Vec<String> {
        let mut all = keys(entry, &self.journal);
        let values = self.journal.iter().flat_map(|name| entry.values(name));
        // An encapsulated X.500 address names an object, too.
        let x500 = values.filter_map(|value| Target::parse(value).ok()?.x500());
        all.extend(x500.map(|text| x500_key(&text)));
        all
    }

    /// Whether the address may share a search with others: only if we certainly compare like the
    /// server, which folds more than case for non-ASCII letters.
    pub(super) fn can_share_search(asked: &Address) -> bool {
        is_plain(asked.key())
    }

    /// Whether a login name may share a search with others.
    pub(super) fn can_share_login_search(name: &str) -> bool {
        is_plain(name.trim())
    }

    /// Assigns the entries to the requested addresses. `None` if that is ambiguous; then each
    /// address must be looked up alone, and every entry found is its owner.
    pub(super) fn assign(
        &self,
        asked: &[Address],
        entries: Vec<Entry>,
    ) -> Option<HashMap<Address, Objects>> {
        let entries: Vec<Arc<Entry>> = entries.into_iter().map(Arc::new).collect();
        if entries.is_empty() {
            return Some(HashMap::new());
        }
        if let [only] = asked {
            return Some(HashMap::from([(only.clone(), entries.into())]));
        }
        let wanted: HashMap<&str, &Address> = asked.iter().map(|a| (a.key(), a)).collect();
        let mut owned: HashMap<&Address, Vec<Arc<Entry>>> = HashMap::new();
        for entry in &entries {
            let keys = self.keys_of(entry);
            let mut answered = false;
            for address in keys.iter().filter_map(|key| wanted.get(key.as_str())) {
                owned.entry(address).or_default().push(Arc::clone(entry));
                answered = true;
            }
            // X.500 and other kinds of address do not matter here.
            let odd = |key: &String| key.contains('@') && !is_plain(key);
            if !answered || keys.iter().any(odd) {
                return None;
            }
        }
        let owned = owned.into_iter();
        Some(owned.map(|(a, found)| (a.clone(), found.into())).collect())
    }
}

/// Parses an attribute name with a range option: the name without it, and the number of the last
/// value; `None` if the range is the last one.
pub(super) fn parse_range(name: &str) -> Option<(&str, Option<usize>)> {
    let (base, options) = name.split_once(';')?;
    let range = options.split(';').find_map(|option| {
        let head = option.get(..6)?;
        head.eq_ignore_ascii_case("range=").then(|| &option[6..])
    })?;
    let (_, end) = range.split_once('-')?;
    Some((base, end.parse().ok()))
}

/// Returns the normalized form of an address or journal value, see [`Target::key`]. A value that is
/// not a target is lowercased.
pub(super) fn value_key(value: &str) -> String {
    match Target::parse(value) {
        Ok(target) => target.key().into_owned(),
        Err(_) => value.trim().to_lowercase(),
    }
}

fn keys(entry: &Entry, attributes: &[String]) -> Vec<String> {
    let values = attributes.iter().flat_map(|name| entry.values(name));
    let mut keys: Vec<String> = values.map(value_key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Prefixes of addresses in journal attributes.
const JOURNAL_PREFIXES: &[&str] = &["", "smtp:", "mailto:"];

/// Returns the spellings of an address in directories: normalized and, if the local part needs
/// quotes, as in SMTP; each with an internationalized domain in both forms.
fn spellings(address: &Address) -> Vec<String> {
    let quoted = address.to_string().to_lowercase();
    let written = quoted.rsplit_once('@').map_or("", |(local, _)| local);
    let compared = address
        .key()
        .rsplit_once('@')
        .map_or("", |(local, _)| local);
    let domains = [Some(address.domain().to_owned()), address.unicode_domain()];
    let mut all: Vec<String> = Vec::new();
    for domain in domains.iter().flatten() {
        for local in [compared, written] {
            let spelling = format!("{local}@{domain}");
            if !all.contains(&spelling) {
                all.push(spelling);
            }
        }
    }
    all
}

/// Returns the prefixes of addresses in an attribute. Only values of Exchange's attributes carry a
/// type.
fn value_prefixes(attribute: &str) -> &'static [&'static str] {
    match attribute {
        name if name.eq_ignore_ascii_case("proxyAddresses") => &["smtp:"],
        name if name.eq_ignore_ascii_case("targetAddress") => &["smtp:", ""],
        _ => &[""],
    }
}

fn equality_term(attribute: &str, kind: &str, value: &str) -> String {
    format!("({attribute}={kind}{})", ldap_escape(value))
}

/// Escapes a pattern for a filter, except for the asterisk.
fn escape_pattern(pattern: &str) -> String {
    let parts: Vec<String> = pattern
        .split('*')
        .map(|part| ldap_escape(part).into_owned())
        .collect();
    parts.join("*")
}

fn contains_name(names: &[String], attribute: &str) -> bool {
    names
        .iter()
        .any(|name| name.eq_ignore_ascii_case(attribute))
}

fn any_of(terms: Vec<String>) -> String {
    match terms.as_slice() {
        [only] => only.clone(),
        several => format!("(|{})", several.concat()),
    }
}

fn is_plain(key: &str) -> bool {
    key.is_ascii() && !key.contains(|c: char| c.is_ascii_whitespace())
}

fn is_attribute_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-.;".contains(c))
}

fn distinct(names: &[String]) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::new();
    for name in names {
        if !distinct
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
        {
            distinct.push(name.clone());
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes() -> Attributes {
        Attributes::new(
            &["mail".into(), "proxyAddresses".into()],
            &["extensionAttribute10".into(), "MAIL".into()],
        )
        .expect("valid names")
    }

    fn address(text: &str) -> Address {
        Address::parse(text).expect("a valid address")
    }

    fn entry(dn: &str, attribute: &str, values: &[&str]) -> Entry {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        Entry::new(dn, [(attribute.to_owned(), values)])
    }

    #[test]
    fn one_filter_asks_every_attribute_for_every_address() {
        assert_eq!(
            attributes().lookup_filter(&[address("Ana@b.test"), address("eve@b.test")], &[]),
            "(|(mail=ana@b.test)(proxyAddresses=smtp:ana@b.test)\
             (mail=eve@b.test)(proxyAddresses=smtp:eve@b.test))"
        );
    }

    #[test]
    fn a_contact_s_target_address_is_asked_for_with_its_type() {
        let attributes = Attributes::new(&["targetAddress".into()], &[]).expect("valid names");
        assert_eq!(
            attributes.lookup_filter(&[address("ana@b.test")], &[]),
            "(|(targetAddress=smtp:ana@b.test)(targetAddress=ana@b.test))"
        );
    }

    #[test]
    fn nothing_in_an_address_is_filter_syntax() {
        let sly = address("\"a)(cn=*\\\\\"@b.test");
        let filter = attributes().lookup_filter(&[sly], &[]);
        assert!(
            filter.contains(r"(mail=a\29\28cn=\2a\5c@b.test)"),
            "{filter}"
        );
        assert_eq!(filter.matches("cn=").count(), 4, "{filter}");
        assert!(!filter.contains("(cn="), "{filter}");
    }

    #[test]
    fn the_patterns_for_unusual_forms_are_a_filter() {
        for filter in [attributes().unusual_filter(), attributes().scan_filter()] {
            assert!(ldap3::parse_filter(&filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn a_value_that_a_scan_found_is_one_more_term() {
        let scan = scan::Scan::new(attributes());
        scan.begin();
        scan.add_entry(&entry("cn=x", "mail", &["Ana (x) <ana@b.test>"]));
        scan.finish(None, None);
        let plain = attributes().lookup_filter(&[address("ana@b.test")], &[]);
        assert_eq!(
            plain,
            "(|(mail=ana@b.test)(proxyAddresses=smtp:ana@b.test))"
        );
        let unusual = scan.unusual_values(["ana@b.test"]);
        assert_eq!(
            attributes().lookup_filter(&[address("ana@b.test")], &unusual),
            "(|(mail=ana@b.test)(proxyAddresses=smtp:ana@b.test)(mail=Ana \\28x\\29 <ana@b.test>))"
        );
        assert_eq!(scan.unusual_values(["eve@b.test"]), []);
    }

    #[test]
    fn a_quoted_local_part_is_asked_for_in_both_spellings() {
        let filter = attributes().lookup_filter(&[address("\"ana maria\"@b.test")], &[]);
        assert!(filter.contains("(mail=ana maria@b.test)"), "{filter}");
        assert!(filter.contains("(mail=\"ana maria\"@b.test)"), "{filter}");
    }

    #[test]
    fn journal_addresses_are_queried_in_every_target_spelling() {
        assert_eq!(
            attributes()
                .journal_filter(&address("J@b.test"), &[], &[])
                .as_deref(),
            Some(
                "(|(extensionAttribute10=j@b.test)(MAIL=j@b.test)\
                 (extensionAttribute10=smtp:j@b.test)(MAIL=smtp:j@b.test)\
                 (extensionAttribute10=mailto:j@b.test)(MAIL=mailto:j@b.test))"
            )
        );
        let none = Attributes::new(&["mail".into()], &[]).expect("valid names");
        assert_eq!(none.journal_filter(&address("j@b.test"), &[], &[]), None);
    }

    #[test]
    fn an_attribute_is_read_once_however_it_is_spelled() {
        assert_eq!(
            attributes().lookup_attributes(),
            [
                "mail",
                "proxyAddresses",
                "extensionAttribute10",
                "objectClass",
                "legacyExchangeDN",
                "uid",
                "targetAddress",
                "mailForwardingAddress",
                "msExchGenericForwardingAddress",
                "altRecipient"
            ]
        );
    }

    #[test]
    fn attribute_names_cannot_smuggle_filter_syntax() {
        for bad in ["mail)(cn=*", "", "ma il", "=x"] {
            assert_eq!(
                Attributes::new(&[bad.into()], &[]).map(|_| ()),
                Err(AttributeError::Malformed(bad.into()))
            );
        }
        assert_eq!(
            Attributes::new(&[], &[]).map(|_| ()),
            Err(AttributeError::NoAddresses)
        );
    }

    #[test]
    fn an_entry_answers_every_address_it_owns() {
        let both = entry(
            "cn=x",
            "proxyAddresses",
            &["SMTP:Ana@b.test", "smtp:ann@b.test"],
        );
        let asked = [
            address("ana@B.test"),
            address("ann@b.test"),
            address("no@b.test"),
        ];
        let owned = attributes().assign(&asked, vec![both]).expect("clear");
        assert_eq!(owned[&asked[0]][0].dn, "cn=x");
        assert_eq!(owned[&asked[1]][0].dn, "cn=x");
        assert!(!owned.contains_key(&asked[2]));
    }

    #[test]
    fn two_objects_with_one_address_are_both_the_answer() {
        let entries = vec![
            entry("cn=x", "mail", &["ana@b.test"]),
            entry("cn=y", "proxyAddresses", &["smtp:ana@b.test"]),
            entry("cn=z", "mail", &["eve@b.test"]),
        ];
        let asked = [address("ana@b.test"), address("eve@b.test")];
        let owned = attributes().assign(&asked, entries).expect("clear");
        assert_eq!(owned[&asked[0]].len(), 2);
        assert_eq!(owned[&asked[1]].len(), 1);
    }

    #[test]
    fn an_entry_matched_by_the_server_s_rules_is_kept() {
        let odd = || vec![entry("cn=x", "mail", &["Stra\u{df}e@b.test"])];
        let asked = [address("strasse@b.test"), address("eve@b.test")];
        assert_eq!(attributes().assign(&asked, odd()), None, "ask one by one");
        let alone = attributes().assign(&asked[..1], odd()).expect("clear");
        assert_eq!(alone[&asked[0]].len(), 1, "alone, the server's word counts");
    }

    #[test]
    fn a_journal_attribute_cut_short_is_noticed() {
        let part = entry("cn=x", "ExtensionAttribute10;Range=0-1499", &["j@b.test"]);
        assert!(attributes().truncated_attribute(&part).is_some());
        let whole = entry("cn=x", "extensionAttribute10", &["j@b.test"]);
        assert_eq!(attributes().truncated_attribute(&whole), None);
    }
}
