//! The people behind a group that is a recipient.
//!
//! Promises: mail to a group concerns each member that has a journal attribute, at any depth;
//! cycles end. The size of a group bounds the memory taken, not what is found: beyond
//! `TargetSettings::group_limit` the members are not read one by one, but everybody in the
//! directory is compared with their names, and only those who matter are kept.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::changes::Names;
use super::dn;
use super::entry::{Entry, Outage};
use super::memory::Answer;
use super::places;
use super::resolve::{self, AT_ONCE, is_group};
use super::settings::Places;
use super::source::{Name, Objects, Source};
use super::target::Target;
use crate::mail::Address;

/// The members of a group, as far as they matter for mail to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those with a journal attribute, each with the objects that it inherits from behind it.
    pub journaled: Vec<Objects>,
    /// One address for each domain that members have addresses of: the directions of mail to the
    /// group follow from them.
    pub domains: Vec<Address>,
    /// Addresses that mail to the group leads on to: of members that are named by address
    /// (`rfc822MailMember`), that forward their mail, or whose address the MTA rewrites.
    pub addresses: Vec<Address>,
    /// Whether there are members, and the exemption attribute of each says TRUE.
    pub all_exempt: bool,
}

impl Answer for Arc<Members> {
    fn is_yes(&self) -> bool {
        true
    }
}

/// Tells whether the MTA makes other addresses of a member's.
pub trait Rewriting: Send + Sync + 'static {
    /// Another number whenever answers may be others.
    fn version(&self) -> u64;

    /// Whether mail to this address goes elsewhere, or elsewhere as well.
    fn rewrites<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<bool, Outage>>;
}

/// The members of a group as they were read.
pub(super) struct Found {
    /// Everything but the group itself that was read.
    pub(super) members: Vec<Arc<Entry>>,
    /// Members that are named by address.
    pub(super) addresses: Vec<Address>,
    /// The names of all members, if they are too many to be read one by one: `members` are the
    /// groups among them then.
    pub(super) unread: Option<Unread>,
    /// What the answer depends on.
    pub(super) names: Names,
}

/// The names of members that were not read.
pub(super) struct Unread {
    names: HashSet<String>,
    seen: HashSet<String>,
}

impl Unread {
    /// Whether an object is one of these members.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let key = dn::key(&entry.dn);
        if self.seen.contains(&key) {
            return false;
        }
        let uids = entry.values("uid");
        let mut uids = uids.map(|uid| Name::Uid(uid.to_owned()).key());
        self.names.contains(&key) || uids.any(|key| self.names.contains(&key))
    }

    /// How many of these members are not groups.
    pub(super) fn count(&self) -> usize {
        let groups = self.names.iter().filter(|name| self.seen.contains(*name));
        self.names.len() - groups.count()
    }
}

/// Which objects journal attributes of groups and containers cover.
#[derive(Default)]
pub(super) struct Covered {
    containers: HashSet<String>,
    members: HashSet<String>,
    seen: HashSet<String>,
}

impl Covered {
    /// Whether an object may inherit from a group or container.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let is_within = || {
            let above = places::above(&entry.dn, "");
            above
                .iter()
                .any(|dn| self.containers.contains(&dn::key(dn)))
        };
        let is_member = || {
            let key = dn::key(&entry.dn);
            let uids = entry.values("uid");
            let mut uids = uids.map(|uid| Name::Uid(uid.to_owned()).key());
            self.members.contains(&key)
                || self.seen.contains(&key)
                || uids.any(|key| self.members.contains(&key))
        };
        !self.containers.is_empty() && is_within() || is_member()
    }
}

/// Reads which objects journal attributes of groups and containers cover.
pub(super) async fn covered<S: Source>(source: &S, places: Places) -> Result<Covered, Outage> {
    let mut covered = Covered::default();
    if places == Places::default() {
        return Ok(covered);
    }
    let groups = group_keys(source).await?;
    for entry in source.journaled().await? {
        if places.containers {
            covered.containers.insert(dn::key(&entry.dn));
        }
        if places.groups && groups.contains(&dn::key(&entry.dn)) {
            let (walk, names) = walk_groups(source, &entry.dn, &groups).await?;
            covered.members.extend(names);
            covered.seen.extend(walk.seen);
        }
    }
    Ok(covered)
}

async fn group_keys<S: Source>(source: &S) -> Result<HashSet<String>, Outage> {
    let groups = source.groups().await?;
    Ok(groups.iter().map(|dn| dn::key(dn)).collect())
}

