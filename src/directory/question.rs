//! How a mail address is asked for, and which asked address an entry that came back belongs to. Pure.
//!
//! Promises: no text that a stranger puts into an address changes the meaning of a filter; an entry
//! that the directory returned is never dropped because we compare differently than the server does.

use std::collections::HashMap;
use std::sync::Arc;

use ldap3::ldap_escape;

use super::entry::Entry;
use super::places;
use super::resolve;
use super::source::Objects;
use crate::mail::Address;

/// Which attributes hold what.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    addresses: Vec<String>,
    journal: Vec<String>,
    further: Vec<String>,
}

/// Why the configured attributes cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// There would be nothing to search.
    #[error("no address attributes are set; mail and proxyAddresses are usual")]
    NoAddresses,
    /// It is no attribute description (RFC 4512 section 2.5).
    #[error("{0:?} is no attribute name; one looks like mail or extensionAttribute10")]
    Malformed(String),
}

impl Attributes {
    /// Takes over the configured names.
    pub(super) fn new(
        addresses: &[String],
        journal: &[String],
    ) -> Result<Attributes, AttributeError> {
        if addresses.is_empty() {
            return Err(AttributeError::NoAddresses);
        }
        match addresses.iter().chain(journal).find(|name| !is_name(name)) {
            Some(bad) => Err(AttributeError::Malformed(bad.clone())),
            None => Ok(Attributes {
                addresses: distinct(addresses),
                journal: distinct(journal),
                further: Vec::new(),
            }),
        }
    }

    /// The same with further attributes to read.
    pub(super) fn with(self, further: &[String]) -> Result<Attributes, AttributeError> {
        match further.iter().find(|name| !is_name(name)) {
            Some(bad) => Err(AttributeError::Malformed(bad.clone())),
            None => Ok(Attributes {
                further: distinct(further),
                ..self
            }),
        }
    }

    /// The attributes that hold people's own addresses.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The attributes that hold journal addresses.
    pub(super) fn journal(&self) -> &[String] {
        &self.journal
    }

    /// The filter for everything with a journal attribute; `None` where there are no journal attributes.
    pub(super) fn journaled_filter(&self) -> Option<String> {
        let terms: Vec<String> = self.journal.iter().map(|j| format!("({j}=*)")).collect();
        (!terms.is_empty()).then(|| any_of(terms))
    }

