//! BCC text tables → the journal addresses of people and domains.

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::map::words;
use crate::identity::DomainPattern;
use crate::mail::{Address, AddressError};

/// The attribute of `schemas/` for mail to a person.
pub(super) const RECIPIENT_ATTRIBUTE: &str = "copyistInboundJournal";
/// The attribute of `schemas/` for mail from a person.
pub(super) const SENDER_ATTRIBUTE: &str = "copyistOutboundJournal";

/// The role that a table applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Sender,
    Recipient,
}

/// A person whose mail is journaled, with the values for the person's object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Person {
    /// The values of `copyistInboundJournal`.
    pub inbound: Vec<String>,
    /// The values of `copyistOutboundJournal`.
    pub outbound: Vec<String>,
}

/// The entries of all BCC text tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct People {
    /// By address. An external address is a contact's.
    pub people: BTreeMap<String, Person>,
    /// Whether `people` includes a contact.
    pub(super) has_contacts: bool,
    /// Domains all of whose recipients' mail is journaled.
    pub(super) recipient_domains: BTreeMap<String, Vec<String>>,
    /// Domains all of whose senders' mail is journaled.
    pub(super) sender_domains: BTreeMap<String, Vec<String>>,
    /// Entries without an equivalent, with the reason.
    pub(super) odd: Vec<String>,
}

impl People {
    /// Adds the entries of a table. `is_ours` recognizes the organization's domains; a key without a
    /// domain is a user in each of the `local` ones (postconf(5), recipient_bcc_maps).
    pub(super) fn add(
        &mut self,
        who: Role,
        entries: &[(String, String)],
        local: &[String],
        is_ours: impl Fn(&str) -> bool,
    ) {
        for (key, value) in entries {
            let odd = |why: &str| format!("{key} {value}: {why}");
            let targets: Result<Vec<String>, _> = words(value)
                .into_iter()
                .map(|target| Address::parse(target).map(|address| address.to_string()))
                .collect();
            let Some(targets) = targets.ok().filter(|targets| !targets.is_empty()) else {
                self.odd.push(odd(
                    "the copy's address is not a mail address with a domain.",
                ));
                continue;
            };
            if let Some(domain) = key.strip_prefix('@') {
                let domains = match who {
                    Role::Recipient => &mut self.recipient_domains,
                    Role::Sender => &mut self.sender_domains,
                };
                match domain.parse::<DomainPattern>() {
                    Ok(_) => extend(domains.entry(domain.to_lowercase()).or_default(), &targets),
                    Err(_) => self.odd.push(odd("the key is not a domain.")),
                }
                continue;
            }
            let addresses: Result<Vec<(Address, bool)>, _> = match key.contains('@') {
                true => Address::parse(key).map(|address| {
                    let is_ours = is_ours(address.domain());
                    vec![(address, is_ours)]
                }),
                false => local
                    .iter()
                    .map(|domain| Ok((Address::parse(&format!("{key}@{domain}"))?, true)))
                    .collect(),
            };
            let Ok(addresses) = addresses.map_err(|_: AddressError| ()) else {
                self.odd.push(odd("the key is not a mail address."));
                continue;
            };
            for (address, is_ours) in addresses {
                match (who, is_ours) {
                    (Role::Recipient, true) => {
                        extend(&mut self.person(&address).inbound, &targets);
                    }
                    // Mail to an external address is outbound and uses its contact's values.
                    (Role::Recipient, false) => {
                        self.has_contacts = true;
                        extend(&mut self.person(&address).outbound, &targets);
                    }
                    (Role::Sender, true) => extend(&mut self.person(&address).outbound, &targets),
                    (Role::Sender, false) => {
                        self.odd.push(odd(
                            "for inbound mail the recipients' objects apply, not an external sender's.",
                        ));
                    }
                }
            }
        }
    }

    fn person(&mut self, address: &Address) -> &mut Person {
        self.people.entry(address.key().to_owned()).or_default()
    }

    /// Returns the targets common to all of the organization's domains, and those of single domains.
    pub(super) fn of_all(
        domains: &BTreeMap<String, Vec<String>>,
        ours: &[String],
    ) -> (Vec<String>, Vec<String>) {
        let of = |domain: &String| {
            domains
                .get(&domain.to_lowercase())
                .map_or(&[][..], Vec::as_slice)
        };
        let Some((first, others)) = ours.split_first() else {
            return (Vec::new(), Vec::new());
        };
        let mut common = of(first).to_vec();
        common.retain(|target| others.iter().all(|domain| of(domain).contains(target)));
        let mut single = Vec::new();
        for (domain, targets) in domains {
            let is_ours = ours.iter().any(|known| known.eq_ignore_ascii_case(domain));
            for target in targets
                .iter()
                .filter(|target| !is_ours || !common.contains(target))
            {
                single.push(format!("@{domain} {target}"));
            }
        }
        (common, single)
    }

