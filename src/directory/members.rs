//! The members of a group that is a recipient.
//!
//! Promises: each member with a journal attribute is found, at any depth; cycles end. Beyond
//! `TargetSettings::group_limit` the members are not read one by one; instead all objects of the
//! directory are compared with the members' names, and only those that matter are kept. So large
//! groups take little memory, and nothing is missed.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::answer_cache::CacheableAnswer;
use super::change_log::Dependencies;
use super::dn;
use super::entry::{Entry, Outage};
use super::inheritance;
use super::resolve::{self, CONCURRENT_READS, is_group};
use super::settings::Inheritance;
use super::source::{ObjectName, Objects, Source};
use super::target::Target;
use crate::mail::Address;

/// The members of a group, as far as they matter for mail to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Members with a journal attribute, each followed by the objects that it inherits from.
    pub journaled: Vec<Objects>,
    /// One member address for each domain: the directions of mail to the group follow from them.
    pub domains: Vec<Address>,
    /// Addresses to resolve further: of members that are named by address (`rfc822MailMember`),
    /// that forward their mail, or whose address the MTA rewrites.
    pub addresses: Vec<Address>,
    /// Whether there are members, and the exempt attribute of each is TRUE.
    pub all_exempt: bool,
}

impl CacheableAnswer for Arc<Members> {
    fn is_positive(&self) -> bool {
        true
    }
}

/// The MTA's rewriting of members' addresses.
pub trait AddressRewriter: Send + Sync + 'static {
    /// Returns a number that changes whenever answers may change.
    fn version(&self) -> u64;

    /// Whether mail to this address goes elsewhere, or elsewhere as well.
    fn rewrites<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<bool, Outage>>;
}

/// The members of a group as read from the source.
pub(super) struct MemberList {
    /// All objects read, except the group itself.
    pub(super) members: Vec<Arc<Entry>>,
    /// Members that are named by address.
    pub(super) addresses: Vec<Address>,
    /// The names of all members, if there are too many to be read one by one; `members` then
    /// contains the groups among them.
    pub(super) unread: Option<UnreadMembers>,
    /// The dependencies of the answer.
    pub(super) names: Dependencies,
}

/// The names of members that were not read.
pub(super) struct UnreadMembers {
    names: HashSet<String>,
    visited: HashSet<String>,
}

impl UnreadMembers {
    /// Whether an object is one of these members.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let key = dn::key(&entry.dn);
        if self.visited.contains(&key) {
            return false;
        }
        let uids = entry.values("uid");
        let mut uids = uids.map(|uid| ObjectName::Uid(uid.to_owned()).key());
        self.names.contains(&key) || uids.any(|key| self.names.contains(&key))
    }

    /// Returns the number of these members that are not groups.
    pub(super) fn count(&self) -> usize {
        let groups = self
            .names
            .iter()
            .filter(|name| self.visited.contains(*name));
        self.names.len() - groups.count()
    }
}

/// The objects that inherit journal attributes from groups and containers.
#[derive(Default)]
pub(super) struct InheritanceCoverage {
    containers: HashSet<String>,
    members: HashSet<String>,
    visited: HashSet<String>,
}

impl InheritanceCoverage {
    /// Whether an object may inherit from a group or container.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let is_within = || {
            let above = inheritance::containers_above(&entry.dn, "");
            above
                .iter()
                .any(|dn| self.containers.contains(&dn::key(dn)))
        };
        let is_member = || {
            let key = dn::key(&entry.dn);
            let uids = entry.values("uid");
            let mut uids = uids.map(|uid| ObjectName::Uid(uid.to_owned()).key());
            self.members.contains(&key)
                || self.visited.contains(&key)
                || uids.any(|key| self.members.contains(&key))
        };
        !self.containers.is_empty() && is_within() || is_member()
    }
}

/// Reads which objects inherit journal attributes from groups and containers.
pub(super) async fn read_coverage<S: Source>(
    source: &S,
    inheritance: Inheritance,
) -> Result<InheritanceCoverage, Outage> {
    let mut covered = InheritanceCoverage::default();
    if inheritance == Inheritance::default() {
        return Ok(covered);
    }
    let groups = group_keys(source).await?;
    for entry in source.list_journaled().await? {
        if inheritance.containers {
            covered.containers.insert(dn::key(&entry.dn));
        }
        if inheritance.groups && groups.contains(&dn::key(&entry.dn)) {
            let (walk, names) = walk_groups(source, &entry.dn, &groups).await?;
            covered.members.extend(names);
            covered.visited.extend(walk.visited);
        }
    }
    Ok(covered)
}

async fn group_keys<S: Source>(source: &S) -> Result<HashSet<String>, Outage> {
    let groups = source.list_groups().await?;
    Ok(groups.iter().map(|dn| dn::key(dn)).collect())
}