    /// The filter for everything with an address.
    pub(super) fn everybody_filter(&self) -> String {
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

    /// Whether objects are searched by its values.
    pub(super) fn is_searched(&self, attribute: &str) -> bool {
        let mut all = self.addresses.iter().chain(&self.journal);
        all.any(|name| name.eq_ignore_ascii_case(attribute))
    }

    /// What a lookup has to read.
    pub(super) fn wanted(&self) -> Vec<String> {
        let both: Vec<String> = self
            .addresses
            .iter()
            .chain(&self.journal)
            .chain(&self.further)
            .cloned()
            // By these an object may be named as a journal target and be a member of groups.
            .chain(["legacyExchangeDN".to_owned(), "uid".to_owned()])
            .collect();
        distinct(&both)
    }

    /// What a lookup, or the resolution of a target, reads.
    pub(super) fn read_of_files(&self) -> Vec<String> {
        let mut all = self.wanted();
        all.extend(resolve::ATTRIBUTES.map(str::to_owned));
        distinct(&all)
    }

    /// A journal attribute of which the server sent only a part, `extensionAttribute10;range=0-1499`
    /// ([MS-ADTS] section 3.1.1.3.1.3.3): the rest would be journal addresses that nobody copies to.
    pub(super) fn cut_short<'a>(&self, entry: &'a Entry) -> Option<&'a str> {
        entry.attributes().map(|(name, _)| name).find(|name| {
            range(name)
                .is_some_and(|(base, _)| self.journal.iter().any(|j| j.eq_ignore_ascii_case(base)))
        })
    }

    /// The filter for everything that has one of these addresses.
    pub(super) fn lookup_filter(&self, asked: &[Address]) -> String {
        let terms = asked.iter().flat_map(spellings).flat_map(|value| {
            self.addresses.iter().flat_map(move |name| {
                let value = value.clone();
                kinds(name)
                    .iter()
                    .map(move |kind| equals(name, kind, &value))
            })
        });
        any_of(terms.collect())
    }

    /// The filter for everything that names this address in a journal attribute, or one of the objects that own
    /// it; `None` where there are no journal attributes.
    pub(super) fn journal_filter(
        &self,
        address: &Address,
        owners: &[Arc<Entry>],
    ) -> Option<String> {
        let addresses = spellings(address);
        let addresses = addresses.iter().flat_map(|value| {
            ["", "smtp:", "mailto:"]
                .into_iter()
                .map(move |kind| (kind, value.clone()))
        });
        let objects = owners.iter().flat_map(|object| resolve::names_of(object));
        let aliases = owners.iter().flat_map(|object| self.keys_of(object));
        let aliases = aliases.filter(|key| key.contains('@') && *key != address.key());
        let aliases = aliases.flat_map(|key| {
            ["", "smtp:", "mailto:"]
                .into_iter()
                .map(move |kind| (kind, key.clone()))
        });
        let named = addresses
            .chain(objects.map(|name| ("", name)))
            .chain(aliases);
        let terms: Vec<String> = named
            .flat_map(|(kind, value)| {
                self.journal
                    .iter()
                    .map(move |name| equals(name, kind, &value))
            })
            .collect();
        (!terms.is_empty()).then(|| any_of(terms))
    }

    /// What an entry can be looked up by, see [`address_key`].
    pub(super) fn keys_of(&self, entry: &Entry) -> Vec<String> {
        keys(entry, &self.addresses)
    }

    /// What has to be read of an object that changed, to know which answers it touches.
    pub(super) fn telling(&self) -> Vec<String> {
        let mut all = self.wanted();
        all.push("objectClass".to_owned());
        distinct(&all)
    }

    /// All names by which answers may depend on an object, see [`super::changes::Changes`].
    pub(super) fn names_of(&self, entry: &Entry) -> Vec<String> {
        let mut names = resolve::names_of(entry);
        names.push(entry.dn.clone());
        names.extend(self.keys_of(entry));
        names.extend(self.journal_keys_of(entry));
        names.extend(entry.values("uid").map(|uid| format!("uid={uid}")));
        if places::may_be_inherited_from(entry, self.has_addresses(entry)) {
            names.push(places::ANYWHERE.to_owned());
        }
        names
    }

    /// What an entry's journal attributes name.
    pub(super) fn journal_keys_of(&self, entry: &Entry) -> Vec<String> {
        keys(entry, &self.journal)
    }

    /// Whether the address may share a search with others: only where we surely compare like the
    /// server, which for letters beyond ASCII folds more than case.
    pub(super) fn can_share(asked: &Address) -> bool {
        is_plain(asked.key())
    }

    /// Gives each asked address the entries it owns. `None` where that cannot be told for sure; then
    /// each address has to be asked for alone. Alone, everything the server found is the answer.
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
            // X.500 and other kinds of address are no match for any rule.
            let odd = |key: &String| key.contains('@') && !is_plain(key);
            if !answered || keys.iter().any(odd) {
                return None;
            }
        }
        let owned = owned.into_iter();
        Some(owned.map(|(a, found)| (a.clone(), found.into())).collect())
    }
}

/// An attribute name with a range option: the name without it, and the last value's number, `None` where
/// it is the last of all.
pub(super) fn range(name: &str) -> Option<(&str, Option<usize>)> {
    let (base, options) = name.split_once(';')?;
    let range = options.split(';').find_map(|option| {
        let head = option.get(..6)?;
        head.eq_ignore_ascii_case("range=").then(|| &option[6..])
    })?;
    let (_, end) = range.split_once('-')?;
    Some((base, end.parse().ok()))
}

/// What a value of an address or journal attribute is compared by: no `smtp:` or `mailto:`, no
/// brackets, no case. A value that is no address keeps its text.
pub(super) fn address_key(value: &str) -> String {
    let value = value.trim();
    let bare = ["smtp:", "mailto:"]
        .into_iter()
        .find(|kind| {
            value
                .get(..kind.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(kind))
        })
        .map_or(value, |kind| &value[kind.len()..]);
    match Address::parse(bare) {
        Ok(address) => address.key().to_owned(),
        Err(_) => bare.to_lowercase(),
    }
}

