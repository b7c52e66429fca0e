//! Resolution of journal targets: an object's address, or a group's members.
//!
//! Promises: each address once; cycles end; a group that is too large or only partly readable is an
//! outage, never a shorter list. Queries the source only.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::change_log::Dependencies;
use super::dn;
use super::entry::{Entry, Outage};
use super::settings::{ExpandGroups, TargetSettings};
use super::source::{ObjectName, Source};
use super::target::{Target, TargetError, x500_key};
use crate::mail::{Address, without_scheme};

/// Attributes read of targets and their members.
pub(super) const TARGET_ATTRIBUTES: [&str; 12] = [
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

/// Number of members read concurrently.
pub(super) const CONCURRENT_READS: usize = 32;

/// Object classes of groups.
pub(super) const GROUP_CLASSES: [&str; 7] = [
    "group",
    "groupOfNames",
    "groupOfUniqueNames",
    "groupOfMembers",
    "groupOfURLs",
    "posixGroup",
    "nisMailAlias",
];

/// An address that a target resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedAddress {
    /// The address.
    pub address: Address,
    /// The DNs from the object that the target names to the object with the address.
    pub path: Arc<[String]>,
}

/// The addresses that a target resolves to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedTarget {
    /// Each address once.
    pub addresses: Vec<ResolvedAddress>,
    /// Members of a group that have no address or do not exist; they get no copy.
    pub members_without_address: Vec<String>,
}

impl From<Vec<ResolvedAddress>> for ResolvedTarget {
    fn from(addresses: Vec<ResolvedAddress>) -> ResolvedTarget {
        ResolvedTarget {
            addresses,
            members_without_address: Vec::new(),
        }
    }
}

/// The addresses of a target, at least one; or why there is none.
pub type Resolution = Result<Arc<ResolvedTarget>, TargetError>;

/// Resolves a target, and returns the dependencies of the answer.
pub(super) async fn resolve<S: Source>(
    source: &S,
    target: &Target,
    settings: &TargetSettings,
) -> Result<(Resolution, Dependencies), Outage> {
    let name = match target {
        Target::Smtp(address) => {
            let addresses = ResolvedAddress {
                address: address.clone(),
                path: Arc::new([]),
            };
            let expansion = ResolvedTarget::from(vec![addresses]);
            return Ok((Ok(Arc::new(expansion)), Dependencies::default()));
        }
        Target::Dn(dn) => ObjectName::Dn(dn.to_owned()),
        Target::X500(text) => ObjectName::X500(text.clone()),
    };
    let mut walk = TargetWalk {
        settings,
        asked: HashSet::new(),
        seen: HashSet::new(),
        addresses: BTreeMap::new(),
        members_without_address: Vec::new(),
        uses_search: false,
    };
    let mut level = vec![(name, Vec::new())];
    let too_many = || {
        Outage::new(format!(
            "group {target} has more than {} members (directory.group_limit)",
            settings.group_limit
        ))
    };
    while !level.is_empty() {
        level.retain(|(name, _)| walk.asked.insert(name.key()));
        // Checked before they are read: a group may be larger than we want to read.
        if walk.asked.len() > settings.group_limit {
            return Err(too_many());
        }
        let found: Vec<(Vec<Arc<Entry>>, ObjectName, DnPath)> = stream::iter(level)
            .map(|(name, path)| async move {
                let entries = source.find_named(&name).await?;
                Ok::<_, Outage>((entries, name, path))
            })
            .buffered(CONCURRENT_READS)
            .try_collect()
            .await?;
        level = Vec::new();
        for (entries, name, path) in found {
            walk.uses_search |= matches!(name, ObjectName::Url(_));
            if entries.is_empty() && path.is_empty() {
                let nowhere = Err(TargetError::NoSuchObject(target.to_string()));
                return Ok((nowhere, walk.dependencies()));
            }
            // A dynamic group may be empty.
            if entries.is_empty() && !matches!(name, ObjectName::Url(_)) {
                walk.members_without_address.push(name.to_string());
            }
            for entry in entries {
                level.extend(walk.visit(&entry, &path));
            }
            if walk.seen.len() > settings.group_limit {
                return Err(too_many());
            }
        }
    }
    let names = walk.dependencies();
    Ok((walk.finish(target), names))
}

/// The DNs from the object that a target names to a member.
type DnPath = Vec<String>;

/// State of resolving a target.
struct TargetWalk<'a> {
    settings: &'a TargetSettings,
    asked: HashSet<String>,
    seen: HashSet<String>,
    addresses: BTreeMap<Address, Arc<[String]>>,
    members_without_address: Vec<String>,
    /// Whether members were found by a search.
    uses_search: bool,
}

