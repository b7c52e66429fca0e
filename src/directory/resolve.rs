//! What a journal target that names an object comes to: an object's address, or a group's members.
//!
//! Promises: each address once; cycles end; a group that is too large, or half of which could not
//! be read, is an outage and never a shorter list. Asks the source and nobody else.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::changes::Names;
use super::dn;
use super::entry::{Entry, Outage};
use super::settings::{ExpandGroups, TargetSettings};
use super::source::{Name, Source};
use super::target::{Target, TargetError, x500_key};
use crate::mail::{Address, without_scheme};

/// What is read of an object that is named as a target, or is a member of one.
pub(super) const ATTRIBUTES: [&str; 12] = [
    "objectClass",
    "mail",
    "proxyAddresses",
    "targetAddress",
    "legacyExchangeDN",
    "member",
    "uniqueMember",
    "memberUid",
    "memberURL",
    "rfc822MailMember",
    "primaryGroupToken",
    "uid",
];

/// Members asked for at once.
pub(super) const AT_ONCE: usize = 32;

/// The kinds of object that stand for others.
pub(super) const GROUPS: [&str; 7] = [
    "group",
    "groupOfNames",
    "groupOfUniqueNames",
    "groupOfMembers",
    "groupOfURLs",
    "posixGroup",
    "nisMailAlias",
];

/// An address that a target leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The address.
    pub address: Address,
    /// The objects on the way: the one that the target names first, the one that has the address
    /// last.
    pub through: Arc<[String]>,
}

/// The addresses that a target leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion {
    /// Each address once.
    pub reached: Vec<Reached>,
    /// The members of a group that have no address, or that the directory does not have: they get
    /// no copy.
    pub without_address: Vec<String>,
}

impl From<Vec<Reached>> for Expansion {
    fn from(reached: Vec<Reached>) -> Expansion {
        Expansion {
            reached,
            without_address: Vec::new(),
        }
    }
}

/// The expansion of a target, with at least one address; or why there is none.
pub type Resolution = Result<Arc<Expansion>, TargetError>;

