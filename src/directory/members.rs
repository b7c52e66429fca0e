//! The people behind a group that is a recipient.
//!
//! Promises: mail to a group concerns each member that has a journal attribute, at any depth; cycles end. The size of a
//! group bounds the memory taken, not what is found: beyond `TargetSettings::group_limit` the members are not read one by
//! one, but those who are journaled are compared with them.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::changes::Names;
use super::dn;
use super::entry::{Entry, Outage};
use super::memory::Answer;
use super::resolve::{self, AT_ONCE, is_group};
use super::source::{Name, Objects, Source};
use super::target::Target;
use crate::mail::Address;

/// The members of a group, as far as they matter for mail to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those with a journal attribute, each with the objects that it inherits from behind it.
    pub journaled: Vec<Objects>,
    /// One address for each domain that members have addresses of: the directions of mail to the group follow from them.
    pub domains: Vec<Address>,
    /// Members that are named by address, as alias objects do (`rfc822MailMember`).
    pub addresses: Vec<Address>,
    /// Whether there are members, and the exemption attribute of each says TRUE.
    pub all_exempt: bool,
}

impl Answer for Arc<Members> {
    fn is_yes(&self) -> bool {
        true
    }
}

/// A member as it was read, or why it must not be read.
pub(super) struct Found {
    /// Everything but the group itself that was read.
    pub(super) members: Vec<Arc<Entry>>,
    /// Members that are named by address.
    pub(super) addresses: Vec<Address>,
    /// Whether `members` are all of them, and not those alone that may matter.
    pub(super) is_whole: bool,
    /// What the answer depends on.
    pub(super) names: Names,
}

/// Reads the members of a group, through groups in it.
pub(super) async fn members<S: Source>(
    source: &S,
    group: &Entry,
    limit: usize,
) -> Result<Found, Outage> {
    let mut walk = Walk::default();
    let mut level = vec![Name::Dn(group.dn.clone())];
    while !level.is_empty() {
        level.retain(|name| walk.asked.insert(name.key()));
        if walk.asked.len() > limit {
            return compare(source, group).await;
        }
        let entries: Vec<Vec<Arc<Entry>>> = read(source, level).await?;
        level = Vec::new();
        for entry in entries.into_iter().flatten() {
            level.extend(walk.visit(&entry));
        }
    }
    Ok(Found {
        names: Names::of(
            walk.asked
                .into_iter()
                .chain(walk.searched.then(|| super::places::ANYWHERE.to_owned())),
        ),
        members: walk.members,
        addresses: walk.addresses,
        is_whole: true,
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

/// The members of a large group that may matter: of all objects that may, those whose names are among the members'.
async fn compare<S: Source>(source: &S, group: &Entry) -> Result<Found, Outage> {
    let groups: HashSet<String> = source
        .groups()
        .await?
        .iter()
        .map(|dn| dn::key(dn))
        .collect();
    let mut walk = Walk::default();
    let mut names: HashSet<String> = HashSet::new();
    let mut level = vec![Name::Dn(group.dn.clone())];
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
                if names.insert(key) && is_group {
                    level.push(name);
                }
            }
        }
    }
    let mut members = std::mem::take(&mut walk.members);
    for entry in source.journaled().await? {
        let uids = entry
            .values("uid")
            .map(|uid| Name::Uid(uid.to_owned()).key());
        let mut keys = std::iter::once(dn::key(&entry.dn)).chain(uids);
        let is_known = |key: &String| walk.seen.contains(key);
        if keys.any(|key| names.contains(&key)) && !is_known(&dn::key(&entry.dn)) {
            members.push(entry);
        }
    }
    Ok(Found {
        members,
        addresses: walk.addresses,
        is_whole: false,
        names: Names::any(),
    })
}