fn keys(entry: &Entry, attributes: &[String]) -> Vec<String> {
    let values = attributes.iter().flat_map(|name| entry.values(name));
    let mut keys: Vec<String> = values.map(address_key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// As compared, and, where the local part needs quotes, as SMTP writes it too; the same with an
/// internationalized domain in letters. Directories hold any of them.
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

/// What stands before an address in an attribute. The values of Exchange's carry their type; nobody else's do.
fn kinds(attribute: &str) -> &'static [&'static str] {
    match attribute {
        name if name.eq_ignore_ascii_case("proxyAddresses") => &["smtp:"],
        name if name.eq_ignore_ascii_case("targetAddress") => &["smtp:", ""],
        _ => &[""],
    }
}

fn equals(attribute: &str, kind: &str, value: &str) -> String {
    format!("({attribute}={kind}{})", ldap_escape(value))
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

fn is_name(text: &str) -> bool {
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
            attributes().lookup_filter(&[address("Ana@b.test"), address("eve@b.test")]),
            "(|(mail=ana@b.test)(proxyAddresses=smtp:ana@b.test)\
             (mail=eve@b.test)(proxyAddresses=smtp:eve@b.test))"
        );
    }

    #[test]
    fn a_contact_s_target_address_is_asked_for_with_its_type() {
        let attributes = Attributes::new(&["targetAddress".into()], &[]).expect("valid names");
        assert_eq!(
            attributes.lookup_filter(&[address("ana@b.test")]),
            "(|(targetAddress=smtp:ana@b.test)(targetAddress=ana@b.test))"
        );
    }

    #[test]
    fn nothing_in_an_address_is_filter_syntax() {
        let sly = address("\"a)(cn=*\\\\\"@b.test");
        let filter = attributes().lookup_filter(&[sly]);
        assert!(
            filter.contains(r"(mail=a\29\28cn=\2a\5c@b.test)"),
            "{filter}"
        );
        assert_eq!(filter.matches("cn=").count(), 4, "{filter}");
        assert!(!filter.contains("(cn="), "{filter}");
    }

    #[test]
    fn a_quoted_local_part_is_asked_for_in_both_spellings() {
        let filter = attributes().lookup_filter(&[address("\"ana maria\"@b.test")]);
        assert!(filter.contains("(mail=ana maria@b.test)"), "{filter}");
        assert!(filter.contains("(mail=\"ana maria\"@b.test)"), "{filter}");
    }

    #[test]
    fn journal_addresses_are_asked_for_in_every_spelling_of_a_target() {
        assert_eq!(
            attributes()
                .journal_filter(&address("J@b.test"), &[])
                .as_deref(),
            Some(
                "(|(extensionAttribute10=j@b.test)(MAIL=j@b.test)\
                 (extensionAttribute10=smtp:j@b.test)(MAIL=smtp:j@b.test)\
                 (extensionAttribute10=mailto:j@b.test)(MAIL=mailto:j@b.test))"
            )
        );
        let none = Attributes::new(&["mail".into()], &[]).expect("valid names");
        assert_eq!(none.journal_filter(&address("j@b.test"), &[]), None);
    }

    #[test]
    fn an_attribute_is_read_once_however_it_is_spelled() {
        assert_eq!(
            attributes().wanted(),
            [
                "mail",
                "proxyAddresses",
                "extensionAttribute10",
                "legacyExchangeDN",
                "uid"
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
    fn an_entry_that_the_server_matched_in_its_own_way_is_never_dropped() {
        let odd = || vec![entry("cn=x", "mail", &["Stra\u{df}e@b.test"])];
        let asked = [address("strasse@b.test"), address("eve@b.test")];
        assert_eq!(attributes().assign(&asked, odd()), None, "ask one by one");
        let alone = attributes().assign(&asked[..1], odd()).expect("clear");
        assert_eq!(alone[&asked[0]].len(), 1, "alone, the server's word counts");
    }

    #[test]
    fn a_journal_attribute_cut_short_is_noticed() {
        let part = entry("cn=x", "ExtensionAttribute10;Range=0-1499", &["j@b.test"]);
        assert!(attributes().cut_short(&part).is_some());
        let whole = entry("cn=x", "extensionAttribute10", &["j@b.test"]);
        assert_eq!(attributes().cut_short(&whole), None);
    }
}