impl TargetWalk<'_> {
    /// Adds an object's address, or returns the names of a group's members.
    fn visit(&mut self, entry: &Entry, path: &DnPath) -> Vec<(ObjectName, DnPath)> {
        if !self.seen.insert(dn::key(&entry.dn)) {
            return Vec::new();
        }
        let mut path = path.clone();
        path.push(entry.dn.clone());
        let own = primary_address(entry, self.settings);
        let always = self.settings.expand_groups == ExpandGroups::Always;
        if is_group(entry) && (own.is_none() || always) {
            return member_names(entry)
                .map(|name| (name, path.clone()))
                .collect();
        }
        match own {
            Some(address) => {
                self.addresses.entry(address).or_insert_with(|| path.into());
            }
            None => self.members_without_address.push(entry.dn.clone()),
        }
        Vec::new()
    }

    /// Returns the dependencies of the answer.
    fn dependencies(&self) -> Dependencies {
        // An object that begins to match a search becomes a member without a change by any known
        // name.
        if self.uses_search {
            return Dependencies::on_everything();
        }
        // The addresses, too: a renamed object is reported by its new DN.
        let addresses = self
            .addresses
            .keys()
            .map(|address| address.key().to_owned());
        Dependencies::new(
            self.asked
                .iter()
                .chain(&self.seen)
                .cloned()
                .chain(addresses),
        )
    }

    fn finish(self, target: &Target) -> Resolution {
        let first = self.members_without_address.iter().take(5).cloned();
        let first: Vec<String> = first.collect();
        if self.addresses.is_empty() {
            return Err(TargetError::NoAddress {
                target: target.to_string(),
                objects: first,
            });
        }
        let members_without_address = self.members_without_address.len();
        if members_without_address > 0 {
            metrics::counter!("copyist_directory_members_without_address_total")
                .increment(members_without_address as u64);
            tracing::warn!(
                %target,
                member_names = members_without_address,
                "members of a journal target have no address and get no copy: {}",
                first.join("; ")
            );
        }
        let addresses = self.addresses.into_iter();
        let addresses = addresses.map(|(address, path)| ResolvedAddress { address, path });
        Ok(Arc::new(ResolvedTarget {
            addresses: addresses.collect(),
            members_without_address: self.members_without_address,
        }))
    }
}

/// Returns the address that mail to an object goes to: the primary proxy address (`SMTP:` in
/// capitals, as Exchange writes it), else `mail`, else a contact's `targetAddress`.
pub(super) fn primary_address(entry: &Entry, settings: &TargetSettings) -> Option<Address> {
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
        // A group without an address is expanded; other objects can be addressed inside Exchange.
        let domain = settings.imceaex_domain.as_ref()?;
        let legacy = entry.values("legacyExchangeDN").first()?;
        (!is_group(entry)).then(|| encode_imceaex(legacy, domain))?
    })
}

/// Encapsulates an X.500 address in an SMTP address, `IMCEAEX-_O=ACME_CN=x@domain` ([MS-OXOABK]):
/// `/` becomes `_`, and bytes other than letters, digits, `-` and `=` become `+` and two
/// hexadecimal digits.
fn encode_imceaex(legacy: &str, domain: &str) -> Option<Address> {
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

/// Returns the X.500 address in an encapsulated address.
pub(super) fn decode_imceaex(address: &Address) -> Option<String> {
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
    entry.is_group() || member_names(entry).next().is_some()
}

pub(super) fn member_names(entry: &Entry) -> impl Iterator<Item = ObjectName> {
    let named = ["member", "uniqueMember"];
    let named = named.into_iter().flat_map(|name| entry.values(name));
    named
        .map(|dn| ObjectName::Dn(dn.to_owned()))
        .chain(
            entry
                .values("memberUid")
                .map(|uid| ObjectName::Uid(uid.to_owned())),
        )
        .chain(
            entry
                .values("memberURL")
                .map(|url| ObjectName::Url(url.to_owned())),
        )
}

/// Returns the keys by which journal attributes may name an object: its DN and X.500 addresses; see
/// [`Target::key`].
pub(super) fn object_keys(entry: &Entry) -> Vec<String> {
    let mut names: Vec<String> = x500_addresses(entry).map(x500_key).collect();
    names.push(dn::key(&entry.dn));
    names.sort_unstable();
    names.dedup();
    names
}

/// Returns an object's X.500 addresses, without `X500:`.
pub(super) fn x500_addresses(entry: &Entry) -> impl Iterator<Item = &str> {
    let proxies = entry.values("proxyAddresses");
    let proxies = proxies.filter_map(|value| without_scheme(value.trim(), "x500"));
    proxies.chain(entry.values("legacyExchangeDN"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_without_an_smtp_address_is_reached_inside_exchange() {
        let address =
            encode_imceaex("/o=ACME/ou=First Group/cn=x_y", "acme.test").expect("an address");
        assert_eq!(
            address.to_string(),
            "IMCEAEX-_o=ACME_ou=First+20Group_cn=x+5Fy@acme.test"
        );
        let back = decode_imceaex(&address);
        assert_eq!(back.as_deref(), Some("/o=ACME/ou=First Group/cn=x_y"));
        for none in [
            "ana@acme.test",
            "IMCEAEX-x+2@a.test",
            "IMCEAEX-_o=a+0A@a.test",
            "\u{fc}IMCEAEX@a.test",
        ] {
            let none = Address::parse(none).expect("an address");
            assert_eq!(decode_imceaex(&none), None, "{none}");
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
        let address = primary_address(&entry, &TargetSettings::default()).expect("an address");
        assert_eq!(address.to_string(), "first@b.test");
    }
}