/// Reads the members of a group, through groups in it.
pub(super) async fn members<S: Source>(
    source: &S,
    group: &Entry,
    limit: usize,
    places: Places,
) -> Result<Found, Outage> {
    let mut walk = Walk::default();
    let mut level = vec![Name::Dn(group.dn.clone())];
    while !level.is_empty() {
        level.retain(|name| walk.asked.insert(name.key()));
        if walk.asked.len() > limit {
            return compare(source, group, places).await;
        }
        let entries: Vec<Vec<Arc<Entry>>> = read(source, level).await?;
        level = Vec::new();
        for entry in entries.into_iter().flatten() {
            level.extend(walk.visit(&entry));
        }
    }
    Ok(Found {
        names: match walk.searched {
            // Whoever begins to match a search becomes a member; no name tells of that.
            true => Names::any(),
            false => Names::of(walk.asked.into_iter().chain(inherited(places))),
        },
        members: walk.members,
        addresses: walk.addresses,
        unread: None,
    })
}

async fn read<S: Source>(source: &S, names: Vec<Name>) -> Result<Vec<Vec<Arc<Entry>>>, Outage> {
    stream::iter(names)
        .map(|name| async move { source.named(&name).await })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

#[derive(Default)]
struct Walk {
    asked: HashSet<String>,
    seen: HashSet<String>,
    members: Vec<Arc<Entry>>,
    addresses: Vec<Address>,
    /// Whether members were found by a search: whoever begins to match becomes one.
    searched: bool,
}

impl Walk {
    /// Notes an object; gives the members that it stands for.
    fn visit(&mut self, entry: &Arc<Entry>) -> Vec<Name> {
        let is_first = self.seen.is_empty();
        if !self.seen.insert(dn::key(&entry.dn)) {
            return Vec::new();
        }
        if !is_first {
            self.members.push(Arc::clone(entry));
        }
        if !is_group(entry) {
            return Vec::new();
        }
        self.addresses.extend(named_by_address(entry));
        let names: Vec<Name> = names_in(entry);
        self.searched |= names
            .iter()
            .any(|name| matches!(name, Name::Url(_) | Name::PrimaryGroup(_)));
        names
    }
}

fn names_in(group: &Entry) -> Vec<Name> {
    let primary = group.values("primaryGroupToken");
    let primary = primary.map(|token| Name::PrimaryGroup(token.to_owned()));
    resolve::members(group).chain(primary).collect()
}

fn named_by_address(group: &Entry) -> impl Iterator<Item = Address> {
    let values = group.values("rfc822MailMember");
    values.filter_map(|value| match Target::parse(value) {
        Ok(Target::Smtp(address)) => Some(address),
        _ => None,
    })
}

/// The names of a large group's members, and those who were read on the way.
async fn compare<S: Source>(source: &S, group: &Entry, places: Places) -> Result<Found, Outage> {
    let groups = group_keys(source).await?;
    let (walk, names) = walk_groups(source, &group.dn, &groups).await?;
    Ok(Found {
        // Not any change at all: in a large directory something changes while a large group is
        // read. Who begins to match a search counts when the answer is too old.
        names: Names::of(
            (names.iter().chain(&walk.seen).cloned())
                .chain([dn::key(&group.dn)])
                .chain(inherited(places)),
        ),
        members: walk.members,
        addresses: walk.addresses,
        unread: Some(Unread {
            names,
            seen: walk.seen,
        }),
    })
}

/// A name for what members may inherit from, if they do.
fn inherited(places: Places) -> Option<String> {
    (places != Places::default()).then(|| places::ANYWHERE.to_owned())
}

/// Reads a group and the groups in it, and gives the names of all members.
async fn walk_groups<S: Source>(
    source: &S,
    group: &str,
    groups: &HashSet<String>,
) -> Result<(Walk, HashSet<String>), Outage> {
    let mut walk = Walk::default();
    let mut names: HashSet<String> = HashSet::new();
    let mut level = vec![Name::Dn(group.to_owned())];
    while !level.is_empty() {
        let entries = read(source, level).await?;
        level = Vec::new();
        for entry in entries.into_iter().flatten() {
            for name in walk.visit(&entry) {
                let key = name.key();
                let is_group = match name {
                    Name::Dn(_) => groups.contains(&key),
                    Name::Uid(_) | Name::X500(_) => false,
                    Name::Url(_) | Name::PrimaryGroup(_) => true,
                };
                if is_group {
                    // A search has no object of its own.
                    let is_search = !matches!(name, Name::Dn(_));
                    let is_new = match is_search {
                        true => walk.asked.insert(key),
                        false => names.insert(key),
                    };
                    level.extend(is_new.then_some(name));
                } else {
                    names.insert(key);
                }
            }
        }
    }
    Ok((walk, names))
}