/// Finds what a target comes to, and what that depends on.
pub(super) async fn resolve<S: Source>(
    source: &S,
    target: &Target,
    settings: &TargetSettings,
) -> Result<(Resolution, Names), Outage> {
    let name = match target {
        Target::Smtp(address) => {
            let reached = Reached {
                address: address.clone(),
                through: Arc::new([]),
            };
            let expansion = Expansion::from(vec![reached]);
            return Ok((Ok(Arc::new(expansion)), Names::default()));
        }
        Target::Dn(dn) => Name::Dn(dn.to_owned()),
        Target::X500(text) => Name::X500(text.clone()),
    };
    let mut walk = Walk {
        settings,
        asked: HashSet::new(),
        seen: HashSet::new(),
        reached: BTreeMap::new(),
        without: Vec::new(),
        searched: false,
    };
    let mut level = vec![(name, Vec::new())];
    let too_many = || {
        Outage::new(format!(
            "the group {target} has more than directory.group_limit = {} members",
            settings.group_limit
        ))
    };
    while !level.is_empty() {
        level.retain(|(name, _)| walk.asked.insert(name.key()));
        // Before they are asked for: a group may be larger than we would want to read.
        if walk.asked.len() > settings.group_limit {
            return Err(too_many());
        }
        let found: Vec<(Vec<Arc<Entry>>, Name, Way)> = stream::iter(level)
            .map(|(name, way)| async move {
                let entries = source.named(&name).await?;
                Ok::<_, Outage>((entries, name, way))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        level = Vec::new();
        for (entries, name, way) in found {
            walk.searched |= matches!(name, Name::Url(_));
            if entries.is_empty() && way.is_empty() {
                let nowhere = Err(TargetError::Nowhere(target.to_string()));
                return Ok((nowhere, walk.names()));
            }
            // A dynamic group may well have nobody in it now.
            if entries.is_empty() && !matches!(name, Name::Url(_)) {
                walk.without.push(name.to_string());
            }
            for entry in entries {
                level.extend(walk.visit(&entry, &way));
            }
            if walk.seen.len() > settings.group_limit {
                return Err(too_many());
            }
        }
    }
    let names = walk.names();
    Ok((walk.end(target), names))
}

/// The objects from the one that a target names to a member.
type Way = Vec<String>;

/// What was seen on the way through a group.
struct Walk<'a> {
    settings: &'a TargetSettings,
    asked: HashSet<String>,
    seen: HashSet<String>,
    reached: BTreeMap<Address, Arc<[String]>>,
    without: Vec<String>,
    /// Whether a member was named by a search.
    searched: bool,
}

impl Walk<'_> {
    /// Takes an object's address, or gives the members that it stands for.
    fn visit(&mut self, entry: &Entry, way: &Way) -> Vec<(Name, Way)> {
        if !self.seen.insert(dn::key(&entry.dn)) {
            return Vec::new();
        }
        let mut way = way.clone();
        way.push(entry.dn.clone());
        let own = own_address(entry, self.settings);
        let always = self.settings.expand_groups == ExpandGroups::Always;
        if is_group(entry) && (own.is_none() || always) {
            return members(entry).map(|name| (name, way.clone())).collect();
        }
        match own {
            Some(address) => {
                self.reached.entry(address).or_insert_with(|| way.into());
            }
            None => self.without.push(entry.dn.clone()),
        }
        Vec::new()
    }

    /// What the answer depends on.
    fn names(&self) -> Names {
        // Whoever begins to match a search becomes a member; no name tells of him.
        if self.searched {
            return Names::any();
        }
        // The addresses, too: an object that gets another DN is told of by its new one.
        let addresses = self.reached.keys().map(|address| address.key().to_owned());
        Names::of(
            self.asked
                .iter()
                .chain(&self.seen)
                .cloned()
                .chain(addresses),
        )
    }

    fn end(self, target: &Target) -> Resolution {
        let first = self.without.iter().take(5).cloned();
        let first: Vec<String> = first.collect();
        if self.reached.is_empty() {
            return Err(TargetError::NoAddress {
                target: target.to_string(),
                objects: first,
            });
        }
        let without = self.without.len();
        if without > 0 {
            metrics::counter!("copyist_directory_members_without_address_total")
                .increment(without as u64);
            tracing::warn!(
                %target,
                members = without,
                "members of a journal target have no address, the others get the copies: {}",
                first.join("; ")
            );
        }
        let reached = self.reached.into_iter();
        let reached = reached.map(|(address, through)| Reached { address, through });
        Ok(Arc::new(Expansion {
            reached: reached.collect(),
            without_address: self.without,
        }))
    }
}

/// The one address that mail to an object goes to: the primary proxy address (`SMTP:` in capitals,
/// as Exchange writes it), else `mail`, else a contact's `targetAddress`.
pub(super) fn own_address(entry: &Entry, settings: &TargetSettings) -> Option<Address> {
    let proxies = entry.values("proxyAddresses");
    let primary = proxies
        .filter(|value| value.starts_with("SMTP:"))
        .chain(entry.values("mail"))
        .chain(entry.values("targetAddress"))
        .find_map(|value| match Target::parse(value) {
            Ok(Target::Smtp(address)) => Some(address),
            _ => None,
        });
    primary.or_else(|| {
        // A group without an address is expanded; anything else can still be reached inside
        // Exchange.
        let domain = settings.imceaex_domain.as_ref()?;
        let legacy = entry.values("legacyExchangeDN").first()?;
        (!is_group(entry)).then(|| imceaex(legacy, domain))?
    })
}