    /// Returns a directory of these people in LDIF (RFC 2849) for `ldif:FILE`. It always contains an
    /// entry for the base, because a directory without entries is rejected.
    pub fn ldif(&self, base: &str) -> String {
        let mut text = String::from(
            "# Role is journaled where, made by copyist import-postfix of Postfix's BCC tables.\n\
             # Use it with urls = [\"ldif:THIS-FILE\"] in [directory]; changes take effect within a second.\n\
             version: 1\n",
        );
        let first = base.split(',').next().and_then(|rdn| rdn.split_once('='));
        let (name, value) = first.unwrap_or(("dc", "base"));
        text.push('\n');
        line(&mut text, "dn", base);
        line(&mut text, "objectClass", "top");
        line(&mut text, name.trim(), value.trim());
        for (address, person) in &self.people {
            text.push('\n');
            line(&mut text, "dn", &format!("mail={},{base}", escape(address)));
            line(&mut text, "objectClass", "inetOrgPerson");
            line(&mut text, "objectClass", "copyistJournaledObject");
            line(&mut text, "mail", address);
            for (attribute, values) in person.attributes() {
                for value in values {
                    line(&mut text, attribute, value);
                }
            }
        }
        text
    }
}

impl Person {
    /// Returns the attributes for the person's object.
    pub(super) fn attributes(&self) -> [(&'static str, &[String]); 2] {
        [
            (RECIPIENT_ATTRIBUTE, &self.inbound),
            (SENDER_ATTRIBUTE, &self.outbound),
        ]
    }
}

fn extend(known: &mut Vec<String>, more: &[String]) {
    for target in more {
        if !known.contains(target) {
            known.push(target.clone());
        }
    }
}

/// Writes a line of LDIF; a value that is not a SAFE-STRING in base64 (RFC 2849 section 2, note 8).
fn line(text: &mut String, name: &str, value: &str) {
    let begins_safely = !value.starts_with([' ', ':', '<']) && !value.ends_with(' ');
    let is_safe = begins_safely && value.chars().all(|c| c.is_ascii() && !c.is_ascii_control());
    let _ = match is_safe {
        true => writeln!(text, "{name}: {value}"),
        false => writeln!(text, "{name}:: {}", STANDARD.encode(value)),
    };
}

/// Escapes a value in a DN (RFC 4514 section 2.4).
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for (at, c) in value.char_indices() {
        let at_edge = at == 0 && (c == ' ' || c == '#') || at + 1 == value.len() && c == ' ';
        if at_edge || "\"+,;<>\\=".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(who: Role, entries: &[(&str, &str)]) -> People {
        let entries: Vec<_> = entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let mut people = People::default();
        let local = ["example.test".to_owned(), "host.example.test".to_owned()];
        people.add(who, &entries, &local, |domain| domain == "example.test");
        people
    }

    #[test]
    fn people_and_contacts_get_the_attribute_of_their_direction() {
        let people = read(
            Role::Recipient,
            &[
                ("Ana@Example.test", "a@archive.test"),
                ("ana@example.test", "b@archive.test, a@archive.test"),
                ("dan", "d@archive.test"),
                ("buyer@customer.test", "c@archive.test"),
            ],
        );
        assert_eq!(
            people.people["ana@example.test"].inbound,
            ["a@archive.test", "b@archive.test"]
        );
        assert_eq!(
            people.people["dan@example.test"].inbound,
            ["d@archive.test"]
        );
        assert_eq!(
            people.people["buyer@customer.test"].outbound,
            ["c@archive.test"]
        );
        assert!(people.has_contacts && people.odd.is_empty());
        let people = read(Role::Sender, &[("ana@example.test", "a@archive.test")]);
        assert_eq!(
            people.people["ana@example.test"].outbound,
            ["a@archive.test"]
        );
    }

    #[test]
    fn entries_without_an_equivalent_are_listed() {
        let people = read(
            Role::Sender,
            &[
                ("x@elsewhere.test", "a@archive.test"),
                ("ana@example.test", "archive"),
                ("a b@c@d", "a@archive.test"),
            ],
        );
        assert_eq!(people.odd.len(), 3, "{:?}", people.odd);
        assert!(people.odd[0].starts_with("x@elsewhere.test a@archive.test: "));
        assert!(people.people.is_empty());
    }

    #[test]
    fn only_a_target_of_all_domains_is_a_journal() {
        let people = read(
            Role::Recipient,
            &[
                ("@a.test", "all@archive.test, a@archive.test"),
                ("@b.test", "all@archive.test"),
                ("@c.test", "all@archive.test"),
            ],
        );
        let ours = ["a.test".to_owned(), "b.test".to_owned()];
        let (common, single) = People::of_all(&people.recipient_domains, &ours);
        assert_eq!(common, ["all@archive.test"]);
        assert_eq!(
            single,
            ["@a.test a@archive.test", "@c.test all@archive.test"]
        );
    }

    #[test]
    fn the_ldif_is_ascii_and_begins_with_the_base() {
        let people = read(
            Role::Recipient,
            &[
                ("o'hara+x,y@example.test", "a@archive.test"),
                ("ünal@example.test", "ü@archive.test"),
            ],
        );
        let text = people.ldif("dc=example,dc=test");
        assert!(text.contains("copyistInboundJournal:: "), "{text}");
        assert!(text.is_ascii(), "{text}");
        assert!(text.contains("\ndn: dc=example,dc=test\n"), "{text}");
    }
}