/// Reads the members of a group and of the groups in it.
pub(super) async fn read_members<S: Source>(
    source: &S,
    group: &Entry,
    limit: usize,
    inheritance: Inheritance,
) -> Result<MemberList, Outage> {
    let mut walk = MemberWalk::default();
    let mut level = vec![ObjectName::Dn(group.dn.clone())];
    while !level.is_empty() {
        level.retain(|name| walk.asked.insert(name.key()));
        if walk.asked.len() > limit {
            return collect_names(source, group, inheritance).await;
        }
        let entries: Vec<Vec<Arc<Entry>>> = read_objects(source, level).await?;
        level = Vec::new();
        for entry in entries.into_iter().flatten() {
            level.extend(walk.visit(&entry));
        }
    }
    Ok(MemberList {
        names: match walk.uses_search {
            // An object that begins to match a search becomes a member without a change by any
            // known name.
            true => Dependencies::on_everything(),
            false => Dependencies::new(walk.asked.into_iter().chain(inheritance_key(inheritance))),
        },
        members: walk.members,
        addresses: walk.addresses,
        unread: None,
    })
}

async fn read_objects<S: Source>(
    source: &S,
    names: Vec<ObjectName>,
) -> Result<Vec<Vec<Arc<Entry>>>, Outage> {
    stream::iter(names)
        .map(|name| async move { source.find_named(&name).await })
        .buffered(CONCURRENT_READS)
        .try_collect()
        .await
}

#[derive(Default)]
struct MemberWalk {
    asked: HashSet<String>,
    visited: HashSet<String>,
    members: Vec<Arc<Entry>>,
    addresses: Vec<Address>,
    /// Whether members were found by a search.
    uses_search: bool,
}

impl MemberWalk {
    /// Adds an object, and returns the names of its members.
    fn visit(&mut self, entry: &Arc<Entry>) -> Vec<ObjectName> {
        let is_first = self.visited.is_empty();
        if !self.visited.insert(dn::key(&entry.dn)) {
            return Vec::new();
        }
        if !is_first {
            self.members.push(Arc::clone(entry));
        }
        if !is_group(entry) {
            return Vec::new();
        }
        self.addresses.extend(address_members(entry));
        let names: Vec<ObjectName> = names_of_members(entry);
        self.uses_search |= names
            .iter()
            .any(|name| matches!(name, ObjectName::Url(_) | ObjectName::PrimaryGroup(_)));
        names
    }
}

fn names_of_members(group: &Entry) -> Vec<ObjectName> {
    let primary = group.values("primaryGroupToken");
    let primary = primary.map(|token| ObjectName::PrimaryGroup(token.to_owned()));
    resolve::member_names(group).chain(primary).collect()
}

fn address_members(group: &Entry) -> impl Iterator<Item = Address> {
    let values = group.values("rfc822MailMember");
    values.filter_map(|value| match Target::parse(value) {
        Ok(Target::Smtp(address)) => Some(address),
        _ => None,
    })
}

/// Collects the names of a large group's members, and the groups read on the way.
async fn collect_names<S: Source>(
    source: &S,
    group: &Entry,
    inheritance: Inheritance,
) -> Result<MemberList, Outage> {
    let groups = group_keys(source).await?;
    let (walk, names) = walk_groups(source, &group.dn, &groups).await?;
    Ok(MemberList {
        // Not every change: in a large directory something changes while a large group is read. New
        // matches of a search take effect when the answer expires.
        names: Dependencies::new(
            (names.iter().chain(&walk.visited).cloned())
                .chain([dn::key(&group.dn)])
                .chain(inheritance_key(inheritance)),
        ),
        members: walk.members,
        addresses: walk.addresses,
        unread: Some(UnreadMembers {
            names,
            visited: walk.visited,
        }),
    })
}

/// Returns the name of all groups and containers, if members inherit from them.
fn inheritance_key(inheritance: Inheritance) -> Option<String> {
    (inheritance != Inheritance::default())
        .then(|| inheritance::ALL_GROUPS_AND_CONTAINERS.to_owned())
}

/// Reads a group and the groups in it, and returns the names of all members.
async fn walk_groups<S: Source>(
    source: &S,
    group: &str,
    groups: &HashSet<String>,
) -> Result<(MemberWalk, HashSet<String>), Outage> {
    let mut walk = MemberWalk::default();
    let mut names: HashSet<String> = HashSet::new();
    let mut level = vec![ObjectName::Dn(group.to_owned())];
    while !level.is_empty() {
        let entries = read_objects(source, level).await?;
        level = Vec::new();
        for entry in entries.into_iter().flatten() {
            for name in walk.visit(&entry) {
                let key = name.key();
                let is_group = match name {
                    ObjectName::Dn(_) => groups.contains(&key),
                    ObjectName::Uid(_) | ObjectName::X500(_) => false,
                    ObjectName::Url(_) | ObjectName::PrimaryGroup(_) => true,
                };
                if is_group {
                    // A search has no object of its own.
                    let is_search = !matches!(name, ObjectName::Dn(_));
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