/// An X.500 address in SMTP form, `IMCEAEX-_O=ACME_CN=x@domain` ([MS-OXOABK] calls it an
/// encapsulated address): `/` is `_`, and what is neither letter, digit, `-` nor `=` is `+` and two
/// hexadecimal digits.
fn imceaex(legacy: &str, domain: &str) -> Option<Address> {
    let local: String = legacy
        .bytes()
        .map(|byte| match byte {
            b'/' => "_".to_owned(),
            b'-' | b'=' => char::from(byte).to_string(),
            _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            _ => format!("+{byte:02X}"),
        })
        .collect();
    Address::parse(&format!("IMCEAEX-{local}@{domain}")).ok()
}

/// The X.500 address in an encapsulated one.
pub(super) fn encapsulated(address: &Address) -> Option<String> {
    const START: &str = "IMCEAEX-";
    let local = address.local();
    let start = local.get(..START.len())?;
    if !start.eq_ignore_ascii_case(START) {
        return None;
    }
    let mut name = Vec::with_capacity(local.len());
    let mut rest = local.as_bytes()[START.len()..].iter();
    while let Some(&byte) = rest.next() {
        name.push(match byte {
            b'_' => b'/',
            b'+' => {
                let mut digit = || char::from(*rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    let name = String::from_utf8(name).ok()?;
    (name.starts_with('/') && !name.contains(char::is_control)).then_some(name)
}

pub(super) fn is_group(entry: &Entry) -> bool {
    entry.is_group() || members(entry).next().is_some()
}

pub(super) fn members(entry: &Entry) -> impl Iterator<Item = Name> {
    let named = ["member", "uniqueMember"];
    let named = named.into_iter().flat_map(|name| entry.values(name));
    named
        .map(|dn| Name::Dn(dn.to_owned()))
        .chain(
            entry
                .values("memberUid")
                .map(|uid| Name::Uid(uid.to_owned())),
        )
        .chain(
            entry
                .values("memberURL")
                .map(|url| Name::Url(url.to_owned())),
        )
}

/// The keys of an object's names in journal attributes: its DN and its X.500 addresses; see
/// [`Target::key`].
pub(super) fn names_of(entry: &Entry) -> Vec<String> {
    let mut names: Vec<String> = x500_of(entry).map(x500_key).collect();
    names.push(dn::key(&entry.dn));
    names.sort_unstable();
    names.dedup();
    names
}

/// An object's X.500 addresses, without `X500:`.
pub(super) fn x500_of(entry: &Entry) -> impl Iterator<Item = &str> {
    let proxies = entry.values("proxyAddresses");
    let proxies = proxies.filter_map(|value| without_scheme(value.trim(), "x500"));
    proxies.chain(entry.values("legacyExchangeDN"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_without_an_smtp_address_is_reached_inside_exchange() {
        let address = imceaex("/o=ACME/ou=First Group/cn=x_y", "acme.test").expect("an address");
        assert_eq!(
            address.to_string(),
            "IMCEAEX-_o=ACME_ou=First+20Group_cn=x+5Fy@acme.test"
        );
        let back = encapsulated(&address);
        assert_eq!(back.as_deref(), Some("/o=ACME/ou=First Group/cn=x_y"));
        for none in [
            "ana@acme.test",
            "IMCEAEX-x+2@a.test",
            "IMCEAEX-_o=a+0A@a.test",
            "\u{fc}IMCEAEX@a.test",
        ] {
            let none = Address::parse(none).expect("an address");
            assert_eq!(encapsulated(&none), None, "{none}");
        }
    }

    #[test]
    fn the_primary_address_is_the_one_in_capitals() {
        let values = |all: &[&str]| all.iter().map(|v| (*v).to_owned()).collect();
        let entry = Entry::new(
            "cn=x",
            [
                ("mail".to_owned(), values(&["second@b.test"])),
                (
                    "proxyAddresses".to_owned(),
                    values(&["smtp:third@b.test", "SMTP:first@b.test"]),
                ),
            ],
        );
        let address = own_address(&entry, &TargetSettings::default()).expect("an address");
        assert_eq!(address.to_string(), "first@b.test");
    }
}
